"""An access log that only remembers: what the tests of the services look into."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import datetime

from exchange.errors import AuditUnavailableError
from nodes.audit.entries import Entry


class Recorded(list[Entry]):
    """A `nodes.audit.entries.Recorder`; while it is `failing`, it can record nothing."""

    failing = False

    def record(self, entry: Entry, /) -> None:
        if self.failing:
            raise AuditUnavailableError("it fails")
        self.append(entry)

    def record_all(self, entry: Entry, holders: Iterable[tuple[bytes, str]], /) -> None:
        for token, answer in holders:
            self.record(dataclasses.replace(entry, token=token, answer=answer))

    async def whose(self, target: str, at: datetime, tokens: Sequence[bytes]) -> bool | None:
        del at
        found = [entry.token for entry in self if entry.target == target and entry.token]
        return found[0] in tokens if found else None
