"""The doors that tests stand exchanges behind, and which a machine can open."""

from __future__ import annotations

import pytest

from exchange.errors import InvalidFieldError
from nodes.doors import envoy

__all__ = ["door_of", "need"]


def need(door: str) -> None:
    """Skip whatever needs a door that this machine cannot open: a Python without libpython, say."""
    if door == "envoy":
        try:
            envoy.require()
        except InvalidFieldError as error:
            pytest.skip(error.message)


def door_of(request: pytest.FixtureRequest) -> str:
    """The door that a fixture's exchange stands behind."""
    return getattr(request, "param", "grpcio")
