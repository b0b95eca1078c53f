"""The trust list that a node goes by: verified on start, and anew when its files change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from exchange.errors import TongxingError, TrustListError
from exchange.rules import RuleBook
from exchange.trust import refresh
from exchange.trust.trustlist import TrustList
from nodes.config import TrustConfig

__all__ = ["TrustKeeper"]

log = structlog.get_logger(__name__)


class TrustKeeper:
    """Holds the current trust list and the province's own rules.

    Fail-static: where a change does not verify, the list before it serves on, loudly, until its
    end and a grace; past that nothing is verified any more.
    """

    def __init__(
        self, config: TrustConfig, province: str, cache: Path, clock: Callable[[], datetime]
    ) -> None:
        self._config = config
        self._province = province
        self._cache = cache
        self._clock = clock
        self._seen: object = None
        self._listeners: list[Callable[[TrustList], None]] = []
        self._trust: TrustList | None = None
        self._rules = RuleBook(())

    @property
    def rules(self) -> RuleBook:
        """The province's own rules, compiled."""
        return self._rules

    def current(self) -> TrustList:
        """The list to verify with now.

        :raises TrustListError: there is none, or it ended more than the grace ago.
        """
        trust = self._trust
        if trust is None:
            raise TrustListError("no trust list has been verified")
        if self._clock() > trust.expires + timedelta(hours=self._config.grace_hours):
            raise TrustListError(
                f"version {trust.version} ended at {trust.expires:%Y-%m-%dT%H:%M:%SZ}",
                remedy="bring newer metadata (`tongxing trust renew` where the online keys are)",
            )
        return trust

    def on_change(self, listener: Callable[[TrustList], None]) -> None:
        """Tell of the list, now and whenever there is a new one."""
        self._listeners.append(listener)
        if self._trust is not None:
            listener(self._trust)

    async def refresh(self) -> TrustList:
        """Verify what the folder holds now.

        :raises TrustListError: it does not verify, or has nothing usable of this province.
        :raises RuleError: this province's own rules are wrong.
        """
        seen = self._fingerprint()
        trust = await asyncio.to_thread(self._load)
        try:
            profile = trust.profile(self._province)
        except TongxingError as error:
            error.field = "trust.metadata"
            raise
        self._rules = RuleBook(profile.rules)
        self._trust, self._seen = trust, seen
        for province, why in trust.unusable.items():
            log.error("trust.province_unusable", province=province, why=why)
        log.info("trust.verified", version=trust.version, provinces=sorted(trust.profiles))
        for listener in self._listeners:
            listener(trust)
        return trust

    def _load(self) -> TrustList:
        try:
            root = self._config.root.read_bytes()
        except OSError as error:
            raise TrustListError(
                error.strerror or "cannot be read", field="trust.root", remedy="see trust.root"
            ) from None
        try:
            return refresh.load(self._config.metadata, root, self._cache)
        except TrustListError as error:
            error.field = error.field or "trust.metadata"
            raise

    async def watch(self) -> None:
        """Look for changes for ever."""
        while True:
            await asyncio.sleep(self._config.poll_seconds)
            if self._fingerprint() == self._seen:
                continue
            try:
                await self.refresh()
            except TongxingError as error:
                self._seen = self._fingerprint()
                log.error("trust.refused", why=str(error))  # noqa: TRY400 - no traceback
            except Exception:
                # Whatever a published file brings about: who stopped looking would never hear of a
                # revocation again.
                self._seen = self._fingerprint()
                log.exception("trust.refused")

    def _fingerprint(self) -> object:
        try:
            stat = (self._config.metadata / "timestamp.json").stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size
