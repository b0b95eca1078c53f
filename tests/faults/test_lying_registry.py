"""A registry that lies, or a peer that does, or one that poses as either: the good list stays.

The liar is a real gRPC server with the real certificate. Whatever it says, the node goes on serving
and recognising by the list that it holds, passes nothing bad on, and follows the truth again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from tuf.api.metadata import Metadata
from waiting import until

from exchange import views
from exchange.client import Purpose, WrongNodeError
from exchange.errors import NoIdentityError
from exchange.trust import ceremony, files
from exchange.trust.files import TIMESTAMP, Bundle
from exchange.trust.signers import Online, Signers, load_signer
from exchange.v1 import recognition_service_pb2 as recognition
from exchange.v1 import trust_service_pb2 as pb
from nodes.config import RegistryConfig
from nodes.identity import Authority, Identity, Role, issue
from nodes.peers.registry import Registry
from nodes.trial import REGISTRY, TrialExchange

CHECK = Purpose.PURPOSE_ENTRY_CHECK
SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
MEBIBYTE = 1024 * 1024
WATCH, GET = (f"/tongxing.v1.TrustService/{name}" for name in ("WatchTrust", "GetTrustMetadata"))


def mirror(exchange, name):
    """What a server starts from and gives to others: its mirror, every file."""
    folder = exchange.directory / name / "data" / "trust" / "mirror"
    while True:
        # A new list may replace the files just as they are read.
        with contextlib.suppress(FileNotFoundError):
            return {path.name: path.read_bytes() for path in folder.iterdir()}


async def recognises(exchange, document, province=SICHUAN):
    trust = exchange.live_trust(os.urandom(8).hex())
    async with exchange.client(province, "app", trust=trust) as app:
        decision = await app.recognize(document, CHECK)
    return decision.outcome == recognition.OUTCOME_RECOGNIZED


def resident(exchange, province, field="VmRSS"):
    """A node's memory in bytes."""
    status = Path(f"/proc/{exchange.pid(province)}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


class Server:
    """A server of TrustService that says what it is told to say."""

    def __init__(self, exchange, address, certificate, key):
        self.exchange = exchange
        self.address = address
        self.pair = (key, certificate)
        self._other = asyncio.Event()
        self.say = self.heartbeats
        self.calls = 0
        self.sent = 0
        home = exchange.directory / REGISTRY / "data" / "trust" / "mirror"
        self.files = dict(Bundle.of(files.read(home)).files)
        keys = exchange.directory / "keys"
        self.online = Online(
            load_signer(keys / "snapshot.pem"), load_signer(keys / "timestamp.pem")
        )

    @property
    def say(self):
        """What makes its messages, given the call's context."""
        return self._say

    @say.setter
    def say(self, say):
        self._say = say
        self._other.set()  # who listens to what was said before is let go
        self._other = asyncio.Event()

    async def __aenter__(self):
        profiles = self.exchange.trust().profiles.values()
        roots = "\n".join(profile.tls_ca for profile in profiles).encode()
        self._server = grpc.aio.server(
            options=[("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
        )
        handler = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=pb.WatchTrustRequest.FromString,
            response_serializer=lambda message: message,
        )
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "tongxing.v1.TrustService", {"WatchTrust": handler}
                )
            ]
        )
        credentials = grpc.ssl_server_credentials([self.pair], roots, require_client_auth=True)
        assert self._server.add_secure_port(self.address, credentials)
        await self._server.start()
        return self

    async def __aexit__(self, *error):
        await self._server.stop(0)

    async def _watch(self, _request, context):
        self.calls += 1
        say, other = self.say, self._other
        async for message in say(context):
            if self.say != say:
                return
            yield message
            self.sent += 1
        await other.wait()

    async def heartbeats(self, _context):
        while True:
            yield b""
            await asyncio.sleep(0.1)

    def saying(self, offered, times=1):
        """Says one thing, once or without end."""
        message = offered if isinstance(offered, bytes) else message_of(offered)

        async def say(_context):
            for _ in range(times):
                yield message

        return say

    def renewed(self):
        """The list with a new timestamp, which nobody has heard of yet."""
        return {**self.files, **ceremony.renew(self.files, self.online, now=datetime.now(UTC))}

    async def tell_the_truth(self, *names):
        """What the registry would say, until nodes have heard it."""
        self.files = dict(Bundle.of(self.renewed()).files)
        self.say = self.saying(self.files)
        for name in names:
            await until(
                f"{name} follows the truth",
                lambda name=name: mirror(self.exchange, name) == self.files,
            )
        files.mirror(self.exchange.directory / REGISTRY / "data" / "trust" / "mirror", self.files)


def message_of(offered):
    return pb.WatchTrustResponse(files=views.files_to_proto(offered)).SerializeToString()


def events(exchange, name, event, after=0):
    lines = exchange.log(name).read_text(encoding="utf-8").splitlines()[after:]
    read = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in read if line["event"] == event]


def lines_of(exchange, name):
    return len(exchange.log(name).read_text(encoding="utf-8").splitlines())


def the_registrys(exchange):
    home = exchange.directory / REGISTRY
    return (home / "registry.pem").read_bytes(), (home / "registry-key.pem").read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory, invented):
    """Sichuan alone with its registry, so that it tries the registry again at once."""
    trial = TrialExchange(
        tmp_path_factory.mktemp("alone"),
        (SICHUAN,),
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
        registry=True,
    )
    with trial:
        trial.start(environment={"TONGXING_TRUST__REGISTRY__SILENCE_SECONDS": "2"})
        trial.stop(REGISTRY)
        yield trial
    assert "Traceback" not in trial.log(SICHUAN).read_text()


@pytest.fixture
async def document(alone, people):
    message = people.tested()
    async with alone.client(SICHUAN, "issuer") as issuer:
        await issuer.publish(message)
    return message.document


@pytest.fixture
async def liar(alone):
    async with Server(alone, alone.addresses[REGISTRY], *the_registrys(alone)) as server:
        await server.tell_the_truth(SICHUAN)
        yield server


def by_nobody(server):
    """The next list, signed by nobody."""
    stamp = Metadata.from_bytes(server.files[TIMESTAMP])
    stamp.signed.version += 1
    stamp.signatures.clear()
    return {**server.files, TIMESTAMP: stamp.to_bytes()}


def of_another_exchange(server):
    profiles = [server.exchange.trust().profile(SICHUAN)]
    signers = Signers.generate([SICHUAN])
    made = ceremony.initialise(profiles, signers, now=datetime.now(UTC))
    for _ in range(40):
        made |= ceremony.renew(made, signers.online, now=datetime.now(UTC))
    return made


def put_back(server):
    return files.read(server.exchange.directory / "trust")


def spoilt(role):
    def lie(server):
        head = Bundle.of(server.files).versions
        version = {"snapshot": head.snapshot, **head.roles}[role]
        return {**server.renewed(), f"{version}.{role}.json": b'{"signed": {}, "signatures": []}'}

    return lie


LIES = {
    "no message": lambda _: os.urandom(4000),
    "garbage under every name": lambda server: {name: os.urandom(500) for name in server.files},
    "nothing under every name": lambda server: dict.fromkeys(server.files, b""),
    "a file of a foreign name": lambda server: {**server.renewed(), "node.toml": b"x"},
    "a way out of the folder": lambda server: {
        **server.renewed(),
        "../../../../escaped.root.json": b"x",
    },
    "a place on the disk": lambda server: {
        **server.renewed(),
        f"{server.exchange.directory}/escaped.root.json": b"x",
    },
    "ten thousand files": lambda server: {
        **server.renewed(),
        **{f"{number}.root.json": b"x" for number in range(2, 10_002)},
    },
    "a root of 15 MiB": lambda server: {**server.renewed(), "2.root.json": bytes(15 * MEBIBYTE)},
    "more than a message holds": lambda _: {"2.root.json": bytes(17 * MEBIBYTE)},
    "braces without end": lambda server: {**server.files, TIMESTAMP: b"[" * 16_000},
    "a list put back": put_back,
    "a list by nobody": by_nobody,
    "another exchange's list": of_another_exchange,
    "a snapshot that is another": spoilt("snapshot"),
    "targets that are others": spoilt("targets"),
    "a province that is another": spoilt("p510000"),
}


@pytest.mark.parametrize("case", LIES)
async def test_a_lie_is_refused_and_the_node_serves_on(alone, document, liar, case):
    lie = LIES[case](liar)
    after, calls = lines_of(alone, SICHUAN), liar.calls
    liar.say = liar.saying(lie)
    # Twice: it comes back for more, and holds what it held.
    await until("the node came back", lambda: liar.calls >= calls + 2)
    assert mirror(alone, SICHUAN) == liar.files
    said = [
        *events(alone, SICHUAN, "trust.refused", after),
        *events(alone, SICHUAN, "trust.source_silent", after),
    ]
    assert said, "not loudly"
    assert len(said) < 20
    assert not list(alone.directory.parent.rglob("*escaped*"))
    assert await recognises(alone, document)
    await liar.tell_the_truth(SICHUAN)


async def test_roots_that_nobody_signed_are_neither_held_nor_passed_on(alone, document, liar):
    """The rest of the message is true. To hold such a root would be to ask for none before it."""
    good = liar.renewed()
    junk = {f"{number}.root.json": b"{}" for number in (3, 99, 9_999_999_999)}
    liar.say = liar.saying({**good, **junk, "1.root.json": b"{}"})
    await until("the rest is taken", lambda: mirror(alone, SICHUAN)[TIMESTAMP] == good[TIMESTAMP])
    assert mirror(alone, SICHUAN) == dict(Bundle.of(good).files)
    liar.files = dict(Bundle.of(good).files)
    assert await recognises(alone, document)
    await liar.tell_the_truth(SICHUAN)


FLOODS = {
    "heartbeats": (lambda _: b"", 30),
    "the list that it has": (lambda server: server.files, 20),
    "15 MiB of files that no list names": (
        lambda _: {f"{number}.p510000.json": bytes(MEBIBYTE) for number in range(100, 115)},
        12,
    ),
}


@pytest.mark.parametrize("case", FLOODS)
async def test_an_endless_stream_costs_neither_memory_nor_service(alone, document, liar, case):
    make, messages = FLOODS[case]
    good, before = mirror(alone, SICHUAN), resident(alone, SICHUAN)
    liar.sent = 0
    liar.say = liar.saying(make(liar), times=10**9)
    await until("it is read", lambda: liar.sent >= messages)
    assert await recognises(alone, document)
    assert mirror(alone, SICHUAN) == good
    assert resident(alone, SICHUAN, "VmHWM") < before + 256 * MEBIBYTE
    await liar.tell_the_truth(SICHUAN)


async def test_a_silent_registry_is_left_and_tried_again(alone, document, liar):
    """Not even a heartbeat comes: the line counts as dead, and the log says so."""
    after, calls = lines_of(alone, SICHUAN), liar.calls
    liar.say = liar.saying({}, times=0)
    await until("it is called again", lambda: liar.calls >= calls + 3)
    whys = [line.get("why", "") for line in events(alone, SICHUAN, "trust.source_silent", after)]
    assert any("said nothing" in why for why in whys)
    assert await recognises(alone, document)
    await liar.tell_the_truth(SICHUAN)


async def test_who_starts_while_the_registry_lies_starts_from_what_it_held(alone, document, liar):
    liar.say = liar.saying(LIES["garbage under every name"](liar))
    alone.stop(SICHUAN)
    await asyncio.to_thread(
        alone.start, SICHUAN, environment={"TONGXING_TRUST__REGISTRY__SILENCE_SECONDS": "2"}
    )
    assert mirror(alone, SICHUAN) == liar.files
    assert await recognises(alone, document)
    await liar.tell_the_truth(SICHUAN)


async def test_the_honest_registry_is_followed_after_the_liar(alone, document):
    async with Server(alone, alone.addresses[REGISTRY], *the_registrys(alone)) as liar:
        await liar.tell_the_truth(SICHUAN)
        liar.say = liar.saying(by_nobody(liar))
        calls = liar.calls
        await until("it has lied", lambda: liar.calls > calls)
    await asyncio.to_thread(alone.start, REGISTRY)
    try:
        version = await alone.submit(SICHUAN)
        await until(
            "the honest one is followed",
            lambda: f"{version}.p510000.json" in mirror(alone, SICHUAN),
        )
        assert await recognises(alone, document)
    finally:
        alone.stop(REGISTRY)


# --- three provinces: peers that lie, and who poses as another ------------------------------------


def vouch_for(name):
    """An authority that nothing constrains, for a trust domain that is not its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "unconstrained")])
    now = datetime.now(UTC)
    names = [x509.UniformResourceIdentifier(f"spiffe://{name}")]
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, SHA256())
    )
    return Authority(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


@pytest.fixture(scope="module")
def rogue():
    """Shanghai's own authority, listed in its profile, which would speak for Sichuan."""
    return vouch_for("510000.tongxing")


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, rogue):
    trial = TrialExchange(
        tmp_path_factory.mktemp("three"),
        (SICHUAN, GUANGDONG, SHANGHAI),
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
        registry=True,
    )
    shanghai = trial.trust().profile(SHANGHAI)
    authorities = shanghai.tls_ca + rogue.certificate.decode()
    trial.publish(dataclasses.replace(shanghai, tls_ca=authorities))
    with trial:
        trial.start(environment={"TONGXING_TRUST__REGISTRY__STALE_SECONDS": "2"})
        yield trial
    for name in trial.provinces:
        assert "Traceback" not in trial.log(name).read_text()


@pytest.fixture
async def registry_down(exchange):
    """It told everybody the newest before: what they hold changes no more by its word."""
    await all_hold_the_same(exchange, REGISTRY, *exchange.provinces)
    exchange.stop(REGISTRY)
    try:
        yield
    finally:
        await asyncio.to_thread(exchange.start, REGISTRY)


@contextlib.asynccontextmanager
async def in_the_place_of(exchange, name, pair):
    """A server at somebody's address, who is back at the end."""
    exchange.stop(name)
    try:
        async with Server(exchange, exchange.addresses[name], *pair) as server:
            yield server
    finally:
        await asyncio.to_thread(exchange.start, name)


def the_place(exchange):
    return RegistryConfig(
        address=exchange.addresses[REGISTRY],
        province=SICHUAN,
        authority=exchange.directory / SICHUAN / "authority.pem",
    )


def of_node(exchange, province):
    home = exchange.directory / province
    return (home / "node.pem").read_bytes(), (home / "node-key.pem").read_bytes()


def posing(authority, role, name):
    """A certificate of Sichuan's, by whichever authority."""
    identity = Identity(SICHUAN, role, name)
    return issue(authority, identity, now=datetime.now(UTC), lifetime=timedelta(hours=1))


async def all_hold_the_same(exchange, *names):
    def same():
        return all(mirror(exchange, name) == mirror(exchange, names[0]) for name in names)

    await until("all hold the same", same)


async def test_a_peer_that_lies_while_the_registry_is_down_changes_nothing(exchange, registry_down):
    """Shanghai spoils Guangdong's profile in a true list: nobody loses Guangdong by it."""
    async with in_the_place_of(exchange, SHANGHAI, of_node(exchange, SHANGHAI)) as liar:
        held = mirror(exchange, SICHUAN)
        version = Bundle.of(held).versions.roles["p440000"]
        lie = {**liar.renewed(), f"{version}.p440000.json": b"{}"}
        after = lines_of(exchange, SICHUAN)
        liar.say = liar.saying(lie)

        def refused():
            lines = events(exchange, SICHUAN, "trust.refused", after)
            return [line for line in lines if line["source"] == SHANGHAI]

        await until("the lie is refused", refused, seconds=60)
        assert mirror(exchange, SICHUAN) == held
        await liar.tell_the_truth(SICHUAN)
    await all_hold_the_same(exchange, *exchange.provinces)


async def test_a_registry_that_withholds_news_from_one_is_outdone_by_its_peers(exchange):
    """Sichuan gets heartbeats alone, Guangdong the truth: Sichuan hears it from Guangdong."""
    async with in_the_place_of(exchange, REGISTRY, the_registrys(exchange)) as liar:
        liar.files = dict(Bundle.of(liar.renewed()).files)
        truth, told = message_of(liar.files), asyncio.Event()
        after = len(exchange.log(SICHUAN).read_text(encoding="utf-8").splitlines())

        async def say(context):
            (caller,) = context.auth_context()["peer_spiffe_id"]
            while True:
                yield truth if told.is_set() and SICHUAN.encode() not in caller else b""
                await asyncio.sleep(1.5)  # ten in ten seconds would be a flood

        def listens():
            lines = events(exchange, SICHUAN, "trust.following", after)
            return [line for line in lines if line["source"] == REGISTRY]

        liar.say = say
        await until("Sichuan listens to the registry", listens)
        told.set()
        await until("Sichuan hears of it", lambda: mirror(exchange, SICHUAN) == liar.files, 60)
        assert events(exchange, SICHUAN, "trust.source_stale", after)
        await liar.tell_the_truth(*exchange.provinces)


@pytest.mark.parametrize("role", [Role.NODE, Role.ADMIN])
async def test_a_province_that_poses_as_another_publishes_and_hears_nothing(
    exchange, rogue, refusal, tmp_path, role
):
    """The handshake lets it in, as its authority is listed: the identity does not."""
    certificate, key = posing(rogue, role, "node-1")
    (tmp_path / "posing.pem").write_bytes(certificate)
    (tmp_path / "posing-key.pem").write_bytes(key)
    registry = Registry(the_place(exchange), tmp_path / "posing.pem", tmp_path / "posing-key.pem")
    before = mirror(exchange, REGISTRY)
    with pytest.raises(NoIdentityError):
        await registry.submit({"2.p510000.json": before["1.p510000.json"]})
    async with registry.channel() as channel:
        for asked in (
            channel.unary_stream(WATCH)(b"", timeout=10).read(),
            channel.unary_unary(GET)(b"", timeout=10),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asked
            assert refusal(caught.value)[:2] == ("UNAUTHENTICATED", "NO_IDENTITY")
    assert mirror(exchange, REGISTRY).keys() == before.keys()


def forged(exchange):
    """Shanghai's constrained authority signs in the name of Sichuan's."""
    sichuan, shanghai = (exchange.directory / code for code in (SICHUAN, SHANGHAI))
    return Authority(
        (sichuan / "authority.pem").read_bytes(), (shanghai / "authority-key.pem").read_bytes()
    )


@pytest.mark.parametrize("by", ["a listed authority", "a forged authority"])
async def test_a_province_that_poses_as_the_registry_is_not_heard(
    exchange, registry_down, rogue, by
):
    signed_by = rogue if by == "a listed authority" else forged(exchange)
    pair = posing(signed_by, Role.REGISTRY, "registry-1")
    home = exchange.directory / SICHUAN
    registry = Registry(the_place(exchange), home / "node.pem", home / "node-key.pem")
    async with Server(exchange, exchange.addresses[REGISTRY], *pair) as impostor:
        impostor.say = impostor.saying(impostor.renewed())
        async with registry.channel() as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_stream(WATCH)(b"", timeout=10).read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert impostor.calls == 0


@pytest.mark.parametrize("by", ["a listed authority", "a forged authority"])
async def test_a_province_that_poses_as_another_serves_nobody(
    exchange, registry_down, rogue, heard_of, by
):
    """At Sichuan's own address, with a certificate that says Sichuan: Guangdong asks it nothing."""
    signed_by = rogue if by == "a listed authority" else forged(exchange)
    pair = posing(signed_by, Role.NODE, "node-1")
    held = mirror(exchange, GUANGDONG)
    async with exchange.client(GUANGDONG, "app") as app:
        somebody = await heard_of(exchange, app)
    async with in_the_place_of(exchange, SICHUAN, pair) as impostor:
        impostor.say = impostor.saying(impostor.renewed())
        async with exchange.client(GUANGDONG, "app") as app:
            decision = await app.recognize(somebody.document, CHECK)
        assert decision.outcome == recognition.OUTCOME_INDETERMINATE
        (answer,) = [each for each in decision.answers if each.province == SICHUAN]
        assert answer.state == recognition.ANSWER_STATE_UNREACHABLE
        async with exchange.client(SICHUAN, "app", of=GUANGDONG) as app:
            with pytest.raises(WrongNodeError):
                await app.recognize(somebody.document, CHECK)
        assert impostor.calls == 0
        assert mirror(exchange, GUANGDONG) == held
