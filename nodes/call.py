"""What a service knows of the call that it answers, whatever door it came through."""

from __future__ import annotations

from dataclasses import dataclass

from nodes.identity import Identity

__all__ = ["Call"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call: who calls, under which request id, and until when (event-loop time, seconds)."""

    caller: Identity
    request_id: str
    deadline: float | None = None

    def budget(self, now: float, most: float) -> float:
        """Seconds to spend on others: four fifths of what the caller leaves, ``most`` at most."""
        if self.deadline is None:
            return most
        return max(0.0, min(most, (self.deadline - now) * 0.8))
