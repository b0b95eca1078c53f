"""h2load (Debian's nghttp2-client) as the load: in C, a quarter of what a call costs a bare server.

It knows neither client certificates nor gRPC. The first `h2load.c` gives to it, built for each run
of the benchmarks; for the second a framed body and two headers do. It counts HTTP statuses, which
are 200 of a refused call too, so its bytes are held against those of an answer that was read.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.target import CONNECTIONS, Ran, Target

__all__ = ["Crowd", "H2load"]

_SOURCE = Path(__file__).with_suffix(".c")
_GIVE_UP_SECONDS = 120
_RATE = re.compile(r"finished in \S+, ([\d.]+) req/s")
_DONE = re.compile(r"requests: (\d+) total, .* (\d+) succeeded,")
_DATA = re.compile(r"\((\d+)\) data")
_JSON_CONNECTIONS = 16
_CROWD_CONNECTIONS = 8
_CROWD_STREAMS = 10_000
_VARYING = 0.02
"""Answers to one request differ by some bytes: times have more digits or fewer."""


@dataclass(slots=True)
class Crowd:
    """What a crowd did, once it is over."""

    rate: float = 0.0
    """Calls a second, that ended one way or another."""
    good: float = 0.0
    """Calls a second that were answered."""


class H2load:
    """h2load with client certificates.

    :param scratch: a folder of its own.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._library = scratch / "h2load.so"
        self._rates: dict[tuple[Target, int], float] = {}
        command = ("cc", "-O2", "-shared", "-fPIC", "-o", self._library, _SOURCE, "-ldl")
        subprocess.run(command, check=True)

    @staticmethod
    def missing() -> str:
        """What is to be installed before it can be used; empty if nothing is."""
        wanted = {"h2load": "nghttp2-client", "cc": "gcc"}
        return " ".join(package for tool, package in wanted.items() if not shutil.which(tool))

    def calls(
        self, target: Target, request: bytes, answer: bytes, seconds: float, in_flight: int
    ) -> Ran:
        """Call with one request again and again, as often as it takes about so many seconds.

        A number of calls and not a time, so that none is left half done at the end, whose CPU time
        would count for the others.

        :param answer: what such a request is answered.
        :param in_flight: for each connection.
        :raises RuntimeError: other answers came, or none.
        """
        which = target, in_flight
        least = in_flight * (_JSON_CONNECTIONS if target.json else CONNECTIONS)
        if which not in self._rates:
            probe = self._run(target, request, answer, least, in_flight)
            self._rates[which] = probe.rate
        count = max(int(self._rates[which] * seconds), least)
        ran = self._run(target, request, answer, count, in_flight)
        self._rates[which] = ran.rate
        return ran

    def _run(
        self, target: Target, request: bytes, answer: bytes, count: int, in_flight: int
    ) -> Ran:
        frame = 0 if target.json else 5
        run = self._begin(target, request, "-n", str(count), *_protocol(target, in_flight))
        said, failed = run.communicate(timeout=_GIVE_UP_SECONDS)
        rate, done, data = (pattern.search(said) for pattern in (_RATE, _DONE, _DATA))
        if not (rate and done and data):
            raise RuntimeError(f"h2load failed: {failed or said}")
        expected = count * (len(answer) + frame)
        if int(done[2]) != count or abs(int(data[1]) - expected) > _VARYING * expected:
            raise RuntimeError(
                f"of {count} calls {done[2]} were answered, with {data[1]} bytes and not {expected}"
            )
        return Ran(count, float(rate[1]))

    @contextlib.contextmanager
    def crowd(
        self,
        target: Target,
        request: bytes,
        answer: bytes,
        rate: float,
        seconds: float,
        deadline: float,
    ) -> Iterator[Crowd]:
        """Call with one request so often a second for so long; the context ends when it is over.

        :param answer: what such a request is answered, where it is not refused.
        :param deadline: seconds that the server is told that each call has.
        :raises RuntimeError: it failed, or the server ended a connection.
        """
        crowd = Crowd()
        run = self._begin(
            target,
            request,
            *("-D", str(round(seconds)), "--rps", f"{rate / _CROWD_CONNECTIONS:.3f}"),
            *("-H", f"grpc-timeout: {deadline * 1000:.0f}m"),
            *_protocol(target, _CROWD_STREAMS, _CROWD_CONNECTIONS),
        )
        try:
            yield crowd
            said, failed = run.communicate(timeout=seconds + _GIVE_UP_SECONDS)
        finally:
            run.kill()
        per_second, done, data = (each.search(said) for each in (_RATE, _DONE, _DATA))
        if not (per_second and done and data and int(done[1])):
            raise RuntimeError(f"h2load failed: {failed or said}")
        crowd.rate = float(per_second[1])
        crowd.good = crowd.rate * int(data[1]) / (len(answer) + 5) / int(done[1])

    def _begin(self, target: Target, request: bytes, *options: str) -> subprocess.Popen[str]:
        certificate, key, body = (self._scratch / name for name in ("cert.pem", "key.pem", "body"))
        certificate.write_bytes(target.certificate)
        key.touch(0o600)
        key.write_bytes(target.key)
        body.write_bytes(b"" if target.json else b"\x00" + len(request).to_bytes(4, "big"))
        with body.open("ab") as file:
            file.write(request)
        given = {
            "LD_PRELOAD": str(self._library),
            "BENCH_CERTIFICATE": str(certificate),
            "BENCH_KEY": str(key),
        }
        return subprocess.Popen(
            [
                *("h2load", "-d", str(body)),
                *options,
                *("--connect-to", target.address),
                f"{'https' if target.certificate else 'http'}://{target.server_name}{target.path}",
            ],
            env={**os.environ, **(given if target.certificate else {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def _protocol(target: Target, in_flight: int, connections: int = CONNECTIONS) -> list[str]:
    # HTTP/1.1 has one call at a time on a connection: more of them, but not so many that their
    # handshakes are what is measured.
    clients, streams = (_JSON_CONNECTIONS, 1) if target.json else (connections, in_flight)
    kind = "json" if target.json else "grpc"
    return [
        *("-c", str(clients), "-m", str(streams)),
        *("-H", f"content-type: application/{kind}"),
        *(("--h1",) if target.json else ("-H", "te: trailers")),
    ]
