"""gRPC's own words on HTTP/2, for a door that must speak them itself.

Source: the specification "gRPC over HTTP2" and its list of compression and status codes.
"""

from __future__ import annotations

import base64
import functools
import re
import zlib
from collections.abc import Iterator
from urllib.parse import quote

from google.rpc import code_pb2

from exchange.status import DETAILS_KEY
from nodes.doors.calls import LARGEST_REQUEST

__all__ = ["Frames", "WireError", "frame", "seconds", "trailers"]

_HEAD = 5
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_COMPRESSED = {b"gzip": 31, b"deflate": 15}
"""Encodings that are read, and zlib's name for them."""
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class WireError(Exception):
    """What comes is not gRPC, or more than is read: it ends the call with a bare status.

    :param code: a google.rpc.Code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def seconds(timeout: bytes) -> float:
    """Read a ``grpc-timeout``: how long the caller waits.

    :raises WireError: it is none.
    """
    parts = _TIMEOUT.fullmatch(timeout)
    if parts is None:
        raise WireError(code_pb2.INTERNAL, "grpc-timeout is malformed")
    return int(parts[1]) * _UNITS[parts[2]]


def frame(message: bytes) -> bytes:
    """A message as it stands in a body."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@functools.lru_cache(maxsize=256)
def trailers(code: int, message: str = "", details: bytes = b"") -> tuple[tuple[bytes, bytes], ...]:
    """How a call ends.

    :param details: a google.rpc.Status, serialised.
    """
    ended = [(b"grpc-status", b"%d" % code)]
    if message:
        ended.append((b"grpc-message", quote(message, safe=_PLAIN).encode()))
    if details:
        ended.append((DETAILS_KEY.encode(), base64.b64encode(details).rstrip(b"=")))
    return tuple(ended)


class Frames:
    """Takes the messages out of a request's body, however it is cut.

    :param encoding: ``grpc-encoding`` of the messages that are marked as compressed.
    """

    def __init__(self, encoding: bytes = b"identity") -> None:
        self._encoding = encoding
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The messages that a chunk completes.

        :raises WireError: one is too large, or cannot be read.
        """
        data: bytes | bytearray = chunk
        if self._rest:
            self._rest += chunk
            data = self._rest
        at = 0
        while len(data) - at >= _HEAD:
            begin = at + _HEAD
            end = begin + int.from_bytes(data[at + 1 : begin], "big")
            if data[at] > 1:
                raise WireError(code_pb2.INTERNAL, "the body holds no gRPC message")
            if end - begin > LARGEST_REQUEST:
                raise _too_large()
            if len(data) < end:
                break
            message = bytes(data[begin:end])
            yield self._inflated(message) if data[at] else message
            at = end
        if at or data is chunk:  # else what has come so far lies there already
            self._rest = bytearray(data[at:])

    def end(self) -> None:
        """The body has ended.

        :raises WireError: in the middle of a message.
        """
        if self._rest:
            raise WireError(code_pb2.INTERNAL, "the body ends within a message")

    def _inflated(self, message: bytes) -> bytes:
        bits = _COMPRESSED.get(self._encoding)
        if bits is None:
            raise WireError(code_pb2.UNIMPLEMENTED, "read are identity, gzip and deflate")
        inflate = zlib.decompressobj(bits)
        try:
            whole = inflate.decompress(message, LARGEST_REQUEST + 1)
        except zlib.error:
            raise WireError(code_pb2.INTERNAL, "a message cannot be decompressed") from None
        if len(whole) > LARGEST_REQUEST:
            raise _too_large()
        if not inflate.eof:
            raise WireError(code_pb2.INTERNAL, "a message cannot be decompressed")
        return whole


def _too_large() -> WireError:
    return WireError(
        code_pb2.RESOURCE_EXHAUSTED, f"a message may have {LARGEST_REQUEST} bytes at most"
    )
