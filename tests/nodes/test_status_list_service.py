"""StatusListService: what a province signs of its lists, and what it passes on of the others'."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from google.rpc import code_pb2

from exchange import statuslist
from exchange.errors import StoreUnavailableError, TongxingError
from exchange.keys import Algorithm, PrivateKey
from exchange.status import from_status
from exchange.statuslist import LIST_SIZE, StatusLists, list_uri
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.trustlist import TrustList
from exchange.v1 import status_list_service_pb2 as pb
from nodes.authorization import callers_of
from nodes.call import Call
from nodes.identity import Identity, Role, make_authority
from nodes.services.status_list import StatusListService
from nodes.services.validation import check

GUANGDONG, SICHUAN = "440000", "510000"
NOW = datetime(2022, 1, 10, 4, 0, tzinfo=UTC)
TTL = timedelta(hours=1)
SECOND = timedelta(seconds=1)


class Province:
    """A province's service over bits in memory, as the store would give them."""

    def __init__(self, country: Country, code: str) -> None:
        self.country = country
        self.code = code
        self.key = PrivateKey.generate(Algorithm.ES256)
        self.lists: dict[int, bytearray] = {}
        self.signed = 0
        self.reads = 0
        self.down = False
        self.slow: dict[int, asyncio.Event] = {}
        self.service = StatusListService(
            province=code,
            own=self.bits,
            signer=lambda: self,
            peers=country,
            trust=lambda: country.trust,
            ttl=TTL,
            clock=lambda: country.now,
            remember=3,
        )

    # A signer that counts.

    @property
    def public(self):
        return self.key.public

    def sign(self, data: bytes) -> bytes:
        self.signed += 1
        return self.key.sign(data)

    async def bits(self, number: int) -> bytes | None:
        self.reads += 1
        if self.down:
            raise StoreUnavailableError("the store does not answer")
        await asyncio.sleep(0)
        if number in self.slow:
            await self.slow[number].wait()
        found = self.lists.get(number)
        return None if found is None else bytes(found)

    def open(self, *numbers: int) -> None:
        for number in numbers:
            self.lists[number] = bytearray(LIST_SIZE // 8)

    def revoke(self, number: int, index: int) -> None:
        self.lists[number][index >> 3] |= 1 << (index & 7)

    async def ask(
        self, *uris: str, role: Role = Role.APP, of: str | None = None
    ) -> list[pb.StatusListItem]:
        request = pb.BatchGetStatusListsRequest(uris=uris)
        check(request)
        caller = Identity(of or self.code, role, "gate")
        answer = await self.service.batch_get_status_lists(request, Call(caller, "request-1"))
        assert len(answer.items) == len(uris)
        return list(answer.items)


class Country:
    """Two provinces that ask each other, each by the other's service."""

    def __init__(self) -> None:
        self.now = NOW
        self.provinces = {code: Province(self, code) for code in (SICHUAN, GUANGDONG)}
        authorities = {
            code: make_authority(code, now=NOW, lifetime=timedelta(days=1)).certificate.decode()
            for code in self.provinces
        }
        self.trust = TrustList(
            1,
            1,
            NOW + timedelta(days=1),
            {
                code: Profile(
                    code,
                    (AttestationKey(province.key.public, KeyState.ACTIVE, NOW - 10 * TTL),),
                    authorities[code],
                    (f"{code}.example:1",),
                )
                for code, province in self.provinces.items()
            },
            {},
        )
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.lies: dict[str, bytes] = {}
        self.broken: TongxingError | None = None
        self.missing = 0

    async def status_lists(self, province: str, uris: Sequence[str], call: Call) -> list[bytes]:
        self.asked.append((province, tuple(uris)))
        if self.broken is not None:
            raise self.broken
        asking = call.caller.province
        items = await self.provinces[province].ask(*uris, role=Role.NODE, of=asking)
        answers = [self.lies.get(uri, item.signed) for uri, item in zip(uris, items, strict=True)]
        return answers[: len(answers) - self.missing]

    def change_key(self, code: str, state: KeyState) -> None:
        profile = self.trust.profiles[code]
        keys = tuple(dataclasses.replace(key, state=state) for key in profile.keys)
        changed = dataclasses.replace(profile, keys=keys)
        self.trust = dataclasses.replace(
            self.trust, profiles={**self.trust.profiles, code: changed}
        )


@pytest.fixture
def country() -> Country:
    return Country()


@pytest.fixture
def sichuan(country: Country) -> Province:
    return country.provinces[SICHUAN]


@pytest.fixture
def guangdong(country: Country) -> Province:
    return country.provinces[GUANGDONG]


def read(country: Country, item: pb.StatusListItem) -> statuslist.StatusList:
    assert not item.HasField("status")
    return statuslist.verify(item.signed, country.trust, country.now)


def refusal(item: pb.StatusListItem) -> tuple[str, str, str]:
    assert not item.signed
    error = from_status(item.status)
    return code_pb2.Code.Name(item.status.code), error.reason, error.field


# Its own lists.


async def test_a_list_is_signed_with_its_bits_for_its_ttl(
    country: Country, sichuan: Province
) -> None:
    sichuan.open(0, 12)
    sichuan.revoke(12, 4711)
    (item,) = await sichuan.ask(list_uri(SICHUAN, 12))
    found = read(country, item)
    assert found.uri == list_uri(SICHUAN, 12)
    assert (found.issued_at, found.ttl) == (NOW, TTL)
    assert found.size == LIST_SIZE
    assert found.bits == bytes(sichuan.lists[12])
    assert found.revoked(4711)


async def test_a_list_is_signed_once_while_nothing_changes(
    country: Country, sichuan: Province
) -> None:
    sichuan.open(1)
    uri = list_uri(SICHUAN, 1)
    (first,) = await sichuan.ask(uri)
    country.now += TTL / 4 - SECOND
    (second,) = await sichuan.ask(uri)
    assert second.signed == first.signed
    assert sichuan.signed == 1


async def test_a_list_is_signed_anew_at_a_quarter_of_its_ttl(
    country: Country, sichuan: Province
) -> None:
    sichuan.open(1)
    await sichuan.ask(list_uri(SICHUAN, 1))
    country.now += TTL / 4
    (item,) = await sichuan.ask(list_uri(SICHUAN, 1))
    assert read(country, item).issued_at == country.now
    country.now -= TTL  # a clock that was set back
    (item,) = await sichuan.ask(list_uri(SICHUAN, 1))
    assert read(country, item).issued_at == country.now


async def test_a_revocation_is_in_the_next_answer(country: Country, sichuan: Province) -> None:
    sichuan.open(1)
    lists = StatusLists()
    for index in (5, 6, LIST_SIZE - 1):
        sichuan.revoke(1, index)
        (item,) = await sichuan.ask(list_uri(SICHUAN, 1))
        assert lists.offer(item.signed, country.trust, country.now).revoked(index)
    assert sichuan.signed == 3


async def test_a_new_key_signs_anew(country: Country, sichuan: Province) -> None:
    sichuan.open(1)
    (old,) = await sichuan.ask(list_uri(SICHUAN, 1))
    sichuan.key = PrivateKey.generate(Algorithm.ES256)
    (new,) = await sichuan.ask(list_uri(SICHUAN, 1))
    assert new.signed != old.signed
    assert sichuan.signed == 2


async def test_many_who_ask_at_once_share_one_signature(
    country: Country, sichuan: Province
) -> None:
    sichuan.open(1)
    uri = list_uri(SICHUAN, 1)
    answers = await asyncio.gather(*(sichuan.ask(uri) for _ in range(20)))
    assert len({item.signed for (item,) in answers}) == 1
    assert sichuan.signed == 1


async def test_a_list_that_is_slow_to_read_holds_no_other_up(
    country: Country, sichuan: Province
) -> None:
    sichuan.open(1, 2)
    sichuan.slow[1] = asyncio.Event()
    slow = asyncio.create_task(sichuan.ask(list_uri(SICHUAN, 1)))
    async with asyncio.timeout(10):
        (item,) = await sichuan.ask(list_uri(SICHUAN, 2))
        assert read(country, item).number == 2
        assert not slow.done()
        sichuan.slow[1].set()
        (item,) = await slow
    assert read(country, item).number == 1
    assert not sichuan.service._signing


async def test_the_memory_is_bounded(country: Country, sichuan: Province) -> None:
    sichuan.open(*range(6))
    for number in (0, 1, 2, 0, 3, 4):
        await sichuan.ask(list_uri(SICHUAN, number))
    assert list(sichuan.service._remembered) == [0, 3, 4]


async def test_a_list_that_was_never_opened_is_not_found(sichuan: Province) -> None:
    (item,) = await sichuan.ask(list_uri(SICHUAN, 7))
    assert refusal(item) == ("NOT_FOUND", "NOT_FOUND", "")
    assert not sichuan.signed


async def test_without_its_store_it_signs_nothing_it_signed_before(sichuan: Province) -> None:
    sichuan.open(1)
    await sichuan.ask(list_uri(SICHUAN, 1))
    sichuan.down = True
    (item,) = await sichuan.ask(list_uri(SICHUAN, 1))
    assert refusal(item)[1] == "STORE_UNAVAILABLE"


async def test_what_is_wrong_fails_alone(country: Country, sichuan: Province) -> None:
    sichuan.open(1, 2)
    items = await sichuan.ask(
        list_uri(SICHUAN, 1),
        "https://example.com/statuslists/1",
        list_uri(SICHUAN, 9),
        list_uri(SICHUAN, 1),
        list_uri(SICHUAN, 2),
    )
    assert [read(country, items[i]).number for i in (0, 3, 4)] == [1, 1, 2]
    assert refusal(items[1]) == ("INVALID_ARGUMENT", "MALFORMED_OBJECT", "uris[1]")
    assert refusal(items[2])[1] == "NOT_FOUND"
    assert sichuan.reads == 3
    assert "request-1" in str(items[1].status)


# Those of other provinces.


async def test_an_app_is_given_the_lists_of_every_province(
    country: Country, sichuan: Province, guangdong: Province
) -> None:
    sichuan.open(1)
    guangdong.open(1, 2)
    guangdong.revoke(2, 3)
    uris = [list_uri(GUANGDONG, 2), list_uri(SICHUAN, 1), list_uri(GUANGDONG, 1)]
    items = await sichuan.ask(*uris)
    assert [read(country, item).uri for item in items] == uris
    assert read(country, items[0]).revoked(3)
    assert country.asked == [(GUANGDONG, (uris[0], uris[2]))]
    # Exactly as its province signed it.
    (direct,) = await guangdong.ask(uris[0])
    assert direct.signed == items[0].signed


async def test_a_node_is_given_this_provinces_lists_alone(
    country: Country, sichuan: Province, guangdong: Province
) -> None:
    sichuan.open(1)
    guangdong.open(1)
    items = await sichuan.ask(
        list_uri(SICHUAN, 1), list_uri(GUANGDONG, 1), role=Role.NODE, of=GUANGDONG
    )
    assert read(country, items[0]).province == SICHUAN
    assert refusal(items[1]) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED", "uris[1]")
    assert not country.asked


async def test_a_list_that_does_not_verify_is_not_passed_on(
    country: Country, sichuan: Province, guangdong: Province
) -> None:
    guangdong.open(1, 2)
    (honest,) = await guangdong.ask(list_uri(GUANGDONG, 2))
    forged = statuslist.sign(
        bytes(LIST_SIZE // 8),
        province=GUANGDONG,
        number=1,
        issued_at=NOW,
        ttl=TTL,
        signer=sichuan.key,
    )
    for lie, reason in (
        (b"junk", "MALFORMED_OBJECT"),
        (forged, "BAD_SIGNATURE"),
        (honest.signed, "MALFORMED_OBJECT"),  # another list
        (b"", "NOT_FOUND"),
        (bytes(64 * 1024), "MALFORMED_OBJECT"),
    ):
        country.lies = {list_uri(GUANGDONG, 1): lie}
        items = await sichuan.ask(list_uri(GUANGDONG, 1), list_uri(GUANGDONG, 2))
        assert refusal(items[0])[1] == reason
        assert read(country, items[1]).number == 2


async def test_a_list_signed_with_a_revoked_key_is_not_passed_on(
    country: Country, sichuan: Province, guangdong: Province
) -> None:
    guangdong.open(1)
    country.change_key(GUANGDONG, KeyState.REVOKED)
    (item,) = await sichuan.ask(list_uri(GUANGDONG, 1))
    assert refusal(item)[1] == "UNKNOWN_ISSUER"


async def test_a_province_that_does_not_answer_costs_only_its_own_lists(
    country: Country, sichuan: Province, guangdong: Province
) -> None:
    sichuan.open(1)
    guangdong.open(1)
    country.broken = StoreUnavailableError("no answer")
    items = await sichuan.ask(list_uri(SICHUAN, 1), list_uri(GUANGDONG, 1))
    assert read(country, items[0]).number == 1
    assert refusal(items[1])[1] == "STORE_UNAVAILABLE"


async def test_answers_that_cannot_be_told_apart_are_refused(
    country: Country, sichuan: Province, guangdong: Province
) -> None:
    guangdong.open(1, 2)
    country.missing = 1
    items = await sichuan.ask(list_uri(GUANGDONG, 1), list_uri(GUANGDONG, 2))
    assert [refusal(item)[1] for item in items] == ["MALFORMED_OBJECT"] * 2


async def test_sixty_four_crowded_lists_fit_into_one_message(sichuan: Province) -> None:
    noise = bytearray(PrivateKey.generate(Algorithm.ES256).sign(b"") * (LIST_SIZE // 512))
    for number in range(64):
        sichuan.lists[number] = bytearray(
            byte ^ (at * 31 + number & 0xFF) for at, byte in enumerate(noise)
        )
    items = await sichuan.ask(*(list_uri(SICHUAN, number) for number in range(64)))
    answer = pb.BatchGetStatusListsResponse(items=items)
    assert answer.ByteSize() < 4 * 1024 * 1024


async def test_the_loop_goes_on_while_a_list_is_signed(sichuan: Province) -> None:
    # No timing: only that somebody else had a turn between the question and the answer.
    sichuan.open(1)
    turns = 0
    asking = asyncio.create_task(sichuan.ask(list_uri(SICHUAN, 1)))
    until = time.monotonic() + 10
    while not asking.done() and time.monotonic() < until:
        turns += 1
        await asyncio.sleep(0)
    await asking
    assert turns > 2


def test_only_nodes_and_apps_may_ask() -> None:
    (callers,) = callers_of(StatusListService.descriptor).values()
    assert callers == {Role.NODE, Role.APP}
