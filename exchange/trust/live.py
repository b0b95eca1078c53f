"""A trust list that its holder keeps fresh from whoever serves it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from exchange.trust import refresh
from exchange.trust.files import Bundle, Files, Versions, admit
from exchange.trust.trustlist import TrustList

__all__ = ["LiveTrust"]


class LiveTrust:
    """The newest verified list; called, it gives it.

    :param files: a list to begin with; it verifies here, blocking for some tens of milliseconds.
    :param root: the bytes of the pinned root.
    :param cache: a folder of its own, which remembers versions against rollback.
    :raises TrustListError: it does not verify.
    """

    def __init__(self, files: Files, root: bytes, cache: Path) -> None:
        self._root = root
        self._cache = cache
        self._trust, self._bundle = refresh.verify(files, root, cache)
        self._one_at_a_time = asyncio.Lock()

    def __call__(self) -> TrustList:
        """The list as it is now."""
        return self._trust

    @property
    def files(self) -> Files:
        """The files that it was read from, to begin with next time."""
        return self._bundle.files

    @property
    def versions(self) -> Versions:
        """What is held, for who is asked for the rest."""
        return self._bundle.versions

    async def offer(self, files: Files) -> bool:
        """Take over what is newer, if it verifies.

        :returns: whether anything was newer.
        :raises TrustListError: it does not verify; what was held before stays.
        """
        async with self._one_at_a_time:
            found = await asyncio.to_thread(self._newer, files)
            if found is None:
                return False
            self._trust, self._bundle = found
            return True

    def _newer(self, offered: Files) -> tuple[TrustList, Bundle] | None:
        held = self._bundle
        admit(offered)
        together = {**held.files, **offered}
        if Bundle.of(together).versions == held.versions:
            return None
        trust, bundle = refresh.verify(together, self._root, self._cache)
        return None if bundle.versions == held.versions else (trust, bundle)
