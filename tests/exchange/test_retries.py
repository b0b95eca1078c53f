"""Which failed calls are made again: clients of real servers behind real TLS."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from exchange import status
from exchange.client import Client, UnreachableError, WrongNodeError
from exchange.client.retries import MOST_TRIES, may_be_repeated
from exchange.errors import (
    AuditUnavailableError,
    IndeterminateError,
    InternalError,
    InvalidFieldError,
    OverloadedError,
    StoreUnavailableError,
)
from exchange.trust.profile import Profile
from exchange.trust.trustlist import TrustList
from exchange.v1 import (
    appeal_service_pb2,
    attestation_service_pb2,
    audit_service_pb2,
    peer_service_pb2,
    peering_service_pb2,
    registry_service_pb2,
    status_list_service_pb2,
    trust_service_pb2,
)
from exchange.v1 import key_service_pb2 as keys_pb
from exchange.v1 import recognition_service_pb2 as pb
from nodes.identity import Identity, Role, issue, make_authority

SICHUAN, GUANGDONG = "510000", "440000"
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
AUTHORITIES = {code: make_authority(code, now=NOW, lifetime=HOUR) for code in (SICHUAN, GUANGDONG)}
READ, STEP = "RecognitionService/Recognize", "KeyService/PrepareKey"


class Server:
    """A node that answers as the test says: ``errors`` first, and then well."""

    def __init__(self, of=SICHUAN):
        self.calls = 0
        self.errors = []
        self.deadlines = []
        self.answers = self.well
        certificate, key = issue(
            AUTHORITIES[of], Identity(of, Role.NODE, "node-1"), now=NOW, lifetime=HOUR / 2
        )
        self._pair = key, certificate
        self.port = 0

    async def open(self):
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        for path, response in (
            (READ, pb.RecognizeResponse()),
            (STEP, keys_pb.PrepareKeyResponse(kid="k")),
        ):
            service, name = path.split("/")
            method = grpc.unary_unary_rpc_method_handler(self._handler(response))
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(f"tongxing.v1.{service}", {name: method}),)
            )
        credentials = grpc.ssl_server_credentials(
            [self._pair], AUTHORITIES[SICHUAN].certificate, require_client_auth=True
        )
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()
        return self

    def _handler(self, response):
        async def handle(_, context):
            self.calls += 1
            self.deadlines.append(context.time_remaining())
            await self.answers(context)
            return response.SerializeToString()

        return handle

    async def well(self, context):
        if not self.errors:
            return
        error = self.errors.pop(0)
        if isinstance(error, grpc.StatusCode):
            await context.abort(error, "said by no node")
        told = status.to_status(error)
        code = next(each for each in grpc.StatusCode if each.value[0] == told.code)
        trailers = ((status.DETAILS_KEY, told.SerializeToString()),)
        await context.abort(code, told.message, trailing_metadata=trailers)

    async def never(self, _):
        await asyncio.Event().wait()

    async def close(self):
        await self._server.stop(None)


@pytest.fixture
async def serve():
    """Opens servers."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(of=SICHUAN):
            server = await Server(of).open()
            stack.push_async_callback(server.close)
            return server

        yield opened


@contextlib.asynccontextmanager
async def client(*servers, names=False):
    """An app of Sichuan's; ``names``: it knows its nodes by name."""
    authority = AUTHORITIES[SICHUAN].certificate.decode()
    profile = Profile(SICHUAN, (), authority, ())
    trust = TrustList(1, 1, NOW + HOUR, {SICHUAN: profile}, {})
    certificate, key = issue(
        AUTHORITIES[SICHUAN], Identity(SICHUAN, Role.APP, "app"), now=NOW, lifetime=HOUR / 2
    )
    async with Client(
        [f"{'localhost' if names else '127.0.0.1'}:{server.port}" for server in servers],
        province=SICHUAN,
        certificate=certificate,
        key=key,
        trust=lambda: trust,
        timeout=20.0,
    ) as made:
        yield made


def read(app, **options):
    return app.call(READ, pb.RecognizeRequest(), pb.RecognizeResponse, **options)


def step(app):
    return app.call(STEP, keys_pb.PrepareKeyRequest(), keys_pb.PrepareKeyResponse)


def overloaded(seconds):
    error = OverloadedError("no room", remedy="later")
    error.retry_after = seconds
    return error


@pytest.mark.parametrize("names", [False, True])
async def test_calls_are_spread_over_all_addresses(serve, names):
    servers = [await serve() for _ in range(3)]
    async with client(*servers, names=names) as app:
        for _ in range(300):  # the first calls go to whoever is connected first
            await read(app)
            if min(server.calls for server in servers) >= 20:
                break
    assert min(server.calls for server in servers) >= 20


@pytest.mark.parametrize("names", [False, True])
async def test_an_address_that_is_down_is_left_out_and_taken_back(serve, names):
    first, second = await serve(), await serve()
    async with client(first, second, names=names) as app:
        for server in (first, second):
            end = asyncio.get_running_loop().time() + 30
            while not server.calls:
                await read(app)
                assert asyncio.get_running_loop().time() < end
        await first.close()
        for _ in range(30):
            await read(app)
        before = first.calls
        await first.open()
        end = asyncio.get_running_loop().time() + 30
        while first.calls == before:
            await read(app)
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.01)


async def test_a_server_of_another_province_among_the_addresses_is_never_given_a_call(serve):
    right, wrong = await serve(), await serve(of=GUANGDONG)
    async with client(wrong, right) as app:
        for _ in range(30):
            await read(app)
        await right.close()
        with pytest.raises((WrongNodeError, UnreachableError)):
            await read(app)
    assert (right.calls, wrong.calls) == (30, 0)


async def test_whoever_alone_answers_for_another_province_is_said_to_be_the_wrong_node(serve):
    wrong = await serve(of=GUANGDONG)
    async with client(wrong) as app:
        with pytest.raises(WrongNodeError, match=f"127.0.0.1:{wrong.port} did not prove"):
            await read(app)
    assert wrong.calls == 0


@pytest.mark.parametrize(
    "error",
    [
        grpc.StatusCode.UNAVAILABLE,
        StoreUnavailableError("the store is away"),
        AuditUnavailableError("the disk is full"),
        overloaded(0.01),
    ],
)
async def test_a_read_that_was_not_served_is_made_again(serve, error):
    node = await serve()
    if not isinstance(error, grpc.StatusCode):
        error.retry_after = 0.01
    node.errors = [error]
    async with client(node) as app:
        await read(app)
    assert node.calls == 2


async def test_it_is_made_no_more_than_three_times_and_the_error_says_so(serve):
    node = await serve()
    node.errors = [grpc.StatusCode.UNAVAILABLE] * 9
    async with client(node) as app:
        with pytest.raises(UnreachableError, match=r"tried 3 times 已试3次"):
            await read(app)
    assert node.calls == MOST_TRIES


async def test_a_step_of_a_key_that_may_have_been_done_is_never_made_again(serve):
    node = await serve()
    async with client(node) as app:
        for error in (grpc.StatusCode.UNAVAILABLE, StoreUnavailableError("the store is away")):
            node.calls, node.errors = 0, [error]
            with pytest.raises(StoreUnavailableError):
                await step(app)
            assert node.calls == 1


async def test_what_was_refused_for_want_of_room_was_not_begun_and_any_may_be_made_again(serve):
    node = await serve()
    node.errors = [overloaded(0.01)]
    async with client(node) as app:
        await step(app)
    assert node.calls == 2


@pytest.mark.parametrize(
    "error",
    [
        InvalidFieldError("wrong", field="document"),
        IndeterminateError("a province does not answer"),
        InternalError("a fault"),
    ],
)
async def test_an_answer_that_would_be_the_same_again_is_not_asked_for_again(serve, error):
    node = await serve()
    node.errors = [error]
    async with client(node) as app:
        with pytest.raises(type(error)):
            await read(app)
    assert node.calls == 1


async def test_a_busy_node_is_left_alone_for_as_long_as_it_says(serve):
    node = await serve()
    node.errors = [overloaded(0.3)]
    loop = asyncio.get_running_loop()
    async with client(node) as app:
        began = loop.time()
        await read(app)
        assert loop.time() - began >= 0.3


async def test_who_has_no_time_to_wait_as_long_as_the_node_says_is_told_at_once(serve):
    node = await serve()
    node.errors = [overloaded(3600)]
    async with client(node) as app:
        with pytest.raises(OverloadedError) as caught:
            await read(app)
    assert node.calls == 1
    assert caught.value.retry_after == 3600
    assert "tried" not in str(caught.value)


async def test_the_second_refusal_for_want_of_room_is_the_last(serve):
    node = await serve()
    node.errors = [overloaded(0.01)] * 9
    async with client(node) as app:
        with pytest.raises(OverloadedError, match=r"no room \(tried 2 times 已试2次\); later"):
            await read(app)
    assert node.calls == 2


async def test_a_crowd_that_is_refused_asks_again_for_a_few_only(serve):
    node = await serve()
    node.errors = [overloaded(0.01)] * 1000
    async with client(node) as app:
        answers = await asyncio.gather(*(read(app) for _ in range(200)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {OverloadedError}
    assert node.calls == 210


async def test_one_deadline_bounds_all_tries(serve):
    node = await serve()
    error = StoreUnavailableError("the store is away")
    error.retry_after = 0.5
    node.errors = [error, error]
    async with client(node) as app:
        await read(app, seconds=8.0)
        # What is left is not enough to wait as long as it says.
        node.errors = [error]
        with pytest.raises(StoreUnavailableError):
            await read(app, seconds=0.4)
    first, second, third, _ = node.deadlines
    assert second < first - 0.2  # gRPC rounds by three in a hundred what it tells
    assert third < second - 0.2


async def test_a_late_answer_is_not_asked_for_again(serve):
    node = await serve()
    node.answers = node.never
    async with client(node) as app:
        with pytest.raises(UnreachableError):
            await read(app, seconds=0.2)
    assert node.calls == 1


def test_what_may_be_called_twice_is_what_the_contract_says():
    once = {
        f"{service.name}/{method.name}"
        for module in (
            appeal_service_pb2,
            attestation_service_pb2,
            audit_service_pb2,
            keys_pb,
            peer_service_pb2,
            peering_service_pb2,
            pb,
            registry_service_pb2,
            status_list_service_pb2,
            trust_service_pb2,
        )
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not may_be_repeated(f"{service.name}/{method.name}")
    }
    assert once >= {
        f"KeyService/{step}Key" for step in ("Prepare", "Activate", "Retire", "Taint", "Revoke")
    }
    once = {each for each in once if not each.startswith(("KeyService/", "RegistryService/"))}
    assert once == {"AttestationService/PublishAttestations"}  # a stream, of items that may be
