"""The trust list that a node goes by: verified on start, and anew when something newer comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from exchange import authoring
from exchange.errors import TongxingError, TrustListError
from exchange.rules import RuleBook, RuleError
from exchange.trust import files, refresh
from exchange.trust.files import TIMESTAMP, Bundle, Files
from exchange.trust.profile import Profile
from exchange.trust.trustlist import TrustList
from nodes.config import TrustConfig

__all__ = ["TrustKeeper"]

log = structlog.get_logger(__name__)


class TrustKeeper:
    """Holds the current trust list, its files for others, and the province's own rules.

    What comes is offered, from the folder of metadata, the registry or a peer; who brought it does
    not matter. Fail-static: where it does not verify, the list before it serves on, loudly, until
    its end and a grace; past that nothing is verified any more.

    :param province: whose rules to compile; None for a registry, which has none.
    :param data: the node's own folder for it: ``mirror`` (what it serves to others and starts
        from) and ``seen`` (python-tuf's memory of versions, against rollback).
    """

    def __init__(
        self, config: TrustConfig, province: str | None, data: Path, clock: Callable[[], datetime]
    ) -> None:
        self._config = config
        self._province = province
        self._mirror = data / "mirror"
        self._seen = data / "seen"
        self._clock = clock
        self._folder: object = None
        self._listeners: list[Callable[[TrustList], None]] = []
        self._trust: TrustList | None = None
        self._serves_until = datetime.min.replace(tzinfo=UTC)
        self._bundle: Bundle | None = None
        self._rules = RuleBook(())
        self._offering = asyncio.Lock()
        self._writing = threading.Lock()
        self._changed = asyncio.Event()
        self.closing = False

    @property
    def rules(self) -> RuleBook:
        """The province's own rules, compiled."""
        return self._rules

    @property
    def bundle(self) -> Bundle:
        """The verified files.

        :raises TrustListError: there are none yet.
        """
        if self._bundle is None:
            raise TrustListError("no trust list has been verified")
        return self._bundle

    def current(self) -> TrustList:
        """The list to verify with now.

        :raises TrustListError: there is none, or it ended more than the grace ago.
        """
        trust = self._trust
        if trust is None:
            raise TrustListError("no trust list has been verified")
        if self._clock() > self._serves_until:
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

    async def wait_for_change(self, timestamp: int) -> None:
        """Return once the files held are not those of a timestamp's version, or at the end."""
        while not self.closing and self.bundle.versions.timestamp == timestamp:
            await self._changed.wait()

    def release(self) -> None:
        """Let go whoever waits for a change: a drain must not wait for them."""
        self.closing = True
        self._changed.set()

    async def start(self) -> TrustList:
        """Verify the newest that lies at hand: the own mirror, then the folder of metadata.

        :raises TrustListError: neither verifies, or has something usable of this province.
        :raises RuleError: this province's own rules cannot be evaluated.
        """
        if (self._mirror / TIMESTAMP).exists():
            try:
                await self.offer(files.read(self._mirror))
            except TongxingError as error:
                log.warning("trust.mirror_refused", why=str(error))
        try:
            await self._offer_folder(unless_older=True)
        except TongxingError as error:
            if self._trust is None:
                raise
            log.error("trust.refused", why=str(error))  # noqa: TRY400 - no traceback
        return self.current()

    async def offer(self, offered: Files) -> bool:
        """Take over what is newer, if it verifies.

        :param offered: files of a list, or those that changed.
        :returns: whether anything was newer.
        :raises TrustListError: it does not verify, or has nothing usable of this province.
        :raises RuleError: this province's own rules cannot be evaluated.
        """
        async with self._offering:
            found = await asyncio.to_thread(self._newer_alone, self._bundle, offered)
            if found is None:
                return False
            trust, self._bundle, self._rules = found
            self._trust = trust
            self._serves_until = trust.expires + timedelta(hours=self._config.grace_hours)
        for province, why in trust.unusable.items():
            log.error("trust.province_unusable", province=province, why=why)
        try:
            authoring.check_values(self._rules)
        except RuleError as error:
            # They were published, and every peer goes by them: to stop would help no traveller.
            log.error("trust.rules_doubtful", why=str(error))  # noqa: TRY400 - no traceback
        log.info("trust.verified", version=trust.version, provinces=sorted(trust.profiles))
        for listener in self._listeners:
            listener(trust)
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    @staticmethod
    def _own(trust: TrustList, province: str) -> Profile:
        try:
            return trust.profile(province)
        except TongxingError as error:
            error.field = "trust.metadata"
            raise

    def _newer_alone(
        self, held: Bundle | None, offered: Files
    ) -> tuple[TrustList, Bundle, RuleBook] | None:
        # Who offers may have been cancelled, while the thread goes on.
        with self._writing:
            return self._newer(held, offered)

    def _newer(
        self, held: Bundle | None, offered: Files
    ) -> tuple[TrustList, Bundle, RuleBook] | None:
        files.admit(offered)
        together = {**held.files, **offered} if held else offered
        if held and Bundle.of(together).versions == held.versions:
            return None
        try:
            root = self._config.root.read_bytes()
        except OSError as error:
            raise TrustListError(
                error.strerror or "cannot be read", field="trust.root", remedy="see trust.root"
            ) from None
        try:
            trust, bundle = refresh.verify(together, root, self._seen)
        except TrustListError as error:
            error.field = error.field or "trust.metadata"
            raise
        if held and bundle.versions == held.versions:
            return None
        rules = RuleBook(trust.profile(self._province).rules if self._province else ())
        files.mirror(self._mirror, bundle.files)
        return trust, bundle, rules

    async def watch_folder(self) -> None:
        """Look for changes in the folder of metadata, for ever."""
        while True:
            await asyncio.sleep(self._config.poll_seconds)
            if self._fingerprint() == self._folder:
                continue
            try:
                await self._offer_folder()
            except TongxingError as error:
                log.error("trust.refused", why=str(error))  # noqa: TRY400 - no traceback
            except Exception:
                # Whatever a published file brings about: who stopped looking would never hear of a
                # revocation again.
                log.exception("trust.refused")

    async def _offer_folder(self, *, unless_older: bool = False) -> None:
        self._folder = self._fingerprint()
        try:
            found = files.read(self._config.metadata)
            version = Bundle.of(found).versions.timestamp
        except TrustListError as error:
            error.field = "trust.metadata"
            raise
        if unless_older and self._bundle and version <= self._bundle.versions.timestamp:
            return  # the registry has brought newer ones since: this is where the node began
        await self.offer(found)

    def _fingerprint(self) -> object:
        try:
            stat = (self._config.metadata / TIMESTAMP).stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size
