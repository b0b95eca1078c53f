"""A trial exchange on one machine: every province a real node in a process of its own.

The demonstration, the tests and the benchmarks run on it, and so does `nodes.trial.standing`, which
leaves it running. It is synchronous on purpose: what it starts must not depend on the event loop
of who looks on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from exchange import status
from exchange.client import Client, UnreachableError
from exchange.errors import StoreUnavailableError, TongxingError
from exchange.subjects import EpochKey
from exchange.trust import ceremony, files, refresh
from exchange.trust.epochs import unseal
from exchange.trust.files import Bundle, Files
from exchange.trust.live import LiveTrust
from exchange.trust.profile import Profile
from exchange.trust.roles import role_name
from exchange.trust.sealkeys import SealPrivateKey
from exchange.trust.signers import Online, load_signer
from exchange.trust.trustlist import TrustList
from nodes import detached
from nodes.config import RegistryConfig
from nodes.identity import registry_name, server_name
from nodes.peers.registry import Registry
from nodes.setup import Member, RegistryPlace, initialise

__all__ = ["REGISTRY", "TrialExchange", "free_ports", "wait_until"]

START_SECONDS = 30.0
REGISTRY = "registry"
AT_ONCE = 2 * (os.cpu_count() or 1)
"""Nodes that start at the same time: a start is work for a core, with pauses."""
_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 0.02
PORTS = range(12000, 28000)
"""Below those of outgoing connections: a node that was down finds its own free again."""
# -P: a folder called "exchange" where it is run is not the package.
_TONGXING = (sys.executable, "-P", "-m", "nodes.cli")


def wait_until(what: str, holds: Callable[[], bool], seconds: float) -> None:
    """Look again and again until something holds.

    :raises StoreUnavailableError: it did not hold in time.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise StoreUnavailableError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


class TrialExchange:
    """The nodes of some provinces under one folder, as `nodes.setup` lays it out.

    :param directory: the exchange's folder; made if it is not there yet.
    :param issuers: the credit codes of a province's issuers, by code.
    :param rules: by province, in place of the published ones.
    :param registry: whether a registry runs too, hosted by the first province.
    """

    def __init__(
        self,
        directory: Path,
        provinces: Iterable[str],
        *,
        issuers: Mapping[str, Sequence[str]] | None = None,
        rules: Mapping[str, tuple[dict[str, Any], ...]] | None = None,
        registry: bool = False,
    ) -> None:
        self.directory = directory
        self.provinces = tuple(provinces)
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        if not (directory / "trust").exists():
            *ports, registry_port = free_ports(len(self.provinces) + 1)
            members = {
                code: Member(code, f"127.0.0.1:{port}", tuple((issuers or {}).get(code, ())))
                for code, port in zip(self.provinces, ports, strict=True)
            }
            place = RegistryPlace(self.provinces[0], f"127.0.0.1:{registry_port}")
            initialise(
                directory,
                members,
                now=datetime.now(UTC),
                rules=rules,
                registry=place if registry else None,
            )
        trust = self.trust()
        self.addresses = {code: trust.profile(code).addresses[0] for code in self.provinces}
        self._all = self.provinces
        self.host = self.provinces[0]
        settings = directory / REGISTRY / "registry.toml"
        if settings.exists():
            self._all = (REGISTRY, *self.provinces)
            self.addresses[REGISTRY] = tomllib.loads(settings.read_text())["listen"]
            node = tomllib.loads((directory / self.host / "node.toml").read_text())
            self.host = node["trust"]["registry"]["province"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def trust(self) -> TrustList:
        """The trust list, verified now."""
        trust = self.directory / "trust"
        return refresh.load(trust, (trust / "1.root.json").read_bytes(), self.directory / "cache")

    def epoch_key(self) -> EpochKey:
        """The key that subject tokens are made with now, as a node opens it."""
        code = self.provinces[0]
        epoch = self.trust().epochs.current(datetime.now(UTC))
        keys = SealPrivateKey.from_pem((self.directory / code / "seal-key.pem").read_bytes())
        return unseal(epoch.sealed[code], epoch.number, code, keys)

    def publish(self, profile: Profile) -> None:
        """Sign a province's next profile, and publish it."""
        keys, trust = self.directory / "keys", self.directory / "trust"
        online = Online(load_signer(keys / "snapshot.pem"), load_signer(keys / "timestamp.pem"))
        signer = load_signer(keys / f"{role_name(profile.province)}.pem")
        now = datetime.now(UTC)
        current = files.read(trust)
        files.write(trust, ceremony.publish_profile(current, profile, signer, online, now=now))

    async def submit(self, province: str, **changes: Any) -> int:
        """Sign a province's next profile, and hand it to the registry.

        :param changes: fields of the profile that change.
        :returns: the version of the province's role that holds them.
        """
        bundle = Bundle.of(self.newest())
        root = (self.directory / "trust" / "1.root.json").read_bytes()
        current = refresh.load(bundle.files, root, self.directory / "cache").profile(province)
        role = role_name(province)
        version = bundle.versions.roles[role] + 1
        signer = load_signer(self.directory / "keys" / f"{role}.pem")
        profile = dataclasses.replace(current, **changes)
        data = ceremony.sign_profile(profile, signer, version=version, now=datetime.now(UTC))
        home = self.directory / province
        place = RegistryConfig(
            address=self.addresses[REGISTRY],
            province=self.host,
            authority=self.directory / self.host / "authority.pem",
        )
        registry = Registry(place, home / "admin.pem", home / "admin-key.pem")
        await registry.submit({f"{version}.{role}.json": data})
        return version

    def client(
        self, province: str, who: str, *, of: str = "", trust: LiveTrust | None = None
    ) -> Client:
        """A client of a province's node.

        :param who: ``issuer``, ``app``, ``admin`` or ``node``.
        :param of: the caller's own province, where it is another.
        :param trust: a list that stays fresh; without it, the list as it is now.
        """
        home = self.directory / (of or province)
        return Client.from_files(
            self.addresses[province],
            province=province,
            certificate=home / f"{who}.pem",
            key=home / f"{who}-key.pem",
            trust=trust or self.trust(),
        )

    def live_trust(self, name: str) -> LiveTrust:
        """The trust list for an app that will keep it fresh by itself.

        :param name: of its folder, which remembers what it has seen.
        """
        root = (self.directory / "trust" / "1.root.json").read_bytes()
        return LiveTrust(self.newest(), root, self.directory / "live" / name)

    def newest(self) -> Files:
        """The trust list's files as they stand: at the registry, where there is one."""
        mirror = self.directory / REGISTRY / "data" / "trust" / "mirror"
        return files.read(mirror if mirror.exists() else self.directory / "trust")

    def log(self, province: str) -> Path:
        """Where a node's log goes."""
        return self.directory / province / "node.log"

    def pid(self, province: str) -> int:
        """The process of a node."""
        return self._nodes[province].pid

    def store(self, province: str) -> Path:
        """The unix socket of a node's own Valkey."""
        return self.directory / province / "data" / "valkey" / "valkey.sock"

    def exit_code(self, province: str, seconds: float = START_SECONDS) -> int:
        """Wait for a node to end by itself.

        :returns: its exit code; below 0, the signal that ended it.
        """
        return self._nodes.pop(province).wait(seconds)

    def start(
        self,
        *provinces: str,
        environment: Mapping[str, str] | None = None,
        seconds: float = START_SECONDS,
        serves: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Start nodes (all, where none is named), some at a time, and wait until they serve.

        :param seconds: how long one may take.
        :param serves: is told of each that serves, in their order.
        :raises UnreachableError: one does not serve in time, or ended without a word.
        :raises TongxingError: one refused to start; as it did.
        """
        waited: deque[str] = deque()

        def wait() -> None:
            name = waited.popleft()
            self._await_serving(name, seconds)
            serves(name)

        for name in provinces or self._all:
            if len(waited) >= AT_ONCE:
                wait()
            self._launch(name, {**os.environ, **(environment or {})})
            waited.append(name)
            if name == REGISTRY:
                wait()
        while waited:
            wait()

    def _launch(self, name: str, environment: Mapping[str, str]) -> None:
        home = self.directory / name
        kind = REGISTRY if name == REGISTRY else "node"
        with detached.uninterrupted():
            self._nodes[name] = detached.start(
                home / "node.pid",
                [*_TONGXING, kind, "run", "--config", str(home / f"{kind}.toml")],
                log=self.log(name),
                environment=environment,
            )

    def _await_serving(self, name: str, seconds: float) -> None:
        host = self.host if name == REGISTRY else name
        home = self.directory / host
        # A handshake without gRPC, whose channels do not always end where Ctrl-C breaks in.
        context = ssl.create_default_context(cafile=home / "authority.pem")
        context.load_cert_chain(home / "app.pem", home / "app-key.pem")
        context.set_alpn_protocols(["h2"])
        bears = registry_name(host) if name == REGISTRY else server_name(host)
        address, _, port = self.addresses[name].rpartition(":")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._nodes[name].poll() is not None:
                break
            with (
                contextlib.suppress(OSError),
                socket.create_connection((address, int(port)), _LOOK_SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=bears),
            ):
                return
            time.sleep(_PAUSE_SECONDS)
        if self._nodes[name].poll() is None:
            raise UnreachableError(
                f"{name} does not serve after {seconds:g} s", remedy=f"read {self.log(name)}"
            )
        raise _last_error(name, self.log(name))

    def signal(self, province: str, number: signal.Signals) -> None:
        """Send a node a signal."""
        self._nodes[province].send_signal(number)

    def stop(self, *provinces: str) -> None:
        """Drain nodes (all, where none is named) and wait for their end."""
        ending = [self._nodes.pop(code) for code in provinces or tuple(self._nodes)]
        for node in ending:
            with contextlib.suppress(ProcessLookupError):
                node.send_signal(signal.SIGCONT)
                node.terminate()
        for node in ending:
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()

    def kill(self, province: str) -> None:
        """End a node with SIGKILL, as a machine's failure would."""
        node = self._nodes.pop(province)
        node.kill()
        node.wait()


def _last_error(name: str, log: Path) -> TongxingError:
    """What a process that has ended says in its log that it ended with."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = lines[-1] if lines else "it said nothing"
    try:
        said = json.loads(last)
        kind, message, remedy = status.of_reason(said["reason"]), said["message"], said["remedy"]
        where = f"{said['field']}: " if said["field"] else ""
    except (ValueError, TypeError, KeyError):
        return UnreachableError(f"{name} did not start: {last}", remedy=f"read {log}")
    return kind(f"{name} did not start: {where}{message}", remedy=remedy)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, in their order."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.sample(PORTS, len(PORTS)):
            if len(found) == count:
                break
            each = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                each.bind(("127.0.0.1", port))
                found.append(port)
    return sorted(found)
