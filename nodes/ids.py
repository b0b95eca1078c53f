"""New ids: UUIDv7 (RFC 9562 §5.7), which sort by the time at which they were made."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID

__all__ = ["made_at", "new_id"]


def new_id(now: datetime) -> UUID:
    """Make an id that nobody can guess: 48 bits of milliseconds and 74 random ones.

    :param now: aware.
    """
    high = int(now.timestamp() * 1000) << 16 | 0x7000 | secrets.randbits(12)
    return UUID(int=high << 64 | 1 << 63 | secrets.randbits(62))


def made_at(id_: UUID) -> datetime:
    """When `new_id` made an id, cut to the millisecond.

    :raises OverflowError: it lies beyond the year 9999.
    """
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=id_.int >> 80)
