"""Whether the access log is as it was written: each line, each day, its key, the heads elsewhere.

It finds what was changed, taken out, put in or moved. Somebody who may write the files can still
write the log anew from some line on, hashes and all, or cut off its end: only a head that was kept
elsewhere (`nodes.audit.chain.Head`) shows that.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from exchange.errors import InvalidFieldError
from nodes.audit.chain import START, Access, Digester, Head, follow, read
from nodes.audit.days import files, reading
from nodes.audit.log import REMOVED
from nodes.audit.logs import logs

__all__ = ["Fault", "Verified", "verify", "verify_all"]

_ANEW: Final = "written anew, or the head is another log's: its hash is not the head's"
MOST_FAULTS: Final = 1000
"""With more, the log is not looked through to its end."""


_NAMED: Final = (
    "accesses, json_each(CASE WHEN json_valid(line) THEN line ELSE '{}' END, '$.holders') AS said"
)
"""Lines with each holder whom they name; one that is no line any more names nobody."""
_DISAGREE: Final = (
    (
        f"""
        SELECT DISTINCT sequence FROM {_NAMED}
        WHERE sequence <= (SELECT sequence FROM indexed) AND NOT EXISTS (
            SELECT 1 FROM seen
            WHERE seen.holder = said.value AND seen.sequence = accesses.sequence
        )
        """,  # noqa: S608 - a constant
        "hidden: who is named in it does not find it",
    ),
    (
        f"""
        SELECT DISTINCT sequence FROM seen WHERE NOT EXISTS (
            SELECT 1 FROM {_NAMED}
            WHERE said.value = seen.holder AND accesses.sequence = seen.sequence
        ) AND (:whole OR sequence IN (SELECT sequence FROM {_NAMED}))
        """,  # noqa: S608 - a constant
        "found by somebody whom no such line names",
    ),
)
"""Where what finds the lines and the lines themselves disagree. What finds a line that is gone, or
names nobody, is told only where the lines are ``whole``: else the chain told of the line."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at one place.

    :param day: of the file, ``2022-01-10``; "" where a whole file, or the end, is missing.
    :param sequence: of the line; 0 where it is of none.
    """

    day: str
    sequence: int
    text: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found.

    :param begins: what the oldest line that is there follows.
    :param head: the last line that is there.
    :param heads: how many of the heads that were given were found in the chain, as they are.
    :param key: whether the key beside it is its own; None where there is none, as there need not be
        in a copy, or nothing to hold it against: no line names its key, as none did at first.
    :param removed: what its entries about removed days say of where a chain begins: its own, or,
        of the first process's log, that of a process which is no more.
    """

    begins: Head
    head: Head
    lines: int
    days: int
    heads: int
    key: bool | None
    faults: Sequence[Fault]
    removed: Sequence[str] = ()


def verify_all(
    data: Path, heads: Mapping[int, Sequence[Head]] | None = None
) -> dict[int, Verified]:
    """Look through all logs of a node's processes.

    :param data: the node's data directory.
    :param heads: kept elsewhere, by the number of the process (``worker``).
    :return: what was found, by that number; also of a process that has a head, and no log.
    :raises InvalidFieldError: there is no access log.
    """
    heads = heads or {}
    found: dict[int, Verified] = {}
    removed: list[str] = []
    for number, folder in logs(data).items():
        if files(folder):
            found[number] = verify(
                folder, heads.get(number, ()), key=data / "audit" / "key", removed=removed
            )
            removed += found[number].removed
    if not found:
        raise _no_log(data)
    for number in sorted(heads.keys() - found.keys()):
        reader = _Reader(defaultdict(list), last="", own="")
        for head in heads[number]:
            if f"up to {head}" not in removed:
                reader.lacks(head)
        found[number] = Verified(START, START, 0, 0, 0, None, reader.faults)
    return found


def verify(
    directory: Path,
    heads: Sequence[Head] = (),
    *,
    key: Path | None = None,
    removed: Sequence[str] = (),
) -> Verified:
    """Look through a log, while a node writes it or not.

    What is recorded and not yet in a day's file is not looked at.

    :param heads: kept elsewhere: from the node's log, its lines ``audit.head``.
    :param key: the file of the holders' key; None for the one beside it.
    :param removed: what another log said of where it begins (`Verified.removed`).
    :raises InvalidFieldError: there is no access log.
    """
    try:
        found = files(directory)
    except OSError as error:
        raise InvalidFieldError(f"{directory}: {error.strerror}", field="DIRECTORY") from None
    if not found:
        raise _no_log(directory)
    wanted: defaultdict[int, list[Head]] = defaultdict(list)
    for head in heads:
        wanted[head.sequence].append(head)
    reader = _Reader(wanted, last=found[-1].stem, own=_key_check(key or directory / "key"))
    reader.removed += removed
    for path in found:
        reader.day(path)
        if len(reader.faults) >= MOST_FAULTS:
            break
    else:
        reader.end()
    return Verified(
        reader.begins or START,
        reader.head,
        reader.lines,
        len(found),
        reader.met,
        reader.key,
        reader.faults[:MOST_FAULTS],
        reader.removed,
    )


@dataclass(slots=True)
class _Reader:
    wanted: dict[int, list[Head]]
    """The heads that are known, by their lines: several of one line, where it was written anew."""
    last: str
    """The day whose newest lines need not be found by their holders yet."""
    own: str
    """The `nodes.audit.chain.Access.key` of the key beside the log; "" for none."""
    faults: list[Fault] = field(default_factory=list)
    begins: Head | None = None
    head: Head = START
    lines: int = 0
    met: int = 0
    key: bool | None = None
    """Whether that is the key of all lines; None where there is nothing to tell."""
    removed: list[str] = field(default_factory=list)
    """What the entries about removed days say of where the chain begins."""
    _under: str = ""
    """The key of the line before."""
    _whole: bool = True
    """Whether the hash at `head` is what a next line would follow."""

    def day(self, path: Path) -> None:
        """Look through one file."""
        day = path.stem
        try:
            with reading(path) as connection:
                row = connection.execute("SELECT sequence, hash FROM start").fetchone()
                self._start(day, Head(int(row[0]), bytes(row[1])))
                for sequence, text, digest in connection.execute(
                    "SELECT sequence, line, hash FROM accesses ORDER BY sequence"
                ):
                    self._line(day, sequence, str(text), bytes(digest))
                    if len(self.faults) >= MOST_FAULTS:
                        return
                whole = not self.faults or self.faults[-1].day != day
                self._found(day, connection, whole=whole)
        except (sqlite3.Error, TypeError, ValueError) as error:
            self._whole = False
            self._fault(day, 0, f"the file cannot be read: {error}")

    def _start(self, day: str, start: Head) -> None:
        if self.begins is None:
            self.begins = start
        elif start != self.head and self._whole:
            if start.sequence > self.head.sequence:
                gone = _lines(self.head.sequence + 1, start.sequence)
                self._fault(day, 0, f"{gone} before it: taken out")
            else:
                self._fault(day, 0, f"it does not begin where the day before ends, {self.head}")
        self.head, self._whole = start, True

    def _line(self, day: str, sequence: int, text: str, digest: bytes) -> None:
        self.lines += 1
        expected = self.head.sequence + 1
        encoded = text.encode()
        follows = follow(self.head.hash, encoded) == digest
        if sequence > expected:
            gone = _lines(expected, sequence - 1)
            self._fault(day, sequence, f"{gone} before it: taken out")
            follows = True  # there is nothing to hold it against
        elif sequence < expected:
            self._fault(day, sequence, f"put in: the line before it is {expected - 1}")
        access = self._read(day, sequence, text)
        if access is not None and access.sequence != sequence:
            self._fault(day, sequence, f"moved: it says that it is line {access.sequence}")
        elif not follows and access is not None:
            self._fault(day, sequence, "changed: its hash is not of it and the line before")
        if access is not None and access.time.isoformat()[:10] > day:
            self._fault(day, sequence, "hidden: it is of a later day, where it is looked for")
        if access is not None and access.key:
            self._keyed(day, sequence, access.key)
        self.head = Head(sequence, digest)
        if access is not None and access.method == REMOVED and not access.caller:
            self.removed.append(access.answer)
        for wanted in self.wanted.pop(sequence, ()):
            if wanted.hash == digest:
                self.met += 1
            else:
                self._fault(day, sequence, _ANEW)

    def _keyed(self, day: str, sequence: int, key: str) -> None:
        """Hold the key under which a line stands against the one beside the log, or the last."""
        if self.own:
            if key != self.own and self.key is not False:  # told once
                self._fault(
                    day, sequence, "hidden: it is under another key than the one beside the log"
                )
            self.key = key == self.own and self.key is not False
        elif key != (self._under or key):
            self._fault(day, sequence, "hidden: it is under another key than the line before it")
        self._under = key

    def _read(self, day: str, sequence: int, text: str) -> Access | None:
        try:
            return read(text)
        except ValueError:
            self._fault(day, sequence, "changed: it is no line of an access log")
            return None

    def _found(self, day: str, connection: sqlite3.Connection, *, whole: bool) -> None:
        """Hold against the lines that by which they are found: it could hide some."""
        for (said,) in connection.execute("PRAGMA integrity_check(1)"):
            if said != "ok":
                self._fault(day, 0, f"the file is damaged: {said}")
                return
        (indexed,) = connection.execute("SELECT sequence FROM indexed").fetchone()
        if day != self.last and indexed < self.head.sequence:
            self._fault(day, indexed + 1, "hidden: who is named in it and after it finds none")
        for statement, what in _DISAGREE:
            rows = connection.execute(statement, {"whole": whole})
            for (sequence,) in itertools.islice(rows, MOST_FAULTS):
                self._fault(day, sequence, what)

    def end(self) -> None:
        """Hold the two ends against what is known of them."""
        begins = self.begins or START
        if begins != START and not any(said == f"up to {begins}" for said in self.removed):
            self._fault("", 0, f"{_lines(1, begins.sequence)}: missing, and no entry says why")
        for sequence, heads in sorted(self.wanted.items()):
            if sequence > self.head.sequence:
                self.lacks(heads[0])
            elif sequence > begins.sequence:
                self._fault("", sequence, "missing: it is a known head")
            elif sequence == begins.sequence:
                self.met += heads.count(begins)
                if any(head != begins for head in heads):
                    self._fault("", sequence, _ANEW)

    def lacks(self, head: Head) -> None:
        """Say that a known head is not reached."""
        text = f"cut off: it is a known head, and the last is {self.head}"
        self._fault("", head.sequence, text)

    def _fault(self, day: str, sequence: int, text: str) -> None:
        self.faults.append(Fault(day, sequence, text))


def _no_log(directory: Path) -> InvalidFieldError:
    return InvalidFieldError(
        f"{directory} holds no access log",
        field="DIRECTORY",
        remedy="name a node's data folder, or the one that holds 2022-01-10.db and the like",
    )


def _key_check(path: Path) -> str:
    try:
        return Digester(path.read_bytes()).check
    except OSError:
        return ""


def _lines(first: int, last: int) -> str:
    return f"line {first}" if first == last else f"lines {first} to {last}"
