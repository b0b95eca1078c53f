"""Valkey servers of a test's own: a cluster of three primaries, and a primary that sentinels watch.

They are started with the binary that a node starts, on free loopback ports, each with a folder.
Synchronous on purpose, as `nodes.trial` is: what it starts must not depend on a test's event loop.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import redis

from nodes.embedded import _binary
from nodes.trial import free_ports

SECONDS = 30.0
NODE_TIMEOUT = "2000"
"""Milliseconds after which a cluster's server counts as failing."""

PRIMARIES = 3
SLOTS = 16_384


def wait_until(what: str, holds: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Look until something holds; a server that does not answer may yet."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError):
            if found := holds():
                return found
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


class Server:
    """A Valkey that can be killed and started again."""

    def __init__(self, directory: Path, port: int, *options: str) -> None:
        directory.mkdir()
        self.port = port
        self.bus = 0
        self._command = [str(_binary()), *options, "--port", str(port), "--bind", "127.0.0.1"]
        self._command += ["--dir", str(directory)]
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=port, socket_timeout=SECONDS, protocol=2)
        self.client.response_callbacks.clear()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait_until(f"an answer at {self.port}", self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        return bool(self.client.ping())

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a machine's failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.client.close()

    def ask(self, *command: Any) -> Any:
        """Its reply, as it stands on the wire."""
        return self.client.execute_command(*command)

    def id(self) -> str:
        return self.ask("CLUSTER MYID").decode()


def die_ahead(primary: Server, replicas: Iterable[Server]) -> None:
    """Kill a primary that has written what its replicas have not heard.

    Whoever acknowledges what is in none of them has lied.
    """
    replicas = tuple(replicas)
    for replica in replicas:
        replica.signal(signal.SIGSTOP)
    primary.ask("CLIENT KILL TYPE replica")
    before = primary.ask("ROLE")[1]
    wait_until("it writes more", lambda: primary.ask("ROLE")[1] > before + 1000)
    primary.kill()
    for replica in replicas:
        replica.signal(signal.SIGCONT)


class Servers:
    """Some of them, ended together."""

    def __init__(self) -> None:
        self.servers: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.kill()


DURABLE = (
    *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
    *("--repl-diskless-sync-delay", "0"),
)


class Cluster(Servers):
    """Three primaries, each with so many replicas.

    :param replicas: of each primary.
    :param options: for every server.
    """

    def __init__(self, directory: Path, *, replicas: int = 0, options: Sequence[str] = ()) -> None:
        super().__init__()
        self._directory = directory
        cluster = ("--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT)
        self._options = (*DURABLE, *cluster, *options)
        count = PRIMARIES * (1 + replicas)
        ports = free_ports(2 * count)
        self.servers += map(self._server, ports[:count], ports[count:])

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(each.address for each in self.servers[:PRIMARIES])

    def _server(self, port: int, bus: int) -> Server:
        bus_option = ("--cluster-port", str(bus))
        server = Server(self._directory / f"s{port}", port, *self._options, *bus_option)
        server.bus = bus
        return server

    def _join(self) -> None:
        primaries, replicas = self.servers[:PRIMARIES], self.servers[PRIMARIES:]
        bounds = [SLOTS * number // PRIMARIES for number in range(PRIMARIES + 1)]
        for epoch, server in enumerate(self.servers, 1):
            server.ask("CLUSTER SET-CONFIG-EPOCH", epoch)
        for server, first, end in zip(primaries, bounds, bounds[1:], strict=False):
            server.ask("CLUSTER ADDSLOTSRANGE", first, end - 1)
        for server in self.servers[1:]:
            self.servers[0].ask("CLUSTER MEET", "127.0.0.1", server.port, server.bus)
        ids = [server.id() for server in primaries]
        for number, replica in enumerate(replicas):
            of = ids[number % PRIMARIES]
            wait_until("the replica knows its primary", lambda r=replica, i=of: _knows(r, i))
            replica.ask("CLUSTER REPLICATE", of)
        self.settle()

    def settle(self) -> None:
        """Wait until all agree that all is well, and every replica follows."""
        wait_until("the cluster is well", lambda: all(map(_well, self.servers)))

    def owner(self, slot: int) -> Server:
        """The primary of a slot."""
        for server in self.servers:
            with contextlib.suppress(redis.RedisError):
                if b"cluster_state:ok" not in server.ask("CLUSTER INFO"):
                    continue
                for first, last, (_, port, *_), *_ in server.ask("CLUSTER SLOTS"):
                    if first <= slot <= last:
                        return next(each for each in self.servers if each.port == port)
        raise redis.RedisError(f"nobody has the slot {slot}")

    def move(self, slots: Iterable[int], target: Server) -> None:
        """Move slots with all that is in them, key by key, as resharding does."""
        for slot in slots:
            source = self.owner(slot)
            if source is not target:
                self.begin_move(slot, source, target)
                self.end_move(slot, source, target)

    def replicas(self, primary: Server) -> list[Server]:
        """Those that follow a server."""
        ports = {int(port) for _, port, _ in primary.ask("ROLE")[2]}
        return [each for each in self.servers if each.port in ports]

    def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """From here on, what is new in the slot comes to its target."""
        target.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.id())
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", target.id())

    def end_move(self, slot: int, source: Server, target: Server) -> None:
        while keys := source.ask("CLUSTER GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for server in (target, source):
            server.ask("CLUSTER SETSLOT", slot, "NODE", target.id())

    @property
    def moves_at_once(self) -> bool:
        """Whether a server can move a slot in one step, as Valkey 9 does and Redis 8 does not."""
        return any(b"MIGRATESLOTS" in line for line in self.servers[0].ask("CLUSTER HELP"))

    def move_at_once(self, slot: int, target: Server) -> None:
        """Move a slot in one step."""
        there = target.id()
        source = self.owner(slot)
        source.ask("CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", there)
        wait_until("the slot has moved", lambda: self.owner(slot) is target)


class Sentinels(Servers):
    """A primary and its replicas, which three sentinels watch under the name ``main``."""

    def __init__(self, directory: Path, *, replicas: int = 2, options: Sequence[str] = ()) -> None:
        super().__init__()
        ports = free_ports(1 + replicas + 3)
        for number, port in enumerate(ports[: 1 + replicas]):
            self.servers.append(Server(directory / f"s{number}", port, *DURABLE, *options))
        self.watching: list[Server] = []
        for number, port in enumerate(ports[1 + replicas :]):
            file = directory / f"sentinel{number}.conf"
            file.write_text(
                f"sentinel monitor main 127.0.0.1 {ports[0]} 2\n"
                "sentinel down-after-milliseconds main 1000\n"
                "sentinel failover-timeout main 2000\n"
            )
            server = Server(directory / f"w{number}", port, str(file), "--sentinel")
            self.watching.append(server)

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            for server in self.servers[1:]:
                server.ask("REPLICAOF", "127.0.0.1", self.servers[0].port)
            for server in self.watching:
                server.start()
            self.settle(len(self.servers) - 1)
            wait_until("the sentinels know each other", lambda: all(map(self._sees, self.watching)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.watching:
            server.kill()
        super().__exit__()

    @property
    def url(self) -> str:
        return "redis+sentinel://" + ",".join(each.address for each in self.watching) + "/main"

    def primary(self) -> Server:
        _, port = self.watching[0].ask("SENTINEL GET-MASTER-ADDR-BY-NAME", "main")
        return next(each for each in self.servers if each.port == int(port))

    def settle(self, replicas: int = 1) -> None:
        """Wait until so many follow the primary."""
        wait_until("it has replicas", lambda: len(self.primary().ask("ROLE")[2]) >= replicas)

    def _sees(self, sentinel: Server) -> bool:
        fields = iter(sentinel.ask("SENTINEL MASTER", "main"))
        seen = dict(zip(fields, fields, strict=True))
        others, replicas = seen[b"num-other-sentinels"], seen[b"num-slaves"]
        return (int(others), int(replicas)) == (2, len(self.servers) - 1)


def _knows(server: Server, node: str) -> bool:
    return any(
        line.startswith(node.encode()) and b" connected" in line
        for line in server.ask("CLUSTER NODES").splitlines()
    )


def _well(server: Server) -> bool:
    if b"cluster_state:ok" not in server.ask("CLUSTER INFO"):
        return False
    nodes = [line.split() for line in server.ask("CLUSTER NODES").splitlines()]
    if any(b"fail" in node[2] or node[7] != b"connected" for node in nodes):
        return False
    return server.ask("ROLE")[0] == b"master" or _follows(server)


def _follows(server: Server) -> bool:
    role = server.ask("ROLE")
    return bool(role[0] == b"slave" and role[3] == b"connected")
