"""What the store's tests say of one server holds of a cluster."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import secrets
from pathlib import Path

import pytest
import uvloop
from clusters import Cluster, Server
from storing import eventually, new
from waiting import until

from exchange.errors import StoreUnavailableError
from exchange.presence import subject_of
from nodes.store.attestations import AttestationStore
from nodes.store.changes import Changes
from nodes.store.cluster import slot_of
from nodes.store.keyspace import connect
from nodes.trial import free_ports

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
    # A server may be away for longer than the others wait for it, on a busy machine.
    options = ("--cluster-require-full-coverage", "no")
    with Cluster(tmp_path_factory.mktemp("cluster"), options=options) as started:
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


# --- what a cluster alone has -------------------------------------------------------------------


async def both_sides(cluster, tag):
    """A slot's server, another one, and the slot."""
    slot = slot_of((b"GET", tag))
    source = cluster.owner(slot)
    return slot, source, next(each for each in cluster.servers if each is not source)


def touched(cluster, record):
    """The servers that a publication changes, the journal's aside."""
    keys = (b"a:{%b}" % record.id, b"s:{%b}" % record.token)
    return {cluster.owner(slot_of((b"GET", key))) for key in keys}


def test_a_slot_is_the_servers_own(cluster):
    keys = [b"c", b"{c}i", b"{", b"}", b"{}", b"{}x", b"a{b", b"{{a}}b", b"}{a}{b}", b"\xff{\x00}"]
    keys += [secrets.token_bytes(40) + b"{" + secrets.token_bytes(8) + b"}" for _ in range(20)]
    for key in keys:
        assert slot_of((b"GET", key)) == cluster.servers[0].ask("CLUSTER KEYSLOT", key)
    assert slot_of((b"EVAL", b"", b"1", b"{c}x")) == slot_of((b"GET", b"c"))
    assert slot_of((b"XREAD", b"COUNT", b"1", b"STREAMS", b"c", b"0")) == slot_of((b"GET", b"c"))


async def test_a_key_is_found_while_its_slot_moves(cluster, raw):
    slot, source, target = await both_sides(cluster, b"t")
    await raw.ask([(b"SET", b"{t}old", b"1"), (b"SET", b"{t}older", b"0")])
    cluster.begin_move(slot, source, target)
    await raw.execute(b"SET", b"{t}new", b"2")
    assert target.ask("CLUSTER COUNTKEYSINSLOT", slot) == 1
    reads = [(b"GET", b"{t}old"), (b"GET", b"{t}new"), (b"GET", b"{t}none")] * 20
    assert await raw.ask(reads) == [b"1", b"2", None] * 20
    cluster.end_move(slot, source, target)
    assert await raw.ask(reads) == [b"1", b"2", None] * 20
    assert await raw.execute(b"GET", b"{t}older") == b"0"


async def test_a_script_waits_for_keys_that_lie_on_both_sides(cluster, raw):
    slot, source, target = await both_sides(cluster, b"t")
    await raw.execute(b"SET", b"{t}old", b"1")
    cluster.begin_move(slot, source, target)
    await raw.execute(b"SET", b"{t}new", b"2")
    script = b"return redis.call('GET', KEYS[1]) .. redis.call('GET', KEYS[2])"
    waiting = raw.execute(b"EVAL", script, b"2", b"{t}old", b"{t}new")
    asked = asyncio.ensure_future(waiting)
    await asyncio.sleep(0)
    cluster.end_move(slot, source, target)
    assert await asked == b"12"


async def test_what_is_refused_for_too_long_is_refused(cluster, raw):
    slot, source, target = await both_sides(cluster, b"t")
    await raw.execute(b"SET", b"{t}old", b"1")
    cluster.begin_move(slot, source, target)
    await raw.execute(b"SET", b"{t}new", b"2")
    script = b"return redis.call('GET', KEYS[1]) .. redis.call('GET', KEYS[2])"
    with pytest.raises(StoreUnavailableError) as refused:
        await raw.execute(b"EVAL", script, b"2", b"{t}old", b"{t}new")
    assert "again" in refused.value.remedy
    cluster.end_move(slot, source, target)


async def test_a_walk_misses_nobody_whose_slot_moves(cluster, store):
    """It says that it must begin again, while a slot moves, and where one has moved meanwhile."""
    records = [new() for _ in range(300)]
    await asyncio.gather(*map(store.publish, records))

    async def seen():
        return {key async for keys in store._subjects(b"10") for key in keys}

    assert len(await seen()) == 300
    slot, source, target = await both_sides(cluster, b"s:{%b}" % records[0].token)
    walk = store._subjects(b"10")
    await anext(walk)
    cluster.move([slot], target)
    with pytest.raises(StoreUnavailableError, match="moved"):
        async for _ in walk:
            pass
    assert (await store.lookup(records[0].token)).signed == [records[0].signed]  # it knows by now
    assert len(await seen()) == 300
    cluster.begin_move(slot, target, source)
    with pytest.raises(StoreUnavailableError, match="moved"):
        await seen()
    cluster.end_move(slot, target, source)

    async def found():
        return len(await seen()) == 300

    await eventually(found)


async def test_a_server_that_dies_fails_only_what_it_has_a_part_in(cluster, store):
    journal = cluster.owner(slot_of((b"GET", b"c")))
    dying = next(each for each in cluster.servers if each is not journal)
    records = [new() for _ in range(60)]
    parts = [dying in touched(cluster, record) for record in records]
    assert any(parts)
    assert not all(parts)
    lives = store.reads.lives
    dying.kill()
    results = await asyncio.gather(*map(store.publish, records), return_exceptions=True)
    assert [isinstance(each, StoreUnavailableError) for each in results] == parts
    assert all(each.remedy for each, part in zip(results, parts, strict=True) if part)
    dying.start()
    cluster.settle()

    async def healed():
        await asyncio.gather(*map(store.publish, records))
        return True

    await eventually(healed)
    held = await store.lookup_many([record.token for record in records])
    assert [each.signed for each in held] == [[record.signed] for record in records]
    assert store.reads.lives > lives


async def test_nobody_hears_of_what_a_dying_server_may_have_lost(cluster, store, changes):
    """The journal has what is on all its servers' disks, and nothing else."""
    journal = cluster.owner(slot_of((b"GET", b"c")))
    dying = next(each for each in cluster.servers if each is not journal)
    begun = await changes.end()
    records = [new() for _ in range(60)]
    dying.kill()
    results = await asyncio.gather(*map(store.publish, records), return_exceptions=True)
    entries = await changes.since(begun)
    heard = b"".join(entry.subjects for entry in entries)
    told = {heard[at : at + 8] for at in range(0, len(heard), 8)}
    done = {
        subject_of(record.token)
        for record, result in zip(records, results, strict=True)
        if not isinstance(result, BaseException)
    }
    assert told == done
    dying.start()
    cluster.settle()


async def test_a_claim_that_was_lost_is_not_acknowledged(cluster, store):
    """Its server comes back without it, before the rest is on the other servers' disks."""
    writes = store.writes._keyspace
    (reply,), (place,) = await writes.trace([(b"SET", b"claim", b"1")])
    assert reply == b"OK"
    dying = cluster.owner(slot_of((b"GET", b"claim")))
    dying.kill()
    dying.start()
    cluster.settle()
    await until("it is connected to again", lambda: place.server.lives > place.life)
    other = next(
        key for key in (b"x", b"y", b"z") if cluster.owner(slot_of((b"GET", key))) != dying
    )
    (reply,) = await writes.durable([(b"SET", other, b"1")], 0, [place])
    assert isinstance(reply, StoreUnavailableError)


async def test_every_primary_must_keep_what_it_is_given(cluster, empty):
    last = cluster.servers[-1]
    last.ask("CONFIG SET", "appendonly", "no")
    with pytest.raises(StoreUnavailableError, match="append-only"):
        await AttestationStore.open(cluster.url)
    last.ask("CONFIG SET", "appendonly", "yes")


async def test_replicas_that_are_not_there_confirm_nothing(empty):
    store = await AttestationStore.open(empty.url, replicas=1)
    with pytest.raises(StoreUnavailableError, match="too few replicas") as refused:
        await store.publish(new())
    assert "store.replicas" in refused.value.remedy
    await store.close()


async def test_a_slot_without_a_server_is_refused_at_the_start(cluster, empty):
    owner = cluster.owner(5)
    owner.ask("CLUSTER DELSLOTS", 5)
    with pytest.raises(StoreUnavailableError, match="primary"):
        await connect("redis+cluster://" + owner.address)
    owner.ask("CLUSTER ADDSLOTS", 5)
    cluster.settle()


async def test_a_cluster_is_known_by_any_of_its_servers(cluster):
    for server in cluster.servers:
        found = await connect(f"redis+cluster://127.0.0.1:1,{server.address}")
        assert {each.address.port for each in found.servers} == {s.port for s in cluster.servers}
        await found.close()


async def test_a_server_of_a_cluster_is_no_store_by_itself(cluster):
    with pytest.raises(StoreUnavailableError) as refused:
        await Changes.open(
            next(
                f"redis://{s.address}"
                for s in cluster.servers
                if s is not cluster.owner(slot_of((b"GET", b"c")))
            )
        )
    assert "redis+cluster" in refused.value.remedy


async def test_a_server_of_no_cluster_is_none(tmp_path):
    (port,) = free_ports(1)
    single = Server(tmp_path / "single", port)
    single.start()
    try:
        with pytest.raises(StoreUnavailableError, match="none of a cluster") as refused:
            await connect(f"redis+cluster://{single.address}")
        assert "redis://" in refused.value.remedy
    finally:
        single.kill()


async def test_all_servers_of_a_cluster_want_the_password(cluster, empty):
    for server in cluster.servers:
        server.ask("CONFIG SET", "requirepass", "right")
    try:
        store = await AttestationStore.open(cluster.url.replace("//", "//:right@"))
        records = [new() for _ in range(20)]
        await asyncio.gather(*map(store.publish, records))
        await store.close()
        with pytest.raises(StoreUnavailableError) as refused:
            await AttestationStore.open(cluster.url.replace("//", "//:wrongsecret@"))
        assert "password" in refused.value.remedy
        assert "wrongsecret" not in str(refused.value)
    finally:
        for server in cluster.servers:
            server.ask("CONFIG SET", "requirepass", "")
