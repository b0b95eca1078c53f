"""A trial exchange on one machine: every province a real node in a process of its own.

The demonstration, the tests and the benchmarks run on it. It is synchronous on purpose: what it
starts must not depend on the event loop of who looks on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from exchange.client import Client
from exchange.errors import StoreUnavailableError
from exchange.trust import ceremony, refresh
from exchange.trust.profile import Profile
from exchange.trust.roles import role_name
from exchange.trust.signers import Online, load_signer
from exchange.trust.trustlist import TrustList
from nodes.identity import server_name
from nodes.setup import Member, initialise

__all__ = ["TrialExchange", "wait_until"]

START_SECONDS = 30.0


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
    """

    def __init__(
        self,
        directory: Path,
        provinces: Iterable[str],
        *,
        issuers: Mapping[str, Sequence[str]] | None = None,
        rules: Mapping[str, tuple[dict[str, Any], ...]] | None = None,
    ) -> None:
        self.directory = directory
        self.provinces = tuple(provinces)
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        if not (directory / "trust").exists():
            ports = _free_ports(len(self.provinces))
            members = {
                code: Member(code, f"127.0.0.1:{port}", tuple((issuers or {}).get(code, ())))
                for code, port in zip(self.provinces, ports, strict=True)
            }
            initialise(directory, members, now=datetime.now(UTC), rules=rules)
        trust = self.trust()
        self.addresses = {code: trust.profile(code).addresses[0] for code in self.provinces}

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

    def publish(self, profile: Profile) -> None:
        """Sign a province's next profile, and publish it."""
        keys, trust = self.directory / "keys", self.directory / "trust"
        online = Online(load_signer(keys / "snapshot.pem"), load_signer(keys / "timestamp.pem"))
        signer = load_signer(keys / f"{role_name(profile.province)}.pem")
        now = datetime.now(UTC)
        files = ceremony.publish_profile(ceremony.read(trust), profile, signer, online, now=now)
        ceremony.write(trust, files)

    def client(self, province: str, who: str, *, of: str = "") -> Client:
        """A client of a province's node.

        :param who: ``issuer``, ``app``, ``admin`` or ``node``.
        :param of: the caller's own province, where it is another.
        """
        home = self.directory / (of or province)
        return Client.from_files(
            self.addresses[province],
            province=province,
            certificate=home / f"{who}.pem",
            key=home / f"{who}-key.pem",
            trust=self.trust(),
        )

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

    def start(self, *provinces: str, environment: Mapping[str, str] | None = None) -> None:
        """Start nodes (all, where none is named) and wait until they serve.

        :raises StoreUnavailableError: one did not come up; with the last line of its log.
        """
        starting = provinces or self.provinces
        for code in starting:
            config = self.directory / code / "node.toml"
            with self.log(code).open("ab") as log:
                self._nodes[code] = subprocess.Popen(  # noqa: S603 - our own interpreter
                    [sys.executable, "-m", "nodes.cli", "node", "run", "--config", config],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={**os.environ, **(environment or {})},
                )
            (self.directory / code / "node.pid").write_text(str(self._nodes[code].pid))
        for code in starting:
            self._await_serving(code)

    def _await_serving(self, code: str) -> None:
        home = self.directory / code
        credentials = grpc.ssl_channel_credentials(
            (home / "authority.pem").read_bytes(),
            (home / "app-key.pem").read_bytes(),
            (home / "app.pem").read_bytes(),
        )
        name = (("grpc.ssl_target_name_override", server_name(code)),)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._nodes[code].poll() is not None:
                break
            with (
                grpc.secure_channel(self.addresses[code], credentials, name) as channel,
                contextlib.suppress(grpc.FutureTimeoutError),
            ):
                grpc.channel_ready_future(channel).result(timeout=0.3)
                return
        lines = self.log(code).read_text(encoding="utf-8").splitlines() or ["it said nothing"]
        raise StoreUnavailableError(f"the node of {code} did not start: {lines[-1]}")

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


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
