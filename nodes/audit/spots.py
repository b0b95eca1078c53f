"""Places in the list of all of a province's nodes, whose access logs are read as one."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final, NamedTuple

from exchange.errors import InvalidFieldError
from nodes.audit.days import Place

__all__ = ["Spot"]

_LAST: Final = (1 << 63) - 1
"""No process has this number, and none is below 0."""


class Spot(NamedTuple):
    """A place in the list, newest first: what comes after it is older, and less.

    One tells where to go on in every log at once, so that a page token is as long for many nodes as
    for one. A tuple: they are compared for every access that is shown.

    :param node: the name of the node's logs (`nodes.audit.log.AuditLog.name`).
    :param log: of the node's logs, its number.
    """

    day: str
    time: str
    node: str
    log: int
    sequence: int

    @classmethod
    def read(cls, token: str) -> Spot | None:
        """Read a page token; None for the empty one.

        :raises InvalidFieldError: it is none; field ``page_token``.
        """
        if not token:
            return None
        try:
            found: Any = json.loads(urlsafe_b64decode(token))
            day, time, node, log, sequence = found
            if not all(isinstance(each, str) and each.isascii() for each in (day, time, node)):
                raise TypeError  # noqa: TRY301 - one way out
            if not all(type(each) is int and 0 <= each < 1 << 63 for each in (log, sequence)):
                raise ValueError  # noqa: TRY301 - the same
        except (ValueError, TypeError, RecursionError):
            raise InvalidFieldError(
                "not a next_page_token", field="page_token", remedy="leave it out to begin anew"
            ) from None
        return cls(day, time, node, log, sequence)

    def token(self) -> str:
        """The page token that goes on after this place: at most 200 characters."""
        return urlsafe_b64encode(json.dumps(self).encode()).decode()

    def within(self, node: str) -> Place:
        """Where to go on in one node's logs; the place may lie in another's."""
        if node == self.node:
            return Place(self.day, self.time, self.log, self.sequence)
        # Of one time, the node of the larger name comes first.
        return Place(self.day, self.time, _LAST if node < self.node else -1, 0)
