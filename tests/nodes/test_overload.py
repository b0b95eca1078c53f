"""A crowd at the doors: it is refused in the contract's words, and nobody else for its sake."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from doors import asked, posted
from google.rpc import code_pb2, error_details_pb2, status_pb2
from waiting import until

from exchange.client import Client
from exchange.errors import InvalidFieldError
from exchange.subjects import Document, DocumentType
from exchange.v1 import key_service_pb2, peer_service_pb2, recognition_service_pb2
from nodes.doors.grpcio import GrpcioDoor
from nodes.doors.shares import MOST
from nodes.identity import Authority, Identity, Role, issue
from nodes.tlsfiles import TlsFiles
from nodes.trial import free_ports

SICHUAN = "510000"
RECOGNIZE = "/tongxing.v1.RecognitionService/Recognize"
FETCH = "/tongxing.v1.PeerService/FetchAttestations"
LIST_KEYS = "/tongxing.v1.KeyService/ListKeys"
OVERLOADED = ("RESOURCE_EXHAUSTED", "OVERLOADED", "")


async def call(client, path, request=b""):
    return await client._channel.unary_unary(path)(request, timeout=30)


async def refused(client, path, request=b""):
    """The next refusal: places may have been added that the crowd has yet to take."""

    async def error():
        try:
            await call(client, path, request)
        except grpc.aio.AioRpcError as found:
            return found

    return await until("the call is refused", error)


async def answered(client, path, request=b""):
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call(client, path, request)
        return True
    return False


def status_of(error):
    found = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return status_pb2.Status.FromString(found)


def delay(error):
    """Seconds after which a refused caller may come back."""
    retry = error_details_pb2.RetryInfo()
    assert any(each.Unpack(retry) for each in status_of(error).details)
    return retry.retry_delay.ToTimedelta().total_seconds()


def client(exchange, address, certificate, key):
    """Of Sichuan's node, or of what stands at an address in its name."""
    return Client.from_files(
        address, province=SICHUAN, certificate=certificate, key=key, trust=exchange.trust()
    )


@pytest.fixture
async def another_app(exchange, tmp_path):
    """A client of Sichuan's node that is another app than the trial's."""
    home = exchange.directory / SICHUAN
    pem = [(home / name).read_bytes() for name in ("authority.pem", "authority-key.pem")]
    identity = Identity(SICHUAN, Role.APP, "another")
    lifetime = timedelta(hours=1)
    pair = issue(Authority(*pem), identity, now=datetime.now(UTC), lifetime=lifetime)
    files = [tmp_path / "certificate.pem", tmp_path / "key.pem"]
    for file, data in zip(files, pair, strict=True):
        file.touch(0o600)
        file.write_bytes(data)
    return client(exchange, exchange.addresses[SICHUAN], *files)


# --- Envoy, before Python hears of it ------------------------------------------------------------


@pytest.fixture(scope="module")
def exchange(behind):
    return behind("envoy")


@pytest.fixture
def recognition(people):
    return recognition_service_pb2.RecognizeRequest(
        document=people.document(), purpose="PURPOSE_ENTRY_CHECK"
    ).SerializeToString()


@pytest.fixture
def fetch(exchange, people, epoch_key):
    document = Document(DocumentType.RESIDENT_ID, people.document().number)
    token = document.token(epoch_key(exchange))
    return peer_service_pb2.FetchAttestationsRequest(
        subject_tokens=[token], purpose="PURPOSE_ENTRY_CHECK"
    ).SerializeToString()


async def said(exchange, path):
    """What Envoy's admin interface says."""
    (admin,) = (exchange.directory / SICHUAN / "data" / "envoy").glob("*/admin")
    reader, writer = await asyncio.open_unix_connection(admin)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return text


async def shed(exchange):
    """How many calls Envoy itself has refused."""
    return int(re.search(r"rq_blocked: (\d+)", await said(exchange, "/stats?filter=blocked"))[1])


@contextlib.asynccontextmanager
async def crowd(exchange, who, path, *, of=""):
    """Somebody takes all places with calls that send nothing; the client, for one call more."""

    async def nothing():
        await asyncio.Event().wait()
        yield b""

    async with exchange.client(SICHUAN, who, of=of) as client:
        held = []

        async def crowd():
            while True:
                held.append(client._channel.stream_unary(path)(nothing()))
                if len(held) > MOST:  # those that follow take what becomes free
                    await asyncio.sleep(0.02)

        crowding = asyncio.create_task(crowd())
        try:
            await until("all places are taken", lambda: any(each.done() for each in held))
            yield client
        finally:
            crowding.cancel()
            for each in held:
                each.cancel()


async def test_envoy_is_told_how_many_places_there_are(exchange):
    async def told():
        values = re.findall(r'"final_value": "(\d+)"', await said(exchange, "/runtime"))
        return values.count(str(MOST)) == 2  # at least, and at most

    await until("Envoy is told", told)


async def test_a_crowd_of_one_app_is_refused_by_envoy_and_nobody_else_is(
    exchange, another_app, people, recognition, fetch, refusal
):
    before = await shed(exchange)
    async with crowd(exchange, "app", RECOGNIZE) as app:
        errors = [await refused(app, RECOGNIZE, recognition) for _ in range(20)]
        assert {refusal(error) for error in errors} == {OVERLOADED}
        assert await shed(exchange) > before
        async with exchange.client(SICHUAN, "admin") as admin:
            await call(admin, LIST_KEYS)
        async with exchange.client(SICHUAN, "node", of="440000") as peer:
            await call(peer, FETCH, fetch)
        async with exchange.client(SICHUAN, "issuer") as issuer:
            await issuer.publish(people.tested())
        async with another_app:
            await call(another_app, RECOGNIZE, recognition)
    async with exchange.client(SICHUAN, "app") as app:
        await until("the crowd has gone", lambda: answered(app, RECOGNIZE, recognition))


async def test_a_province_that_floods_is_refused_by_envoy_and_no_other_is(exchange, fetch, refusal):
    async with crowd(exchange, "node", FETCH, of="440000") as flooding:
        assert refusal(await refused(flooding, FETCH, fetch)) == OVERLOADED
        async with exchange.client(SICHUAN, "node", of="310000") as other:
            await call(other, FETCH, fetch)
    async with exchange.client(SICHUAN, "node", of="440000") as peer:
        await until("the flood is over", lambda: answered(peer, FETCH, fetch))


async def test_envoy_refuses_in_the_words_of_python(exchange, recognition, error_info):
    async with crowd(exchange, "app", RECOGNIZE) as app:
        errors = [await refused(app, RECOGNIZE, recognition) for _ in range(40)]
        delays = {delay(error) for error in errors}
        for error in errors:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error.details() == status_of(error).message
            assert error_info(error).metadata["remedy"] in error.details()
    assert len(delays) > 2  # they do not all come back at once
    assert all(0.5 <= each < 2.5 for each in delays)


async def test_envoy_refuses_json_in_json(exchange, people):
    async with crowd(exchange, "app", RECOGNIZE):
        status, answer = await asyncio.to_thread(
            posted, exchange, "app", RECOGNIZE, asked(people.document())
        )
    assert (status, answer["code"]) == (429, code_pb2.RESOURCE_EXHAUSTED)
    told = {each["@type"].rpartition(".")[2]: each for each in answer["details"]}
    assert told["ErrorInfo"]["reason"] == "OVERLOADED"
    assert told["RetryInfo"]["retryDelay"]


async def test_envoy_refuses_grpc_web_in_its_own_form(exchange, refusal):
    content = "application/grpc-web+proto"
    async with crowd(exchange, "app", RECOGNIZE):
        status, text = await asyncio.to_thread(
            posted, exchange, "app", RECOGNIZE, "\0" * 5, content
        )
    assert status == 200
    trailers = dict(line.split(":", 1) for line in text[5:].splitlines())
    assert trailers["grpc-status"] == str(code_pb2.RESOURCE_EXHAUSTED)
    details = base64.b64decode(trailers["grpc-status-details-bin"] + "==")
    assert refusal(status_pb2.Status.FromString(details)) == OVERLOADED


# --- grpcio --------------------------------------------------------------------------------------


class Stub:
    """A service whose every method does the same."""

    def __init__(self, module, name, answer):
        self.descriptor = module.DESCRIPTOR.services_by_name[name]
        self._answer = answer

    def __getattr__(self, name):
        return self._answer


class Grpcio:
    """A door in this process, where apps wait and others are answered; and its callers."""

    def __init__(self, exchange, reserved=None):
        self.answer = asyncio.Event()
        self.waiting = 0
        self.exchange = exchange
        home = exchange.directory / SICHUAN
        free = [f"127.0.0.1:{port}" for port in free_ports(2)]
        self.address, self.reserved = free[0], reserved or free[1]
        self.door = GrpcioDoor(
            province=SICHUAN,
            listen=self.address,
            reserved=self.reserved,
            tls=TlsFiles(home / "node.pem", home / "node-key.pem"),
            services=[
                Stub(recognition_service_pb2, "RecognitionService", self._wait),
                Stub(peer_service_pb2, "PeerService", self._answered),
                Stub(key_service_pb2, "KeyService", self._answered),
            ],
            clock=lambda: datetime.now(UTC),
        )
        self.door.follow(exchange.trust())

    async def _wait(self, *_):
        self.waiting += 1
        await self.answer.wait()
        return b""

    async def _answered(self, *_):
        return b""

    def client(self, who, *, of=SICHUAN, reserved=False):
        home = self.exchange.directory / of
        address = self.reserved if reserved else self.address
        return client(self.exchange, address, home / f"{who}.pem", home / f"{who}-key.pem")


@pytest.fixture
async def grpcio(behind):
    made = Grpcio(behind("grpcio"))
    await made.door.open()
    yield made
    await made.door.close(0)


async def test_a_crowd_of_one_app_is_refused_by_grpcio_and_nobody_else_is(
    grpcio, recognition, fetch, refusal
):
    async with grpcio.client("app") as app:
        held = [asyncio.create_task(call(app, RECOGNIZE, recognition)) for _ in range(MOST)]
        await until("all places are taken", lambda: grpcio.waiting == MOST)
        error = await refused(app, RECOGNIZE, recognition)
        assert refusal(error) == OVERLOADED
        assert (await grpcio.door.refused())["app"] >= 1
        assert 0.5 <= delay(error) < 2.5
        async with grpcio.client("admin") as admin, grpcio.client("node", of="440000") as peer:
            await call(admin, LIST_KEYS)
            await call(peer, FETCH, fetch)
        grpcio.answer.set()
        await asyncio.gather(*held)
        await call(app, RECOGNIZE, recognition)


async def test_a_burst_of_as_many_calls_as_there_are_places_is_served(grpcio, recognition):
    async with grpcio.client("app") as app:
        grpcio.answer.set()
        await call(app, RECOGNIZE, recognition)
        calls = [app._channel.unary_unary(RECOGNIZE)(recognition) for _ in range(MOST)]
        for each in calls:
            await each


async def test_a_reserved_address_refuses_apps_and_nobody_else(grpcio, recognition, fetch, refusal):
    async with grpcio.client("app", reserved=True) as app:
        error = await refused(app, RECOGNIZE, recognition)
        assert refusal(error) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED", "")
    async with (
        grpcio.client("admin", reserved=True) as admin,
        grpcio.client("node", of="440000", reserved=True) as peer,
    ):
        await call(admin, LIST_KEYS)
        await call(peer, FETCH, fetch)


async def test_a_reserved_address_that_is_taken_is_refused_by_its_field(grpcio):
    second = Grpcio(grpcio.exchange, reserved=grpcio.reserved)
    with pytest.raises(InvalidFieldError) as caught:
        await second.door.open()
    assert caught.value.field == "overload.reserved_listen"
