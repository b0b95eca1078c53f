"""Foreign certificates (境外证书): the EU's Digital COVID Certificate and its kin, read and judged.

An HCERT is the text ``HC1:…`` of a signed CWT whose claim −260 holds, under 1, the certificate:
vaccinations, tests or recoveries of one person (EU eHealth Network, Electronic Health Certificate
Specification v1.0.5 and JSON Schema v1.3). A province recognises it only where its rules name the
certificate's country; here it is found out whether it is genuine, and what it says.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from exchange.attestations import Holder
from exchange.codes import base45, lenientcbor
from exchange.codes.dsc import DocumentSigner
from exchange.codes.envelope import Envelope, inflate, unprefix
from exchange.errors import (
    BadSignatureError,
    ExpiredError,
    FutureTimeError,
    InvalidFieldError,
    MalformedObjectError,
    UnknownIssuerError,
)
from exchange.facts import (
    AntigenTest,
    Fact,
    NucleicAcidTest,
    Recovery,
    TestResult,
    Vaccination,
    fact_fields,
)
from exchange.subjects import DocumentType, mask_name
from exchange.vaccines import EU_NAMES
from exchange.vouching import CLOCK_SKEW

__all__ = [
    "ForeignCertificate",
    "ForeignKeys",
    "content",
    "facts",
    "kinds",
    "moment",
    "read",
    "trusted",
    "unpack",
    "verify",
]

ISS, EXP, IAT, HCERT = 1, 4, 6, -260
_PREFIXES: Final = frozenset({"HC1:", "HC1", ""})
_COVID: Final = "840539006"
_TESTS: Final[Mapping[Any, type[NucleicAcidTest | AntigenTest]]] = {
    "LP6464-4": NucleicAcidTest,
    "LP217198-3": AntigenTest,
}
_RESULTS: Final = {"260415000": TestResult.NEGATIVE, "260373001": TestResult.POSITIVE}
_MOST_ENTRIES: Final = 32
_END_OF_TIME: Final = 253_402_214_400
"""Seconds to 9999-12-31, so that a day can be added to every time that is read."""
_FOREVER: Final = datetime.fromtimestamp(_END_OF_TIME, UTC)
_SECONDS: Final = re.compile(r"[0-9]{9,12}")


@dataclass(frozen=True, slots=True)
class ForeignCertificate:
    """What a foreign certificate says that is genuine and counts now. Times are aware, in UTC."""

    id: str
    """A UUID that its UVCI gives, as text: the same for the same certificate."""
    country: str
    """ISO 3166-1 alpha-2: that of the key which signed it."""
    holder: Holder
    facts: tuple[tuple[UUID, Fact], ...]
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ForeignKeys:
    """The foreign keys that are trusted, by kid; empty, as nobody foreign is by default."""

    signers: Mapping[bytes, tuple[DocumentSigner, ...]]

    def __init__(self, signers: Iterable[DocumentSigner] = ()) -> None:
        by_kid: dict[bytes, tuple[DocumentSigner, ...]] = {}
        for signer in signers:
            for kid in signer.kids:
                by_kid[kid] = (*by_kid.get(kid, ()), signer)
        object.__setattr__(self, "signers", by_kid)

    def __bool__(self) -> bool:
        return bool(self.signers)

    @classmethod
    def load(cls, certificates: Iterable[bytes | tuple[str, bytes]]) -> ForeignKeys:
        """Read the certificates of those who are trusted.

        :param certificates: each a certificate in DER, PEM or base64, whose subject names its
            country; or a country (ISO 3166-1 alpha-2) and a certificate or bare public key.
        :raises InvalidFieldError: one is unreadable, verifies nothing, or its country is not known.
        """
        return cls(map(trusted, certificates))


def trusted(given: bytes | tuple[str, bytes]) -> DocumentSigner:
    """Read the certificate of one who is trusted; as `ForeignKeys.load` reads each."""
    country, data = ("", given) if isinstance(given, bytes) else given
    signer = DocumentSigner.read(data)
    country = country or signer.country
    if not re.fullmatch("[A-Z]{2}", country):
        raise InvalidFieldError(
            "names no country", field="certificate", remedy="give the country (GB, SG) with it"
        )
    if signer.key is None:
        raise InvalidFieldError(
            "its key verifies nothing: it is neither on P-256 nor RSA", field="certificate"
        )
    return signer.of(country)


def read(text: str, keys: ForeignKeys, now: datetime) -> ForeignCertificate:
    """What an HC1 text says, if it is a foreign certificate of which all holds now.

    :param text: with the prefix ``HC1:``, with ``HC1``, or with none, as early ones have it.
    :raises MalformedObjectError: it is no foreign certificate.
    :raises UnknownIssuerError: no trusted key bears the kid, or that key may not vouch for it.
    :raises BadSignatureError: the signature holds under none that bears the kid.
    :raises ExpiredError: it, or the certificate of its key, has ended.
    :raises FutureTimeError: it was issued in the future.
    """
    return verify(unpack(text), keys, now)


def unpack(text: str) -> bytes:
    """The signed bytes in an HC1 text of anybody's; nothing of them is verified.

    :raises MalformedObjectError: it has another prefix, or is not base45 of zlib; field ``text``.
    """
    prefix, rest = unprefix(text)
    if prefix not in _PREFIXES:
        raise MalformedObjectError("begins with another prefix than HC1:", field="text")
    try:
        return inflate(base45.decode(rest))
    except MalformedObjectError as error:
        raise error.at("text") from None


def verify(signed: bytes, keys: ForeignKeys, now: datetime) -> ForeignCertificate:
    """What a signed foreign certificate says, if all of it holds now; raises as `read` does.

    Facts that cannot be read or that lie in the future are left out: they satisfy no rule.
    """
    envelope = Envelope.parse(signed)
    signer = _signer(envelope, keys)
    claims = lenientcbor.decode(envelope.payload)
    certificate = content(claims)
    if not all(map(signer.may_sign, kinds(certificate))):
        raise UnknownIssuerError("the key may not sign certificates of this kind", field="kid")
    if claims.get(ISS, signer.country) != signer.country:
        raise UnknownIssuerError("signed by another country's key", field="iss")
    issued, expires = moment(claims.get(IAT)), moment(claims.get(EXP))
    if issued is None or expires is None:
        raise MalformedObjectError("missing, or not a time", field="exp" if issued else "iat")
    expires = min(expires, _last(certificate))
    _check_times(issued, expires, signer, now)
    return ForeignCertificate(
        id=str(_identifier(certificate, signed)),
        country=signer.country,
        holder=_holder(certificate),
        facts=tuple(found for found in facts(certificate) if _is_past(found[1], now)),
        issued_at=issued,
        expires_at=expires,
    )


def _signer(envelope: Envelope, keys: ForeignKeys) -> DocumentSigner:
    bearers = keys.signers.get(envelope.kid or b"", ())
    if not bearers:
        raise UnknownIssuerError("no trusted foreign key bears the kid", field="kid")
    refused: Exception | None = None
    for signer in bearers:
        try:
            envelope.verify(signer)
        except (BadSignatureError, MalformedObjectError) as error:
            refused = refused or error
        else:
            return signer
    raise refused or AssertionError


def _check_times(
    issued: datetime, expires: datetime, signer: DocumentSigner, now: datetime
) -> None:
    if issued > now + CLOCK_SKEW:
        raise FutureTimeError("issued in the future", field="iat")
    if expires <= now:
        raise ExpiredError("the certificate has ended", field="exp")
    if signer.not_before and issued < signer.not_before:
        raise UnknownIssuerError("issued before its key's certificate began", field="kid")
    if signer.not_after and signer.not_after <= now:
        raise ExpiredError("its key's certificate has ended", field="kid")


# --- what it says ---------------------------------------------------------------------------------


def content(claims: Any) -> dict[Any, Any]:
    """The certificate in a claims set: claim −260, key 1.

    :raises MalformedObjectError: there is none.
    """
    inner = claims.get(HCERT) if isinstance(claims, dict) else None
    certificate = inner.get(1) if isinstance(inner, dict) else None
    if not isinstance(certificate, dict):
        raise MalformedObjectError("holds no health certificate (claim -260, key 1)")
    return certificate


def kinds(certificate: Mapping[Any, Any]) -> list[str]:
    """What it certifies: ``v`` vaccination, ``t`` test, ``r`` recovery."""
    return [kind for kind in "vtr" if certificate.get(kind)]


def facts(certificate: Mapping[Any, Any]) -> list[tuple[UUID, Fact]]:
    """The facts about COVID-19 in a certificate, each with an id that its UVCI gives.

    An entry is left out that concerns another disease, or lacks what its fact needs: an unknown
    test type or result, a date that names no day.
    """
    found: list[tuple[UUID, Fact]] = []
    for number, (kind, entry) in enumerate(_entries(certificate)):
        fact = _READERS[kind](entry) if entry.get("tg") == _COVID else None
        if fact is not None:
            found.append((_uuid(entry, number), fact))
    return found


def _entries(certificate: Mapping[Any, Any]) -> Iterator[tuple[str, dict[Any, Any]]]:
    for kind in kinds(certificate):
        entries = certificate[kind]
        if isinstance(entries, list):
            yield from ((kind, each) for each in entries[:_MOST_ENTRIES] if isinstance(each, dict))


def _last(certificate: Mapping[Any, Any]) -> datetime:
    """The end of the last day on which a recovery counts, by its own words (``du``)."""
    ends = [moment(entry.get("du")) for kind, entry in _entries(certificate) if kind == "r"]
    return min((end + timedelta(days=1) for end in ends if end), default=_FOREVER)


def _vaccination(entry: Mapping[Any, Any]) -> Fact | None:
    day, product = moment(entry.get("dt")), entry.get("mp")
    doses = [entry.get(name) for name in ("dn", "sd")]
    if day is None or not isinstance(product, str) or not 0 < len(product) <= 64:
        return None
    if not product.isprintable() or not all(type(n) is int and 0 < n < 100 for n in doses):
        return None
    return Vaccination(day, EU_NAMES.get(product, product), *doses)  # type: ignore[arg-type]  # looked at above


def _test(entry: Mapping[Any, Any]) -> Fact | None:
    test, result = _known(_TESTS, entry.get("tt")), _known(_RESULTS, entry.get("tr"))
    sampled = moment(entry.get("sc"))
    if test is None or result is None or sampled is None:
        return None
    fact: Fact = test(sampled, result, moment(entry.get("dr")))
    return fact


def _recovery(entry: Mapping[Any, Any]) -> Fact | None:
    released = moment(entry.get("df"))
    return None if released is None else Recovery(released, moment(entry.get("fr")))


_READERS: Final = {"v": _vaccination, "t": _test, "r": _recovery}


def _known(table: Mapping[Any, Any], code: Any) -> Any:
    return table.get(code) if isinstance(code, str) else None


def moment(value: Any) -> datetime | None:
    """A time as certificates hold it, in UTC; None where it is none.

    :param value: seconds since 1970, whole or not (RFC 8392 NumericDate), also as text; or an
        ISO 8601 date or date-time, UTC where it names no offset. Years 1970 to 9999.
    """
    if isinstance(value, str):
        if not _SECONDS.fullmatch(value):
            return _from_iso(value)
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return datetime.fromtimestamp(value, UTC) if 0 <= value < _END_OF_TIME else None


def _from_iso(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return time if 0 <= time.timestamp() < _END_OF_TIME else None


def _is_past(fact: Fact, now: datetime) -> bool:
    values = (getattr(fact, field.name) for field in fact_fields(type(fact)))
    return all(value <= now + CLOCK_SKEW for value in values if isinstance(value, datetime))


def _holder(certificate: Mapping[Any, Any]) -> Holder:
    """The holder, masked; the standardised name (ICAO 9303) where the other is missing."""
    names = certificate.get("nam")
    if not isinstance(names, dict):
        raise MalformedObjectError("missing", field="nam")
    pairs = (("gn", "fn"), ("gnt", "fnt"))
    whole = (" ".join(n for key in pair if isinstance(n := names.get(key), str)) for pair in pairs)
    name = next((each for each in whole if each.strip()), "").replace("<", " ")
    try:
        return Holder(mask_name(name), DocumentType.OTHER, "")
    except InvalidFieldError:
        raise MalformedObjectError("names nobody", field="nam") from None


def _identifier(certificate: Mapping[Any, Any], signed: bytes) -> UUID:
    for _, entry in _entries(certificate):
        return _uuid(entry, 0)
    return uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(signed).hexdigest())


def _uuid(entry: Mapping[Any, Any], number: int) -> UUID:
    """The id of an entry: of its UVCI and, where there are several, its place."""
    named = entry.get("ci")
    name = named if isinstance(named, str) else repr(sorted(map(repr, entry.items())))
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{name}#{number}" if number else name)
