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
_CREDIT: Final = 10.0
_EARNED: Final = 0.1


class Retries:
    """One client's.

    A call that broke on its way, or that the node could not serve, is made again where the contract
    calls its method idempotent. One that the node had no room for was never begun, so any may be
    made again, after the time that the node says; but those are at most a tenth of the calls that
    were answered, and ten: a crowd of clients must not keep a node overloaded by asking again.
    """

    def __init__(self) -> None:
        self._credit = _CREDIT

    def answered(self) -> None:
        """Note that a call was answered."""
        self._credit = min(_CREDIT, self._credit + _EARNED)

    def pause(
        self, method: str, error: TongxingError, code: grpc.StatusCode, tries: int
    ) -> float | None:
        """Seconds until a call is to be made again; None: it is not.

        :param method: service and method.
        :param error: what it failed with; ``code`` is the status behind it.
        :param tries: how often it was made.
        """
        if isinstance(error, OverloadedError):
            if tries >= MOST_WHEN_OVERLOADED or self._credit < 1:
                return None
            self._credit -= 1
            return _later(error.retry_after or 0.0)
        passing = isinstance(error, (StoreUnavailableError, AuditUnavailableError))
        if (
            not passing
            or tries >= MOST_TRIES
            or code is grpc.StatusCode.DEADLINE_EXCEEDED
            or not may_be_repeated(method)
        ):
            return None
        if error.reason == "UNREACHABLE":  # it broke: what is left of its node's connection is gone
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
