"""The files of the access log: one SQLite database a day (UTC), ``2022-01-10.db``."""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from nodes.audit.chain import START, Access, Head, read

__all__ = ["Days", "Line", "Page", "Place", "files", "newest", "reading"]

_NAME = re.compile(r"\d{4}-\d\d-\d\d\.db")
_CHUNK: Final = 256
"""Rows in one statement. SQLite gives up the GIL for each statement, and a busy event loop takes
up to 5 ms to give it back: row by row, some 200 could be written a second."""

_TIME: Final = "json_extract(line, '$.time')"
_INDEX_AT: Final = 50_000
"""Holders in lines that wait until `seen` names them: many at once, in its order, take a third of
the time that they take one by one."""

# All else is made from the lines: nothing lies beside one that its hash does not cover, but what
# finds it again, which `verify` holds against it.
_SCHEMA: Final = """
CREATE TABLE start (sequence INTEGER NOT NULL, hash BLOB NOT NULL);
CREATE TABLE accesses (sequence INTEGER PRIMARY KEY, line TEXT NOT NULL, hash BLOB NOT NULL);
CREATE INDEX times ON accesses (json_extract(line, '$.time'));
CREATE TABLE seen (
    holder TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (holder, sequence)
) WITHOUT ROWID;
CREATE TABLE indexed (sequence INTEGER NOT NULL);
"""


class Line(NamedTuple):
    """One line on its way to its file. A tuple: one is made for every access.

    :param day: ``2022-01-10``.
    """

    day: str
    sequence: int
    text: str
    hash: bytes
    holders: int
    """How many it names."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in the list, newest first: what comes after it is older, and less.

    :param day: of the file.
    :param time: as the line bears it.
    :param log: of several that are read as one: its number.
    """

    day: str
    time: str
    log: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some accesses, the newest first.

    :param places: where each lies.
    :param more: whether others follow.
    """

    accesses: Sequence[Access]
    places: Sequence[Place]
    more: bool

    @property
    def after(self) -> Place | None:
        """Where to go on; None where nothing is left."""
        return self.places[-1] if self.more else None


def files(directory: Path) -> list[Path]:
    """The days' files, the oldest first.

    :raises OSError: the directory cannot be read.
    """
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Read a day's file, whether a node writes it or not.

    :raises sqlite3.Error: it cannot be read.
    """
    # Without a log beside it, nobody writes it, and nothing need be made beside it to read it.
    how = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    uri = f"{path.resolve().as_uri()}?{how}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        yield connection


class Days:
    """Writes them; the day that is written stays open. Used by one thread at a time.

    :param directory: where they lie.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: tuple[str, sqlite3.Connection] | None = None
        self._file: tuple[int, int] | None = None
        """Device and inode of the file that is open."""
        self._unindexed = 0
        """Holders in lines that `seen` does not name yet, about."""

    def head(self) -> Head:
        """The last line that is written.

        :raises sqlite3.Error: the last day's file cannot be read.
        """
        found = files(self._directory)
        return _end(self._connect(found[-1].stem, START)) if found else START

    def key(self) -> str:
        """Under which key the last line was written (`nodes.audit.chain.Access.key`).

        :return: "" where it does not say.
        :raises sqlite3.Error: or OSError: a day's file cannot be read.
        """
        for path in reversed(files(self._directory)):
            with reading(path) as connection:
                row = connection.execute(
                    "SELECT CASE WHEN json_valid(line) THEN json_extract(line, '$.key') END "
                    "FROM accesses ORDER BY sequence DESC LIMIT 1"
                ).fetchone()
            if row is not None:
                return str(row[0] or "")
        return ""

    def write(self, lines: Sequence[Line], before: Head) -> None:
        """Write lines in their order; on disk when this returns.

        A line whose day is before the last file's goes into that: the clock was put back.

        :param before: what the first of them follows.
        :raises sqlite3.Error: or OSError: none or only the first days' are written; a second call
            with the same lines writes the rest.
        """
        try:
            for day, group in itertools.groupby(lines, lambda line: line.day):
                rows = list(group)
                connection = self._connect(day, before)
                before = Head(rows[-1].sequence, rows[-1].hash)
                end = _end(connection)
                _check_ours(end, lines)
                rows = [row for row in rows if row.sequence > end.sequence]
                connection.execute("BEGIN IMMEDIATE")
                for at in range(0, len(rows), _CHUNK):
                    _insert(connection, rows[at : at + _CHUNK])
                connection.execute("COMMIT")
                self._unindexed += sum(row.holders for row in rows)
                if self._unindexed >= _INDEX_AT:
                    self._unindexed = _index(connection)
        except BaseException:
            # Opened anew at the next try: the disk may have become another.
            self.close()
            raise

    def index(self) -> None:
        """Let every line that is written be found by its holders; `list` does not see to it.

        :raises sqlite3.Error: it could not be done.
        """
        # Each that waits for the one before finds nothing left: a crowd costs one fsync.
        if self._open is not None and self._unindexed:
            self._unindexed = _index(self._open[1])

    def remove(self, day: str) -> None:
        """Remove a whole day.

        :raises OSError: it cannot be removed.
        """
        path = self._path(day)
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def end(self, day: str) -> Head:
        """The last line of a day that is not being written.

        :raises sqlite3.Error: its file cannot be read, or is a later day's under another name.
        """
        with reading(self._path(day)) as connection:
            (newest,) = connection.execute(f"SELECT max({_TIME}) FROM accesses").fetchone()  # noqa: S608 - a constant
            if str(newest or "")[:10] > day:
                raise sqlite3.DatabaseError(f"{day}.db holds lines of {str(newest)[:10]}")
            return _end(connection)

    def close(self) -> None:
        """Close the day that is open."""
        if self._open is not None:
            with contextlib.suppress(sqlite3.Error):
                self._open[1].close()
            self._open = None

    def _connect(self, day: str, before: Head) -> sqlite3.Connection:
        if (
            self._open is not None
            and self._open[0] >= day
            # SQLite writes on, for nobody, into a file that was removed.
            and _identity(self._path(self._open[0])) == self._file
        ):
            return self._open[1]
        self.close()
        there = files(self._directory)
        path = max([self._path(day), *there[-1:]])
        if path not in there:
            if there:
                with contextlib.closing(_connect(there[-1])) as last:
                    _index(last)
            _make(path, before)
        connection = _connect(path)
        self._open, self._file = (path.stem, connection), _identity(path)
        self._unindexed = _INDEX_AT  # whatever was left
        return connection

    def _path(self, day: str) -> Path:
        return self._directory / f"{day}.db"


def newest(
    directory: Path,
    log: int,
    holders: Sequence[str] | None,
    start: str,
    end: str,
    limit: int,
    after: Place | None,
    target: str,
) -> list[tuple[Place, Access]]:
    """Some of a log's accesses and their places, the newest first. Safe in any thread and process.

    :param log: its number, for the places.
    :param holders: digests of one holder's tokens; None for everybody's.
    :param start: from this time on, as lines bear it, or "".
    :param end: before this time, or "".
    :param limit: at most so many.
    :param after: where to go on.
    :param target: only those with this one, or ""; with it, bound the times: none is indexed.
    :raises sqlite3.Error: or OSError: a file cannot be read.
    """
    found: list[tuple[Place, Access]] = []
    for path in reversed(files(directory)):
        if (after is not None and path.stem > after.day) or path.stem < start[:10]:
            # A line may lie in a later day's file than its own, never in an earlier one.
            continue
        within = after if after is not None and path.stem == after.day else None
        found += [
            (Place(path.stem, _stamped(each), log, each.sequence), each)
            for each in _read(path, holders, start, end, limit - len(found), within, target)
        ]
        if len(found) == limit:
            break
    return found


def _read(path: Path, *what: Any) -> list[Access]:
    """Read one day's file, which another process may close or remove this moment."""
    for last in (False, True):
        try:
            with reading(path) as connection:
                return _select(connection, *what)
        except sqlite3.Error:
            if not path.exists():
                break
            if last:
                raise
    return []


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _make(path: Path, before: Head) -> None:
    """Make a day's file: under its name it is whole."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(new)) as connection:
        new.chmod(0o600)
        connection.executescript(_SCHEMA)
        with connection:
            connection.execute("INSERT INTO start VALUES (?, ?)", (before.sequence, before.hash))
            connection.execute("INSERT INTO indexed VALUES (?)", (before.sequence,))
    new.rename(path)


def _end(connection: sqlite3.Connection) -> Head:
    row = connection.execute(
        "SELECT sequence, hash FROM accesses ORDER BY sequence DESC LIMIT 1"
    ).fetchone()
    row = row or connection.execute("SELECT sequence, hash FROM start").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("a day's file has no head: neither a line nor a start")
    return Head(*row)


def _check_ours(end: Head, lines: Sequence[Line]) -> None:
    """See that what lies in a file already of some lines is these lines.

    :raises sqlite3.DatabaseError: others stand in their places, and they would be lost.
    """
    at = end.sequence - lines[0].sequence
    if at >= 0 and (at >= len(lines) or lines[at].hash != end.hash):
        raise sqlite3.DatabaseError("somebody else wrote into the day's file")


def _index(connection: sqlite3.Connection) -> int:
    """Name in `seen` the holders of all lines; how many are left, which is 0."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "INSERT OR IGNORE INTO seen SELECT value, sequence "
            "FROM accesses, json_each(line, '$.holders') "
            "WHERE sequence > (SELECT sequence FROM indexed) ORDER BY value, sequence"
        )
        connection.execute("UPDATE indexed SET sequence = ?", (_end(connection).sequence,))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return 0


def _insert(connection: sqlite3.Connection, rows: Sequence[Line]) -> None:
    values = ",".join(["(?,?,?)"] * len(rows))
    parameters = [value for row in rows for value in (row.sequence, row.text, row.hash)]
    connection.execute(f"INSERT INTO accesses VALUES {values}", parameters)  # noqa: S608 - marks


def _select(
    connection: sqlite3.Connection,
    holders: Sequence[str] | None,
    start: str,
    end: str,
    limit: int,
    after: Place | None,
    target: str,
) -> list[Access]:
    source, where = "accesses", ["1"]
    parameters: list[str | int] = []
    if holders is not None:
        marks = ",".join("?" * len(holders))
        # CROSS: SQLite is not to go through everybody's accesses for the few of one holder. Those
        # that `seen` does not name yet are another process's, which that one alone may index.
        source = (
            f"(SELECT sequence FROM seen WHERE holder IN ({marks}) UNION "  # noqa: S608 - marks
            "SELECT sequence FROM accesses, json_each(line, '$.holders') "
            f"WHERE sequence > (SELECT sequence FROM indexed) AND value IN ({marks})) "
            "CROSS JOIN accesses USING (sequence)"
        )
        parameters += (*holders, *holders)
    for bound, condition in (
        (start, f"{_TIME} >= ?"),
        (end, f"{_TIME} < ?"),
        (target, "json_extract(line, '$.target') = ?"),
    ):
        if bound:
            where.append(condition)
            parameters.append(bound)
    if after is not None:
        where.append(f"({_TIME}, sequence) < (?, ?)")
        parameters += (after.time, after.sequence)
    rows = connection.execute(
        f"SELECT line FROM {source} WHERE {' AND '.join(where)} "  # noqa: S608 - marks and names
        f"ORDER BY {_TIME} DESC, sequence DESC LIMIT ?",
        (*parameters, limit),
    )
    return [read(text) for (text,) in rows]


def _stamped(access: Access) -> str:
    return access.time.isoformat(timespec="microseconds")[:26] + "Z"
