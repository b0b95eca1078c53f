"""The chain of the access log: each line names, by its hash, all that went before.

A line is canonical JSON: keys sorted, no spaces, UTF-8. Its hash is ``SHA-256(hash of the line
before ‖ line)``, so that none can be changed, taken out or moved without all that follow it. The
chain runs on from day to day. What it cannot show by itself is a log that was written anew as a
whole, from some line to its end: for that, its head is put where others keep it (`Head`).
"""

from __future__ import annotations

import hashlib
import json
import json.encoder
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from exchange.errors import InvalidFieldError
from exchange.v1 import types_pb2
from nodes.audit.entries import Entry

__all__ = ["START", "Access", "Digester", "Form", "Head", "follow", "read", "stamp"]

_BLOCK: Final = 64
_CHECKED: Final = b"tongxing access log"
"""Shorter than a token: no holder has its digest."""
_PURPOSES: Final = {
    number: name.removeprefix("PURPOSE_") for name, number in types_pb2.Purpose.items()
}
_NUMBERS: Final = {name: number for number, name in _PURPOSES.items()}

_quote = json.encoder.encode_basestring


@dataclass(frozen=True, slots=True)
class Head:
    """A line of the chain, by its number and its hash: it stands for all before it.

    :param sequence: from 1; 0 is the start, before any line.
    :param hash: 32 bytes.
    """

    sequence: int
    hash: bytes

    def __str__(self) -> str:
        """``SEQUENCE:HASH``, as it is logged."""
        return f"{self.sequence}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read ``SEQUENCE:HASH``.

        :raises InvalidFieldError: it is none.
        """
        sequence, _, digest = text.strip().partition(":")
        try:
            head = cls(int(sequence), bytes.fromhex(digest))
        except ValueError:
            head = START
        if len(head.hash) != hashlib.sha256().digest_size or not 0 < head.sequence < 1 << 63:
            raise InvalidFieldError(
                "not SEQUENCE:HASH", field="head", remedy="take them from a line `audit.head`"
            )
        return head


START: Final = Head(0, bytes(32))
"""What the first line of all follows."""


@dataclass(frozen=True, slots=True)
class Access:
    """One line of the log, read back.

    :param time: aware, in UTC.
    :param purpose: a ``Purpose`` of the contract.
    :param holders: the keyed digests of tokens, hexadecimal: of each holder of whom the same was
        answered in one call; or none.
    :param key: the `Digester.check` of the key of these digests; "" in what was recorded before
        lines bore it.
    """

    sequence: int
    time: datetime
    caller: str
    method: str
    purpose: int
    answer: str
    request_id: str
    target: str
    holders: tuple[str, ...]
    key: str


class Digester:
    """What stands in the log for a subject token: HMAC-SHA-256 (RFC 2104), its first 8 bytes.

    Of a thousand million holders, two have the same with a chance of one in 37: to each one of them
    it is as good as its own, and it is half as much to write.

    :param key: 32 bytes, of this log alone: so the digests of two nodes cannot be joined.
    """

    __slots__ = ("_inner", "_outer", "check")

    def __init__(self, key: bytes) -> None:
        # Two plain hashes take less than half the time of hmac.digest, which OpenSSL sets up anew.
        self._inner = bytes(byte ^ 0x36 for byte in key.ljust(_BLOCK, b"\0"))
        self._outer = bytes(byte ^ 0x5C for byte in key.ljust(_BLOCK, b"\0"))
        self.check: Final = self(_CHECKED)
        """Tells this key from others, and nobody what it is: the digest of a constant."""

    def __call__(self, token: bytes) -> str:
        """16 hexadecimal digits."""
        inner = hashlib.sha256(self._inner + token).digest()
        return hashlib.sha256(self._outer + inner).hexdigest()[:16]


def stamp(time: datetime) -> str:
    """A time as lines bear it: in UTC to the microsecond; sorted as text, they are in order."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


class Form:
    """What the lines of one call have in common.

    :param time: as `stamp` gives it.
    :param entry: its token and answer are not looked at.
    :param key: the `Digester.check` of the key of the holders' digests.
    """

    __slots__ = ("_holders", "_sequence", "_tail")

    def __init__(self, time: str, entry: Entry, key: str) -> None:
        # By hand, in the keys' order: a third of what json.dumps takes, and made for every access.
        purpose = _PURPOSES.get(entry.purpose, "UNSPECIFIED")
        self._holders = f',"caller":{_quote(entry.caller)},"holders":['
        self._sequence = (
            f'],"key":"{key}","method":{_quote(entry.method)},"purpose":"{purpose}"'
            f',"request_id":{_quote(entry.request_id)},"sequence":'
        )
        self._tail = f',"target":{_quote(entry.target)},"time":"{time}"}}'

    def line(self, sequence: int, answer: str, holders: Sequence[str]) -> str:
        """Write a line.

        :param holders: as `Digester` gives them; none where there is no token.
        """
        digests = '"' + '","'.join(holders) + '"' if holders else ""
        before = f'{{"answer":{_quote(answer)}{self._holders}{digests}'
        return f"{before}{self._sequence}{sequence}{self._tail}"


def follow(before: bytes, text: bytes) -> bytes:
    """The hash of a line after another's hash."""
    return hashlib.sha256(before + text).digest()


def read(text: str) -> Access:
    """Read a line back.

    :raises ValueError: it is none.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        return Access(
            sequence=int(fields["sequence"]),
            time=datetime.fromisoformat(fields["time"]),
            caller=str(fields["caller"]),
            method=str(fields["method"]),
            purpose=_NUMBERS[fields["purpose"]],
            answer=str(fields["answer"]),
            request_id=str(fields["request_id"]),
            target=str(fields["target"]),
            holders=tuple(map(str, fields["holders"])),
            key=str(fields.get("key", "")),
        )
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("not a line of the access log") from error
