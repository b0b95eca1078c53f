"""Ids for the records of a file that have none.

A record without an attestation id is given one that is the same whenever the issuer publishes that
record, from whatever file or encoding: so a run after a broken one completes without doubles, and
what was revoked does not come back by a copy of the file. And the id reveals nothing of the record
but the sample time, which the attestation holds anyway: an id travels between provinces, and a bare
hash of an identity number could be searched through. So the issuer has a random key of 32 bytes,
beside its client's configuration in ``STEM.ids-key`` (mode 0600, hexadecimal, on disk before the
first id is used), and the id is a UUIDv7 (RFC 9562 §5.7): the sample time in milliseconds, and for
its random bits HMAC-SHA-256(key, content of the record ‖ how many like it stood before in the
file). The content is the attestation's protobuf bytes without id: for a record spelled otherwise
that says the same (encoding, order of columns, words for an enum) the id is the same.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from exchange.errors import InvalidFieldError
from exchange.v1 import attestation_service_pb2 as pb

__all__ = ["Ids", "uuid7"]


class Ids:
    """Ids for the records that have none: see the module's text.

    :param path: of the issuer's key; it is made when it is first needed.
    :param created: told once when it was made.
    """

    def __init__(self, path: Path, created: Callable[[Path], None] = lambda _: None) -> None:
        self._path = path
        self._created = created
        self._key = b""
        self._seen: dict[bytes, int] = {}

    def next(self, attestation: pb.NewAttestation) -> str:
        """Give the id of the next record.

        :raises InvalidFieldError: the key cannot be read or kept.
        """
        self._key = self._key or self._issuers()
        content = attestation.SerializeToString(deterministic=True)
        digest = hashlib.sha256(content).digest()[:16]
        before = self._seen.get(digest, 0)
        self._seen[digest] = before + 1
        mac = hmac.digest(self._key, content + before.to_bytes(8, "big"), "sha256")
        kind = attestation.fact.WhichOneof("kind")
        at = getattr(attestation.fact, kind).sample_time if kind else Timestamp()
        return str(uuid7(max(0, at.seconds * 1000 + at.nanos // 1_000_000), mac))

    def _issuers(self) -> bytes:
        try:
            try:
                return self._create()
            except FileExistsError:
                return self._load()
        except OSError as error:
            raise InvalidFieldError(
                f"the issuer's key for ids cannot be kept: {error.strerror}",
                field=self._path.name,
                remedy="make its folder writable, or give every record an attestation_id",
            ) from None

    def _create(self) -> bytes:
        key = secrets.token_bytes(32)
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key.hex().encode() + b"\n")
            file.flush()
            os.fsync(handle)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._created(self._path)
        return key

    def _load(self) -> bytes:
        handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise InvalidFieldError(
                    "the issuer's key for ids is open to others",
                    field=self._path.name,
                    remedy="chmod 600",
                )
            text = file.read(65)
        if not re.fullmatch(rb"[0-9a-f]{64}\n?", text):
            raise InvalidFieldError(
                "the issuer's key for ids is damaged, or another run is just writing it",
                field=self._path.name,
                remedy="put the saved copy back; delete it only if nothing was published with it",
            )
        return bytes.fromhex(text.decode())


def uuid7(milliseconds: int, random: bytes) -> uuid.UUID:
    """Make a UUIDv7 (RFC 9562 §5.7) of a time since 1970 and at least ten bytes."""
    bits = int.from_bytes(random[:10], "big")
    high = milliseconds << 16 | 0x7000 | (bits >> 62) & 0xFFF
    return uuid.UUID(int=high << 64 | 1 << 63 | bits & (1 << 62) - 1)
