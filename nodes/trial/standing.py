"""An exchange that stands: left running on one machine, found again by its folder, taken down."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self

from tuf.api.metadata import Timestamp

from exchange.errors import InvalidFieldError, StoreUnavailableError, TongxingError
from exchange.provinces import PROVINCES
from exchange.subjects import credit_code_check
from exchange.trust import ceremony, files
from exchange.trust.files import TIMESTAMP, Bundle, Files
from exchange.trust.signers import Online, load_signer
from nodes import detached
from nodes.trial import REGISTRY, TrialExchange

__all__ = ["Place", "Standing", "choose"]

FIRST: Final = ("510000", "440000", "310000")
"""Who takes part where only a number is given: those of the demonstration, and then by code."""
START_SECONDS: Final = 120.0
DRAIN_SECONDS: Final = 30.0
_RENEW: Final = timedelta(hours=12)
_SHARED: Final = ("cache", "keys", "live", "trust")


def choose(count: int) -> tuple[str, ...]:
    """So many provinces of China.

    :raises InvalidFieldError: there are not so many.
    """
    if not 1 <= count <= len(PROVINCES):
        raise InvalidFieldError(
            f"there are {len(PROVINCES)} provinces",
            field="--provinces",
            remedy=f"give a number from 1 to {len(PROVINCES)}, or codes: 510000,440000",
        )
    return (*FIRST, *(code for code in PROVINCES if code not in FIRST))[:count]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one process of the exchange has its files: a node, or the registry.

    :param name: the province's code, or ``registry``.
    :param host: the province whose authority speaks for it.
    :param address: ``HOST:PORT``.
    """

    name: str
    host: str
    home: Path
    address: str

    @property
    def log(self) -> Path:
        """Where it writes its log."""
        return self.home / "node.log"

    @property
    def pid_file(self) -> Path:
        """Of the process."""
        return self.home / "node.pid"

    @property
    def store(self) -> Path:
        """The lock of its own Valkey, which says that process's id."""
        return self.home / "data" / "valkey" / "lock"

    def pid(self) -> int | None:
        """The process while it runs."""
        return detached.running(self.pid_file)

    def listens(self) -> bool:
        """Whether anybody is at its address."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
        except OSError:
            return False
        return True


class Standing:
    """The exchange in a folder, as `nodes.setup` lays it out.

    :raises InvalidFieldError: there is none.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.places = tuple(_places(directory))

    @classmethod
    def lies_in(cls, directory: Path) -> bool:
        """Whether there is anything in a folder: it need not be an exchange."""
        return directory.exists() and any(directory.iterdir())

    @classmethod
    def lay(
        cls,
        directory: Path,
        provinces: Sequence[str],
        *,
        registry: bool,
        issuers: Mapping[str, Sequence[str]] | None = None,
    ) -> Self:
        """Make a new exchange, whole or not at all; each province has an issuer, invented.

        :param issuers: credit codes by province, for those that have others.
        :raises InvalidFieldError: the folder is not empty.
        """
        invented = {code: (_credit_code(code),) for code in provinces}
        with _alone(directory):
            if cls.lies_in(directory):
                raise InvalidFieldError(
                    f"{directory} is not empty", field="--directory", remedy="name a new folder"
                )
            try:
                TrialExchange(
                    directory, provinces, issuers={**invented, **(issuers or {})}, registry=registry
                )
            except BaseException:
                _remove(directory, (*provinces, REGISTRY))
                raise
            return cls(directory)

    @property
    def provinces(self) -> tuple[str, ...]:
        """Who takes part, in the order of their codes."""
        return tuple(place.name for place in self.places if place.name != REGISTRY)

    @property
    def has_registry(self) -> bool:
        """Whether it has a registry."""
        return any(place.name == REGISTRY for place in self.places)

    def trial(self) -> TrialExchange:
        """The exchange, to call its nodes.

        :raises TongxingError: its trust list does not verify.
        """
        try:
            return TrialExchange(self.directory, self.provinces)
        except TongxingError as error:
            error.remedy = (
                "if it lay unused for weeks, begin anew: "
                f"`tongxing exchange down --delete --directory {self.directory}`, then `up`"
            )
            raise

    def ends(self) -> datetime:
        """When the trust list ends that lies in the folder.

        :raises TrustListError: there is none.
        """
        expires: datetime = files.signed(
            files.read(self.directory / "trust"), TIMESTAMP, Timestamp
        ).expires
        return expires

    @contextlib.contextmanager
    def up(
        self,
        *,
        serves: Callable[[str], None] = lambda _: None,
        seconds: float = START_SECONDS,
    ) -> Iterator[tuple[str, ...]]:
        """Start what does not run, and leave it; where the block fails, stop it again.

        What runs already is left alone. Only one of `up`, `down` and `lay` is at work on a folder.

        :param serves: is told of each that serves.
        :param seconds: how long one may take.
        :returns: the names of what was started.
        :raises TongxingError: one did not come up, or the folder is too old.
        """
        with _alone(self.directory):
            self._renew()
            exchange = self.trial()
            missing = tuple(place.name for place in self.places if place.pid() is None)
            try:
                if missing:
                    exchange.start(*missing, seconds=seconds, serves=serves)
                yield missing
            except BaseException:
                with detached.uninterrupted():
                    exchange.stop()
                raise

    def _renew(self) -> None:
        """A timestamp lives for a day: sign it anew, unless the registry that runs does.

        :raises TongxingError: the online keys are not there, or encrypted.
        """
        trust = self.directory / "trust"
        mirror = self.directory / REGISTRY / "data" / "trust" / "mirror"
        newest = files.read(trust)
        if (mirror / TIMESTAMP).exists():
            newest = max(newest, files.read(mirror), key=_version)
        expires = files.signed(newest, TIMESTAMP, Timestamp).expires
        if expires < datetime.now(UTC) + _RENEW:
            keys = self.directory / "keys"
            online = Online(load_signer(keys / "snapshot.pem"), load_signer(keys / "timestamp.pem"))
            newest = {**newest, **ceremony.renew(newest, online, now=datetime.now(UTC))}
        files.write(trust, newest)

    def down(self) -> tuple[str, ...]:
        """End all of it, also what a killed node left behind.

        :returns: the names of what ran.
        :raises StoreUnavailableError: a node was started otherwise, or one cannot be ended.
        """
        with _alone(self.directory):
            pid_files = {place.pid_file: place.name for place in self.places}
            ended = detached.end(pid_files, seconds=DRAIN_SECONDS)
            others = [place for place in self.places if place.listens()]
            stores = {place.store: place.name for place in self.places if place not in others}
            ended += detached.end(stores, seconds=DRAIN_SECONDS)
        if others:
            raise StoreUnavailableError(
                f"{', '.join(place.name for place in others)}: somebody else is at the address",
                field="--directory",
                remedy="if it is `tongxing node run`, end it where it was started",
            )
        names = {**pid_files, **stores}
        return tuple(dict.fromkeys(names[path] for path in ended))

    def delete(self) -> bool:
        """Remove it from the disk, but nothing that is not of it; it must not run.

        :returns: whether the folder is gone; it stays where there is more in it.
        """
        _remove(self.directory, [place.name for place in self.places])
        return not self.directory.exists()


def _version(list_: Files) -> int:
    return Bundle.of(list_).versions.timestamp


def _places(directory: Path) -> Iterator[Place]:
    """The registry, if there is one, and the nodes by their codes."""
    configurations = {
        path.parent.name: _toml(path)
        for path in sorted(directory.glob("*/node.toml"))
        if path.parent.name in PROVINCES
    }
    if not configurations or not (directory / "trust" / "1.root.json").exists():
        raise InvalidFieldError(
            f"no exchange in {directory}",
            field="--directory",
            remedy="`tongxing exchange up` makes one, in a folder that is new or empty",
        )
    registry = directory / REGISTRY / "registry.toml"
    try:
        if registry.exists():
            (host, *_) = {node["trust"]["registry"]["province"] for node in configurations.values()}
            yield Place(REGISTRY, host, registry.parent, _toml(registry)["listen"])
        for code, node in configurations.items():
            yield Place(code, code, directory / code, node["listen"])
    except KeyError as error:
        raise InvalidFieldError(
            f"a configuration does not say {error}", field="--directory"
        ) from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidFieldError(f"{path}: {error}", field="--directory") from None


def _credit_code(province: str) -> str:
    """An invented institution's (12) in a province's capital; Sichuan's is the handbook's."""
    body = f"12{province[:2]}0100MB0X58800"
    return body + credit_code_check(body)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep others from changing what runs in a folder, which is made.

    :raises InvalidFieldError: somebody does.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidFieldError(
                f"another `tongxing exchange up` or `down` is at work on {directory}",
                field="--directory",
                remedy="wait for its end",
            ) from None
        yield
    finally:
        os.close(lock)


def _remove(directory: Path, names: Sequence[str]) -> None:
    for name in (*names, *_SHARED):
        shutil.rmtree(directory / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
