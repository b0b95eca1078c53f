"""The steps of the province's attestation keys (密钥步骤): signed, handed in, and seen to arrive.

What a step may do is `exchange.trust.keylife`'s; here it is carried out, for an admin
(`nodes.services.key`) and for the schedule (`nodes.rotation`) alike.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from securesystemslib.signer import Signer as RoleSigner
from tuf.api.metadata import Targets

from exchange.errors import ConflictError, KeyStepError
from exchange.facts import Kind
from exchange.keys import Algorithm, PrivateKey, PublicKey
from exchange.trust import ceremony, files, keylife, roles
from exchange.trust.files import Files, Versions
from exchange.trust.profile import AttestationKey, KeyState, Profile
from nodes.keyring import Keyring
from nodes.store.attestations import AttestationStore
from nodes.trust import TrustKeeper

__all__ = ["ByKind", "Count", "Done", "KeySteps", "Registry", "VersionsOfPeers"]

log = structlog.get_logger(__name__)

ByKind = Mapping[Kind, int]

_ATTEMPTS = 5
_ARRIVAL_SECONDS = 10.0
"""How long to wait until this node itself holds what it handed in."""
_CONFLICT_SECONDS = 5.0

_Change = Callable[[Profile, datetime], Profile]


class Registry(Protocol):
    """Where signed metadata is handed in."""

    async def submit(self, files: Files) -> Versions:
        """Hand in; what the registry holds after it."""


class VersionsOfPeers(Protocol):
    """What the other provinces hold."""

    async def versions(self, have: Versions) -> dict[str, Versions | None]:
        """By province; None where there is no answer."""


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was taken, or would be.

    :param before: the profile before it; ``after`` with it.
    :param trust_version: the trust list's version that holds it; 0 where it was only tried.
    :param public: the key that was made, if one was.
    :param behind: peers that lack what the step needs, with the version of this province's role
        that they hold; None for one that does not answer.
    """

    before: Profile
    after: Profile
    trust_version: int = 0
    public: PublicKey | None = None
    behind: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Count:
    """Attestations by kind: that count under each key (by kid), and that a step ends."""

    live: Mapping[bytes, ByKind] = field(default_factory=dict)
    ends: ByKind = field(default_factory=dict)


class KeySteps:
    """Takes steps; each raises KeyStepError where it may not be taken, in plain words.

    A step that somebody else's crosses is taken anew on what that one left. Each also raises
    TrustListError where the province's own metadata is not usable, and what the registry raises:
    where it does not answer, the step may have been published all the same.

    :param registry: None where none is configured.
    :param role_signer: the province's role key; None where this node has it not.
    :param published: how long a key is PREPARED before it may be activated.
    """

    def __init__(
        self,
        *,
        province: str,
        keyring: Keyring,
        keeper: TrustKeeper,
        registry: Registry | None,
        role_signer: RoleSigner | None,
        peers: VersionsOfPeers,
        store: AttestationStore,
        clock: Callable[[], datetime],
        published: timedelta,
    ) -> None:
        self._province = province
        self._role = roles.role_name(province)
        self._keyring = keyring
        self._keeper = keeper
        self._registry = registry
        self._role_signer = role_signer
        self._peers = peers
        self._store = store
        self._clock = clock
        self._published = published

    def profile(self) -> Profile:
        """The province's profile as it stands."""
        return self._keeper.current().profile(self._province)

    def versions(self) -> Versions:
        """The trust list that it stands in."""
        return self._keeper.bundle.versions

    def holds(self, key: AttestationKey) -> bool:
        """Whether this node has the private half of a key."""
        return self._keyring.holds(key.public)

    def expires(self) -> datetime:
        """When the province's own metadata ends, UTC."""
        bundle = self._keeper.bundle
        name = f"{bundle.versions.roles[self._role]}.{self._role}.json"
        return files.signed(bundle.files, name, Targets).expires

    # --- the steps --------------------------------------------------------------------------

    async def prepare(self, algorithm: Algorithm, *, by: str, dry: bool = False) -> Done:
        """Make a key, and publish it.

        :param by: who does it, for the log.
        :param dry: only say what it would do, as in every step.
        """
        self._means()
        public = await self._new_key(algorithm, dry=dry)

        def change(profile: Profile, now: datetime) -> Profile:
            return keylife.prepare(profile, public, now)

        return await self._take("prepare", public.kid.hex(), change, by=by, dry=dry, public=public)

    async def activate(self, kid: str, *, by: str, force: bool = False, dry: bool = False) -> Done:
        """Sign with a prepared key from now on.

        :param force: though it was published only now, peers lack it, or this node does not hold
            its private half.
        :raises KeyStepError: also, without ``force``, where any of these is so.
        """
        published = timedelta(0) if force else self._published

        def change(profile: Profile, now: datetime) -> Profile:
            return keylife.activate(profile, kid, now, published=published)

        self._means()
        profile = self.profile()
        change(profile, self._clock())
        self._check_held(kid, keylife.find(profile, kid), force=force)
        behind = await self._behind()
        lagging = {code: held for code, held in behind.items() if held is not None}
        if lagging and not force and not dry:
            raise _peers_behind(kid, lagging)
        if force and not dry:
            log.warning("key.forced", step="activate", kid=kid, by=by, behind=sorted(behind))
        return await self._take("activate", kid, change, by=by, dry=dry, behind=behind)

    async def retire(self, kid: str, *, by: str, force: bool = False, dry: bool = False) -> Done:
        """Take a key out of the list that is needed no more.

        :param force: though attestations that it signed live: they end.
        """
        self._means()
        key = keylife.find(self.profile(), kid)
        # What a trial would end is for its answer to say, not a reason to refuse it.
        tried = dry and key.state is not KeyState.REVOKED
        live = 0 if tried else (await self._signed_by())[key.public.kid]

        def change(profile: Profile, now: datetime) -> Profile:
            return keylife.retire(profile, kid, now, live=live, force=force)

        change(self.profile(), self._clock())
        if force and not dry:
            log.warning("key.forced", step="retire", kid=kid, by=by, ends=live)
        return await self._take("retire", kid, change, by=by, dry=dry)

    async def taint(
        self,
        kid: str,
        at: datetime | None,
        *,
        by: str,
        emergency: bool = False,
        dry: bool = False,
    ) -> Done:
        """Let nothing count that a key signed from a time on.

        :param at: None for now.
        :param emergency: of a key that is not OLD; an ACTIVE one is replaced.
        """
        self._means()
        new = await self._replacement(kid, emergency=emergency, dry=dry)

        def change(profile: Profile, now: datetime) -> Profile:
            return keylife.taint(profile, kid, at or now, now, emergency=emergency, replacement=new)

        return await self._end("taint", kid, change, by=by, emergency=emergency, dry=dry, new=new)

    async def revoke(
        self, kid: str, *, by: str, emergency: bool = False, dry: bool = False
    ) -> Done:
        """End a key and all that it signed.

        :param emergency: of a key that is not TAINTED; an ACTIVE one is replaced.
        """
        self._means()
        new = await self._replacement(kid, emergency=emergency, dry=dry)

        def change(profile: Profile, now: datetime) -> Profile:
            return keylife.revoke(profile, kid, now, emergency=emergency, replacement=new)

        return await self._end("revoke", kid, change, by=by, emergency=emergency, dry=dry, new=new)

    async def renew(self, *, by: str) -> Done:
        """Sign the profile anew as it is, before it expires."""
        return await self._take("renew", "", lambda profile, _: profile, by=by, dry=False)

    # --- counting ---------------------------------------------------------------------------

    async def count(self, before: Profile, after: Profile) -> Count:
        """Count by kind what counts under a profile's keys, and what the step to it ends.

        :raises StoreUnavailableError: the store does not answer.
        """
        now = {key.public.kid: key for key in before.keys}
        then = {key.public.kid: key for key in after.keys}

        def judge(kid: bytes, issued: datetime) -> tuple[bool, bool]:
            was, will = now.get(kid), then.get(kid)
            return was is not None and was.verifies(issued), (
                will is not None and will.verifies(issued)
            )

        live: dict[bytes, Counter[Kind]] = {}
        ends: Counter[Kind] = Counter()
        for (kid, kind, (counts, will)), number in (await self._store.census(judge)).items():
            if will:
                live.setdefault(kid, Counter())[kind] += number
            elif counts:
                ends[kind] += number
        return Count(live, ends)

    async def _signed_by(self) -> Counter[bytes]:
        """How many attestations that have not reached their end each kid signed, valid or not."""
        found: Counter[bytes] = Counter()
        for (kid, _, _), number in (await self._store.census(lambda *_: None)).items():
            found[kid] += number
        return found

    # --- carrying out -----------------------------------------------------------------------

    def _means(self) -> tuple[RoleSigner, Registry]:
        if self._role_signer is None:
            raise KeyStepError(
                "this node has not the province's role key, so it can publish no step",
                field="trust.role_key",
                remedy="configure trust.role_key on one node of the province, and ask that one",
            )
        if self._registry is None:
            raise KeyStepError(
                "this node knows no registry to hand the step in to",
                field="trust.registry",
                remedy="configure trust.registry",
            )
        return self._role_signer, self._registry

    async def _new_key(self, algorithm: Algorithm, *, dry: bool) -> PublicKey:
        if dry:
            return PrivateKey.generate(algorithm).public
        return await self._keyring.generate(algorithm)

    async def _replacement(self, kid: str, *, emergency: bool, dry: bool) -> PublicKey | None:
        """A key to take the place of one that is ACTIVE, of the same algorithm."""
        key = keylife.find(self.profile(), kid)
        if not emergency or key.state is not KeyState.ACTIVE:
            return None
        return await self._new_key(key.public.algorithm, dry=dry)

    def _check_held(self, kid: str, key: AttestationKey, *, force: bool) -> None:
        if force or self.holds(key):
            return
        raise KeyStepError(
            f"this node does not hold the private half of {kid}: it could sign nothing any more",
            field="kid",
            remedy="ask the node that prepared it, bring its file to data/keys, or force it",
        )

    async def _behind(self) -> dict[str, int | None]:
        """Who does not hold this province's role as it stands, every prepared key in it."""
        trust, have = self._keeper.current(), self._keeper.bundle.versions
        need = have.roles[self._role]
        held = await self._peers.versions(have)
        behind: dict[str, int | None] = {}
        for province in sorted({*trust.profiles, *trust.unusable} - {self._province}):
            versions = held.get(province)
            version = None if versions is None else versions.roles.get(self._role, 0)
            if version is None or version < need:
                behind[province] = version
        return behind

    async def _end(
        self,
        step: str,
        kid: str,
        change: _Change,
        *,
        by: str,
        emergency: bool,
        dry: bool,
        new: PublicKey | None,
    ) -> Done:
        if emergency and not dry:
            log.warning("key.emergency", step=step, kid=kid, by=by)
        return await self._take(step, kid, change, by=by, dry=dry, public=new)

    async def _take(
        self,
        step: str,
        kid: str,
        change: _Change,
        *,
        by: str,
        dry: bool,
        public: PublicKey | None = None,
        behind: Mapping[str, int | None] | None = None,
    ) -> Done:
        if dry:
            before = self.profile()
            after = change(before, self._clock())
            return Done(before, after, public=public, behind=behind or {})
        before, after, version = await self._publish(change)
        log.info("key.step", step=step, kid=kid, by=by, trust_version=version)
        return Done(before, after, version, public, behind or {})

    async def _publish(self, change: _Change) -> tuple[Profile, Profile, int]:
        signer, registry = self._means()
        for left in reversed(range(_ATTEMPTS)):
            held, before, now = self._keeper.bundle.versions, self.profile(), self._clock()
            after = change(before, now)
            version = held.roles[self._role] + 1
            data = await asyncio.to_thread(
                ceremony.sign_profile, after, signer, version=version, now=now
            )
            try:
                holds = await registry.submit({f"{version}.{self._role}.json": data})
            except ConflictError:
                if not left or not await self._until(version, _CONFLICT_SECONDS):
                    raise
                continue
            if not await self._until(version, _ARRIVAL_SECONDS):
                log.warning("key.not_arrived", version=version)
            return before, after, holds.snapshot
        raise AssertionError  # the last attempt returns or raises

    async def _until(self, version: int, seconds: float) -> bool:
        """Wait until this node holds a version of its province's role; whether it does."""
        keeper = self._keeper
        try:
            async with asyncio.timeout(seconds):
                while (held := keeper.bundle.versions).roles[self._role] < version:
                    if keeper.closing:
                        return False
                    await keeper.wait_for_change(held.timestamp)
        except TimeoutError:
            return False
        return True


def _peers_behind(kid: str, lagging: Mapping[str, int]) -> KeyStepError:
    named = ", ".join(lagging)
    return KeyStepError(
        f"{named} {'do' if len(lagging) > 1 else 'does'} not hold the key {kid} yet: what it signs "
        "would be refused there",
        field="kid",
        remedy="try again once they have refreshed (`--dry-run` names who is behind), or force it",
    )
