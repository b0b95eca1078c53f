"""How certificates stand: whom they name, who vouches for them, until when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID

from exchange.client.pair import Pair
from exchange.errors import NoIdentityError, TongxingError
from exchange.trust.trustlist import TrustList
from nodes.identity import IdentityVerifier, uris
from nodes.tlsfiles import TlsFiles

__all__ = ["WARN_BEFORE", "Standing", "authorities", "leaf", "warn_daily"]

log = structlog.get_logger(__name__)

WARN_BEFORE: Final = timedelta(days=14)
"""A certificate's end is announced this long before."""
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one certificate stands.

    :param subject: its SPIFFE ID.
    :param issuer: the trust domain whose authority signed it, and the first 8 digits of that key's
        identifier, for an authority that changes keeps its name.
    :param ends: when it ends, UTC.
    :param unfit: why it is no good now, or "".
    """

    subject: str
    issuer: str
    ends: datetime
    unfit: str = ""

    def days_left(self, now: datetime) -> int:
        """Whole days until it ends; negative once it has ended."""
        return (self.ends - now) // _DAY

    def ends_within(self, span: timedelta, now: datetime) -> bool:
        """Whether it ends within a span from now, or has ended."""
        return self.ends - now <= span


def leaf(pair: Pair, province: str, tls_ca: bytes, now: datetime) -> Standing:
    """Tell how a node's or a client's certificate stands.

    :param tls_ca: PEM of the authorities in its province's profile.
    :raises NoIdentityError: it is no certificate.
    """
    certificate = pair.leaf()
    unfit = ""
    try:
        IdentityVerifier({province: tls_ca}).identify(pair.certificate, now)
    except NoIdentityError as error:
        unfit = str(error)
    return _standing(certificate, unfit)


def authorities(tls_ca: bytes, now: datetime) -> list[Standing]:
    """Tell how the authorities in a province's profile stand.

    :raises ValueError: they are no certificates.
    """
    return [
        _standing(
            each,
            ""
            if each.not_valid_before_utc <= now <= each.not_valid_after_utc
            else "it does not hold now",
        )
        for each in x509.load_pem_x509_certificates(tls_ca)
    ]


async def warn_daily(
    tls: TlsFiles, trust: Callable[[], TrustList], province: str, clock: Callable[[], datetime]
) -> None:
    """Log what ends soon, now and every day, for ever."""
    while True:
        now = clock()
        for what, standing in _node(tls.current, trust, province, now):
            if standing.ends_within(WARN_BEFORE, now):
                log.warning(
                    "identity.expires_soon",
                    what=what,
                    issuer=standing.issuer,
                    ends=f"{standing.ends:%Y-%m-%dT%H:%M:%SZ}",
                    days=standing.days_left(now),
                )
        await asyncio.sleep(_DAY.total_seconds())


def _node(
    pair: Pair, trust: Callable[[], TrustList], province: str, now: datetime
) -> Iterator[tuple[str, Standing]]:
    try:
        tls_ca = trust().profile(province).tls_ca.encode()
    except TongxingError:
        tls_ca = b""
    yield "certificate", _standing(pair.leaf(), "")
    if tls_ca:
        yield from (("authority", each) for each in authorities(tls_ca, now))


def _standing(certificate: x509.Certificate, unfit: str) -> Standing:
    domain = certificate.issuer.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    name = str(domain[0].value) if domain else certificate.issuer.rfc4514_string()
    return Standing(
        " ".join(uris(certificate)),
        f"{name} {_issuer_key(certificate)}".rstrip(),
        certificate.not_valid_after_utc,
        unfit,
    )


def _issuer_key(certificate: x509.Certificate) -> str:
    """The first digits of the identifier of the key that signed it."""
    extensions = certificate.extensions
    try:
        digest = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        return (digest.key_identifier or b"").hex()[:8]
    except x509.ExtensionNotFound:
        pass
    try:  # one that signed itself
        return extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()[:8]
    except x509.ExtensionNotFound:
        return ""
