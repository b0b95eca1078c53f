"""Whose foreign certificates (境外证书) are read: a folder of their signers' certificates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from exchange.codes.dsc import DocumentSigner
from exchange.codes.hcert import ForeignKeys, trusted
from exchange.errors import InvalidFieldError

__all__ = ["ForeignFolder"]

log = structlog.get_logger(__name__)

_FIELD: Final = "foreign.certificates"


class ForeignFolder:
    """Holds the keys of a folder of certificates: all of them on start, and anew when it changes.

    While the node runs, a file that cannot be read is told of and counts for nobody, and the others
    count: else a broken one would keep another, which was taken away, trusted. Where the folder
    itself cannot be read, the keys before serve on. Names that begin with a dot are passed over: so
    a file can be written and then put in its place.

    :param folder: None: nobody foreign is trusted.
    :param poll_seconds: how often to look for a change.
    :raises InvalidFieldError: the folder or a file cannot be read, or is no certificate whose
        subject names its country; names it; field ``foreign.certificates``.
    """

    def __init__(self, folder: Path | None, poll_seconds: float = 2.0) -> None:
        self._folder = folder
        self._poll_seconds = poll_seconds
        self._seen = self._fingerprint()
        self._settled = True
        self._current = ForeignKeys() if folder is None else _all(folder)

    def current(self) -> ForeignKeys:
        """The keys to verify with now."""
        return self._current

    async def watch(self) -> None:
        """Look for changes, for ever."""
        while self._folder is not None:
            await asyncio.sleep(self._poll_seconds)
            try:
                await asyncio.to_thread(self.look)
            except Exception:
                # Who stopped looking would trust for ever whom it trusts now.
                log.exception("foreign.refused")

    def look(self) -> None:
        """Take over what the folder holds, if it is new and as it was at the last look."""
        seen = self._fingerprint()
        if seen != self._seen:
            self._seen, self._settled = seen, False  # it may still be written
        elif self._folder is not None and not self._settled:
            self._settled = True
            self._take(self._folder)

    def _take(self, folder: Path) -> None:
        try:
            paths = _paths(folder)
        except InvalidFieldError as error:
            log.error("foreign.refused", why=str(error), then="the keys before serve on")  # noqa: TRY400 - no traceback
            return
        signers: list[DocumentSigner] = []
        for path in paths:
            try:
                signers.append(_signer(path))
            except InvalidFieldError as error:
                log.error("foreign.refused", why=str(error), then="the other files count")  # noqa: TRY400 - no traceback
        self._current = ForeignKeys(signers)
        countries = sorted({signer.country for signer in signers})
        log.info("foreign.changed", certificates=len(signers), countries=countries)

    def _fingerprint(self) -> object:
        """What changes whenever a file does; None where that cannot be told."""
        if self._folder is None:
            return None
        try:
            stats = [(path.name, path.stat()) for path in _paths(self._folder)]
        except (OSError, InvalidFieldError):
            return None
        return [(name, stat.st_mtime_ns, stat.st_ino, stat.st_size) for name, stat in stats]


def _all(folder: Path) -> ForeignKeys:
    return ForeignKeys(map(_signer, _paths(folder)))


def _paths(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise InvalidFieldError(f"{folder}: {error.strerror}", field=_FIELD) from None
    return sorted(path for path in found if not path.name.startswith("."))


def _signer(path: Path) -> DocumentSigner:
    try:
        return trusted(path.read_bytes())
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field=_FIELD) from None
    except InvalidFieldError as error:
        raise InvalidFieldError(
            f"{path}: {error.message}", field=_FIELD, remedy=error.remedy
        ) from None
