"""Status lists (状态列表): which attestations are revoked, to be checked without a connection.

A list is an IETF Token Status List in CWT form (draft-ietf-oauth-status-list-21): one bit for each
attestation, least significant first, 1 = revoked, compressed with ZLIB and signed by its province.

=====  ===========  =========================================================================
label  claim        value
=====  ===========  =========================================================================
2      sub          the list's URI, as it stands in the attestations: `list_uri`
4      exp          when it ends, whole seconds; recommended
6      iat          when it was signed, whole seconds
65534  ttl          for how many seconds from ``iat`` its "not revoked" counts; here required
65533  status_list  map: ``bits`` (1, 2, 4 or 8 a status; we write 1), ``lst`` (compressed)
=====  ===========  =========================================================================

The draft asks for no ``iss``: the URI names the province, and only that province's keys sign it.
"""

from __future__ import annotations

import enum
import re
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from exchange import cbor, cose
from exchange.claims import time, typed
from exchange.errors import (
    ExpiredError,
    FutureTimeError,
    MalformedObjectError,
    TongxingError,
    UnknownProvinceError,
)
from exchange.keys import PublicKey, Signer
from exchange.provinces import province_of_trust_domain, trust_domain
from exchange.texts import Text
from exchange.trust.trustlist import TrustList
from exchange.vouching import CLOCK_SKEW, check_key

__all__ = [
    "LISTS_OF_PROVINCE",
    "LIST_SIZE",
    "LONGEST_TTL",
    "Status",
    "StatusList",
    "StatusLists",
    "StatusReference",
    "expand",
    "list_uri",
    "parse_uri",
    "sign",
    "verify",
]

LIST_SIZE: Final = 1 << 18
"""Statuses in one list: 32 KiB, so that a list of any content fits into 64 KiB when signed."""

LISTS_OF_PROVINCE: Final = 4096
"""Lists of one province in which anything is revoked: 128 MiB, for a milliard places. No node keeps
more of another."""

LONGEST_TTL: Final = timedelta(hours=24)
"""For so long at most may a verifier go without news; a list that asks for more is refused."""

_ISS, _SUB, _EXP, _NBF, _IAT, _TTL, _STATUS_LIST = 1, 2, 4, 5, 6, 65534, 65533
_SIGN1_TAGGED: Final = b"\xd2"
_MOST_LISTS: Final = 1 << 32
_URI: Final = re.compile(r"spiffe://([^/]{1,32})/statuslists/(0|[1-9][0-9]{0,9})")
_LONGEST_URI: Final = 64


@lru_cache(maxsize=4096)
def list_uri(province: str, number: int) -> str:
    """The URI of a province's list: ``spiffe://510000.tongxing/statuslists/12``.

    :raises UnknownProvinceError: no province has the code.
    """
    return f"spiffe://{trust_domain(province)}/statuslists/{number}"


def parse_uri(uri: str) -> tuple[str, int]:
    """The province and the number of a list, from its URI in the one spelling of `list_uri`.

    :raises MalformedObjectError: it is no list's URI.
    """
    # Before the cache, which keeps what it is asked for: a hostile URI may be long.
    if len(uri) > _LONGEST_URI:
        raise _not_a_uri()
    return _parse_uri(uri)


@lru_cache(maxsize=4096)
def _parse_uri(uri: str) -> tuple[str, int]:
    parts = _URI.fullmatch(uri)
    if parts is None or (number := int(parts[2])) >= _MOST_LISTS:
        raise _not_a_uri()
    try:
        return province_of_trust_domain(parts[1]).code, number
    except UnknownProvinceError:
        raise _not_a_uri() from None


def _not_a_uri() -> MalformedObjectError:
    return MalformedObjectError("not the URI of a province's status list", field="uri")


@dataclass(frozen=True, slots=True)
class StatusReference:
    """Where an attestation's status stands (the draft's §6.3).

    :param province: whose list it is.
    :param list: the list's number.
    :param index: the place in it, 0 to `LIST_SIZE` - 1.
    """

    province: str
    list: int
    index: int

    @property
    def uri(self) -> str:
        """The list's URI."""
        return list_uri(self.province, self.list)

    @classmethod
    def parse(cls, uri: str, index: int) -> StatusReference:
        """Read a reference.

        :raises MalformedObjectError: no list has the URI, or no list has the place.
        """
        province, number = parse_uri(uri)
        if not 0 <= index < LIST_SIZE:
            raise MalformedObjectError(f"not between 0 and {LIST_SIZE - 1}", field="idx")
        return cls(province, number, index)


class Status(enum.StrEnum):
    """What the lists at hand say of an attestation."""

    VALID = "VALID"
    REVOKED = "REVOKED"
    STALE = "STALE"
    """They say nothing: there is no list, it is too old, or it has no such place."""

    @property
    def text(self) -> Text:
        """The status in words."""
        return _STATUS_TEXTS[self]


_STATUS_TEXTS = {
    Status.VALID: Text("有效", "not revoked"),
    Status.REVOKED: Text("撤销", "revoked"),
    Status.STALE: Text("数据过旧", "no status list that is fresh enough"),
}


@dataclass(frozen=True, slots=True)
class StatusList:
    """A status list that verified.

    :param bits: one bit for each place, least significant first, set where it is revoked.
    :param ttl: for how long from ``issued_at`` a bit that is not set counts.
    :param expires_at: when the list ends altogether.
    :param key: what signed it.
    """

    province: str
    number: int
    bits: bytes = field(repr=False)
    issued_at: datetime
    ttl: timedelta
    expires_at: datetime
    key: PublicKey

    @property
    def uri(self) -> str:
        """The list's URI."""
        return list_uri(self.province, self.number)

    @property
    def size(self) -> int:
        """How many places it has."""
        return len(self.bits) * 8

    def revoked(self, index: int) -> bool:
        """Whether the attestation at a place is revoked.

        :raises MalformedObjectError: the list has no such place, and says nothing (§8.3, 6).
        """
        if not 0 <= index < self.size:
            raise MalformedObjectError("the list has no such place", field="idx")
        return bool(self.bits[index >> 3] >> (index & 7) & 1)

    def fresh(self, now: datetime) -> bool:
        """Whether a bit that is not set counts now.

        By ``iat`` and not by when the list was received: who holds one back gains nothing.
        """
        return (
            self.issued_at <= now + CLOCK_SKEW
            and now < self.issued_at + self.ttl
            and now < self.expires_at
        )


def sign(
    bits: bytes,
    *,
    province: str,
    number: int,
    issued_at: datetime,
    ttl: timedelta,
    signer: Signer,
) -> bytes:
    """A Status List Token: COSE_Sign1 bytes.

    :param bits: one bit a place, least significant first. Give the whole list, `LIST_SIZE` // 8
        bytes, also while few places are taken: its length would tell how many.
    :param issued_at: cut to the second.
    :param ttl: whole seconds, at most `LONGEST_TTL`; the token ends after twice as long.
    :raises MalformedObjectError: more than `LIST_SIZE` places, or a ttl that nobody would accept.
    """
    if len(bits) * 8 > LIST_SIZE:
        raise _too_many(LIST_SIZE)
    issued, seconds = int(issued_at.timestamp()), int(ttl.total_seconds())
    _ttl(seconds)
    claims = {
        _SUB: list_uri(province, number),
        _EXP: issued + 2 * seconds,
        _IAT: issued,
        _TTL: seconds,
        # Not at level 9, which §4.1 recommends: for a tenth less it takes 25 times as long.
        _STATUS_LIST: {"bits": 1, "lst": zlib.compress(bits, 6)},
    }
    return cose.sign(cbor.encode(claims), signer, cose.ObjectType.STATUS_LIST)


def verify(signed: bytes, trust: TrustList, now: datetime) -> StatusList:
    """What a Status List Token says, if it may say it now (§5.2, §8.3).

    A list past its ``ttl`` but before its ``exp`` verifies: what it revokes is revoked. Whether
    the rest still counts, `StatusList.fresh` tells.

    :param signed: COSE_Sign1 bytes, with tag 18.
    :raises MalformedObjectError: it is not a status list; names the claim.
    :raises UnknownIssuerError: no key in the trust list bears its ``kid``, or that key may no
        longer, or may not yet, vouch for it.
    :raises BadSignatureError: the signature does not hold, or it is not of the list's province.
    :raises ExpiredError: it has ended.
    :raises FutureTimeError: it was signed in the future.
    """
    if not signed.startswith(_SIGN1_TAGGED):
        raise MalformedObjectError("a Status List Token must have tag 18")
    message = cose.parse(signed, cose.ObjectType.STATUS_LIST)
    public = cose.verify(message, [key.public for _, key in trust.keys(message.kid)])
    claims = cbor.decode_map(message.payload)
    try:
        province, number = parse_uri(typed(claims, _SUB, "sub", str))
    except MalformedObjectError as error:
        error.field = "sub"
        raise
    issued_at = time(claims, _IAT, "iat")
    check_key(public, province, issued_at, trust, field="sub")
    if claims.get(_ISS, province) != province:
        raise MalformedObjectError("contradicts the province in sub", field="iss")
    # Before any sum of times, which may lie past the year 9999 and overflow.
    if issued_at > now + CLOCK_SKEW:
        raise FutureTimeError("signed in the future", field="iat")
    if _NBF in claims and time(claims, _NBF, "nbf") > now + CLOCK_SKEW:
        raise FutureTimeError("begins in the future", field="nbf")
    ttl = _ttl(claims.get(_TTL))
    expires_at = time(claims, _EXP, "exp") if _EXP in claims else issued_at + 2 * ttl
    if expires_at <= now:
        raise ExpiredError("the status list has ended", field="exp")
    return StatusList(province, number, _bits(claims), issued_at, ttl, expires_at, public)


def _ttl(value: Any) -> timedelta:
    # By its type, since True would pass as 1; compared as a number, which no size overflows.
    if type(value) is not int or not 0 < value <= LONGEST_TTL.total_seconds():
        hours = LONGEST_TTL // timedelta(hours=1)
        raise MalformedObjectError(f"not between 1 second and {hours} hours", field="ttl")
    return timedelta(seconds=value)


def _bits(claims: dict[Any, Any]) -> bytes:
    status_list = typed(claims, _STATUS_LIST, "status_list", dict)
    return expand(
        typed(status_list, "lst", "status_list.lst", bytes),
        typed(status_list, "bits", "status_list.bits", int),
    )


def expand(lst: bytes, bits: int, *, most: int = LIST_SIZE) -> bytes:
    """Decompress a list (§4.1), and put down what is not VALID as one bit a place.

    Suspended (暂停) and whatever else a wider status may mean is not valid either, so it counts as
    revoked. So do the places that fill up the last byte where a list of 2, 4 or 8 bits a status
    has no multiple of eight: nobody's status stands there.

    :param lst: ZLIB data.
    :param bits: of one status: 1, 2, 4 or 8.
    :param most: so many places may it have; no more than that is ever unpacked.
    :raises MalformedObjectError: it is none of that, or goes on after its end.
    """
    if bits not in _NOT_VALID:
        raise MalformedObjectError("not 1, 2, 4 or 8", field="status_list.bits")
    unpacking = zlib.decompressobj()
    limit = most * bits // 8
    try:
        # One byte more than may be there: a bomb stops here, and at the end the checksum is read.
        statuses = unpacking.decompress(lst, limit + 1)
    except zlib.error:
        raise MalformedObjectError("not ZLIB data", field="status_list.lst") from None
    if len(statuses) > limit:
        raise _too_many(most)
    if not unpacking.eof or unpacking.unused_data:
        what = "bytes follow after its end" if unpacking.eof else "cut short"
        raise MalformedObjectError(what, field="status_list.lst")
    return statuses if bits == 1 else _one_bit_each(statuses, bits)


def _too_many(most: int) -> MalformedObjectError:
    return MalformedObjectError(f"more than {most} places", field="status_list.lst")


def _squeezed(byte: int, bits: int) -> int:
    """One bit for each status in a byte, set where it is not 0 (VALID)."""
    mask = (1 << bits) - 1
    return sum((byte >> at & mask != 0) << place for place, at in enumerate(range(0, 8, bits)))


_NOT_VALID: Final = {
    bits: bytes(_squeezed(byte, bits) for byte in range(256)) for bits in (1, 2, 4, 8)
}


def _one_bit_each(statuses: bytes, bits: int) -> bytes:
    """So many bytes as a status has bits become one: each gives 8 // bits places."""
    size = -(-len(statuses) // bits)
    squeezed = statuses.ljust(size * bits, b"\xff").translate(_NOT_VALID[bits])
    places = 8 // bits
    whole = 0
    for part in range(bits):
        whole |= int.from_bytes(squeezed[part::bits], "little") << part * places
    return whole.to_bytes(size, "little")


class StatusLists:
    """The status lists that a verifier has at hand: of each the newest, and nothing taken back.

    Revoking is for good, so a bit that a verified list once set stays set, whatever comes after.
    But a list whose key has been revoked since it was taken in counts neither way.

    :param remember: how many lists to hold, 32 KiB each. Beyond that the province that fills most
        loses the one that it renewed longest ago: none crowds out the others.
    """

    def __init__(self, *, remember: int = 1024) -> None:
        self._lists: dict[str, OrderedDict[int, StatusList]] = {}
        self._remember = remember
        self._held = 0

    def offer(self, signed: bytes, trust: TrustList, now: datetime) -> StatusList:
        """Take a list in, if it verifies, and give back what is held of it now.

        :param signed: COSE_Sign1 bytes.
        :raises MalformedObjectError: also where it has fewer places than the one held.
        :raises TongxingError: as `verify`; what is held stays.
        """
        found = verify(signed, trust, now)
        lists = self._lists.setdefault(found.province, OrderedDict())
        held = lists.get(found.number)
        if held is not None and _vouched(held, trust):
            found = _merged(held, found)
        self._held += held is None
        lists[found.number] = found
        lists.move_to_end(found.number)
        if self._held > self._remember:
            max(self._lists.values(), key=len).popitem(last=False)
            self._held -= 1
        return found

    def held(self, reference: StatusReference) -> StatusList | None:
        """The newest list that a status stands in, also if it counts no more; None where none is.

        Bits that an older one had set are set in it too.
        """
        lists = self._lists.get(reference.province)
        return None if lists is None else lists.get(reference.list)

    def status(self, reference: StatusReference, trust: TrustList, now: datetime) -> Status:
        """What is known of an attestation's status.

        A bit that is set is REVOKED however old the list is; one that is not set is VALID only
        while the list is fresh, and its key still vouches for it.
        """
        held = self.held(reference)
        if held is None or not 0 <= reference.index < held.size or not _vouched(held, trust):
            return Status.STALE
        if held.revoked(reference.index):
            return Status.REVOKED
        return Status.VALID if held.fresh(now) else Status.STALE


def _vouched(held: StatusList, trust: TrustList) -> bool:
    try:
        check_key(held.key, held.province, held.issued_at, trust)
    except TongxingError:
        return False
    return True


def _merged(held: StatusList, offered: StatusList) -> StatusList:
    """The newer of two, with every bit that either has set."""
    newer, older = (offered, held) if offered.issued_at > held.issued_at else (held, offered)
    if newer.size < older.size:
        raise MalformedObjectError(
            "the newer list has fewer places than the older", field="status_list.lst"
        )
    if newer.bits == older.bits:
        return newer
    bits = int.from_bytes(newer.bits, "little") | int.from_bytes(older.bits, "little")
    return replace(newer, bits=bits.to_bytes(len(newer.bits), "little"))
