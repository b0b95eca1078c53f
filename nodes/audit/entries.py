"""What the access log (访问日志) records: one look at a holder's data, or one act that ends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from exchange.v1 import types_pb2

__all__ = ["Entry", "Recorder", "of_receipt"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One access, before it has its time and its place in the log.

    :param caller: the caller's SPIFFE ID.
    :param method: the call's name: ``Recognize``.
    :param answer: what was answered, in words of the contract: ``RECOGNIZED GREEN ACCEPTED``.
    :param token: the holder's subject token; the log keeps a keyed digest of it alone.
    :param purpose: a ``Purpose`` of the contract; UNSPECIFIED for an act.
    :param target: what it was about where that is not a holder: an attestation's id, a key's kid;
        or `of_receipt`.
    """

    caller: str
    method: str
    request_id: str
    answer: str
    token: bytes | None = field(default=None, repr=False)
    purpose: int = types_pb2.PURPOSE_UNSPECIFIED
    target: str = ""


def of_receipt(id_: UUID) -> str:
    """The target of a decision of which a receipt was given.

    No other entry bears it: apps choose ids of appeals, and must not pass one off as a receipt's.
    """
    return f"receipt {id_}"


class Recorder(Protocol):
    """Where accesses are recorded."""

    def record(self, entry: Entry, /) -> None:
        """Record one; called before its answer is given.

        :raises AuditUnavailableError: the log cannot be written: answer nothing.
        """
        ...

    def record_all(self, entry: Entry, holders: Iterable[tuple[bytes, str]], /) -> None:
        """Record one call about several holders: an access to each one's data.

        :param entry: what they have in common; its token and answer are not looked at.
        :param holders: each one's token and answer.
        :raises AuditUnavailableError: as `record`; some may stand in the log all the same.
        """
        ...
