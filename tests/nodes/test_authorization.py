"""Who may call what: every method, every role, of its own and of another province."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from exchange.client import Client
from exchange.errors import CallerNotAllowedError
from exchange.v1 import (
    appeal_service_pb2,
    attestation_service_pb2,
    audit_service_pb2,
    key_service_pb2,
    options_pb2,
    peer_service_pb2,
    peering_service_pb2,
    recognition_service_pb2,
    status_list_service_pb2,
    trust_service_pb2,
)
from nodes.authorization import Authorization
from nodes.identity import Authority, Identity, Role, issue, make_authority

SERVICES = [
    module.DESCRIPTOR.services_by_name[name]
    for module, name in (
        (attestation_service_pb2, "AttestationService"),
        (recognition_service_pb2, "RecognitionService"),
        (peer_service_pb2, "PeerService"),
        (trust_service_pb2, "TrustService"),
        (key_service_pb2, "KeyService"),
        (status_list_service_pb2, "StatusListService"),
        (peering_service_pb2, "PeeringService"),
        (appeal_service_pb2, "AppealService"),
        (audit_service_pb2, "AuditService"),
    )
]
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for service in SERVICES
    for method in service.methods
}
GRANTED = {
    "AttestationService": {"issuer"},
    "RecognitionService": {"app"},
    "PeerService": {"node"},
    "TrustService": {"node", "app", "issuer", "admin"},
    "KeyService": {"admin"},
    "StatusListService": {"node", "app"},
    "PeeringService": {"admin"},
    "AppealService": {"app", "issuer", "admin"},
    "AuditService": {"app", "admin"},
}
"""The design's table, in words of its own: what the options must say."""

GRANTED_TO_METHODS = {
    "RevokeAttestation": {"issuer", "admin"},
    "BatchRevokeAttestations": {"issuer", "admin"},
    "RevokeIssuerAttestations": {"issuer", "admin"},
    "FileAppeal": {"app"},
    "AnswerAppeal": {"issuer", "admin"},
    "ExchangeAppeals": {"node"},
    "ListNodeAccesses": {"node"},
}
"""Where a method differs from its service."""

EMPTY_IS_WHOLE = {
    "GetTrustMetadata",
    "WatchTrust",
    "ListKeys",
    "PrepareKey",
    "GetPresence",
    "ListPeers",
    "ListAppeals",
    "ListAccesses",
}
"""Methods to which an empty message is a whole request."""

OWN_PROVINCE_ALONE = {"ListNodeAccesses"}
"""Methods that are refused to the nodes of other provinces."""

NAMES_A_HOLDER = {"app": {"ListAppeals", "ListAccesses"}}
"""Of these, those in which a role must name a holder all the same."""

ANSWERED_BY_A_STREAM = {
    path
    for path, method in METHODS.items()
    if method.server_streaming and not method.client_streaming
} | {"/grpc.health.v1.Health/Watch"}

ROLES = ("issuer", "app", "admin", "node")
HEALTH = "/grpc.health.v1.Health/Check"
NO_IDENTITY = ("UNAUTHENTICATED", "NO_IDENTITY")


async def call(channel, path, *, stream=False):
    """Call with an empty message: who is let through is told what is wrong with it."""
    if path in ANSWERED_BY_A_STREAM:
        return await channel.unary_stream(path)(b"", timeout=10).read()
    if stream:
        return [answer async for answer in channel.stream_stream(path)(iter(()), timeout=10)]
    return await channel.unary_unary(path)(b"", timeout=10)


def bearer(exchange, certificate, key, province="510000"):
    """A client with any certificate."""
    trust = exchange.trust()
    return Client(
        exchange.addresses[province],
        province=province,
        certificate=certificate,
        key=key,
        trust=lambda: trust,
    )


def authority(exchange, province):
    home = exchange.directory / province
    return Authority(
        (home / "authority.pem").read_bytes(), (home / "authority-key.pem").read_bytes()
    )


def sichuans_issuer(signed_by, *, now=None, lifetime=timedelta(hours=1)):
    """A certificate of an issuer of Sichuan, whoever signs it."""
    identity = Identity("510000", Role.ISSUER, "12510100MB0X588004")
    return issue(signed_by, identity, now=now or datetime.now(UTC), lifetime=lifetime)


@pytest.mark.parametrize("path", METHODS)
def test_the_contract_grants_each_method_to_the_roles_of_the_design(path):
    callers = METHODS[path].GetOptions().Extensions[options_pb2.callers]
    granted = {options_pb2.Role.Name(role).removeprefix("ROLE_").lower() for role in callers}
    service, method = path.rpartition(".")[2].split("/")
    assert granted == GRANTED_TO_METHODS.get(method, GRANTED[service])


@pytest.mark.parametrize("of", ["510000", "440000"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("path", METHODS)
async def test_only_the_callers_of_the_contract_are_let_through(exchange, refusal, path, role, of):
    method = METHODS[path]
    callers = method.GetOptions().Extensions[options_pb2.callers]
    named = getattr(options_pb2, f"ROLE_{role.upper()}") in callers
    everybodys = role == "node" and method.name not in OWN_PROVINCE_ALONE
    allowed = named and (of == "510000" or everybodys)
    async with exchange.client("510000", role, of=of) as client:
        try:
            await call(client._channel, path, stream=method.client_streaming)
        except grpc.aio.AioRpcError as error:
            refused = refusal(error)
            if allowed and method.name in EMPTY_IS_WHOLE - NAMES_A_HOLDER.get(role, set()):
                assert refused[1] == "KEY_STEP"  # there is no registry
            elif allowed:
                assert refused[:2] == ("INVALID_ARGUMENT", "INVALID_FIELD")
            else:
                assert refused == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED", "")
        else:
            assert allowed
            assert method.client_streaming or method.name in EMPTY_IS_WHOLE


async def test_a_node_of_another_province_is_refused_the_accesses_through_this_one(exchange):
    request = audit_service_pb2.ListNodeAccessesRequest(everybody=True, page_size=1)
    answer = audit_service_pb2.ListNodeAccessesResponse
    asked = ("AuditService/ListNodeAccesses", request, answer)
    async with exchange.client("510000", "node") as own:
        assert (await own.call(*asked)).node
    async with exchange.client("510000", "node", of="440000") as other:
        with pytest.raises(CallerNotAllowedError) as refused:
            await other.call(*asked)
    assert "440000" in str(refused.value)


async def test_a_method_that_the_contract_does_not_know_is_refused(exchange):
    async with exchange.client("510000", "issuer") as client:
        for path in ("/tongxing.v1.AttestationService/DeleteAll", "/tongxing.v1.KeyService/X"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(client._channel, path)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


_made = itertools.count()


def _service(*methods):
    """A service made by hand: methods by name, with their callers or None."""
    package = f"made{next(_made)}"
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, dependency=["tongxing/v1/options.proto"]
    )
    file.message_type.add(name="Nothing")
    service = file.service.add(name="Made")
    for name, callers in methods:
        method = service.method.add(
            name=name, input_type=f".{package}.Nothing", output_type=f".{package}.Nothing"
        )
        if callers is not None:
            method.options.Extensions[options_pb2.callers].extend(callers)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindServiceByName(f"{package}.Made")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("method", ["Forgotten", "Nobodys", "Unknown"])
def test_a_method_without_callers_is_refused_to_all(method, role):
    service = _service(("Forgotten", None), ("Nobodys", [options_pb2.ROLE_UNSPECIFIED]))
    authorization = Authorization("510000", [service])
    with pytest.raises(CallerNotAllowedError, match="nobody"):
        authorization.check(f"/{service.full_name}/{method}", Identity("510000", role, "x"))


def test_a_method_by_hand_is_granted_to_its_callers_alone():
    service = _service(("Shared", [options_pb2.ROLE_APP, options_pb2.ROLE_NODE]))
    authorization = Authorization("510000", [service])
    path = f"/{service.full_name}/Shared"
    authorization.check(path, Identity("510000", Role.APP, "x"))
    authorization.check(path, Identity("440000", Role.NODE, "x"))
    for refused in (("440000", Role.APP), ("510000", Role.ISSUER), ("510000", Role.ADMIN)):
        with pytest.raises(CallerNotAllowedError):
            authorization.check(path, Identity(*refused, "x"))
    for wrong in (path[1:], path.lower(), f"{path}/", ""):
        with pytest.raises(CallerNotAllowedError):
            authorization.check(wrong, Identity("510000", Role.APP, "x"))


async def test_a_caller_without_a_certificate_is_refused_in_the_handshake(exchange):
    root = (exchange.directory / "510000" / "authority.pem").read_bytes()
    name = (("grpc.ssl_target_name_override", "node.510000.tongxing"),)
    credentials = grpc.ssl_channel_credentials(root)
    async with grpc.aio.secure_channel(exchange.addresses["510000"], credentials, name) as channel:
        for path in (*METHODS, HEALTH):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(b"", timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_without_tls_is_refused(exchange):
    async with grpc.aio.insecure_channel(exchange.addresses["510000"]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(HEALTH)(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("case", ["of another exchange", "expired", "not valid yet"])
async def test_a_certificate_is_refused_in_the_handshake(exchange, case):
    now = datetime.now(UTC)
    ours = authority(exchange, "510000")
    made = {
        "of another exchange": lambda: sichuans_issuer(
            make_authority("510000", now=now, lifetime=timedelta(days=1))
        ),
        "expired": lambda: sichuans_issuer(ours, lifetime=timedelta(seconds=-1)),
        "not valid yet": lambda: sichuans_issuer(ours, now=now + timedelta(hours=1)),
    }[case]()
    async with bearer(exchange, *made) as client:
        for path in ("/tongxing.v1.AttestationService/GetAttestation", HEALTH):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(client._channel, path)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_name_constrained_authority_does_not_speak_for_another_province(exchange):
    guangdong = authority(exchange, "440000")
    sichuan = authority(exchange, "510000")
    # `issue` refuses by itself, so it is told that the key is Sichuan's.
    certificate, key = sichuans_issuer(Authority(sichuan.certificate, guangdong.key))
    async with bearer(exchange, certificate, key) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(client._channel, HEALTH)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("path", [*METHODS, HEALTH, "/grpc.health.v1.Health/Watch"])
async def test_an_authority_without_constraints_does_not_speak_for_another_province(
    exchange, rogue, refusal, path
):
    certificate, key = sichuans_issuer(rogue)
    streams = path in METHODS and METHODS[path].client_streaming
    async with bearer(exchange, certificate, key) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(client._channel, path, stream=streams)
    assert refusal(caught.value)[:2] == NO_IDENTITY


async def test_reflection_answers_only_to_identities_of_the_exchange(exchange, rogue, refusal):
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    question = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    certificate, key = sichuans_issuer(rogue)
    async with bearer(exchange, certificate, key) as client:
        # Without a question: grpc.aio loses the status of a call that is refused while it writes.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client._channel.stream_stream(path)(iter(()), timeout=10).read()
    assert refusal(caught.value)[:2] == NO_IDENTITY
    async with exchange.client("510000", "app") as client:
        stream = client._channel.stream_stream(path)(iter([question]), timeout=10)
        (data,) = [answer async for answer in stream]
    answer = reflection_pb2.ServerReflectionResponse.FromString(data)
    named = {service.name for service in answer.list_services_response.service}
    assert {service.full_name for service in SERVICES} < named


@pytest.mark.parametrize(
    ("who", "of"), [("app", "510000"), ("node", "440000"), ("admin", "510000")]
)
async def test_health_answers_identities_of_the_exchange(exchange, who, of):
    async with exchange.client("510000", who, of=of) as client:
        answer = health_pb2.HealthCheckResponse.FromString(await call(client._channel, HEALTH))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_certificate_that_expires_ends_its_open_connection_too(exchange, refusal):
    certificate, key = sichuans_issuer(authority(exchange, "510000"), lifetime=timedelta(seconds=3))
    path = "/tongxing.v1.AttestationService/GetAttestation"
    async with bearer(exchange, certificate, key) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(client._channel, path)
        assert refusal(caught.value)[0] == "INVALID_ARGUMENT"
        async with asyncio.timeout(30):
            while refusal(caught.value)[0] == "INVALID_ARGUMENT":
                await asyncio.sleep(0.05)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(client._channel, path)
    assert refusal(caught.value)[:2] == NO_IDENTITY


async def test_an_issuer_sees_and_ends_its_own_attestations_alone(exchange, people, refusal):
    tested = people.tested()
    other = Identity("510000", Role.ISSUER, "12510100MB0X589005")
    certificate, key = issue(
        authority(exchange, "510000"), other, now=datetime.now(UTC), lifetime=timedelta(hours=1)
    )
    pb = attestation_service_pb2
    async with exchange.client("510000", "issuer") as issuer:
        await issuer.publish(tested)
        async with bearer(exchange, certificate, key) as stranger:
            for method, request in (
                ("GetAttestation", pb.GetAttestationRequest(attestation_id=tested.attestation_id)),
                (
                    "RevokeAttestation",
                    pb.RevokeAttestationRequest(attestation_id=tested.attestation_id, reason="x"),
                ),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stranger._channel.unary_unary(
                        f"/tongxing.v1.AttestationService/{method}"
                    )(request.SerializeToString())
                assert refusal(caught.value)[:2] == ("NOT_FOUND", "NOT_FOUND")
        await issuer.publish(tested)


async def test_a_node_that_bears_another_provinces_name_is_not_believed(exchange):
    """A client that asks for Guangdong at Sichuan's address gets no connection."""
    trust = exchange.trust()
    home = exchange.directory / "440000"
    client = Client(
        exchange.addresses["510000"],
        province="440000",
        certificate=(home / "app.pem").read_bytes(),
        key=(home / "app-key.pem").read_bytes(),
        trust=lambda: trust,
    )
    async with client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(client._channel, HEALTH)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
