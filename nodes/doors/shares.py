"""How many calls each kind of caller may have under way, so that a crowd blocks nobody else.

What is beyond it is refused at once and cheaply: a node that takes all that comes works on calls
that nobody waits for any more, and answers none in time.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from nodes.identity import Role
from nodes.services.limits import Limit

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["MOST", "Shares"]

MOST: Final = {Role.APP: 256, Role.NODE: 256, Role.ISSUER: 128}
"""Calls at once, of all callers of a role: a twentieth of a second of work. Others are few."""


class Shares:
    """Counts the calls that are under way, by the callers' roles; streams have limits of their own.

    :param most: of each role; a role that is not named is never refused.
    """

    def __init__(self, most: dict[Role, int] = MOST) -> None:
        self._limits = {role: Limit("calls", total=total) for role, total in most.items()}

    def hold(self, role: Role) -> AbstractContextManager[None]:
        """Hold a place for as long as the context lasts.

        :raises OverloadedError: on entering, all places of the role are taken.
        """
        limit = self._limits.get(role)
        return contextlib.nullcontext() if limit is None else limit.hold(role)
