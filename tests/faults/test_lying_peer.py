"""Peers that lie, each in its own way: what is the liar's own is harmed, and nothing else.

Sichuan and Guangdong are real nodes. In the place of every other province's stands a real gRPC
server with that province's own certificate, which tells the truth until it is told to lie, and the
truth again afterwards. Whatever it says meanwhile, Guangdong hears of Sichuan's changes as soon as
ever, decides on Sichuan's holders as ever, stays small, says who is at fault, and is in step with
the liar by itself once the lie has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from waiting import heard

from exchange import statuslist
from exchange.attestations import Attestation
from exchange.client import Purpose
from exchange.client.admin import Peering
from exchange.errors import (
    CursorExpiredError,
    NotFoundError,
    StoreUnavailableError,
    TongxingError,
)
from exchange.presence import PresenceFilter, subject_of
from exchange.provinces import PROVINCES
from exchange.status import DETAILS_KEY, code_of, to_status
from exchange.v1 import peer_service_pb2 as pb
from exchange.v1 import peering_service_pb2 as peering
from exchange.v1 import recognition_service_pb2 as recognition
from exchange.v1 import status_list_service_pb2 as lists_pb
from exchange.v1 import types_pb2 as types
from nodes.trial import TrialExchange

CHECK = Purpose.PURPOSE_ENTRY_CHECK
SICHUAN, GUANGDONG = REAL = ("510000", "440000")
SHANGHAI = "310000"
PLACES = tuple(code for code in PROVINCES if code not in REAL)
GREEN = ("RECOGNIZED", "ACCEPTED")
REVOKED = ("NOT_RECOGNIZED", "REVOKED")
NO_RECORD = ("NOT_RECOGNIZED", "NO_RECORD")
SILENT = ("INDETERMINATE", "UNAVAILABLE")
RED = ("NOT_RECOGNIZED", "NOT_RECOGNIZED_BY_RULE")
MEBIBYTE = 1024 * 1024
SECONDS = 15
"""That anything may take on a busy machine: on a quiet one it is a twentieth of one."""

EVER = datetime.min.replace(tzinfo=UTC)

Said = Iterator[bytes]


# --- a server that says what it is told to say ----------------------------------------------------


@dataclass(eq=False)
class Call:
    """One call to a place, as a lie sees it."""

    place: Place
    request: bytes
    context: Any
    over: threading.Event = field(default_factory=threading.Event)
    left: bool = False

    def wait(self, seconds=None):
        """Do nothing for so long, or for ever; whether the call goes on, and the place lies on."""
        return not self.over.wait(seconds)

    def leave(self):
        self.left = True
        self.over.set()

    def end(self, error):
        self.context.set_trailing_metadata(((DETAILS_KEY, to_status(error).SerializeToString()),))
        code = {code.value[0]: code for code in grpc.StatusCode}[code_of(error)]
        self.context.abort(code, str(error))

    def cursors(self):
        """Those after the truth's."""
        return map(self.place.cursor, itertools.count(2))


def word(cursor, after=timedelta(0), **said):
    """A message of WatchChanges."""
    time = Timestamp()
    time.FromDatetime(datetime.now(UTC) + after)
    message = pb.WatchChangesResponse(cursor=cursor, as_of_time=time, presence_generation=1)
    message.MergeFrom(pb.WatchChangesResponse(**said))
    return message.SerializeToString()


def header(call, **said):
    """The first message of GetPresence, and then what else."""
    first = {
        "cursor": call.place.cursor(1),
        "generation": 1,
        "hashes": PresenceFilter.HASHES,
        "heartbeat": Duration(nanos=300_000_000),
    }
    return pb.GetPresenceResponse(header=pb.PresenceHeader(**first | said)).SerializeToString()


def bits(data):
    return pb.GetPresenceResponse(bits=data).SerializeToString()


def revoked(number, data):
    places = pb.RevokedPlaces(list=number, bits=data)
    return pb.GetPresenceResponse(revoked=places).SerializeToString()


_lists = itertools.count(1_000_000)


def no_changes(call) -> Said:
    """The truth: nothing ever happens here."""
    truth = call.place.cursor(1)
    if pb.WatchChangesRequest.FromString(call.request).cursor != truth:
        call.end(CursorExpiredError("no such place in the changes"))
    yield word(truth)
    while call.wait(0.3):
        yield word(truth)


def nobody(call) -> Said:
    """The truth: this province holds nothing of anybody, and of a new list it revoked something."""
    yield header(call)
    yield revoked(next(_lists), b"\1")


def nothing(_call, count) -> bytes:
    """The truth, as before."""
    return answer([pb.SubjectAttestations()] * count)


def answer(subjects):
    return pb.FetchAttestationsResponse(subjects=subjects).SerializeToString()


def no_lists(call) -> bytes:
    """The truth, as before."""
    request = lists_pb.BatchGetStatusListsRequest.FromString(call.request)
    items = [lists_pb.StatusListItem(status=to_status(NotFoundError("no such list")))]
    return lists_pb.BatchGetStatusListsResponse(items=items * len(request.uris)).SerializeToString()


@dataclass(frozen=True, eq=False)
class Says:
    """What a place says; where nothing else is given, the truth."""

    changes: Callable[[Call], Said] = no_changes
    presence: Callable[[Call], Said] = nobody
    fetch: Callable[[Call, int], bytes] = nothing
    lists: Callable[[Call], bytes] = no_lists


TRUTH = Says()


class Place:
    """A province's node's address, with a server in its stead."""

    def __init__(self, exchange, province, pool, roots):
        self.province = province
        self.victim = None
        self._store = os.urandom(16)
        self._says = TRUTH
        self._calls = set()
        self._server = grpc.server(
            pool, options=[("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
        )
        self._serve(
            "PeerService",
            WatchChanges=grpc.unary_stream_rpc_method_handler(self._watch),
            GetPresence=grpc.unary_stream_rpc_method_handler(self._presence),
            FetchAttestations=grpc.unary_unary_rpc_method_handler(self._fetch),
        )
        self._serve(
            "StatusListService",
            BatchGetStatusLists=grpc.unary_unary_rpc_method_handler(self._lists),
        )
        home = exchange.directory / province
        pair = ((home / "node-key.pem").read_bytes(), (home / "node.pem").read_bytes())
        credentials = grpc.ssl_server_credentials([pair], roots, require_client_auth=True)
        assert self._server.add_secure_port(exchange.addresses[province], credentials)
        self._server.start()

    def stop(self):
        self.tell(TRUTH)
        self._server.stop(0).wait()

    def cursor(self, number, store=None):
        return (store or self._store) + bytes(8) + number.to_bytes(8, "big")

    def tell(self, says):
        """Streams under way go on with a lie; they end before the truth begins anew."""
        self._says = says
        for call in tuple(self._calls):
            call.over.set()

    def _serve(self, service, **methods):
        handler = grpc.method_handlers_generic_handler(f"tongxing.v1.{service}", methods)
        self._server.add_generic_rpc_handlers([handler])

    @contextlib.contextmanager
    def _call(self, request, context):
        call = Call(self, request, context)
        self._calls.add(call)
        context.add_callback(call.leave)
        try:
            yield call
        finally:
            self._calls.discard(call)

    def _watch(self, request, context):
        with self._call(request, context) as call:
            while True:
                says = self._says
                for message in says.changes(call):
                    yield message
                    if call.over.is_set():
                        break
                call.over.clear()
                if call.left or self._says in (says, TRUTH):
                    return

    def _presence(self, request, context):
        with self._call(request, context) as call:
            for message in self._says.presence(call):
                yield message
                if call.over.is_set():
                    return

    def _fetch(self, request, context):
        count = len(pb.FetchAttestationsRequest.FromString(request).subject_tokens)
        with self._call(request, context) as call:
            return self._says.fetch(call, count)

    def _lists(self, request, context):
        with self._call(request, context) as call:
            return self._says.lists(call)


# --- the exchange --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, no_traces):
    trial = TrialExchange(
        tmp_path_factory.mktemp("liars"),
        tuple(PROVINCES),
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
    )
    for code in PLACES:
        trial.log(code).touch()
    with trial:
        yield trial
    no_traces(trial)
    for code in REAL:
        assert "Traceback" not in trial.log(code).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trust(exchange):
    return exchange.trust()


def start(exchange, *provinces):
    exchange.start(*provinces, environment={"TONGXING_PEERS__HEARTBEAT_SECONDS": "0.5"})


@pytest.fixture(scope="module")
def places(exchange, trust):
    """All but the two, by code: they are there first, so that everybody is in step with them."""
    roots = "\n".join(profile.tls_ca for profile in trust.profiles.values()).encode()
    with ThreadPoolExecutor(256) as pool, contextlib.ExitStack() as stack:
        made = {code: Place(exchange, code, pool, roots) for code in PLACES}
        for place in made.values():
            stack.callback(place.stop)
        start(exchange, *REAL)
        yield made
        exchange.stop()


@dataclass
class Holder:
    """Somebody of whom Sichuan published something."""

    document: types.IdentityDocument
    published: Attestation
    signed: bytes = b""

    @property
    def subject(self):
        return subject_of(self.published.token)


@dataclass
class World:
    """What Guangdong's app and admin and Sichuan's issuer see."""

    exchange: TrialExchange
    people: Any
    gate: Any
    issuer: Any
    peers: Peering
    faults: tuple[int, int, str] = (0, 0, "")
    """Sichuan's, as Guangdong sees them, from before the lie."""

    async def publish(self, message=None):
        """Publish, and wait until Guangdong decides by it."""
        message = message or self.people.tested()
        published, _ = await self.issuer.publish(message)
        decision = await self.until_says(message.document, GREEN)
        (piece,) = decision.evidence
        return Holder(message.document, published, piece.attestation.signed)

    async def says(self, document):
        return summary(await self.gate.recognize(document, CHECK))

    async def until_says(self, document, wanted, meanwhile=(NO_RECORD,)):
        def holds(decision):
            assert summary(decision) in (*meanwhile, wanted)
            return summary(decision) == wanted

        return await heard(self.gate, document, holds, SECONDS)

    async def peer(self, code):
        (peer,) = [each for each in (await self.peers.list()).peers if each.province == code]
        return peer

    async def until_peer(self, code, shows):
        end = time.monotonic() + 2 * SECONDS
        while not shows(peer := await self.peer(code)):
            assert time.monotonic() < end, peer
            await asyncio.sleep(0.05)
        return peer

    async def until_in_step(self, *codes, since=None):
        """Wait until nothing of the provinces is missing that was said before now."""
        since, end = since or datetime.now(UTC), time.monotonic() + 2 * SECONDS
        while True:
            answer = await self.peers.list()
            late = [
                peer
                for peer in answer.peers
                if peer.province in codes
                and (
                    peer.state != peering.PEER_STATE_SYNCHRONISED
                    or peer.as_of_time.ToDatetime(UTC) < since
                )
            ]
            if not late:
                return
            assert time.monotonic() < end, late
            await asyncio.sleep(0.05)

    async def goes_on(self, known):
        """Everything is as ever between Sichuan and Guangdong."""
        assert await self.says(known.document) == GREEN
        new = await self.publish()
        await self.issuer.revoke(new.published.id, "laboratory's fault")
        await self.until_says(new.document, REVOKED, (GREEN,))
        assert await self.says(known.document) == GREEN
        sichuan = await self.peer(SICHUAN)
        assert sichuan.state == peering.PEER_STATE_SYNCHRONISED
        assert faults(sichuan) == self.faults

    def memory(self):
        """Start to measure; what it gives says how many bytes more Guangdong had at once since."""
        process = Path(f"/proc/{self.exchange.pid(GUANGDONG)}")
        (process / "clear_refs").write_text("5")  # so that the peak is what it has now
        before = self.peak()
        return lambda: self.peak() - before

    def peak(self):
        """How many bytes Guangdong had at once."""
        status = Path(f"/proc/{self.exchange.pid(GUANGDONG)}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def faults(peer):
    return peer.resynchronisations, peer.errors, peer.last_error


def states(decision):
    name = recognition.AnswerState.Name
    return {
        each.province: name(each.state).removeprefix("ANSWER_STATE_") for each in decision.answers
    }


def summary(decision):
    return (
        recognition.Outcome.Name(decision.outcome).removeprefix("OUTCOME_"),
        recognition.Verdict.Name(decision.verdict).removeprefix("VERDICT_"),
    )


@pytest.fixture
async def world(exchange, places, trust, people):
    async with (
        exchange.client(GUANGDONG, "app", trust=trust) as gate,
        exchange.client(GUANGDONG, "admin", trust=trust) as admin,
        exchange.client(SICHUAN, "issuer", trust=trust) as issuer,
    ):
        made = World(exchange, people, gate, issuer, Peering(admin))
        await made.until_in_step(SICHUAN, *PLACES, since=EVER)
        made.faults = faults(await made.peer(SICHUAN))
        yield made


@contextlib.contextmanager
def lying(place, says):
    place.tell(says)
    try:
        yield
    finally:
        place.tell(TRUTH)


# --- lies about changes and presence --------------------------------------------------------------


def blames(pattern):
    return lambda peer: re.search(pattern, peer.last_error)


def lags(hours):
    return lambda peer: abs(peer.lag.ToTimedelta() - timedelta(hours=hours)) < timedelta(minutes=1)


def tells(*messages, then=Call.wait):
    """Says some things, made for the call, and then nothing for ever."""

    def changes(call):
        for message in messages:
            yield message(call)
        then(call)

    return Says(changes)


def without_end(message, pause=0.001):
    def changes(call):
        cursors = call.cursors()
        while call.wait(pause):
            yield message(call, next(cursors))

    return Says(changes)


def tells_all(*messages, then=lambda _call: None, endless=None):
    """Lets nobody continue, and says this of the whole state."""

    def expired(call):
        yield word(call.place.cursor(1))
        call.end(CursorExpiredError("no such place in the changes"))

    def presence(call):
        for message in messages:
            yield message(call)
        while endless and not call.over.is_set():
            yield endless(call)
        then(call)

    return Says(expired, presence)


def second(call, **said):
    return word(call.place.cursor(2), **said)


def revocation(subject=bytes(8), number=0, index=0, id_=bytes(16)):
    place = pb.StatusPlace(list=number, index=index)
    return pb.Revocation(attestation_id=id_, subject=subject, place=place)


def sichuans(call):
    """Revocations of what Sichuan published, as if it were this province's own."""
    victim = call.place.victim
    status = victim.published.status
    return second(
        call,
        subjects=victim.subject,
        revocations=[
            revocation(victim.subject, status.list, status.index, victim.published.id.bytes),
            *(revocation(victim.subject, status.list, index) for index in range(2000)),
        ],
    )


def names_the_holder(call):
    """An error that would put a holder's name and number into others' logs."""
    call.end(StoreUnavailableError(f"not found: {call.place.victim.document.number}"))


def swollen(call):
    call.context.set_compression(grpc.Compression.Gzip)
    return bytes(80 * MEBIBYTE)


JUNK = b"\xff" * 400
CROWD = os.urandom(8 * 20_000)
_page = itertools.count()

LIES = {
    # of the changes
    "no message": (tells(lambda _: JUNK), blames("cannot be read")),
    "a message of 3 MiB": (tells(lambda _: bytes(3 * MEBIBYTE)), blames("too large")),
    "a message of 20 MiB": (tells(lambda _: bytes(20 * MEBIBYTE)), blames("RESOURCE_EXHAUSTED")),
    "nothing for ever": (tells(), blames("said nothing")),
    "an end at once": (tells(then=lambda _: None), blames("it ended")),
    "heartbeats without end": (
        without_end(lambda call, _: word(call.place.cursor(1))),
        blames("floods|come late"),
    ),
    "changes without end": (
        without_end(lambda _, cursor: word(cursor, subjects=CROWD)),
        lambda peer: peer.subjects > 5000,
    ),
    "no word that all was said": (
        without_end(
            lambda _, cursor: pb.WatchChangesResponse(cursor=cursor).SerializeToString(), 0.1
        ),
        lambda peer: peer.state != peering.PEER_STATE_SYNCHRONISED,
    ),
    "a cursor that goes back": (
        tells(second, lambda call: word(call.place.cursor(1))),
        blames("go back"),
    ),
    "another store's cursor": (
        tells(lambda call: word(call.place.cursor(2, os.urandom(16)))),
        blames("another store"),
    ),
    "half a cursor": (tells(lambda _: word(bytes(16))), blames("cursor")),
    "an index that cannot be": (
        tells(partial(second, revocations=[revocation(index=1 << 18)])),
        blames("index"),
    ),
    "five thousand lists": (
        tells(partial(second, revocations=[revocation(number=n) for n in range(10_000, 15_000)])),
        blames("too many status lists"),
    ),
    "Sichuan's revoked": (tells(sichuans), lambda peer: peer.subjects),
    "an hour ahead": (
        tells(partial(second, after=timedelta(hours=1), subjects=bytes(8))),
        lags(-1),
    ),
    "an hour behind": (
        tells(partial(second, after=timedelta(hours=-1), subjects=bytes(8))),
        lags(1),
    ),
    "a holder's number": (tells(then=names_the_holder), blames("STORE_UNAVAILABLE")),
    "everybody": (
        tells_all(partial(header, size=1024), lambda _: bits(b"\xff" * 1024), then=Call.wait),
        lambda peer: peer.presence_time,
    ),
    # of the whole state
    "a state that is none": (tells_all(lambda _: JUNK), blames("cannot be read")),
    "a state that swells": (tells_all(swollen), blames("RESOURCE_EXHAUSTED")),
    "a filter of 2^60 bytes": (tells_all(partial(header, size=1 << 60)), blames("size")),
    "a filter of 2^30 bytes that never comes": (
        tells_all(partial(header, size=1 << 30), then=Call.wait),
        blames("said nothing"),
    ),
    "bits beyond the filter": (
        tells_all(partial(header, size=1 << 16), endless=lambda _: bits(bytes(1 << 16))),
        blames("bits"),
    ),
    "crumbs of a filter": (
        tells_all(partial(header, size=1 << 30), endless=lambda _: bits(b"\0")),
        blames("bits"),
    ),
    "lists without end": (
        tells_all(header, endless=lambda _: revoked(next(_page), b"\1")),
        blames("too many status lists"),
    ),
    "one list again and again": (
        tells_all(header, endless=lambda _: revoked(1, b"\1")),
        blames("list"),
    ),
    "no state for ever": (tells_all(then=Call.wait), blames("cannot be continued")),
}


@pytest.mark.parametrize("case", LIES)
async def test_a_lie_harms_nobody_but_the_liar(case, world, places):
    says, shown = LIES[case]
    place = places[PLACES[list(LIES).index(case)]]
    place.victim = known = await world.publish()
    grown = world.memory()
    with lying(place, says):
        await world.goes_on(known)
        said = await world.until_peer(place.province, shown)
        assert known.document.number not in str(said)
        await world.goes_on(known)
        assert grown() < 64 * MEBIBYTE
    await world.until_in_step(place.province)


# --- lies about a holder --------------------------------------------------------------------------


def names_the_victim(call):
    yield second(call, subjects=call.place.victim.subject)
    while call.wait(0.2):
        yield second(call)


def gives(**of):
    """Attestations, made of the victim's, which Sichuan signed."""

    def fetch(call, count):
        made = {name: make(call.place.victim.signed) for name, make in of.items()}
        return answer([pb.SubjectAttestations(**made)] * count)

    return fetch


def fails(call, _count):
    call.end(StoreUnavailableError(f"not found: {call.place.victim.document.number}"))


def never(call, _count):
    call.wait()
    return b""


ANSWERS = {
    "no message": (lambda *_: JUNK, SILENT, "UNTRUSTED"),
    "nothing of anybody": (lambda *_: answer([]), SILENT, "UNTRUSTED"),
    "too much": (lambda call, count: nothing(call, count + 1), SILENT, "UNTRUSTED"),
    "3 MiB": (gives(signed_attestations=lambda _: [bytes(MEBIBYTE)] * 3), SILENT, "UNTRUSTED"),
    "20 MiB": (gives(signed_attestations=lambda _: [bytes(MEBIBYTE)] * 20), SILENT, "UNREACHABLE"),
    "a thousand": (gives(signed_attestations=lambda one: [one] * 1000), SILENT, "UNTRUSTED"),
    "an error that names the holder": (fails, SILENT, "UNREACHABLE"),
    "no answer for ever": (never, SILENT, "UNREACHABLE"),
    "Sichuan's as its own": (gives(signed_attestations=lambda one: [one]), GREEN, "UNTRUSTED"),
    "Sichuan's as revoked": (gives(revoked_attestations=lambda one: [one]), GREEN, "UNTRUSTED"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_a_lie_about_a_holder_harms_nobody_else(case, world, places):
    """Who says that it knows a holder, and nothing that can be used, might know of a red."""
    fetch, wanted, state = ANSWERS[case]
    place = places[PLACES[list(ANSWERS).index(case)]]
    known, place.victim = await world.publish(), await world.publish()
    grown = world.memory()
    with lying(place, Says(names_the_victim, fetch=fetch)):
        await world.until_peer(place.province, lambda peer: peer.subjects)
        decision = await world.gate.recognize(place.victim.document, CHECK)
        assert summary(decision) == wanted
        assert states(decision)[place.province] == state
        assert states(decision)[SICHUAN] == "CACHED"
        await world.goes_on(known)
        assert grown() < 64 * MEBIBYTE
        if wanted == SILENT:
            assert (await world.peer(place.province)).last_error
    await world.until_in_step(place.province)
    await world.until_says(place.victim.document, GREEN, (SILENT,))


async def test_who_claims_to_know_everybody_and_tells_nothing_is_named_and_makes_no_green(
    world, places, people
):
    """The price of never giving a wrong green; a red at hand stands."""
    place = places[SHANGHAI]
    place.victim = known = await world.publish()
    red = people.coloured("RED")
    await world.issuer.publish(red)
    await world.until_says(red.document, RED)
    everybody = tells_all(partial(header, size=1024), lambda _: bits(b"\xff" * 1024))
    with lying(place, Says(everybody.changes, everybody.presence, fails)):
        await world.until_says(known.document, SILENT, (GREEN,))
        decision = await world.gate.recognize(known.document, CHECK)
        assert summary(decision) == SILENT
        assert "上海" in decision.reason.zh
        assert await world.says(red.document) == RED
    await world.until_in_step(SHANGHAI)
    await world.until_says(known.document, GREEN, (SILENT,))


def sichuans_list(call):
    return lists_pb.BatchGetStatusListsResponse(
        items=[lists_pb.StatusListItem(signed=call.place.victim)]
    ).SerializeToString()


LISTS = {
    "no message": lambda _: JUNK,
    "no object": lambda _: lists_pb.BatchGetStatusListsResponse(
        items=[lists_pb.StatusListItem(signed=JUNK)]
    ).SerializeToString(),
    "none": lambda _: b"",
    "Sichuan's": sichuans_list,
    "20 MiB": lambda _: bytes(20 * MEBIBYTE),
}


@pytest.mark.parametrize("case", LISTS)
async def test_a_status_list_that_is_none_is_not_passed_on(case, world, places):
    place = places[PLACES[list(LISTS).index(case)]]
    known = await world.publish()
    theirs = statuslist.list_uri(place.province, known.published.status.list)
    (place.victim,) = await world.gate.status_lists([known.published.status.uri])
    with lying(place, Says(lists=LISTS[case])):
        lists = await world.gate.status_lists([theirs, known.published.status.uri])
    assert isinstance(lists[0], TongxingError)
    assert lists[1] == place.victim


# --- many at once ---------------------------------------------------------------------------------


@contextlib.contextmanager
def all_lying(places, victim):
    with contextlib.ExitStack() as stack:
        for place, (case, (says, _)) in zip(places.values(), LIES.items(), strict=False):
            if case == "a state that swells":
                continue  # to make it again and again would be this process's harm
            place.victim = victim
            stack.enter_context(lying(place, says))
        yield


async def test_many_that_lie_at_once_do_not_harm_whoever_starts_among_them(exchange, world, places):
    """It never heard a true word of theirs, and must ask each for every holder."""
    known = await world.publish()
    with all_lying(places, known):
        exchange.kill(GUANGDONG)
        await asyncio.to_thread(start, exchange, GUANGDONG)
        await world.until_in_step(SICHUAN)
        world.faults = faults(await world.peer(SICHUAN))
        await world.until_says(known.document, GREEN, (SILENT,))
        await world.goes_on(known)
        await world.goes_on(known)
        assert world.peak() < 400 * MEBIBYTE
