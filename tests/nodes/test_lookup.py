"""Who is asked, what is at hand, and what becomes of peers that are slow, dead or lying.

The peers are real gRPC servers behind real TLS; what is known of their changes, and what was kept
of their answers, are small objects of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import secrets
import uuid
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from waiting import until

from exchange import attestations
from exchange.attestations import LIFE, Attestation, Holder, Issuer
from exchange.facts import NucleicAcidTest, TestResult
from exchange.keys import Algorithm, PrivateKey
from exchange.presence import PresenceFilter, subject_of
from exchange.recognition import MOST_PER_PROVINCE
from exchange.subjects import DocumentType
from exchange.trust.profile import Profile
from exchange.trust.trustlist import TrustList
from exchange.v1 import peer_service_pb2 as pb
from nodes.call import Call
from nodes.identity import Identity, Role, issue, make_authority
from nodes.peers import links, lookup
from nodes.peers.breaker import CircuitBreaker
from nodes.peers.kept import MARK_BYTES, RecentChanges
from nodes.peers.links import LARGEST_ANSWER, MOST_IN_FLIGHT, MOST_WAYS, PeerLinks
from nodes.peers.lookup import (
    KEPT_SECONDS,
    LARGEST_KEPT,
    LARGEST_SUBJECT,
    MOST_TOKENS,
    Lookup,
)
from nodes.peers.memory import Memory
from nodes.tlsfiles import TlsFiles

HOME, SICHUAN, HUBEI, SHANGHAI = "440000", "510000", "420000", "310000"
PEERS = (SICHUAN, HUBEI, SHANGHAI)
NOW = datetime(2022, 1, 10, 4, 0, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


def token() -> bytes:
    return (1).to_bytes(4) + secrets.token_bytes(32)


KEY = PrivateKey.generate(Algorithm.EDDSA)


@functools.cache
def attested(of: bytes, name: str = "", province: str = SICHUAN) -> bytes:
    """A signed attestation of a token; whose key signed it is not this module's business."""
    fact = NucleicAcidTest(NOW - HOUR, TestResult.NEGATIVE)
    attestation = Attestation(
        id=uuid.UUID(int=7 << 76 | 2 << 62),
        province=province,
        token=of,
        fact=fact,
        issuer=Issuer("91510100MA61RHGX7P", "锦城医学检验所"),
        holder=Holder(name, DocumentType.RESIDENT_ID, "51**************21"),
        issued_at=NOW - HOUR / 2,
        expires_at=fact.sampled_at + LIFE[fact.kind],
        data_as_of=fact.sampled_at,
    )
    return attestations.sign(attestation, KEY)


def answer(*subjects: pb.SubjectAttestations) -> bytes:
    return pb.FetchAttestationsResponse(subjects=subjects).SerializeToString()


class Sync:
    """What is known of one peer by its changes."""

    def __init__(self, *present: bytes) -> None:
        self.as_of: datetime | None = NOW
        self.filter = PresenceFilter.sized(1000)
        self.recent = RecentChanges(Memory.own(RecentChanges.SIZE).view)
        self.mark, self.unchanged = self.recent.mark, self.recent.unchanged
        self.recent.begin()
        for each in present:
            self.filter.add(subject_of(each))

    def perhaps(self, subject: bytes) -> bool:
        return self.as_of is None or subject in self.filter

    def hear(self, changed: bytes) -> None:
        """A change arrives."""
        subject = subject_of(changed)
        self.recent.next()
        self.recent.note(subject)
        self.filter.add(subject)


class Kept:
    """What peers answered before; a read may be held up on its way back."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, bytes], bytes] = {}
        self.expires: list[int] = []
        self.reads = 0
        self.on_read = lambda: None

    async def get(self, subjects):
        self.reads += 1
        found = [
            {province: value for (province, of), value in self.held.items() if of == subject}
            for subject in subjects
        ]
        await asyncio.sleep(0)
        self.on_read()
        return found

    def put(self, province, subject, answer, expires):
        self.held[province, subject] = answer
        self.expires.append(expires)


class Node:
    """A province's node, which answers as the test says."""

    def __init__(self, province: str, server: grpc.aio.Server, port: int) -> None:
        self.province = province
        self.address = f"127.0.0.1:{port}"
        self.server = server
        self.holds: dict[bytes, pb.SubjectAttestations] = {}
        self.asked: list[list[bytes]] = []
        self.purposes: list[int] = []
        self.request_ids: list[str] = []
        self.at_once = self.most_at_once = 0
        self.answers = self.honestly

    async def fetch(self, request, context):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.asked.append(list(request.subject_tokens))
        self.purposes.append(request.purpose)
        self.request_ids.append(dict(context.invocation_metadata())["x-request-id"])
        try:
            return await self.answers(request, context)
        finally:
            self.at_once -= 1

    async def honestly(self, request, _context):
        nothing = pb.SubjectAttestations()
        return answer(*(self.holds.get(each, nothing) for each in request.subject_tokens))

    async def never(self, _request, _context):
        await asyncio.Event().wait()

    async def refuses(self, _request, context):
        await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")


class World:
    """Guangdong's lookup, and the other provinces' nodes."""

    def __init__(self, directory) -> None:
        self.now = NOW
        self.authorities = {
            code: make_authority(code, now=datetime.now(UTC), lifetime=HOUR)
            for code in (HOME, *PEERS)
        }
        self.directory = directory
        self.nodes: dict[str, Node] = {}
        self.others: list[Node] = []
        self.syncs: dict[str, Sync] = {}
        self.kept = Kept()
        self.call = Call(Identity(HOME, Role.APP, "app"), "request-588")
        certificate, key = self.pair(HOME)
        (directory / "node.pem").write_bytes(certificate)
        (directory / "node-key.pem").write_bytes(key)
        tls = TlsFiles(directory / "node.pem", directory / "node-key.pem")
        self.links = PeerLinks(HOME, tls)
        self.lookup = self.made()

    def made(self, timeout=5.0, processes=1) -> Lookup:
        return Lookup(
            province=HOME,
            links=self.links,
            syncs=self.syncs,
            answers=self.kept,
            timeout=timeout,
            cached_seconds=3600,
            presence_hours=24,
            clock=lambda: self.now,
            processes=processes,
        )

    def pair(self, province):
        identity = Identity(province, Role.NODE, "node-1")
        return issue(self.authorities[province], identity, now=datetime.now(UTC), lifetime=HOUR / 2)

    async def open(self, province: str, port: int = 0, of: str = "") -> Node:
        certificate, key = self.pair(of or province)
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)], self.authorities[HOME].certificate, require_client_auth=True
        )
        node = Node(province, server, server.add_secure_port(f"127.0.0.1:{port}", credentials))
        method = grpc.unary_unary_rpc_method_handler(
            node.fetch, pb.FetchAttestationsRequest.FromString
        )
        name = "tongxing.v1.PeerService"
        service = grpc.method_handlers_generic_handler(name, {"FetchAttestations": method})
        server.add_generic_rpc_handlers((service,))
        await server.start()
        self.others.append(node)
        return node

    def trust(self, *, unusable=(), **addresses) -> TrustList:
        """The trust list: every node at its address, or at those given: ``p510000=(…)``."""
        profiles = {HOME: self.profile(HOME, ("127.0.0.1:1",))}
        for code, node in self.nodes.items():
            if code not in unusable:
                where = addresses.get(f"p{code}", (node.address,))
                profiles[code] = self.profile(code, where)
        return TrustList(1, 1, NOW + HOUR, profiles, dict.fromkeys(unusable, "ended"))

    def profile(self, province, addresses):
        return Profile(province, (), self.authorities[province].certificate.decode(), addresses)

    async def ask(self, *tokens, trust=None, call=None):
        return await self.lookup.lookup(tokens, call or self.call, trust or self.trust())

    def calls(self):
        """By province, the calls that arrived since this was last asked; without those of none."""
        found = {code: len(node.asked) for code, node in self.nodes.items() if node.asked}
        for node in self.nodes.values():
            node.asked.clear()
        return found

    def publish(self, province, holder, *signed, revoked=()):
        self.nodes[province].holds[holder] = pb.SubjectAttestations(
            signed_attestations=signed, revoked_attestations=revoked
        )


@pytest.fixture
async def world(tmp_path):
    made = World(tmp_path)
    for code in PEERS:
        made.nodes[code] = await made.open(code)
        made.syncs[code] = Sync()
    made.links.follow(made.trust())
    yield made
    await made.links.close()
    await asyncio.gather(*(node.server.stop(None) for node in made.others))


async def asked_until(world, holder, holds, seconds=30):
    """Ask again until Sichuan's answer is as it should be."""
    end = asyncio.get_running_loop().time() + seconds
    while not holds(found := (await world.ask(holder))[SICHUAN][0]):
        assert asyncio.get_running_loop().time() < end, found
        await asyncio.sleep(0.01)
    return found


# Who is asked.


async def test_nobody_is_asked_whose_filter_says_no(world):
    holder = token()
    found = await world.ask(holder)
    assert list(found) == sorted(PEERS)
    for (each,) in found.values():
        assert (list(each.signed), list(each.revoked), each.as_of) == ([], [], NOW)
        assert (each.calls, each.circuit_open, each.readable) == (0, False, True)
    assert world.calls() == {}
    assert world.kept.reads == 0


async def test_what_the_filters_alone_answer_is_known_without_waiting(world):
    holder, other = token(), token()
    looking = world.lookup.begin([holder], world.trust())
    assert looking.done
    assert looking.found == await world.ask(holder)
    world.syncs[SICHUAN] = Sync(holder)
    for tokens in ([holder], [other, holder]):
        looking = world.lookup.begin(tokens, world.trust())
        assert not looking.done
        assert SICHUAN not in looking.found
    many = [token() for _ in range(65)]
    assert not world.lookup.begin(many, world.trust()).done  # it would hold the others up
    assert holder.hex() not in repr(looking)
    assert repr(holder) not in repr(looking)


async def test_only_the_province_that_can_know_is_asked(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, b"one", b"two", revoked=[b"three"])
    found = await world.ask(holder)
    assert world.calls() == {SICHUAN: 1}
    (sichuan,) = found[SICHUAN]
    assert (sichuan.signed, sichuan.revoked) == ([b"one", b"two"], [b"three"])
    assert (sichuan.as_of, sichuan.calls) == (None, 1)
    assert found[HUBEI][0].as_of == NOW
    assert world.nodes[SICHUAN].request_ids == ["request-588"]


async def test_the_province_that_is_asked_is_told_what_for(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    await world.lookup.lookup([holder], world.call, world.trust(), 1)
    assert world.nodes[SICHUAN].purposes == [1]


async def test_a_province_hears_only_of_those_whom_it_may_know(world):
    strangers, known = [token() for _ in range(40)], [token() for _ in range(3)]
    world.syncs[SICHUAN] = Sync(*known)
    for each in known:
        world.publish(SICHUAN, each, b"of " + each)
    asked = [*strangers[:20], *known, *strangers[20:], known[0]]
    found = await world.ask(*asked)
    assert world.nodes[SICHUAN].asked == [[*known, known[0]]]
    assert not world.nodes[HUBEI].asked
    for each, of in zip(asked, found[SICHUAN], strict=True):
        assert list(of.signed) == ([b"of " + each] if each in known else [])
        assert of.calls == (each in known)


async def test_a_province_that_was_never_synchronised_is_asked_each_time(world):
    del world.syncs[SICHUAN]
    world.syncs[HUBEI].as_of = None
    holder = token()
    world.publish(SICHUAN, holder, b"one")
    for _ in range(2):
        found = await world.ask(holder)
        assert world.calls() == {SICHUAN: 1, HUBEI: 1}
        assert found[SICHUAN][0].signed == [b"one"]
        assert (found[HUBEI][0].signed, found[HUBEI][0].as_of) == ([], None)


async def test_a_province_that_the_trust_list_cannot_vouch_for_is_not_asked(world):
    trust = world.trust(unusable=(SICHUAN,))
    world.syncs[SICHUAN].as_of = None
    world.links.follow(trust)
    found = await world.ask(token(), trust=trust)
    assert set(found) == set(PEERS)
    assert found[SICHUAN][0].signed is None
    assert world.calls() == {}


async def test_a_province_without_an_address_gives_no_answer(world):
    trust = world.trust(p510000=())
    world.syncs[SICHUAN].as_of = None
    world.links.follow(trust)
    assert (await world.ask(token(), trust=trust))[SICHUAN][0].signed is None


async def test_a_batch_goes_in_calls_whose_answers_have_room(world):
    holders = [token() for _ in range(MOST_TOKENS * 3 // 2)]
    del world.syncs[SICHUAN]
    for at in (0, MOST_TOKENS, MOST_TOKENS + 99):
        world.publish(SICHUAN, holders[at], b"%d" % at)
    found = await world.ask(*holders)
    assert sorted(map(len, world.nodes[SICHUAN].asked)) == [MOST_TOKENS // 2, MOST_TOKENS]
    assert {at: each.signed for at, each in enumerate(found[SICHUAN]) if each.signed} == {
        at: [b"%d" % at] for at in (0, MOST_TOKENS, MOST_TOKENS + 99)
    }
    assert [len(each) for each in found.values()] == [len(holders)] * 3


# What is at hand.


async def test_an_answer_is_kept_and_then_at_hand(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    one, two = attested(holder, "one"), attested(holder, "two")
    world.publish(SICHUAN, holder, one, revoked=[two])
    await world.ask(holder)
    assert world.calls() == {SICHUAN: 1}
    world.now += 10 * SECOND
    world.syncs[SICHUAN].as_of = world.now
    (sichuan,) = (await world.ask(holder))[SICHUAN]
    assert world.calls() == {}
    assert (sichuan.signed, sichuan.revoked) == ([one], [two])
    assert (sichuan.as_of, sichuan.calls) == (world.now, 0)
    assert world.kept.expires[0] > NOW.timestamp()


async def test_nothing_of_a_holder_of_whom_a_filter_was_wrong_is_kept_too(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    for calls in (1, 0):
        (sichuan,) = (await world.ask(holder))[SICHUAN]
        assert (sichuan.signed, sichuan.calls) == ([], calls)


async def test_of_many_only_those_are_asked_for_who_are_not_at_hand(world):
    holders = [token() for _ in range(8)]
    world.syncs[SICHUAN] = Sync(*holders)
    for each in holders:
        world.publish(SICHUAN, each, attested(each))
    await world.ask(*holders[:4])
    world.calls()
    found = await world.ask(*holders)
    assert world.nodes[SICHUAN].asked == [holders[4:]]
    assert [each.signed for each in found[SICHUAN]] == [[attested(each)] for each in holders]
    assert [each.calls for each in found[SICHUAN]] == [0] * 4 + [1] * 4


async def test_a_change_ends_what_is_at_hand(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, attested(holder))
    await world.ask(holder)
    world.publish(SICHUAN, holder, revoked=[attested(holder)])
    world.syncs[SICHUAN].hear(holder)
    (sichuan,) = (await world.ask(holder))[SICHUAN]
    assert (sichuan.signed, sichuan.revoked, sichuan.calls) == ([], [attested(holder)], 1)


async def test_an_answer_that_a_change_overtakes_does_not_count_again(world):
    """The peer reads, something changes, the change is heard, and only then the answer arrives."""
    holder, other = token(), token()
    sync = world.syncs[SICHUAN] = Sync(holder, other)
    world.publish(SICHUAN, holder, attested(holder))
    world.publish(SICHUAN, other, attested(other))
    node, read, heard = world.nodes[SICHUAN], asyncio.Event(), asyncio.Event()

    async def late(request, context):
        said = await node.honestly(request, context)
        read.set()
        await heard.wait()
        return said

    node.answers = late
    asking = asyncio.create_task(world.ask(holder, other))
    await read.wait()
    world.publish(SICHUAN, holder, revoked=[attested(holder)])
    sync.hear(holder)
    heard.set()
    first, second = (await asking)[SICHUAN]
    assert (first.signed, second.signed) == ([attested(holder)], [attested(other)])
    node.answers = node.honestly
    first, second = (await world.ask(holder, other))[SICHUAN]
    assert (first.signed, first.revoked, first.calls) == ([], [attested(holder)], 1)
    assert (second.signed, second.calls) == ([attested(other)], 0)


async def test_what_is_at_hand_does_not_count_where_a_change_overtakes_it(world):
    """The store has answered, and while its answer is on the way the change is heard."""
    holder = token()
    sync = world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, attested(holder))
    await world.ask(holder)
    world.publish(SICHUAN, holder, revoked=[attested(holder)])
    world.kept.on_read = lambda: sync.hear(holder)
    (sichuan,) = (await world.ask(holder))[SICHUAN]
    assert (sichuan.signed, sichuan.revoked, sichuan.calls) == ([], [attested(holder)], 1)


@pytest.mark.parametrize("how", ["begun anew", "another filter", "gone", "only begun"])
async def test_no_answer_counts_where_the_changes_since_are_not_known(world, how):
    holder = token()
    sync = world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, attested(holder))
    node = world.nodes[SICHUAN]

    async def meanwhile(request, context):
        if how == "begun anew":
            sync.recent.begin()
        else:
            world.syncs[SICHUAN] = Sync(holder)
        return await node.honestly(request, context)

    if how == "gone":
        del world.syncs[SICHUAN]
    elif how == "only begun":
        sync.recent = RecentChanges(Memory.own(RecentChanges.SIZE).view)
        sync.mark, sync.as_of = sync.recent.mark, None
    node.answers = meanwhile
    assert (await world.ask(holder))[SICHUAN][0].signed == [attested(holder)]
    node.answers = node.honestly
    assert (await world.ask(holder))[SICHUAN][0].calls == 1
    assert (await world.ask(holder))[SICHUAN][0].calls == 0


async def test_what_is_at_hand_counts_only_so_long_after_the_last_word(world):
    holder, stranger = token(), token()
    world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, attested(holder))
    await world.ask(holder)
    await world.nodes[SICHUAN].server.stop(None)
    world.now = NOW + HOUR
    (sichuan,) = (await world.ask(holder))[SICHUAN]
    assert (sichuan.signed, sichuan.as_of) == ([attested(holder)], NOW)
    world.now += SECOND
    (sichuan,) = (await world.ask(holder))[SICHUAN]
    assert sichuan.signed is None
    assert (await world.ask(stranger))[SICHUAN][0].as_of == NOW


async def test_no_record_by_a_filter_counts_only_so_long_after_the_last_word(world):
    for code in (HUBEI, SHANGHAI):
        world.syncs[code].as_of = NOW + 24 * HOUR
    await world.nodes[SICHUAN].server.stop(None)
    world.now = NOW + 24 * HOUR
    assert (await world.ask(token()))[SICHUAN][0].as_of == NOW
    world.now += SECOND
    (sichuan,) = (await world.ask(token()))[SICHUAN]
    assert (sichuan.signed, sichuan.as_of) == (None, None)
    assert sichuan.calls > 0


async def test_an_answer_of_another_holder_with_the_same_fingerprint_is_not_taken(world):
    holder = token()
    twin = holder[:12] + secrets.token_bytes(24)
    assert subject_of(twin) == subject_of(holder)
    world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, attested(holder))
    await world.ask(holder)
    (sichuan,) = (await world.ask(twin))[SICHUAN]
    assert (sichuan.signed, sichuan.calls) == ([], 1)


@pytest.mark.parametrize(
    "garbage", [b"", b"\xff", b"\x0a\x05abc", b"\0" * 35], ids=["empty", "byte", "cut", "zeros"]
)
@pytest.mark.parametrize("with_token", [True, False])
async def test_garbage_in_the_store_is_as_good_as_nothing(world, garbage, with_token):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, b"one")
    mark = world.syncs[SICHUAN].mark()
    stored = mark + holder + garbage if with_token else garbage
    world.kept.held[SICHUAN, subject_of(holder)] = stored
    (sichuan,) = (await world.ask(holder))[SICHUAN]
    if stored == mark + holder:  # whole: of somebody of whom nothing is known
        assert (sichuan.signed, sichuan.as_of) == ([], NOW)
    else:
        assert (sichuan.signed, sichuan.calls) == ([b"one"], 1)


async def test_a_province_that_is_no_peer_in_the_store_says_nothing(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    for province in ("999999", HOME, HUBEI):
        mark = world.syncs[SICHUAN].mark()
        world.kept.held[province, subject_of(holder)] = mark + holder
    found = await world.ask(holder)
    assert set(found) == set(PEERS)
    assert found[SICHUAN][0].calls == 1


async def test_too_large_an_answer_is_not_kept(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    many = [attested(holder, "m" * (LARGEST_KEPT // 16))] * 16
    world.publish(SICHUAN, holder, *many)
    for _ in range(2):
        (sichuan,) = (await world.ask(holder))[SICHUAN]
        assert (sichuan.signed, sichuan.calls) == (many, 1)
    assert world.kept.held == {}


STRANGER = token()


@pytest.mark.parametrize("revoked", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda _holder: secrets.token_bytes(1000),
        lambda holder: attested(holder)[:-1],
        lambda _holder: attested(STRANGER),
        lambda holder: attested(holder, province=HUBEI),
    ],
    ids=["noise", "cut short", "of a stranger", "of another province"],
)
async def test_what_is_no_attestation_of_the_holder_is_not_kept(world, make, revoked):
    """Nothing will ever verify it, and whoever sends enough of it fills the store."""
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    said = [attested(holder), make(holder)]
    world.publish(SICHUAN, holder, *([] if revoked else said), revoked=said if revoked else [])
    for _ in range(2):
        (sichuan,) = (await world.ask(holder))[SICHUAN]
        assert (list(sichuan.signed) or list(sichuan.revoked), sichuan.calls) == (said, 1)
    assert world.kept.held == {}


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_one_province_no_more_is_kept_than_its_share_until_time_passes(
    world, monkeypatch, processes
):
    """However true it is: a province may sign as much as it likes. A node's processes share it."""
    world.lookup = world.made(processes=processes)
    size = (
        MARK_BYTES
        + len(token())
        + len(answer(pb.SubjectAttestations(signed_attestations=[attested(STRANGER)])))
    )
    share = 10 * (size + lookup.KEPT_COST) * processes
    monkeypatch.setattr(lookup, "KEPT_BYTES", share)
    holders = [token() for _ in range(30)]
    for code in (SICHUAN, HUBEI):
        world.syncs[code] = Sync(*holders)
    for each in holders:
        world.publish(SICHUAN, each, attested(each))
    world.publish(HUBEI, holders[0], attested(holders[0], province=HUBEI))
    found = await world.ask(*holders)
    assert [each.signed for each in found[SICHUAN]] == [[attested(each)] for each in holders]
    kept = [province for province, _ in world.kept.held]
    assert kept.count(SICHUAN) == 10
    assert (HUBEI, subject_of(holders[0])) in world.kept.held
    world.now += timedelta(seconds=KEPT_SECONDS / 2)
    for sync in world.syncs.values():
        sync.as_of = world.now
    await world.ask(*holders)
    kept = [province for province, _ in world.kept.held]
    assert kept.count(SICHUAN) == 15


async def test_a_clock_that_is_set_back_gives_no_province_more_than_its_share(world, monkeypatch):
    monkeypatch.setattr(lookup, "KEPT_BYTES", 4 * lookup.KEPT_COST)
    holders = [token() for _ in range(10)]
    world.syncs[SICHUAN] = Sync(*holders)
    for days in (0, -9):
        world.now = NOW + days * 24 * HOUR
        await world.ask(*holders)
    assert len(world.kept.held) == 3


def test_the_largest_answers_of_one_peer_leave_room_in_memory():
    assert LARGEST_ANSWER * MOST_IN_FLIGHT <= 256 * 1024 * 1024
    assert LARGEST_ANSWER >= MOST_TOKENS * 16 * 1024
    assert LARGEST_ANSWER >= LARGEST_SUBJECT


# Peers that lie.

LIES = {
    "garbage": b"\xff" * 99,
    "cut short": answer(pb.SubjectAttestations(signed_attestations=[b"one"]))[:-1],
    "nobody": answer(),
    "one too few": answer(pb.SubjectAttestations()),
    "one too many": answer(*[pb.SubjectAttestations()] * 3),
    "far too much": answer(
        pb.SubjectAttestations(signed_attestations=[bytes(2 * LARGEST_SUBJECT)]),
        pb.SubjectAttestations(),
    ),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=[name.replace(" ", "-") for name in LIES])
async def test_a_lying_peer_harms_only_itself(world, lie):
    holders = [token(), token()]
    world.syncs |= {SICHUAN: Sync(*holders), HUBEI: Sync(*holders)}
    world.publish(HUBEI, holders[0], attested(holders[0], province=HUBEI))

    async def lies(request, context):
        return lie

    world.nodes[SICHUAN].answers = lies
    for _ in range(9):
        found = await world.ask(*holders)
        for each in found[SICHUAN]:
            assert (each.signed, each.readable, each.circuit_open) == (None, False, False)
        assert [list(each.signed) for each in found[HUBEI]] == [
            [attested(holders[0], province=HUBEI)],
            [],
        ]
    assert {province for province, _ in world.kept.held} == {HUBEI}
    peer = world.links.get(SICHUAN)
    assert (peer.up, peer.errors) == (True, 9)
    assert peer.last_error


async def test_a_message_that_is_larger_than_any_is_no_answer(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, bytes(LARGEST_ANSWER))
    (sichuan,) = (await world.ask(holder))[SICHUAN]
    assert (sichuan.signed, sichuan.calls) == (None, 1)
    assert world.links.get(SICHUAN).last_error == "RESOURCE_EXHAUSTED"


async def test_of_many_attestations_of_one_holder_no_more_are_taken_than_show_it(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    many = [b"%d" % n for n in range(3 * MOST_PER_PROVINCE)]
    world.publish(SICHUAN, holder, *many, revoked=many)
    for _ in range(2):
        (sichuan,) = (await world.ask(holder))[SICHUAN]
        assert len(sichuan.signed) == len(sichuan.revoked) == MOST_PER_PROVINCE + 1


async def test_another_provinces_node_at_the_address_is_not_believed(world):
    impostor = await world.open(SICHUAN, of=HUBEI)
    trust = world.trust(p510000=(impostor.address,))
    del world.syncs[SICHUAN]
    await world.links.close()
    world.links._peers.clear()
    world.links.follow(trust)
    assert (await world.ask(token(), trust=trust))[SICHUAN][0].signed is None
    assert impostor.asked == []


# Peers that are dead or slow.


async def test_a_call_that_was_not_served_is_made_once_more(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, b"one")
    node = world.nodes[SICHUAN]

    async def the_second_time(request, context):
        node.answers = node.honestly
        await node.refuses(request, context)

    node.answers = the_second_time
    (sichuan,) = (await world.ask(holder))[SICHUAN]
    assert (sichuan.signed, sichuan.calls) == ([b"one"], 2)
    peer = world.links.get(SICHUAN)
    assert (peer.calls, peer.errors, peer.up) == (2, 0, True)


async def test_a_call_is_never_made_a_third_time_nor_again_while_the_peer_is_down(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.nodes[SICHUAN].answers = world.nodes[SICHUAN].refuses
    for calls in (2, 1, 1):
        (sichuan,) = (await world.ask(holder))[SICHUAN]
        assert (sichuan.signed, sichuan.calls) == (None, calls)
    assert not world.links.get(SICHUAN).up


async def test_an_error_of_another_kind_is_not_asked_again(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)

    async def refuses(request, context):
        await context.abort(grpc.StatusCode.INTERNAL, "a fault")

    world.nodes[SICHUAN].answers = refuses
    (sichuan,) = (await world.ask(holder))[SICHUAN]
    assert (sichuan.signed, sichuan.calls) == (None, 1)
    assert world.links.get(SICHUAN).last_error == "INTERNAL"


async def test_a_peer_that_fails_again_and_again_is_not_called_for_a_while(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, b"one")
    node, peer = world.nodes[SICHUAN], world.links.get(SICHUAN)
    peer.breaker = CircuitBreaker(first=0.05, longest=0.05)
    node.answers = node.refuses
    for _ in range(5):
        (sichuan,) = (await world.ask(holder))[SICHUAN]
        assert (sichuan.signed, sichuan.circuit_open) == (None, False)
    assert peer.circuit_open
    world.calls()
    (sichuan,) = (await world.ask(holder))[SICHUAN]
    assert (sichuan.signed, sichuan.circuit_open, sichuan.calls) == (None, True, 0)
    assert world.calls() == {}
    node.answers = node.honestly
    found = await asked_until(world, holder, lambda sichuan: not sichuan.circuit_open)
    assert found.signed == [b"one"]
    assert not peer.circuit_open


async def test_a_dead_peer_harms_nobody_else_and_is_found_again(world):
    holder = token()
    world.syncs |= {SICHUAN: Sync(holder), HUBEI: Sync(holder)}
    world.publish(HUBEI, holder, b"one")
    node = world.nodes[SICHUAN]
    await node.server.stop(None)
    found = await world.ask(holder)
    assert (found[SICHUAN][0].signed, found[HUBEI][0].signed) == (None, [b"one"])
    up = {code: world.links.get(code).up for code in (SICHUAN, HUBEI, SHANGHAI)}
    assert up == {SICHUAN: False, HUBEI: True, SHANGHAI: True}
    port = int(node.address.rpartition(":")[2])
    world.nodes[SICHUAN] = await world.open(SICHUAN, port)
    world.publish(SICHUAN, holder, b"two")
    found = await asked_until(world, holder, lambda sichuan: sichuan.signed is not None)
    assert found.signed == [b"two"]
    assert world.links.get(SICHUAN).up


async def test_a_peer_that_says_nothing_costs_no_more_than_its_time(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.lookup = world.made(timeout=0.2)
    world.nodes[SICHUAN].answers = world.nodes[SICHUAN].never
    for shut in [False] * 5 + [True]:
        (sichuan,) = (await world.ask(holder))[SICHUAN]
        assert (sichuan.signed, sichuan.circuit_open) == (None, shut)
    assert world.links.get(SICHUAN).last_error == "DEADLINE_EXCEEDED"


async def test_the_callers_deadline_bounds_the_call_and_is_no_fault_of_the_peer(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.nodes[SICHUAN].answers = world.nodes[SICHUAN].never
    for _ in range(9):
        deadline = asyncio.get_running_loop().time() + 0.1
        call = dataclasses.replace(world.call, deadline=deadline)
        (sichuan,) = (await world.ask(holder, call=call))[SICHUAN]
        assert (sichuan.signed, sichuan.circuit_open) == (None, False)
    assert not world.links.get(SICHUAN).circuit_open
    assert world.links.get(SICHUAN).up


async def test_a_caller_who_gives_up_leaves_nothing_behind(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    node, peer = world.nodes[SICHUAN], world.links.get(SICHUAN)
    node.answers = node.never
    asking = [asyncio.create_task(world.ask(holder)) for _ in range(20)]
    await until("all are asked", lambda: node.at_once == 20)
    for each in asking:
        each.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await until("none is left", lambda: node.at_once == 0)
    assert peer.slots._value == MOST_IN_FLIGHT
    assert not peer.circuit_open
    node.answers = node.honestly
    assert (await world.ask(holder))[SICHUAN][0].signed == []


async def test_a_probe_whose_caller_gives_up_leaves_its_place_to_the_next(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    node, peer = world.nodes[SICHUAN], world.links.get(SICHUAN)
    peer.breaker = CircuitBreaker(failures=1, first=0.01)
    node.answers = node.refuses
    await world.ask(holder)
    node.answers = node.never
    await asyncio.sleep(0.02)
    asking = asyncio.create_task(world.ask(holder))
    await until("the probe is under way", lambda: node.at_once == 1)
    assert (await world.ask(holder))[SICHUAN][0].circuit_open
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    node.answers = node.honestly
    assert (await world.ask(holder))[SICHUAN][0].signed == []


async def test_a_peer_that_leaves_during_a_call_gives_no_answer(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    node = world.nodes[SICHUAN]
    node.answers = node.never
    asking = asyncio.create_task(world.ask(holder))
    await until("it is asked", lambda: node.at_once == 1)
    await world.links.get(SICHUAN).link.close()
    (sichuan,) = (await asking)[SICHUAN]
    assert (sichuan.signed, sichuan.calls) == (None, 1)
    assert (await world.ask(holder))[SICHUAN][0].signed is None


async def test_no_more_calls_to_a_peer_are_under_way_than_may_be(world):
    holders = [token() for _ in range(MOST_IN_FLIGHT + 40)]
    world.syncs[SICHUAN] = Sync(*holders)
    world.lookup = world.made(timeout=60)
    node, gate = world.nodes[SICHUAN], asyncio.Event()

    async def slowly(request, context):
        await gate.wait()
        return await node.honestly(request, context)

    node.answers = slowly
    asking = [asyncio.create_task(world.ask(each)) for each in holders]
    await until("as many are asked as may be", lambda: node.at_once == MOST_IN_FLIGHT)
    # Who has no time to wait for their turn is told at once, without a call.
    call = dataclasses.replace(world.call, deadline=asyncio.get_running_loop().time() + 0.1)
    (sichuan,) = (await world.ask(holders[0], call=call))[SICHUAN]
    assert (sichuan.signed, sichuan.calls, sichuan.circuit_open) == (None, 0, False)
    gate.set()
    found = await asyncio.gather(*asking)
    assert [each[SICHUAN][0].signed for each in found] == [[]] * len(holders)
    assert node.most_at_once == MOST_IN_FLIGHT


# Peers with several addresses.


@pytest.fixture
async def twins(world):
    """Sichuan's node runs twice."""
    second = await world.open(SICHUAN)
    first = world.nodes[SICHUAN]
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.publish(SICHUAN, holder, b"one")
    second.holds = first.holds
    trust = world.trust(p510000=(first.address, second.address))
    world.links.follow(trust)
    assert len(world.links.get(SICHUAN).links) == 2

    async def ask():
        world.kept.held.clear()
        return (await world.ask(holder, trust=trust))[SICHUAN][0]

    return first, second, ask


async def test_the_addresses_of_a_province_are_called_in_turn(world, twins, monkeypatch):
    first, second, ask = twins
    monkeypatch.setattr(links, "_REST_SECONDS", 0.0)  # on a slow machine any answer may be late
    end = asyncio.get_running_loop().time() + 30
    while min(len(first.asked), len(second.asked)) < 5:
        assert (await ask()).signed == [b"one"]
        assert asyncio.get_running_loop().time() < end


async def test_a_late_answer_is_asked_for_at_the_other_address(world, twins, monkeypatch):
    first, second, ask = twins
    monkeypatch.setattr(links, "_REST_SECONDS", 0.0)
    assert (await ask()).signed == [b"one"]
    monkeypatch.setattr(links, "_REST_SECONDS", 600.0)
    first.answers = first.never
    # One of two has its turn at the first; from then on that is left alone for a while.
    assert [(await ask()).signed for _ in range(2)] == [[b"one"]] * 2
    await until("the late call is cancelled", lambda: first.at_once == 0)
    asked = len(second.asked)
    for number in range(1, 5):
        assert world.links.get(SICHUAN).link.endpoint.target == f"ipv4:{second.address}"
        assert (await ask()).signed == [b"one"]
        assert len(second.asked) == asked + number


async def test_an_address_that_was_late_is_called_again_after_its_rest(world, twins, monkeypatch):
    first, _, ask = twins
    monkeypatch.setattr(links, "_REST_SECONDS", 0.0)
    first.answers = first.never
    for _ in range(2):
        assert (await ask()).signed == [b"one"]
    asked, first.answers = len(first.asked), first.honestly
    end = asyncio.get_running_loop().time() + 30
    while len(first.asked) == asked:
        assert (await ask()).signed == [b"one"]
        assert asyncio.get_running_loop().time() < end


async def test_a_dead_address_is_made_good_by_the_other_and_found_again(world, twins):
    first, second, ask = twins
    peer = world.links.get(SICHUAN)
    for _ in range(2):
        assert (await ask()).signed == [b"one"]
    await first.server.stop(None)
    for _ in range(8):
        assert (await ask()).signed == [b"one"]
    assert not peer.circuit_open
    assert peer.link.endpoint.target == f"ipv4:{second.address}"
    first = await world.open(SICHUAN, int(first.address.rpartition(":")[2]))
    first.holds = second.holds
    end = asyncio.get_running_loop().time() + 30
    while not first.asked:
        assert (await ask()).signed == [b"one"]
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.02)


async def test_another_provinces_node_among_the_addresses_is_never_called(world, twins):
    first, _, ask = twins
    impostor = await world.open(SICHUAN, of=HUBEI)
    trust = world.trust(p510000=(first.address, impostor.address))
    world.links.follow(trust)
    for _ in range(8):
        assert (await ask()).signed == [b"one"]
    assert impostor.asked == []


async def test_where_both_addresses_fail_there_is_no_answer(world, twins):
    first, second, ask = twins
    for node in (first, second):
        node.answers = node.refuses
    for _ in range(3):
        found = await ask()
        assert (found.signed, found.calls) == (None, 2)
    assert world.links.get(SICHUAN).errors == 3
    second.answers = second.honestly
    assert (await ask()).signed == [b"one"]


async def test_a_peer_is_followed_to_its_addresses_and_away_from_them(world, twins):
    first, second, _ = twins
    peer = world.links.get(SICHUAN)
    before = peer.links
    world.links.follow(world.trust(p510000=(second.address, first.address)))
    assert set(peer.links) == set(before)  # both ways are there already
    world.links.follow(world.trust(p510000=(second.address,)))
    (link,) = peer.links
    assert link.endpoint.target == f"ipv4:{second.address}"
    world.links.follow(world.trust(unusable=(SICHUAN,)))
    assert world.links.get(SICHUAN) is None
    assert SICHUAN not in dict(world.links.channels())


@pytest.mark.parametrize(
    ("addresses", "targets"),
    [
        (("127.0.0.1:1",), {"ipv4:127.0.0.1:1"}),
        (("[::1]:1",), {"ipv6:[::1]:1"}),
        (("node.example:1",), {"dns:///node.example:1"}),
        (("127.0.0.1:1", "b.example:1"), {"ipv4:127.0.0.1:1", "dns:///b.example:1"}),
        (("127.0.0.1:1", "127.0.0.1:1"), {"ipv4:127.0.0.1:1"}),
    ],
)
async def test_there_is_a_way_to_each_address_of_a_peer(world, addresses, targets):
    trust = world.trust(p510000=addresses)
    await world.links.close()
    world.links._peers.clear()
    world.links.follow(trust)
    ways = world.links.get(SICHUAN).links
    assert len(ways) == len(targets)
    assert {way.endpoint.target for way in ways} == targets


async def test_a_process_calls_some_of_very_many_addresses_and_all_processes_all(world, tmp_path):
    addresses = tuple(f"127.0.0.1:{port}" for port in range(1, 9))
    trust = world.trust(p510000=addresses)
    called = set()
    tls = TlsFiles(tmp_path / "node.pem", tmp_path / "node-key.pem")
    for _ in range(100):
        process = PeerLinks(HOME, tls)
        process.follow(trust)
        peer = process.get(SICHUAN)
        mine = set()
        for _ in range(2 * MOST_WAYS):
            mine.add(peer.link.endpoint.target)
            peer.answered(0.001)
        assert len(mine) == MOST_WAYS
        called |= mine
        await process.close()
    assert called == {f"ipv4:{address}" for address in addresses}


async def test_nothing_says_whom_was_asked_for(world):
    holder = token()
    world.syncs[SICHUAN] = Sync(holder)
    world.publish(
        SICHUAN, holder, attested(holder, "secret-one"), revoked=[attested(holder, "secret-two")]
    )
    for _ in range(2):
        assert "secret" not in repr(await world.ask(holder))
