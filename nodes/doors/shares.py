"""How many calls each kind of caller may have under way, so that a crowd blocks nobody else.

What is beyond it is refused at once and cheaply: a node that takes all that comes works on calls
that nobody waits for any more, and answers none in time.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Final

from exchange.errors import OverloadedError
from nodes.identity import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MOST", "Shares"]

MOST: Final = {Role.APP: 256, Role.NODE: 256, Role.ISSUER: 128}
"""Calls at once, of all callers of a role: a twentieth of a second of work. Others are few."""


class Shares:
    """Counts the calls that are under way, by the callers' roles; streams have limits of their own.

    :param most: of each role; a role that is not named is never refused.
    """

    def __init__(self, most: dict[Role, int] = MOST) -> None:
        self._most = most
        self._held: Counter[Role] = Counter()

    @contextlib.contextmanager
    def hold(self, role: Role) -> Iterator[None]:
        """Hold a place for as long as the context lasts.

        :raises OverloadedError: all places of the role are taken.
        """
        held = self._held
        if held[role] >= self._most.get(role, held[role] + 1):
            raise OverloadedError(
                f"the node has {self._most[role]} calls under way for callers like this one",
                remedy="try again in a second, or at another of the province's addresses",
            )
        held[role] += 1
        try:
            yield
        finally:
            held[role] -= 1
