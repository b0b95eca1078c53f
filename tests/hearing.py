"""A peer that says what a test lets it say."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from exchange.errors import CursorExpiredError
from exchange.presence import PresenceFilter
from exchange.v1 import peer_service_pb2 as pb

__all__ = ["FakePeer", "at", "heartbeat", "now", "revocation", "until"]

STORE = b"S" * 16
ID = bytes(16)


def now():
    return datetime.now(UTC)


def at(place, store=STORE):
    return store + place.to_bytes(16, "big")


def heartbeat(place, **fields):
    values = {"cursor": at(place), "as_of_time": datetime.now(UTC), "presence_generation": 1}
    return pb.WatchChangesResponse(**(values | fields))


def revocation(subject=b"wang....", place=(7, 3), id_=ID):
    where = None if place is None else pb.StatusPlace(list=place[0], index=place[1])
    return pb.Revocation(attestation_id=id_, subject=subject, place=where)


class FakePeer:
    """Says what a test lets it say; greets whoever watches from where it stands.

    Its heartbeat is slow, so that a busy machine's pause is no silence.
    """

    def __init__(self, *held, place=1, generation=1, greets=True, beat=5):
        self.place, self.generation, self.greets = place, generation, greets
        self.store = STORE
        self.held = list(held)
        self.lists = {}
        self.beat = beat
        self.ahead = timedelta(0)
        self.header = {}
        self.parts = None
        self.watched, self.fetched = [], 0
        self.expired = set()
        self.messages = asyncio.Queue()
        self.replay = {}
        self.replaying = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    def say(self, *messages):
        for message in messages:
            self.messages.put_nowait(message)

    def change(self, *subjects, **fields):
        self.place += 1
        self.held += subjects
        self.say(heartbeat(self.place, subjects=b"".join(subjects), **fields))

    def filter(self):
        made = PresenceFilter.sized(1000)
        made.add_all(b"".join(self.held))
        return made

    async def watch(self, cursor):
        self.watched.append(cursor)
        if cursor in self.expired:
            self.expired.discard(cursor)
            raise CursorExpiredError("it cannot be continued")
        if cursor in self.replay:
            await self.replaying.wait()
            yield self.replay.pop(cursor)
        elif self.greets:
            here = at(self.place, self.store)
            time_ = now() + self.ahead
            yield heartbeat(1, cursor=here, presence_generation=self.generation, as_of_time=time_)
        while True:
            said = await self.messages.get()
            if isinstance(said, BaseException):
                raise said
            yield said

    async def presence(self):
        self.fetched += 1
        for part in self.parts or self.whole():
            yield part
            await self.gate.wait()

    def whole(self):
        made = self.filter()
        values = {
            "cursor": at(self.place, self.store),
            "generation": self.generation,
            "size": len(made.bits),
            "hashes": made.hashes,
            "subjects": made.count,
            "as_of_time": datetime.now(UTC),
            "heartbeat": timedelta(seconds=self.beat),
        } | self.header
        yield pb.GetPresenceResponse(header=pb.PresenceHeader(**values))
        if made.bits:
            yield pb.GetPresenceResponse(bits=bytes(made.bits))
        for number, bits in self.lists.items():
            yield pb.GetPresenceResponse(revoked=pb.RevokedPlaces(list=number, bits=bits))


async def until(condition, seconds=60):
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.002)
