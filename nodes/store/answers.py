"""What peers answered, kept until a change of theirs says otherwise (design.md §8).

``p:{subject}NAME``
    a hash a fingerprint: field = province, value = generation (8) and the answer, each field with
    its own expiry.
``y:{PROVINCE}:NAME``
    cursor (32) and generation (8): up to which of the peer's changes all is forgotten here that
    they ended.

NAME is the process's own, of several on one store: what one puts that has not heard of a change
yet, another, which has and says that it is fresh, would read after it. So each keeps its own
answers. Who is gone for good leaves its cursors for some days, and its answers for one.

The cursor is written after the deletions that it stands for. The append-only file is a log: a
crash that loses its tail loses the cursor before any deletion, and the changes are heard again. So
what a server that came back holds counts only once its cursor was read again. The braces keep all
that is known of one peer in one server's log; where the answers lie in others' (`PeerAnswers`, not
``ordered``), those from before a loss count no more.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

from exchange.errors import InvalidFieldError, StoreUnavailableError
from exchange.presence import SUBJECT_BYTES
from exchange.statuslist import LISTS_OF_PROVINCE
from nodes.store.changes import CURSOR_BYTES
from nodes.store.statuses import drop, listed, longest, mark, merge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nodes.store.connection import Command
    from nodes.store.keyspace import Keyspace

__all__ = ["PeerAnswers"]

GENERATION_BYTES: Final = 8
AT_ONCE: Final = 500
CURSOR_SECONDS: Final = b"604800"
"""How long the cursor of a process stays that is gone: longer than any answer."""

TOUCH_SECONDS: Final = 3600.0
"""How often the cursor of a peer that says nothing new is kept from its end: that is a write."""


class PeerAnswers:
    """The answers of all peers. Nothing counts of a province before its `cursor` was read.

    Of one province, `cursor`, `begin` and `forget` are called one after another. Every method
    raises StoreUnavailableError where the store does not answer.

    :param connection: that of the node's own reads: what is asked in one tick leaves in one write,
        and what is put stands before what is forgotten later.
    :param process: tells this process from the others on the store, also after a restart.
    :param ordered: whether cursor and answers lie in one server's log. Where they do not (a
        cluster), a server may lose deletions that the cursor stands for: each time that any server
        was lost (`lives`), and at each start, all that was put before counts no more.
    """

    def __init__(self, connection: Keyspace, process: bytes = b"", *, ordered: bool = True) -> None:
        self._connection = connection
        self._process = process
        self._ordered = ordered
        self._putting: set[asyncio.Future[Any]] = set()
        self._touched: dict[str, float] = {}
        self._lives = -1
        self._generations: dict[bytes, bytes] = {}

    async def get(self, subjects: Sequence[bytes]) -> list[dict[str, bytes]]:
        """Give what is kept of some subjects.

        :param subjects: fingerprints, 8 bytes each.
        :return: for each, answers by province.
        """
        if not self._known():
            return [{} for _ in subjects]
        replies = await self._connection.ask(
            [(b"HGETALL", self._answers_key(each)) for each in subjects]
        )
        known = self._known()
        found: list[dict[str, bytes]] = []
        for reply in replies:
            fields = iter(reply)
            found.append(
                {
                    province.decode(): value[GENERATION_BYTES:]
                    for province, value in zip(fields, fields, strict=True)
                    if value[:GENERATION_BYTES] == known.get(province)
                }
            )
        return found

    def put(self, province: str, subject: bytes, answer: bytes, expires: int) -> None:
        """Keep an answer; waits for nothing, and is no loss where it fails.

        :param subject: the fingerprint, 8 bytes.
        :param expires: Unix seconds.
        """
        field = province.encode()
        generation = self._known().get(field)
        if generation is None:
            return
        until = b"%d" % expires
        putting = self._connection.execute(
            *(b"HSETEX", self._answers_key(subject), b"EXAT", until),
            *(b"FIELDS", b"1", field, generation + answer),
        )
        if not self._ordered:
            self._putting.add(putting)
            putting.add_done_callback(self._putting.discard)
        putting.add_done_callback(_let_go)

    async def forget(
        self,
        province: str,
        subjects: bytes,
        revoked: Iterable[tuple[int, int]],
        cursor: bytes,
    ) -> None:
        """Apply a peer's changes: forget answers, set revoked places, and then move the cursor.

        :param subjects: fingerprints, 8 bytes each, one after another.
        :param revoked: places: list numbers and indices.
        :param cursor: 32 bytes: where to continue after these changes.
        :raises InvalidFieldError: one of them has not its shape; nothing is changed.
        :raises StoreUnavailableError: perhaps applied, perhaps not; or the store was lost since
            `cursor` was read: read it again, and continue from there.
        """
        field = province.encode()
        if len(subjects) % SUBJECT_BYTES:
            raise InvalidFieldError("fingerprints have 8 bytes each", field="subjects")
        _check(cursor)
        commands = mark(province, revoked, longest())
        commands += [
            (b"HDEL", self._answers_key(subjects[at : at + SUBJECT_BYTES]), field)
            for at in range(0, len(subjects), SUBJECT_BYTES)
        ]
        generation = self._generation(field)
        if self._putting:  # what a cluster sends on to another server may arrive late
            await asyncio.wait(self._putting)
        for at in range(0, len(commands), AT_ONCE):
            await self._connection.ask(commands[at : at + AT_ONCE])
        if self._generation(field) != generation:
            raise _lost()
        await self._set(province, cursor + generation)

    async def begin(
        self, province: str, cursor: bytes, revoked: Mapping[int, bytes], *, only: bool = False
    ) -> None:
        """Begin anew with a peer: all that it answered before counts no more.

        :param cursor: 32 bytes: where to continue.
        :param revoked: for a list's number its bits, added to those at hand. Other lists stay,
            of which another process may have heard since; but are forgotten where there would be
            too many.
        :param only: forget them in any case: the peer named too many before.
        :raises InvalidFieldError: one of them has not its shape; nothing is changed.
        :raises StoreUnavailableError: begin again.
        """
        field = province.encode()
        _check(cursor)
        commands = merge(province, revoked, longest())
        self._known().pop(field, None)
        lives = self._connection.lives
        lists = {int(each) for each in await self._connection.execute(*listed(province))}
        too_many = only or len(lists | revoked.keys()) > LISTS_OF_PROVINCE
        others = sorted(lists - revoked.keys()) if too_many else []
        for at in range(0, len(others), AT_ONCE):
            await self._connection.ask(drop(province, others[at : at + AT_ONCE]))
        for command in commands:  # 32 KiB each
            await self._connection.ask([command])
        if self._connection.lives != lives:
            raise _lost()
        generation = secrets.token_bytes(GENERATION_BYTES)
        await self._set(province, cursor + generation)
        self._learn(lives, field, generation)

    async def cursor(self, province: str) -> bytes | None:
        """Read where to continue with a peer; from then on what it answered counts.

        :return: 32 bytes, or None where `begin` was never called.
        """
        field = province.encode()
        lives = self._connection.lives
        read: Command = (b"GET", self._cursor_key(province))
        now = asyncio.get_running_loop().time()
        if now > self._touched.get(province, -TOUCH_SECONDS) + TOUCH_SECONDS:
            read = (b"GETEX", self._cursor_key(province), b"EX", CURSOR_SECONDS)
            self._touched[province] = now
        stored = await self._connection.execute(*read)
        if stored is None:
            self._known().pop(field, None)
            return None
        if len(stored) != CURSOR_BYTES + GENERATION_BYTES:
            raise StoreUnavailableError(
                "something else stands where a peer's cursor should be",
                remedy="give the node a database of its own",
            )
        generation = stored[CURSOR_BYTES:]
        if not self._ordered:
            generation = self._known().get(field) or secrets.token_bytes(GENERATION_BYTES)
        self._learn(lives, field, generation)
        return bytes(stored[:CURSOR_BYTES])

    async def _set(self, province: str, value: bytes) -> None:
        await self._connection.ask(
            [(b"SET", self._cursor_key(province), value, b"EX", CURSOR_SECONDS)]
        )

    def _cursor_key(self, province: str) -> bytes:
        return b"y:{%b}:%b" % (province.encode(), self._process)

    def _answers_key(self, subject: bytes) -> bytes:
        return b"p:{%b}%b" % (subject, self._process)

    def _known(self) -> dict[bytes, bytes]:
        """Generations by province, as far as they were read since the store was last lost."""
        if self._lives != self._connection.lives:
            self._lives = self._connection.lives
            self._generations.clear()
        return self._generations

    def _generation(self, field: bytes) -> bytes:
        generation = self._known().get(field)
        if generation is None:
            raise _lost()
        return generation

    def _learn(self, lives: int, field: bytes, generation: bytes) -> None:
        known = self._known()
        if self._lives != lives:
            raise _lost()
        known[field] = generation


def _check(cursor: bytes) -> None:
    if len(cursor) != CURSOR_BYTES:
        raise InvalidFieldError("a cursor has 32 bytes", field="cursor")


def _lost() -> StoreUnavailableError:
    return StoreUnavailableError(
        "the store was lost meanwhile, and perhaps the last that it heard",
        remedy="read the peer's cursor again, and continue from there",
    )


def _let_go(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()  # asked for, or the loop would complain that nobody did
