"""Which of a node's processes this one is: several may serve one province's port together."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exchange.errors import InvalidFieldError

__all__ = ["HEARD", "LINE", "VARIABLE", "Worker"]

VARIABLE: Final = "TONGXING_WORKER"
"""The environment variable by which whoever starts several tells each its place: ``1/4``; or
``hearing/0`` the one that hears the peers for all."""
HEARD: Final = "TONGXING_HEARD"
"""The same for where in memory it is told what was heard: process, descriptor and inode."""
LINE: Final = "TONGXING_WORKER_LINE"
"""The same for the descriptor of a socket to `nodes.supervisor`: JSON, an object a line."""

_FORM: Final = re.compile(r"(\d{1,3})/(\d{1,3})")
_HEARING: Final = re.compile(r"hearing/([01])")
_HEARD: Final = re.compile(r"(\d{1,10})/(\d{1,10})/(\d{1,20})")


@dataclass(frozen=True, slots=True)
class Worker:
    """A process's place among those of its node.

    :param number: from 0; the first does what must be done once a node.
    :param of: how many there are.
    :param line: the descriptor of the socket to who started it, if it is watched over.
    :param heard: where in memory (`nodes.peers.memory.Handle`) it is told what was heard of the
        peers, by one process for all; None: it hears them itself.
    :param hears: whether it is that one, which answers no call.
    """

    number: int = 0
    of: int = 1
    line: int | None = None
    heard: tuple[int, int, int] | None = None
    hears: bool = False

    @classmethod
    def here(cls) -> Worker:
        """Give this process's place, from the environment; by default it is the only one.

        :raises InvalidFieldError: the variable says nothing that can be.
        """
        said = os.environ.get(VARIABLE)
        if said is None:
            return cls()
        line = os.environ.get(LINE)
        own = None if line is None else int(line)
        heard = _HEARD.fullmatch(os.environ.get(HEARD, ""))
        where = None if heard is None else (int(heard[1]), int(heard[2]), int(heard[3]))
        if where and (found := _HEARING.fullmatch(said)):
            return cls(int(found[1]), 2, own, where, hears=True)
        found = _FORM.fullmatch(said)
        if found is None or int(found[1]) >= int(found[2]):
            raise InvalidFieldError(f"not a number of so many: {said!r}", field=VARIABLE)
        return cls(int(found[1]), int(found[2]), own, where)

    @property
    def first(self) -> bool:
        """Whether it does what must be done once a node."""
        return self.number == 0 and not self.hears

    @property
    def alone(self) -> bool:
        """Whether nobody else serves the node's port."""
        return self.of == 1

    def folder(self, data: Path) -> Path:
        """Where it keeps what is its own: the first in ``data`` itself, as if it were alone."""
        kind = "hearing" if self.hears else "workers"
        return data if self.first else data / kind / str(self.number)

    def serves(self, port: int) -> None:
        """Tell who started it that it can be called; before that, nothing is asked of it."""
        if self.line is not None:
            os.write(self.line, json.dumps({"serving": port}).encode() + b"\n")

    async def tell_metrics(self, page: Callable[[], bytes]) -> None:
        """Answer whoever started it, for as long as it asks.

        :param page: the metrics in Prometheus' text form; called in a thread.
        """
        if self.line is None:
            return
        own = socket.socket(fileno=os.dup(self.line))
        reader, writer = await asyncio.open_unix_connection(sock=own)
        try:
            while await reader.readline():
                metrics = (await asyncio.to_thread(page)).decode()
                writer.write(json.dumps({"metrics": metrics}).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
