"""What stands in the store of an attestation: its forms, and how they are read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

from exchange.errors import InvalidFieldError, StoreUnavailableError
from exchange.statuslist import LIST_SIZE

__all__ = [
    "NO_NOTE",
    "TOMBSTONE",
    "Held",
    "NewRecord",
    "Note",
    "Progress",
    "Published",
    "Record",
    "Revocation",
    "packed",
]

TOMBSTONE: Final = b"\x00"
"""What a revoked attestation's value begins with; no COSE_Sign1 does (CBOR 0x00 is a number)."""

RECORD_BYTES: Final = 94
PLACE_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Record:
    """Whose an attestation id is.

    :param issuer: a unified social credit code (GB 32100), 18 characters.
    :param digest: 32 bytes, of the content: equal for what counts as the same fact.
    :param expires: Unix seconds.
    :param token: the subject token, 36 bytes.
    :param places: a status list's number and an index there, for each time that it was signed with
        a new one; all of them are revoked with it.
    """

    issuer: str
    digest: bytes
    expires: int
    token: bytes = field(repr=False)
    places: tuple[tuple[int, int], ...] = ()

    @property
    def place(self) -> tuple[int, int] | None:
        """The newest place; None where it has none."""
        return self.places[-1] if self.places else None

    def encode(self) -> bytes:
        """Give the stored form: issuer, digest, expiry (8, big-endian), token; 8 bytes a place."""
        return b"".join(
            (
                self.issuer.encode("ascii"),
                self.digest,
                self.expires.to_bytes(8, "big"),
                self.token,
                *map(packed, self.places),
            )
        )

    @classmethod
    def decode(cls, stored: bytes) -> Record:
        """Read the stored form.

        :raises StoreUnavailableError: something else stands there.
        """
        places, rest = divmod(len(stored) - RECORD_BYTES, PLACE_BYTES)
        if places < 0 or rest or not stored[:18].isascii():
            raise StoreUnavailableError(
                "something else stands where an attestation's record should be",
                remedy="give the node a database of its own",
            )
        expires = int.from_bytes(stored[50:58], "big")
        return cls(
            stored[:18].decode("ascii"),
            stored[18:50],
            expires,
            stored[58:RECORD_BYTES],
            tuple(
                (
                    int.from_bytes(stored[at : at + 4], "big"),
                    int.from_bytes(stored[at + 4 : at + PLACE_BYTES], "big"),
                )
                for at in range(RECORD_BYTES, len(stored), PLACE_BYTES)
            ),
        )


@dataclass(frozen=True, slots=True)
class NewRecord:
    """What is to be published.

    :param id: 16 bytes.
    :param token: the subject token, 36 bytes.
    :param issuer: 18 ASCII characters.
    :param digest: 32 bytes, of the content: equal for what counts as the same fact.
    :param expires: Unix seconds, in the future: what is past, the server forgets at once.
    :param signed: the COSE_Sign1 bytes.
    :param place: the status list's number and the index there that the signed bytes name.
    :raises InvalidFieldError: another shape.
    """

    id: bytes
    token: bytes = field(repr=False)
    issuer: str
    digest: bytes
    expires: int
    signed: bytes = field(repr=False)
    place: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        lengths = (len(self.id), len(self.token), len(self.issuer), len(self.digest))
        if lengths != (16, 36, 18, 32) or not self.issuer.isascii():
            raise InvalidFieldError("an id, token, credit code or digest has not its length")
        if not 0 < self.expires < 1 << 40:
            raise InvalidFieldError("no Unix time", field="expires")
        if not self.signed or self.signed.startswith(TOMBSTONE):
            raise InvalidFieldError("no COSE_Sign1", field="signed")
        if self.place is not None:
            number, index = self.place
            if not (0 <= number < 1 << 32 and 0 <= index < LIST_SIZE):
                raise InvalidFieldError("no place of a status list", field="place")

    def record(self) -> Record:
        """Whose the id is to be."""
        places = () if self.place is None else (self.place,)
        return Record(self.issuer, self.digest, self.expires, self.token, places)


@dataclass(frozen=True, slots=True)
class Published:
    """The signed bytes that stand in the store, and whether they stood there before."""

    signed: bytes = field(repr=False)
    already: bool


@dataclass(frozen=True, slots=True)
class Held:
    """What a subject has, in no order.

    :param signed: the signed bytes of live attestations.
    :param revoked: those of revoked ones that have not ended yet, as they were signed.
    """

    signed: list[bytes] = field(repr=False)
    revoked: list[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Note:
    """Why something is revoked.

    :param reason: 撤销原因.
    :param authority: who ordered it (决定机构), or "".
    :param by: the caller that did it.
    """

    reason: str = ""
    authority: str = ""
    by: str = ""


NO_NOTE: Final = Note()


@dataclass(frozen=True, slots=True)
class Revocation:
    """What a tombstone says.

    :param at: Unix seconds.
    :param signed: the attestation as it was signed; b"" where its publication never finished.
    """

    at: int
    note: Note
    signed: bytes = field(repr=False)

    def header(self) -> bytes:
        """Give what stands before the signed bytes.

        :raises InvalidFieldError: the note is longer than 64 KiB.
        """
        note = {
            "reason": self.note.reason,
            "authority": self.note.authority,
            "by": self.note.by,
        }
        text = json.dumps(note, ensure_ascii=False).encode()
        if len(text) >= 1 << 16:
            raise InvalidFieldError("too long", field="reason")
        return TOMBSTONE + self.at.to_bytes(8, "big") + len(text).to_bytes(2, "big") + text

    @classmethod
    def decode(cls, stored: bytes) -> Revocation:
        """Read a value that begins with a tombstone.

        :raises StoreUnavailableError: something else stands there.
        """
        end = 11 + int.from_bytes(stored[9:11], "big")
        try:
            note = Note(**json.loads(stored[11:end]))
        except (ValueError, TypeError):
            raise StoreUnavailableError(
                "something else stands where a revocation should be",
                remedy="give the node a database of its own",
            ) from None
        return cls(int.from_bytes(stored[1:9], "big"), note, stored[end:])


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a walk has come: attestations looked at, and of these revoked now and before."""

    looked_at: int
    revoked: int
    already_revoked: int


def packed(place: tuple[int, int]) -> bytes:
    """Give the stored form of a place, 8 bytes: the list, the index there, big-endian."""
    return place[0].to_bytes(4, "big") + place[1].to_bytes(4, "big")
