"""Which failed calls are made again, and when.

It is the only place where an app's calls are: gRPC's own retries know neither RetryInfo nor what a
node means by UNAVAILABLE.
"""

from __future__ import annotations

import functools
import random
from typing import Final

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from exchange.errors import (
    AuditUnavailableError,
    OverloadedError,
    StoreUnavailableError,
    TongxingError,
)

__all__ = ["Retries", "may_be_repeated"]

MOST_TRIES: Final = 3
MOST_WHEN_OVERLOADED: Final = 2
_SOON_SECONDS: Final = 0.1
"""Before the third try of what broke on its way; the second, at another node, need not wait."""
_JITTER: Final = 0.5
"""Of a pause, at most so much more: those who were refused together do not come back together."""
_EARNED: Final = 0.1
_WHEN_OVERLOADED: Final = 10.0
_WHEN_BROKEN: Final = 1000.0
"""More than one client has under way at a node that dies."""


class _Credit:
    """How many calls may be made again: so many, and then a tenth of those that are answered.

    A crowd of clients must not keep a node down by asking again.
    """

    def __init__(self, most: float) -> None:
        self._most = self._left = most

    def earn(self) -> None:
        self._left = min(self._most, self._left + _EARNED)

    def takes(self) -> bool:
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Retries:
    """One client's.

    A call that broke on its way, or that the node could not serve, is made again where the contract
    calls its method idempotent. One that the node had no room for was never begun, so any may be
    made again, after the time that the node says.
    """

    def __init__(self) -> None:
        self._overloaded = _Credit(_WHEN_OVERLOADED)
        self._broken = _Credit(_WHEN_BROKEN)

    def answered(self) -> None:
        """Note that a call was answered."""
        self._overloaded.earn()
        self._broken.earn()

    def pause(
        self, method: str, error: TongxingError, code: grpc.StatusCode, tries: int
    ) -> float | None:
        """Seconds until a call is to be made again; None: it is not.

        :param method: service and method.
        :param error: what it failed with; ``code`` is the status behind it.
        :param tries: how often it was made.
        """
        if isinstance(error, OverloadedError):
            again = tries < MOST_WHEN_OVERLOADED and self._overloaded.takes()
            return _later(error.retry_after or 0.0) if again else None
        again = (
            isinstance(error, (StoreUnavailableError, AuditUnavailableError))
            and tries < MOST_TRIES
            and code is not grpc.StatusCode.DEADLINE_EXCEEDED
            and may_be_repeated(method)
            and self._broken.takes()
        )
        if not again:
            return None
        if error.reason == "UNREACHABLE":  # another node may have it at once
            return _later(_SOON_SECONDS * (tries - 1))
        return _later(error.retry_after or 0.0)


def _later(seconds: float) -> float:
    return seconds * (1 + _JITTER * random.random())  # noqa: S311 - jitter


@functools.cache
def may_be_repeated(method: str) -> bool:
    """Whether the contract says that a method may be called twice for once.

    :param method: service and method: ``KeyService/ListKeys``.
    """
    name = f"tongxing.v1.{method.replace('/', '.')}"
    options: MethodOptions = descriptor_pool.Default().FindMethodByName(name).GetOptions()
    return options.idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
