from __future__ import annotations

import ipaddress
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given
from hypothesis import strategies as st

from exchange.errors import NoIdentityError
from exchange.provinces import PROVINCES
from nodes.identity import (
    Authority,
    Identity,
    IdentityVerifier,
    Role,
    issue,
    make_authority,
    server_name,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GUANGDONG, SICHUAN = "440000", "510000"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)

AUTHORITIES = {
    province: make_authority(province, now=NOW, lifetime=30 * DAY)
    for province in (GUANGDONG, SICHUAN)
}
VERIFIER = IdentityVerifier({code: each.certificate for code, each in AUTHORITIES.items()})
POOL = b"".join(authority.certificate for authority in AUTHORITIES.values())

HOSPITAL = Identity(SICHUAN, Role.ISSUER, "hospital-1")
NODE = Identity(SICHUAN, Role.NODE, "n1")
LEAF = issue(AUTHORITIES[SICHUAN], HOSPITAL, now=NOW, lifetime=DAY)


def forge(authority: Authority, *names: x509.GeneralName, ca: bool = False) -> tuple[bytes, bytes]:
    """A certificate with any names at all, as an authority gone bad would issue it."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    signer = load_pem_private_key(authority.key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder(issuer.subject, x509.Name([]), key.public_key(), 7)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            ),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    pem = builder.sign(signer, SHA256()).public_bytes(Encoding.PEM)
    return pem, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def unconstrained(authority: Authority) -> Authority:
    """Another certificate of the same authority, under another name and free to vouch for all."""
    key = load_pem_private_key(authority.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "free")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 8)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    return Authority(certificate.public_bytes(Encoding.PEM), authority.key)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def refused(leaf: bytes, words: str, verifier: IdentityVerifier = VERIFIER) -> None:
    with pytest.raises(NoIdentityError, match=words):
        verifier.identify(leaf, NOW)


# --- the name --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("name", ["n1", "51-A_b.c", "9" * 64, "-"])
def test_an_identity_survives_its_uri(role: Role, name: str) -> None:
    identity = Identity(SICHUAN, role, name)

    assert identity.uri == f"spiffe://510000.tongxing/{role.value}/{name}"
    assert Identity.parse(identity.uri) == identity


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://510000.tongxing",
        "spiffe://510000.tongxing/",
        "spiffe://510000.tongxing/node",
        "spiffe://510000.tongxing/node/",
        "spiffe://510000.tongxing//n1",
        "spiffe://510000.tongxing/node/n1/",
        "spiffe://510000.tongxing/node/n1/x",
        "spiffe://510000.tongxing/node//n1",
        "spiffe://510000.tongxing/node/.",
        "spiffe://510000.tongxing/node/..",
        "spiffe://510000.tongxing/node/n1?x=1",
        "spiffe://510000.tongxing/node/n1#x",
        "spiffe://510000.tongxing/node/n%31",
        "spiffe://510000.tongxing/n%6Fde/n1",
        "spiffe://510000.tongxing/node/n1\n",
        "spiffe://510000.tongxing/node/n1 ",
        " spiffe://510000.tongxing/node/n1",
        "spiffe://510000.tongxing/node/n1\0",
        "spiffe://510000.tongxing/node/节点",
        "spiffe://510000.tongxing/node/" + "n" * 65,
        "spiffe://510000.tongxing/Node/n1",
        "spiffe://510000.tongxing/root/n1",
        "spiffe://510000.tongxing:443/node/n1",
        "spiffe://user@510000.tongxing/node/n1",
        "spiffe://510000.tongxing./node/n1",
        "spiffe://510000.TONGXING/node/n1",
        "spiffe://x.510000.tongxing/node/n1",
        "spiffe://510000.tongxing.example/node/n1",
        "spiffe://510000/node/n1",
        "spiffe://999999.tongxing/node/n1",
        "spiffe://５10000.tongxing/node/n1",
        "SPIFFE://510000.tongxing/node/n1",
        "https://510000.tongxing/node/n1",
        "spiffe:/510000.tongxing/node/n1",
        "spiffe:///node/n1",
    ],
)
def test_any_other_uri_is_refused(text: str) -> None:
    with pytest.raises(NoIdentityError):
        Identity.parse(text)


@given(st.text() | st.from_regex(r"spiffe://[0-9]{6}\.tongxing/[a-z]{3,6}/.{0,5}"))
@example("spiffe://510000.tongxing/app/a")
def test_what_parses_is_its_own_uri(text: str) -> None:
    try:
        identity = Identity.parse(text)
    except NoIdentityError:
        return
    assert identity.uri == text
    assert identity.province in PROVINCES


def test_an_identity_of_no_province_is_refused() -> None:
    with pytest.raises(NoIdentityError):
        Identity("999999", Role.NODE, "n1")
    with pytest.raises(NoIdentityError):
        make_authority("999999", now=NOW, lifetime=DAY)


# --- the certificate -------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_a_certificate_bears_one_identity_and_its_uses(role: Role) -> None:
    identity = Identity(SICHUAN, role, "n1")
    pem, key = issue(AUTHORITIES[SICHUAN], identity, now=NOW, lifetime=DAY)
    leaf = x509.load_pem_x509_certificate(pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uses = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    serves = {Role.NODE: ["node.510000.tongxing"], Role.REGISTRY: ["registry.510000.tongxing"]}

    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [identity.uri]
    assert names.get_values_for_type(x509.DNSName) == serves.get(role, [])
    assert (ExtendedKeyUsageOID.SERVER_AUTH in uses) is (role in serves)
    assert ExtendedKeyUsageOID.CLIENT_AUTH in uses
    private = load_pem_private_key(key, None)
    assert private.public_key() == leaf.public_key()
    assert VERIFIER.identify(pem, NOW) == identity


def test_a_certificate_never_outlives_its_authority() -> None:
    pem, _ = issue(AUTHORITIES[SICHUAN], HOSPITAL, now=NOW, lifetime=900 * DAY)
    authority = x509.load_pem_x509_certificate(AUTHORITIES[SICHUAN].certificate)

    leaf = x509.load_pem_x509_certificate(pem)

    assert leaf.not_valid_after_utc == authority.not_valid_after_utc


def test_an_authority_issues_nothing_for_another_province() -> None:
    with pytest.raises(NoIdentityError, match="another province"):
        issue(AUTHORITIES[GUANGDONG], HOSPITAL, now=NOW, lifetime=DAY)


def test_an_authoritys_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(AUTHORITIES[SICHUAN])


# --- who it is -------------------------------------------------------------------------------


def test_a_leaf_signed_by_another_provinces_authority_is_refused() -> None:
    pem, _ = forge(AUTHORITIES[GUANGDONG], uri(HOSPITAL.uri))

    refused(pem, "no authority of 510000 issued")


def test_a_leaf_of_an_authority_with_the_same_name_is_refused() -> None:
    other = make_authority(SICHUAN, now=NOW, lifetime=DAY)
    pem, _ = issue(other, HOSPITAL, now=NOW, lifetime=DAY)

    refused(pem, "no authority of 510000 issued")


def test_a_leaf_of_a_province_without_authority_is_refused() -> None:
    pem, _ = issue(AUTHORITIES[SICHUAN], HOSPITAL, now=NOW, lifetime=DAY)
    verifier = IdentityVerifier({GUANGDONG: AUTHORITIES[GUANGDONG].certificate})

    refused(pem, "no authority of 510000 issued", verifier)


def test_a_leaf_of_either_authority_is_known_while_they_change() -> None:
    new = make_authority(SICHUAN, now=NOW, lifetime=DAY)
    verifier = IdentityVerifier({SICHUAN: AUTHORITIES[SICHUAN].certificate + new.certificate})

    for authority in (AUTHORITIES[SICHUAN], new):
        pem, _ = issue(authority, HOSPITAL, now=NOW, lifetime=DAY)
        assert verifier.identify(pem, NOW) == HOSPITAL


def test_two_uris_are_refused() -> None:
    pem, _ = forge(AUTHORITIES[SICHUAN], uri(HOSPITAL.uri), uri("spiffe://510000.tongxing/admin/a"))

    refused(pem, "bears 2 URIs")


@pytest.mark.parametrize("names", [(), (x509.DNSName("node.510000.tongxing"),)])
def test_a_leaf_without_uri_is_refused(names: tuple[x509.GeneralName, ...]) -> None:
    pem, _ = forge(AUTHORITIES[SICHUAN], *names)

    refused(pem, "bears 0 URIs")


def test_a_leaf_whose_uri_is_no_identity_is_refused() -> None:
    pem, _ = forge(AUTHORITIES[SICHUAN], uri("spiffe://510000.tongxing/root/x"))

    refused(pem, "no role")


def test_an_authority_is_no_caller() -> None:
    refused(AUTHORITIES[SICHUAN].certificate, "no caller")
    pem, _ = forge(AUTHORITIES[SICHUAN], uri(HOSPITAL.uri), ca=True)
    refused(pem, "no caller")


@pytest.mark.parametrize("pem", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAA==\n"])
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    refused(pem, "cannot be read")


@given(st.binary(min_size=1, max_size=4), st.integers(0, 700))
def test_a_damaged_certificate_is_refused(junk: bytes, at: int) -> None:
    pem, _ = LEAF
    damaged = pem[:at] + junk + pem[at + len(junk) :]
    try:
        assert VERIFIER.identify(damaged, NOW) == HOSPITAL
        same = x509.load_pem_x509_certificate(damaged)
    except NoIdentityError:
        return
    # Only the armour or the base64's spelling can have changed.
    assert same == x509.load_pem_x509_certificate(pem)


@pytest.mark.parametrize("at", [NOW - DAY, NOW + DAY + timedelta(seconds=1)])
def test_a_leaf_outside_its_dates_is_refused_though_it_is_remembered(at: datetime) -> None:
    assert VERIFIER.identify(LEAF[0], NOW) == HOSPITAL
    with pytest.raises(NoIdentityError, match="does not hold now"):
        VERIFIER.identify(LEAF[0], at)


def test_a_leaf_of_an_expired_authority_is_refused() -> None:
    then = NOW - 10 * DAY
    authority = make_authority(SICHUAN, now=then, lifetime=DAY)
    pem, _ = forge(authority, uri(HOSPITAL.uri))

    refused(pem, "does not hold now", IdentityVerifier({SICHUAN: authority.certificate}))


def test_an_authority_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(NoIdentityError, match="510000"):
        IdentityVerifier({SICHUAN: b""})


# --- the handshake, by gRPC's own TLS --------------------------------------------------------


@dataclass
class Server:
    port: int = 0
    contexts: list[dict[str, Any]] = field(default_factory=list)

    async def call(
        self,
        cert: tuple[bytes, bytes] | None,
        authority: bytes = AUTHORITIES[SICHUAN].certificate,
        name: str = server_name(SICHUAN),
    ) -> dict[str, Any]:
        """Call once; the server's view of the caller."""
        chain, key = cert or (None, None)
        credentials = grpc.ssl_channel_credentials(authority, key, chain)
        options = [("grpc.ssl_target_name_override", name)]
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{self.port}", credentials, options=options
        ) as channel:
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
            method = channel.unary_unary("/trial/Call")
            await method(b"", timeout=10)
        return self.contexts.pop()


@asynccontextmanager
async def serving(cert: tuple[bytes, bytes], pool: bytes = POOL) -> AsyncIterator[Server]:
    state = Server()

    async def answer(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        state.contexts.append(dict(context.auth_context()))
        return b""

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "trial", {"Call": grpc.unary_unary_rpc_method_handler(answer)}
            ),
        )
    )
    credentials = grpc.ssl_server_credentials(
        [(cert[1], cert[0])], root_certificates=pool, require_client_auth=True
    )
    state.port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield state
    finally:
        await server.stop(None)


def node() -> tuple[bytes, bytes]:
    return issue(AUTHORITIES[SICHUAN], NODE, now=NOW, lifetime=DAY)


async def unanswered(server: Server, cert: tuple[bytes, bytes] | None, **kwargs: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.call(cert, **kwargs)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.contexts == []


@pytest.mark.parametrize("province", [SICHUAN, GUANGDONG])
@pytest.mark.parametrize("role", Role)
async def test_grpc_accepts_these_certificates(province: str, role: Role) -> None:
    identity = Identity(province, role, "n1")
    cert = issue(AUTHORITIES[province], identity, now=NOW, lifetime=DAY)
    async with serving(node()) as server:
        context = await server.call(cert)

    assert context["peer_spiffe_id"] == [identity.uri.encode()]
    assert VERIFIER.identify(context["x509_pem_cert"][0], NOW) == identity


async def test_a_caller_without_certificate_is_cut_off() -> None:
    async with serving(node()) as server:
        await unanswered(server, None)


async def test_a_leaf_within_the_constraints_is_let_in() -> None:
    """So it is the constraints that cut the others off."""
    cert = forge(AUTHORITIES[SICHUAN], uri(NODE.uri), x509.DNSName(server_name(SICHUAN)))
    async with serving(cert) as server:
        assert (await server.call(cert))["peer_spiffe_id"] == [NODE.uri.encode()]


async def test_what_an_authority_without_constraints_issues_is_refused_after_the_handshake() -> (
    None
):
    """A province chooses its own authority's certificate, so the constraints bind no bad one."""
    bad = unconstrained(AUTHORITIES[GUANGDONG])
    cert = forge(bad, uri(NODE.uri))
    verifier = IdentityVerifier(
        {GUANGDONG: bad.certificate, SICHUAN: AUTHORITIES[SICHUAN].certificate}
    )
    async with serving(node(), POOL + bad.certificate) as server:
        context = await server.call(cert)

    assert context["peer_spiffe_id"] == [NODE.uri.encode()]
    refused(context["x509_pem_cert"][0], "no authority of 510000 issued", verifier)


@pytest.mark.parametrize(
    "names",
    [
        (uri("spiffe://440000.tongxing/node/n1"),),
        (uri("spiffe://x.510000.tongxing/node/n1"),),
        (uri(NODE.uri), x509.DNSName("node.440000.tongxing")),
        (uri(NODE.uri), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))),
    ],
)
async def test_a_leaf_outside_the_constraints_is_cut_off(
    names: tuple[x509.GeneralName, ...],
) -> None:
    async with serving(node()) as server:
        await unanswered(server, forge(AUTHORITIES[SICHUAN], *names))


async def test_an_expired_leaf_is_cut_off() -> None:
    old = issue(AUTHORITIES[SICHUAN], HOSPITAL, now=NOW - 2 * MINUTE, lifetime=MINUTE)
    async with serving(node()) as server:
        await unanswered(server, old)


@pytest.mark.parametrize("role", [Role.ISSUER, Role.APP, Role.ADMIN])
async def test_only_a_node_can_serve(role: Role) -> None:
    identity = Identity(SICHUAN, role, "n1")
    cert = issue(AUTHORITIES[SICHUAN], identity, now=NOW, lifetime=DAY)
    async with serving(cert) as server:
        await unanswered(server, LEAF)


async def test_a_node_of_another_province_cannot_serve_for_it() -> None:
    other = Identity(GUANGDONG, Role.NODE, "n1")
    cert = issue(AUTHORITIES[GUANGDONG], other, now=NOW, lifetime=DAY)
    async with serving(cert) as server:
        await unanswered(server, LEAF)
        # Not even to a client that, against the design, trusts both authorities.
        await unanswered(server, LEAF, authority=POOL)


async def test_a_server_certificate_outside_the_constraints_is_refused() -> None:
    cert = forge(AUTHORITIES[GUANGDONG], uri(NODE.uri), x509.DNSName(server_name(SICHUAN)))
    async with serving(cert) as server:
        await unanswered(server, LEAF, authority=POOL)
