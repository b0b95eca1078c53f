"""The door: whatever comes in, a status that tells the caller enough, and nobody else a word."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from waiting import freeze

from exchange.client import Purpose
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import peer_service_pb2
from exchange.v1 import recognition_service_pb2 as recognition

BUF = Path(sys.executable).with_name("buf")
RECOGNIZE = "/tongxing.v1.RecognitionService/Recognize"
BATCH = "/tongxing.v1.RecognitionService/BatchRecognize"
PUBLISH = "/tongxing.v1.AttestationService/PublishAttestation"
STREAM = "/tongxing.v1.AttestationService/PublishAttestations"
FETCH = "/tongxing.v1.PeerService/FetchAttestations"
CHECK = Purpose.PURPOSE_ENTRY_CHECK
MALFORMED = ("INVALID_ARGUMENT", "INVALID_FIELD")

FAULTY = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from exchange.trust import refresh
from exchange.v1 import attestation_service_pb2 as pb
from nodes import config, telemetry
from nodes.doors import envoy
from nodes.doors.grpcio import GrpcioDoor
from nodes.tlsfiles import TlsFiles

class Faulty:
    descriptor = pb.DESCRIPTOR.services_by_name["AttestationService"]

    async def publish_attestation(self, request, call):
        number = request.attestation.document.number
        raise RuntimeError("a fault in the service")

    async def publish_attestations(self, requests, call):
        async for request in requests:
            number = request.attestation.document.number
            yield pb.PublishAttestationsResponse(index=request.index)
            raise ExceptionGroup("several", [RuntimeError("a fault in the stream")])

    async def revoke_attestation(self, request, call):
        raise TimeoutError

    async def batch_revoke_attestations(self, request, call):
        raise TimeoutError

    async def revoke_issuer_attestations(self, request, call):
        raise TimeoutError
        yield

    async def get_attestation(self, request, call):
        return None

async def run(file, stop, listens, make=envoy.EnvoyDoor):
    directory, form, cache = Path(file).parents[1], os.environ["FORM"], Path(os.environ["CACHE"])
    telemetry.configure("debug", form)
    home, trust = directory / "510000", directory / "trust"
    door = make(
        province="510000", listen="127.0.0.1:0", services=[Faulty()],
        tls=TlsFiles(home / "node.pem", home / "node-key.pem"), clock=lambda: datetime.now(UTC),
    )
    door.follow(refresh.load(trust, (trust / "1.root.json").read_bytes(), cache))
    port = await door.open()
    await listens()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await door.close(1)
    return 0

app = envoy.Hosted(run)

if __name__ == "__main__":
    file, door = Path(sys.argv[1]), sys.argv[2]
    if door == "envoy":
        envoy.become("faulty:app", file, config.load(file))
    asyncio.run(run(file, None, lambda: asyncio.sleep(0), GrpcioDoor))
"""


async def read_all(client, path, *data):
    """All answers of a stream, or of a method that takes one message."""
    call = client._channel.stream_stream(path)(iter(data), timeout=10)
    return [answer async for answer in call]


def raw(client, path, data=b"", **options):
    return client._channel.unary_unary(path)(data, timeout=10, **options)


@pytest.mark.parametrize("garbage", [b"\xff" * 40, b"\x0a\xff", b"\x0a\x05abc", b"\x0b", b"\x0a"])
async def test_garbage_is_refused_as_a_malformed_request(exchange, refusal, error_info, garbage):
    for province, who, of, path in (
        ("440000", "app", "", RECOGNIZE),
        ("440000", "app", "", BATCH),
        ("510000", "issuer", "", PUBLISH),
        ("510000", "node", "440000", FETCH),
    ):
        async with exchange.client(province, who, of=of) as client:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw(client, path, garbage)
        assert refusal(caught.value)[:2] == MALFORMED
        assert error_info(caught.value).metadata["request_id"]
    async with exchange.client("510000", "issuer") as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(client, STREAM, garbage)
    assert refusal(caught.value)[:2] == MALFORMED


async def test_mutated_requests_never_reach_a_fault_of_the_node(exchange, people, refusal):
    seed = random.Random(588)
    requests = {
        ("510000", "issuer", PUBLISH): pb.PublishAttestationRequest(
            attestation=people.coloured("RED")
        ),
        ("510000", "node", FETCH): peer_service_pb2.FetchAttestationsRequest(
            subject_tokens=[bytes(36), bytes(36)]
        ),
        ("440000", "app", RECOGNIZE): recognition.RecognizeRequest(
            document=people.document(), purpose=CHECK
        ),
        ("440000", "app", BATCH): recognition.BatchRecognizeRequest(
            documents=[people.document(), people.document()], purpose=CHECK
        ),
    }
    known = {"INVALID_ARGUMENT", "PERMISSION_DENIED", "ALREADY_EXISTS"}
    refused = []
    for (province, who, path), message in requests.items():
        good = message.SerializeToString()
        async with exchange.client(province, who) as client:
            for _ in range(100):
                data = bytearray(good)
                for _ in range(seed.randrange(1, 4)):
                    at = seed.randrange(len(data))
                    data[at : at + seed.randrange(2)] = seed.randbytes(seed.randrange(3))
                try:
                    await raw(client, path, bytes(data))
                except grpc.aio.AioRpcError as error:
                    refused.append(refusal(error))
    assert {each.code for each in refused} <= known
    assert all(each.reason for each in refused)


@pytest.mark.parametrize("path", [PUBLISH, STREAM])
async def test_too_large_a_request_is_refused(exchange, path):
    large = pb.PublishAttestationRequest(signed_attestation=bytes(5 * 1024 * 1024))
    async with exchange.client("510000", "issuer") as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(client, path, large.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_callers_who_leave_in_the_middle_of_a_stream_harm_nobody(exchange, people):
    item = pb.PublishAttestationsRequest(index=1, attestation=people.tested()).SerializeToString()
    async with exchange.client("510000", "issuer") as client:
        for _ in range(20):
            call = client._channel.stream_stream(STREAM)()
            await call.write(item)
            call.cancel()
        published, _ = await client.publish(people.tested())
    assert published.province == "510000"


async def test_who_does_not_read_its_answers_is_not_read_from(exchange, people):
    """What waits for such a caller must not grow without an end."""
    wrong = pb.PublishAttestationsRequest(index=1, signed_attestation=bytes(4_000))
    data = wrong.SerializeToString()
    many = 60_000  # far more than 512 at once and what the windows of HTTP/2 hold: 240 MB
    async with exchange.client("510000", "issuer") as client:
        call = client._channel.stream_stream(STREAM)()
        for _ in range(many):
            try:
                async with asyncio.timeout(2):
                    await call.write(data)
            except TimeoutError:
                break
        else:
            pytest.fail("all of it was read")
        call.cancel()


@pytest.fixture(params=["json", "console"])
def faulty(request, exchange, tmp_path):
    """A door to a service with faults, in a process of its own: its port and its log."""
    log, module = tmp_path / "log", tmp_path / "faulty.py"
    module.write_text(FAULTY)
    node = exchange.directory / "510000" / "node.toml"
    own = {
        "FORM": request.param,
        "CACHE": str(tmp_path / "cache"),
        "TONGXING_LISTEN": "127.0.0.1:0",
        "TONGXING_DATA": str(tmp_path / "data"),
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, module, node, exchange.door],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            env={**os.environ, **own},
        )
        with process:
            yield process.stdout.readline().decode().strip(), log
            process.stdin.close()
    assert process.returncode == 0


async def test_a_fault_of_the_node_is_told_by_its_request_id_alone(
    exchange, people, faulty, refusal, error_info
):
    port, log = faulty
    message = people.tested()
    request = pb.PublishAttestationRequest(attestation=message)
    item = pb.PublishAttestationsRequest(attestation=message)
    get = pb.GetAttestationRequest(attestation_id=message.attestation_id)
    revoke = pb.RevokeAttestationRequest(attestation_id=message.attestation_id, reason="x")
    errors = []
    async with exchange.client("510000", "issuer") as usual:
        trust = usual._trust
    home = exchange.directory / "510000"
    client = type(usual)(
        f"127.0.0.1:{port}",
        province="510000",
        certificate=(home / "issuer.pem").read_bytes(),
        key=(home / "issuer-key.pem").read_bytes(),
        trust=trust,
    )
    async with client:
        for method, data in (
            ("PublishAttestation", request),
            ("GetAttestation", get),
            ("RevokeAttestation", revoke),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw(
                    client, f"/tongxing.v1.AttestationService/{method}", data.SerializeToString()
                )
            errors.append(caught.value)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(client, STREAM, item.SerializeToString(), item.SerializeToString())
        errors.append(caught.value)
    text = log.read_text(encoding="utf-8")
    fault = ("INTERNAL", "INTERNAL", "")
    late = ("DEADLINE_EXCEEDED", "DEADLINE", "")
    assert [refusal(error) for error in errors] == [fault, fault, late, fault]
    for error in errors:
        assert "Traceback" not in str(error)
        assert "a fault in the" not in str(error)
        assert error_info(error).metadata["request_id"] in text
    assert "RuntimeError" in text
    assert "a fault in the service" in text
    assert "a fault in the stream" in text
    assert message.document.number not in text
    assert message.holder_name not in text


async def test_a_callers_deadline_is_passed_on(exchange, heard_of):
    async with exchange.client("440000", "app") as app:
        tested = await heard_of(exchange, app)
        request = recognition.RecognizeRequest(document=tested.document, purpose=CHECK)
        recognize = app._channel.unary_unary(
            RECOGNIZE,
            request_serializer=recognition.RecognizeRequest.SerializeToString,
            response_deserializer=recognition.RecognizeResponse.FromString,
        )
        freeze(exchange.pid("510000"))
        try:
            # A busy machine may be late now and then; a node that ignores deadlines always is.
            for _ in range(10):
                try:
                    answer = await recognize(request, timeout=0.8)
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017
            assert answer.decision.outcome == recognition.OUTCOME_INDETERMINATE
        finally:
            exchange.signal("510000", signal.SIGCONT)


def logged(exchange, province, request_id):
    """What a node has logged under a request id."""
    lines = exchange.log(province).read_text(encoding="utf-8").splitlines()
    return [
        json.loads(line) for line in lines if f'"{request_id}"' in line and line.startswith("{")
    ]


async def test_a_request_id_is_taken_over_and_given_to_the_peers(exchange, heard_of, new_id):
    request_id = f"gate-7.{new_id()}"
    async with exchange.client("440000", "app") as app:
        somebody = await heard_of(exchange, app)
        request = recognition.RecognizeRequest(document=somebody.document, purpose=CHECK)
        await raw(
            app, RECOGNIZE, request.SerializeToString(), metadata=(("x-request-id", request_id),)
        )
    assert [line["method"] for line in logged(exchange, "440000", request_id)] == [RECOGNIZE]
    (line,) = logged(exchange, "510000", request_id)
    assert (line["method"], line["of"], line["role"]) == (FETCH, "440000", "node")
    assert logged(exchange, "310000", request_id) == []  # who knows nothing is not asked


@pytest.mark.parametrize("given", ["", "with space", "a/b", "x" * 65, '"}{"', "%0a"])
async def test_a_malformed_request_id_is_replaced(exchange, error_info, given):
    async with exchange.client("440000", "app") as app:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(app, RECOGNIZE, metadata=(("x-request-id", given),))
    taken = error_info(caught.value).metadata["request_id"]
    assert taken != given
    assert len(taken) == 16


async def test_a_good_request_id_comes_back_with_an_error(exchange, error_info):
    async with exchange.client("440000", "app") as app:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(app, RECOGNIZE, metadata=(("x-request-id", "gate-7"),))
    assert error_info(caught.value).metadata["request_id"] == "gate-7"


def descriptor_set(file):
    """A file of the contract with all that it imports."""
    found = {}

    def add(each):
        if each.name not in found:
            for imported in each.dependencies:
                add(imported)
            found[each.name] = descriptor_pb2.FileDescriptorProto.FromString(each.serialized_pb)

    add(file)
    return descriptor_pb2.FileDescriptorSet(file=found.values())


def curl(exchange, method, who, data="{}", *more):
    """Ask Guangdong's node as somebody with a shell would."""
    home = exchange.directory / "440000"
    identity = ["--cert", home / f"{who}.pem", "--key", home / f"{who}-key.pem"] if who else []
    command = [BUF, "curl", "--protocol", "grpc", "--cacert", home / "authority.pem"]
    command += [*identity, "--servername", "node.440000.tongxing", "--data", data, *more]
    url = f"https://{exchange.addresses['440000']}/{method}"
    return subprocess.run([*command, url], check=False, capture_output=True, text=True, timeout=60)


def test_buf_curl_calls_a_node_by_reflection(exchange, people):
    number = people.document().number
    data = json.dumps(
        {
            "document": {"type": "DOCUMENT_TYPE_RESIDENT_ID", "number": number},
            "purpose": "PURPOSE_ENTRY_CHECK",
        }
    )
    done = curl(exchange, RECOGNIZE[1:], "app", data)
    assert done.returncode == 0, done.stderr
    decision = json.loads(done.stdout)["decision"]
    assert decision["outcome"] == "OUTCOME_NOT_RECOGNIZED"
    assert decision["province"] == "440000"
    assert {answer["state"] for answer in decision["answers"]} == {"ANSWER_STATE_NO_RECORD"}


def test_buf_curl_is_told_what_is_wrong(exchange):
    done = curl(exchange, RECOGNIZE[1:], "app")
    assert done.returncode == 3 << 3
    error = json.loads(done.stderr)
    assert error["code"] == "invalid_argument"
    assert error["message"].startswith("document: 缺失 is missing")
    assert {"google.rpc.ErrorInfo", "google.rpc.BadRequest"} < {d["type"] for d in error["details"]}


def test_buf_curl_with_another_roles_certificate_is_refused(exchange):
    done = curl(exchange, RECOGNIZE[1:], "issuer")
    assert done.returncode == 7 << 3
    error = json.loads(done.stderr)
    assert error["code"] == "permission_denied"
    assert error["message"] == "Recognize is for app, and the caller is issuer"


def test_buf_curl_without_a_certificate_is_refused_in_the_handshake(exchange, tmp_path):
    done = curl(exchange, RECOGNIZE[1:], "")
    assert done.returncode == 1  # it learns no schema
    assert "failed to find service" in done.stderr
    schema = tmp_path / "schema.binpb"
    schema.write_bytes(descriptor_set(recognition.DESCRIPTOR).SerializeToString())
    done = curl(exchange, RECOGNIZE[1:], "", "{}", "--schema", schema)
    # The alert "certificate required" comes while the request is on its way, or just before.
    assert json.loads(done.stderr)["code"] in {"unavailable", "canceled"}
    assert done.stdout == ""


async def test_logs_say_nothing_of_anybody(exchange, people, no_traces):
    """At debug level; the session's end holds the whole log against everybody once more."""
    tested = people.tested()
    request = peer_service_pb2.FetchAttestationsRequest(subject_tokens=[b"\0" * 36])
    async with exchange.client("510000", "issuer") as issuer:
        await issuer.publish(tested)
        with pytest.raises(grpc.aio.AioRpcError):
            await raw(issuer, FETCH, request.SerializeToString())
    async with exchange.client("440000", "app") as app:
        await app.recognize(tested.document, CHECK)
    no_traces(exchange)
    for line in exchange.log("440000").read_text(encoding="utf-8").splitlines():
        if line.startswith("{"):
            json.loads(line)
