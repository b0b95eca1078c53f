"""What this province decides of a holder: it asks who can know, and applies a province's rules."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from exchange.attestations import AttestationVerifier
from exchange.recognition import Decision, Outcome, Reply, never, recognize
from exchange.rules import RuleBook
from exchange.statuslist import StatusReference
from exchange.subjects import Document
from nodes.call import Call
from nodes.peers.lookup import Found, Lookup
from nodes.store.attestations import AttestationStore
from nodes.store.records import Held
from nodes.subjects import SubjectKeys
from nodes.trust import TrustKeeper

__all__ = ["Decided", "Deciding", "Terms"]

_BREATH = 16
"""Holders of a batch that are decided before the event loop gets a turn."""


@dataclass(frozen=True, slots=True)
class Terms:
    """By whose rules to decide, and as of when.

    :param at: a later time than now; None for now.
    """

    province: str
    rules: RuleBook
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision, and the newest of the tokens by which the holder was asked for."""

    token: bytes = field(repr=False)
    decision: Decision


class Deciding:
    """Asks its own store and those peers that can know, verifies, applies the rules.

    :param province: the node's own.
    :param lookup: what the other provinces hold.
    :param revoked: whether the place where an attestation's status stands is known as revoked.
    """

    def __init__(
        self,
        *,
        province: str,
        store: AttestationStore,
        lookup: Lookup,
        verifier: AttestationVerifier,
        trust: TrustKeeper,
        subjects: SubjectKeys,
        clock: Callable[[], datetime],
        revoked: Callable[[StatusReference], bool] = never,
    ) -> None:
        self._province = province
        self._store = store
        self._lookup = lookup
        self._revoked = revoked
        self._verifier = verifier
        self._trust = trust
        self._subjects = subjects
        self._clock = clock
        self._nothing: dict[str, tuple[Found, Reply]] = {}
        """By province what was last made of its "no record": the same for all of its strangers."""
        self.outcomes: Final = Counter(dict.fromkeys(Outcome, 0))
        """How often `decide` came to each."""

    async def decide(
        self,
        documents: Sequence[Document],
        call: Call,
        purpose: int,
        *,
        terms: Terms | None = None,
        explain: bool = False,
    ) -> list[Decided]:
        """Decide for some holders, in their order.

        :param purpose: of the contract; the peers that are asked record it.
        :param terms: None: by the province's own rules, as of now.
        :param explain: say what would make a refusal a green.
        """
        if not documents:
            return []
        asked_at = self._clock()
        keys, complete = self._subjects.in_force(asked_at), self._subjects.complete(asked_at)
        tokens = [[document.token(key) for key in keys] for document in documents]
        flat = [token for group in tokens for token in group]
        looking = self._lookup.begin(flat, self._trust.current())
        if looking.done:
            own, others = await self._own(flat), looking.found
        else:
            own, others = await asyncio.gather(
                self._own(flat), self._lookup.finish(looking, call, purpose)
            )
        # Taken after the waiting: a key revoked meanwhile is revoked.
        trust, now = self._trust.current(), self._clock()
        by = terms or Terms(self._province, self._trust.rules)
        held: dict[str, Sequence[Found]] = {self._province: own, **others}
        sent = sorted(held.items()) if others else held.items()
        decided = []
        for index, group in enumerate(tokens):
            if index % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
            at = index * len(keys)
            decision = recognize(
                [self._reply(code, found[at : at + len(group)]) for code, found in sent],
                tokens=group,
                province=by.province,
                rules=by.rules,
                trust=trust,
                verifier=self._verifier,
                now=by.at or now,
                complete=complete,
                revoked=self._revoked,
                explain=explain,
            )
            self.outcomes[decision.outcome] += 1
            decided.append(Decided(group[0], decision))
        return decided

    async def present(self, ids: Iterable[UUID]) -> Decision | None:
        """What the own rules say now of whom some attestations are about, by the own store alone.

        The subject is known by the tokens of those attestations: what was published under another
        subject epoch's token is not found.

        :param ids: of attestations of this province's; others' are nobody's here.
        :returns: None where the store knows none of them.
        :raises StoreUnavailableError: the store does not answer.
        """
        wanted = [self._store.record(id_.bytes) for id_ in ids]
        # Most codes rest on one: a task for it would cost more than the look.
        records = [await wanted[0]] if len(wanted) == 1 else await asyncio.gather(*wanted)
        tokens = list(dict.fromkeys(record.token for record in records if record is not None))
        if not tokens:
            return None
        own = await self._own(tokens)
        return recognize(
            [self._reply(self._province, own)],
            tokens=tokens,
            province=self._province,
            rules=self._trust.rules,
            trust=self._trust.current(),
            verifier=self._verifier,
            now=self._clock(),
            revoked=self._revoked,
            explain=True,
        )

    async def _own(self, tokens: Sequence[bytes]) -> list[Found]:
        if len(tokens) == 1:
            return [_held(await self._store.lookup(tokens[0]))]
        return [_held(held) for held in await self._store.lookup_many(tokens)]

    def _reply(self, province: str, found: Sequence[Found]) -> Reply:
        """What a province sent of one holder, whom it may know by several tokens."""
        first = found[0]
        says = first.signed or first.revoked or first.as_of is None
        if says or any(each is not first for each in found):
            return _joined(province, found)
        known = self._nothing.get(province)
        if known is None or known[0] is not first:
            known = self._nothing[province] = first, _joined(province, found)
        return known[1]


def _held(held: Held) -> Found:
    return Found(held.signed, held.revoked)


def _joined(province: str, found: Sequence[Found]) -> Reply:
    """One reply of several: whole only if all are, and as old as the oldest that says anything."""
    if len(found) == 1:
        (only,) = found
        return Reply(
            *(province, only.signed, only.revoked, only.as_of, only.calls),
            *(only.circuit_open, only.readable),
        )
    telling = [each for each in found if each.signed or each.revoked] or found
    signed = [each.signed for each in found if each.signed is not None]
    return Reply(
        province,
        [one for each in signed for one in each] if len(signed) == len(found) else None,
        revoked=[one for each in found for one in each.revoked],
        as_of=min((each.as_of for each in telling if each.as_of is not None), default=None),
        calls=max(each.calls for each in found),
        circuit_open=any(each.circuit_open for each in found),
        readable=all(each.readable for each in found),
    )
