"""What the store's tests say of one server holds of a cluster."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
from pathlib import Path

import pytest
import uvloop
from clusters import Cluster

from nodes.store.attestations import AttestationStore
from nodes.store.changes import Changes
from nodes.store.keyspace import connect

MODULES = ("test_store", "test_statuses", "test_answers", "test_changes", "test_appeals")
FIXTURES = {"store", "raw", "changes", "statuses", "answers", "box"}
OF_ONE_SERVER = {
    "test_places_are_given_without_a_write_each": "it counts one server's commands",
    "test_own_records_and_peers_answers_come_in_one_round_trip": "they come in one for each server",
    "test_a_refusal_fails_its_own_call_and_names_no_argument": "it sends commands without a key",
    "test_a_call_whose_caller_gave_up_shifts_no_reply": "it sends commands without a key",
    "test_a_page_reads_little_more_than_it_gives": "it counts one server's commands",
    "test_a_tail_that_is_left_leaves_no_connection": "it looks at one server's",
    "test_a_killed_connection_ends_a_tail_and_another_continues": "it kills one server's",
}


def _bring_in() -> None:
    """Take over what needs no more of a server than commands."""
    for module in MODULES:
        path = Path(__file__).with_name(f"{module}.py")
        spec = importlib.util.spec_from_file_location(f"{module}_of_one_server", path)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        for name, value in vars(loaded).items():
            if name in {"statuses", "answers", "box"}:
                globals()[name] = value
            elif name.startswith("test_") and inspect.iscoroutinefunction(value):
                marks = [
                    mark for mark in getattr(value, "pytestmark", ()) if mark.name == "parametrize"
                ]
                given = {each.strip() for mark in marks for each in _names(mark.args[0])}
                needs = set(inspect.signature(value).parameters) - given
                if needs and needs <= FIXTURES and name not in OF_ONE_SERVER:
                    globals()[f"{module}_{name.removeprefix('test_')}"] = value


def _names(names: str | tuple[str, ...]) -> list[str]:
    return names.split(",") if isinstance(names, str) else list(names)


_bring_in()


class Everywhere:
    """A connection of the test's own, which knows some commands without a key, too."""

    def __init__(self, keyspace):
        self._keyspace = keyspace

    async def execute(self, *command):
        if command[0] == b"DEL":
            return await self._keyspace.ask([(b"DEL", key) for key in command[1:]])
        if command[0] not in {b"KEYS", b"FLUSHALL"}:
            return await self._keyspace.execute(*command)
        servers = self._keyspace.servers
        replies = await asyncio.gather(*(server.execute(*command) for server in servers))
        return [key for reply in replies for key in reply] if command[0] == b"KEYS" else replies

    def __getattr__(self, name):
        return getattr(self._keyspace, name)


@pytest.fixture
def event_loop_policy():
    return uvloop.EventLoopPolicy()  # as the node runs


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def empty(cluster):
    for server in cluster.servers:
        server.ask("FLUSHALL")
    return cluster


@pytest.fixture
async def store(empty):
    opened = await AttestationStore.open(empty.url, "510000")
    yield opened
    await opened.close()


@pytest.fixture
async def raw(empty):
    opened = Everywhere(await connect(empty.url))
    yield opened
    await opened.close()


@pytest.fixture
async def changes(empty):
    opened = await Changes.open(empty.url)
    yield opened
    await opened.close()
