"""Who calls: SPIFFE identities (身份标识), and the TLS certificates that bear them.

Each province is a trust domain with an authority of its own. A server pools the authorities of all
provinces, so that the handshake proves only that *some* province's authority vouched for the
caller; `IdentityVerifier` then holds each to its own domain.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exchange.errors import NoIdentityError, UnknownProvinceError
from exchange.provinces import PROVINCES, province_of_trust_domain, trust_domain

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Authority",
    "Identity",
    "IdentityVerifier",
    "Role",
    "issue",
    "make_authority",
    "registry_name",
    "server_name",
    "uris",
]

_URI: Final = re.compile(r"spiffe://([^/]+)/([^/]+)/([^/]+)")
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_BACKDATING: Final = timedelta(minutes=5)
"""Certificates begin this long before they are made: other machines' clocks run behind."""
_REMEMBERED: Final = 4096


class Role(enum.StrEnum):
    """What a caller is; the contract's ``callers`` option speaks of these."""

    NODE = "node"
    ISSUER = "issuer"
    APP = "app"
    ADMIN = "admin"
    REGISTRY = "registry"


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller: ``spiffe://510000.tongxing/issuer/NAME``.

    :param province: the GB/T 2260 code of its trust domain.
    :param role: what it is.
    :param name: its name there: 1 to 64 of ``A-Z a-z 0-9 . _ -``, no dot first.
    """

    province: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        if self.province not in PROVINCES:
            raise NoIdentityError("the trust domain is no province's")
        if not _NAME.fullmatch(self.name):
            raise NoIdentityError("the last segment is no name")

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """Read a SPIFFE ID (SPIFFE-ID §2), in its one canonical spelling only.

        :raises NoIdentityError: on anything else.
        """
        parts = _URI.fullmatch(uri)
        if parts is None:
            raise NoIdentityError("not of the form spiffe://DOMAIN/ROLE/NAME")
        domain, role, name = parts.groups()
        try:
            province = province_of_trust_domain(domain).code
        except UnknownProvinceError as error:
            raise NoIdentityError("the trust domain is no province's") from error
        if role not in set(Role):
            raise NoIdentityError(
                "the first segment is no role", remedy=f"one of {', '.join(Role)}"
            )
        return cls(province, Role(role), name)

    @property
    def uri(self) -> str:
        """The SPIFFE ID."""
        return f"spiffe://{trust_domain(self.province)}/{self.role}/{self.name}"


@dataclass(frozen=True, slots=True)
class Authority:
    """A province's TLS authority.

    :param certificate: PEM; it goes into the province's profile.
    :param key: PKCS#8 PEM; it never leaves the province.
    """

    certificate: bytes
    key: bytes = field(repr=False)


def server_name(province: str) -> str:
    """Give the DNS name that a province's nodes bear, whatever address they are reached at."""
    return f"node.{trust_domain(province)}"


def registry_name(province: str) -> str:
    """Give the DNS name of a registry that a province hosts."""
    return f"registry.{trust_domain(province)}"


def make_authority(province: str, *, now: datetime, lifetime: timedelta) -> Authority:
    """Make a new TLS authority, name-constrained to its trust domain (RFC 5280 §4.2.1.10).

    :param now: an aware datetime.
    :raises NoIdentityError: if there is no such province.
    """
    if province not in PROVINCES:
        raise NoIdentityError("the trust domain is no province's")
    domain = trust_domain(province)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, domain),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "authority"),
        ]
    )
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    constraints = x509.NameConstraints(
        permitted_subtrees=[x509.UniformResourceIdentifier(domain), x509.DNSName(domain)],
        excluded_subtrees=[
            x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
            x509.IPAddress(ipaddress.ip_network("::/0")),
        ],
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATING)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{domain}")]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return Authority(certificate.public_bytes(Encoding.PEM), _key_pem(key))


def issue(
    authority: Authority, identity: Identity, *, now: datetime, lifetime: timedelta
) -> tuple[bytes, bytes]:
    """Issue a certificate for an identity (SPIFFE X509-SVID §4), with a new key.

    :param now: an aware datetime.
    :param lifetime: how long it holds, at most as long as the authority's own certificate.
    :returns: the certificate and the PKCS#8 key, both PEM.
    :raises NoIdentityError: if the identity is of another province than the authority.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    domain = trust_domain(identity.province)
    if uris(issuer) != [f"spiffe://{domain}"]:
        raise NoIdentityError("the authority is another province's")
    authority_key = load_pem_private_key(authority.key, None)
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise NoIdentityError("the authority's key is not of its kind")
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.role in _SERVERS:
        names.append(x509.DNSName(_SERVERS[identity.role](identity.province)))
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(
            # No common name: some libraries take one for a DNS name and hold it to the constraints.
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, domain),
                    x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, identity.role),
                    x509.NameAttribute(NameOID.USER_ID, identity.name),
                ]
            )
        )
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - _BACKDATING, issuer.not_valid_before_utc))
        .not_valid_after(min(now + lifetime, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), _key_pem(key)


_SERVERS = {Role.NODE: server_name, Role.REGISTRY: registry_name}


@dataclass(frozen=True, slots=True)
class _Vouched:
    identity: Identity
    begins: datetime
    ends: datetime


class IdentityVerifier:
    """Tells who a verified handshake's certificate is of.

    :param authorities: each province's authority by code, PEM; several while it changes.
    :raises NoIdentityError: if an authority cannot be read.
    """

    def __init__(self, authorities: Mapping[str, bytes]) -> None:
        self._authorities: dict[str, list[x509.Certificate]] = {}
        for province, pem in authorities.items():
            try:
                self._authorities[province] = x509.load_pem_x509_certificates(pem)
            except ValueError as error:
                raise NoIdentityError(f"the authority of {province} cannot be read") from error
        # It runs on every call, and a connection's certificate never changes.
        self._vouch = lru_cache(maxsize=_REMEMBERED)(self._examine)

    def pool(self, first: str | None = None) -> bytes:
        """Give the authorities of all provinces, PEM, each written anew.

        As published, a text may end in half a block, and swallow the next province's.

        :param first: the province to begin with.
        """
        return b"".join(
            each.public_bytes(Encoding.PEM)
            for province in sorted(self._authorities, key=lambda code: (code != first, code))
            for each in self._authorities[province]
        )

    def identify(self, leaf_pem: bytes, now: datetime) -> Identity:
        """Tell the identity that a certificate bears, if its own province's authority issued it.

        :param leaf_pem: the peer's certificate, PEM (``x509_pem_cert`` of gRPC's auth context).
        :param now: an aware datetime.
        :raises NoIdentityError: if there is not exactly one, another authority issued it, or it
            does not hold now.
        """
        vouched = self._vouch(leaf_pem)
        if not vouched.begins <= now <= vouched.ends:
            raise NoIdentityError(
                "the certificate does not hold now", remedy="renew it, or check the clock"
            )
        return vouched.identity

    def _examine(self, leaf_pem: bytes) -> _Vouched:
        try:
            leaf = x509.load_pem_x509_certificate(leaf_pem)
            borne = uris(leaf)
            authority = _is_authority(leaf)
            begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            raise NoIdentityError("the certificate cannot be read") from error
        if authority:
            raise NoIdentityError("an authority is no caller")
        if len(borne) != 1:
            raise NoIdentityError(
                f"the certificate bears {len(borne)} URIs", remedy="it must bear one"
            )
        identity = Identity.parse(borne[0])
        for issuer in self._authorities.get(identity.province, ()):
            try:
                leaf.verify_directly_issued_by(issuer)
            except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
                continue
            return _Vouched(
                identity,
                max(begins, issuer.not_valid_before_utc),
                min(ends, issuer.not_valid_after_utc),
            )
        raise NoIdentityError(
            f"no authority of {identity.province} issued the certificate",
            remedy="use the certificate that the caller's own province issued",
        )


def uris(certificate: x509.Certificate) -> list[str]:
    """Give the URIs that a certificate bears: a SPIFFE ID, where it is one of the exchange's."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return constraints.value.ca


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
