"""The node's certificate and key: read and checked on start, and anew when the files change."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import structlog

from exchange.client.pair import Pair, PairFiles
from exchange.errors import TongxingError

__all__ = ["TlsFiles", "write_pair"]

log = structlog.get_logger(__name__)


def write_pair(pair: Pair, certificate: Path, key: Path) -> None:
    """Put a pair in the place of another, so that who looks sees a wrong one for a moment at most.

    Each file is whole, on disk, and the key its owner's alone, before it is renamed into its place.
    A crash between the two leaves a pair that does not fit: write it again.

    :raises OSError: a file cannot be written.
    """
    written = [(_written(key, pair.key, 0o600), key)]
    written.append((_written(certificate, pair.certificate, 0o644), certificate))
    for new, path in written:
        new.replace(path)


def _written(path: Path, content: bytes, mode: int) -> Path:
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        # The node may run as another user than who renews its certificate.
        with contextlib.suppress(OSError):
            before = path.stat()
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return new


class TlsFiles:
    """Holds the pair that the node proves itself with.

    Fail-static: a new pair that is unfit is refused, loudly, and the old one serves on.

    :param certificate: PEM file of the certificate; ``key`` of its key.
    :param check: raises a `TongxingError` on a pair that must not be used, though it is one.
    :param poll_seconds: how often to look for a change.
    :raises TongxingError: what lies there now is no pair; fields ``identity.certificate`` and
        ``identity.key``.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        check: Callable[[Pair], None] = lambda _: None,
        poll_seconds: float = 2.0,
    ) -> None:
        self._files = PairFiles(certificate, key)
        self._check = check
        self._poll_seconds = poll_seconds
        self._listeners: list[Callable[[Pair], None]] = []
        self._seen = self._files.fingerprint()
        self._unfit: str | None = None
        self._current = self._read()

    @property
    def current(self) -> Pair:
        """The pair to use now."""
        return self._current

    def on_change(self, listener: Callable[[Pair], None]) -> None:
        """Tell of each new pair."""
        self._listeners.append(listener)

    async def watch(self) -> None:
        """Look for changes for ever."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                self.look()
            except Exception:
                # Who stopped looking would end with the certificate that it has.
                log.exception("identity.refused")

    def look(self) -> None:
        """Take over what the files hold, if it is new and fit."""
        seen = self._files.fingerprint()
        settled = seen == self._seen
        # What was unfit is tried again: a trust list that comes later may make it fit.
        if settled and self._unfit is None:
            return
        self._seen = seen
        try:
            pair = self._read()
        except TongxingError as error:
            # Two files are never written at once: only what stays unfit is worth a word.
            if not settled:
                self._unfit = ""
            elif self._unfit != str(error):
                self._unfit = str(error)
                log.error("identity.refused", why=str(error), then="the old pair serves on")  # noqa: TRY400 - no traceback
            return
        self._unfit = None
        if pair == self._current:
            return
        self._current = pair
        log.info("identity.changed", ends=f"{pair.leaf().not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
        for listener in self._listeners:
            listener(pair)

    def _read(self) -> Pair:
        try:
            pair = self._files.read()
            self._check(pair)
        except TongxingError as error:
            raise error.at("identity") from None
        return pair
