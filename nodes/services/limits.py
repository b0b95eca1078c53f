"""How much of the node one caller may hold at once."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from exchange.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

__all__ = ["Limit"]


class Limit:
    """Counts who holds something now; nothing is kept of those who hold nothing.

    :param what: it, in the plural, for the error.
    :param each: how many one caller may hold; None for no such bound.
    :param total: how many all may hold together; likewise.
    """

    def __init__(self, what: str, *, each: int | None = None, total: int | None = None) -> None:
        self._what = what
        self._each = each
        self._total = total
        self._held: Counter[Hashable] = Counter()

    @contextlib.contextmanager
    def hold(self, caller: Hashable) -> Iterator[None]:
        """Hold one for as long as the context lasts.

        :raises OverloadedError: the caller, or all together, hold enough.
        """
        if self._each is not None and self._held[caller] >= self._each:
            raise OverloadedError(
                f"this caller has {self._each} of the {self._what} that it may have at once",
                remedy="wait until one of them has ended",
            )
        if self._total is not None and self._held.total() >= self._total:
            raise OverloadedError(
                f"the node has {self._total} {self._what} under way, and takes no more at once",
                remedy="try again once one of them has ended",
            )
        self._held[caller] += 1
        try:
            yield
        finally:
            self._held[caller] -= 1
            if not self._held[caller]:
                del self._held[caller]
