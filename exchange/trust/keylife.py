"""The life of attestation keys (签名密钥): each step gives the next profile, or says why not.

::

    prepare      activate      (another is activated)      taint        revoke
    ───────► PREPARED ───► ACTIVE ──────────────────► OLD ───► TAINTED ───► REVOKED
                 └──────────────── retire ─────────────┴──────────┴────────────┴──► gone

An emergency goes to TAINTED or REVOKED from anywhere; an ACTIVE key is replaced in the same step.

**When a key becomes OLD.** Attestations carry the whole second of the clock of the node that signed
them. A node signs with the old key until it holds the new list, which the registry pushes to it;
and its clock may be ahead of that of the node where the step was taken. So the OLD key keeps
counting for what is issued until `HANDOVER` after the step: the clocks' difference and the time
that the push may take, and no longer. What a node signs that hears of the step later than that is
refused. The new key needs no such margin: PREPARED, it verifies everywhere already.

A thief of an OLD key gains those minutes and no more by it, for he can as well date what he signs
back: it takes TAINTED or REVOKED to stop him, and neither has a margin.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from exchange.attestations import CLOCK_SKEW
from exchange.errors import KeyStepError
from exchange.trust.profile import AttestationKey, KeyState

if TYPE_CHECKING:
    from datetime import datetime

    from exchange.keys import PublicKey
    from exchange.trust.profile import Profile

__all__ = ["HANDOVER", "activate", "find", "prepare", "retire", "revoke", "taint"]

HANDOVER: Final = CLOCK_SKEW + timedelta(minutes=1)
"""How long after the next key's activation what the old one signs still counts."""

_AT_ONCE: Final = timedelta(0)


def find(profile: Profile, kid: str) -> AttestationKey:
    """Find a key.

    :param kid: 16 hexadecimal digits.
    :raises KeyStepError: the profile holds no such key.
    """
    for key in profile.keys:
        if key.public.kid.hex() == kid:
            return key
    raise KeyStepError(
        f"{profile.province} publishes no key {kid}",
        field="kid",
        remedy="`tongxing key list` names those that there are",
    )


def prepare(profile: Profile, public: PublicKey, now: datetime) -> Profile:
    """Publish a new key: others verify by it, nobody signs with it yet.

    :param now: an aware datetime, UTC, as in every step.
    :raises KeyStepError: the key stands in the profile already.
    """
    if any(key.public.kid == public.kid for key in profile.keys):
        raise KeyStepError(
            f"the key {public.kid.hex()} stands in the profile already", remedy="make a new one"
        )
    return replace(profile, keys=(*profile.keys, _new(public, KeyState.PREPARED, now)))


def activate(
    profile: Profile, kid: str, now: datetime, *, published: timedelta = _AT_ONCE
) -> Profile:
    """Sign with a prepared key from now on; what was ACTIVE becomes OLD, as the module says.

    :param published: how long it must have been PREPARED.
    :raises KeyStepError: it is not PREPARED, or not for long enough.
    """
    chosen = find(profile, kid)
    if chosen.state is not KeyState.PREPARED:
        raise KeyStepError(
            f"the key {kid} is {chosen.state}: only a PREPARED key can be activated",
            field="kid",
            remedy="nothing is to be done"
            if chosen.state is KeyState.ACTIVE
            else "prepare a new key: no step leads back",
        )
    due = chosen.since + published
    if now < due:
        raise KeyStepError(
            f"the key {kid} is published since {_words(chosen.since)} only: who refreshes seldom "
            "does not hold it yet",
            field="kid",
            remedy=f"activate it after {_words(due)}, or force it",
        )
    ends = _second(now + HANDOVER, up=True)
    return replace(
        profile,
        keys=tuple(
            replace(key, state=KeyState.ACTIVE, since=_second(now))
            if key is chosen
            else replace(key, state=KeyState.OLD, since=ends)
            if key.state is KeyState.ACTIVE
            else key
            for key in profile.keys
        ),
    )


def retire(profile: Profile, kid: str, now: datetime, *, live: int, force: bool = False) -> Profile:
    """Take a key out of the list that is needed no more.

    :param live: how many attestations that it signed have not reached their end.
    :param force: though some live, or it may still be signing: they end. It changes nothing for a
        REVOKED key, which must be refused by its name for as long as anything bears it.
    :raises KeyStepError: it is ACTIVE or the only one, still hands over, or attestations live.
    """
    key = find(profile, kid)
    if key.state is KeyState.ACTIVE:
        raise KeyStepError(
            f"the key {kid} is ACTIVE: the province signs with it",
            field="kid",
            remedy="prepare and activate another key first",
        )
    if len(profile.keys) == 1:
        raise KeyStepError(
            f"the key {kid} is the province's only one",
            field="kid",
            remedy="prepare and activate another key first",
        )
    bears = f"{live} attestation{'s' if live != 1 else ''} that it signed"
    if key.state is KeyState.REVOKED and live:
        raise KeyStepError(
            f"the key {kid} is REVOKED, and {bears} would not have ended yet: it stays in the list "
            "so that they are refused by its name",
            field="kid",
            remedy="retire it once they would have ended",
        )
    if key.state is KeyState.OLD and now < key.since and not force:
        raise KeyStepError(
            f"the key {kid} hands over until {_words(key.since)}: a node may still sign with it",
            field="kid",
            remedy="retire it after that, or force it",
        )
    if key.state is not KeyState.PREPARED and live and not force:
        raise KeyStepError(
            f"{bears} with {kid} live: they would end",
            field="kid",
            remedy="wait until they have ended (`--dry-run` counts them), or force it",
        )
    return replace(profile, keys=tuple(other for other in profile.keys if other is not key))


def taint(
    profile: Profile,
    kid: str,
    at: datetime,
    now: datetime,
    *,
    emergency: bool = False,
    replacement: PublicKey | None = None,
) -> Profile:
    """Let nothing count that a key signed from a time on.

    The earlier time stays: what an OLD key did not vouch for, it does not vouch for afterwards.

    :param at: from when on; the second that it falls into does not count either.
    :param emergency: of a key that is not OLD.
    :param replacement: becomes ACTIVE in the same step where the key is ACTIVE; else it is not
        looked at.
    :raises KeyStepError: it is not OLD and this is no emergency; it is ACTIVE without a
        replacement; it is TAINTED from an earlier time already, or REVOKED; the time is to come.
    """
    key = find(profile, kid)
    if at > now:
        raise KeyStepError(
            f"{_words(at)} is still to come",
            field="from_time",
            remedy="leave the time out: it is now",
        )
    since = _second(at)
    if key.state in (KeyState.OLD, KeyState.TAINTED):
        if key.state is KeyState.TAINTED and since >= key.since:
            raise KeyStepError(
                f"the key {kid} is TAINTED from {_words(key.since)} already",
                field="from_time",
                remedy="name an earlier time, or revoke it",
            )
        since = min(since, key.since)
    elif key.state is KeyState.REVOKED:
        raise _revoked(kid)
    elif not emergency:
        raise KeyStepError(
            f"the key {kid} is {key.state}: only an OLD key can be tainted",
            field="kid",
            remedy="activate another key first, or taint it as an emergency",
        )
    return _end(profile, replace(key, state=KeyState.TAINTED, since=since), replacement, now)


def revoke(
    profile: Profile,
    kid: str,
    now: datetime,
    *,
    emergency: bool = False,
    replacement: PublicKey | None = None,
) -> Profile:
    """End a key and all that it signed. It stays in the list, so that it is refused by name.

    :param emergency: of a key that is not TAINTED.
    :param replacement: as in `taint`.
    :raises KeyStepError: it is not TAINTED and this is no emergency; it is ACTIVE without a
        replacement; it is REVOKED already.
    """
    key = find(profile, kid)
    if key.state is KeyState.REVOKED:
        raise _revoked(kid)
    if key.state is not KeyState.TAINTED and not emergency:
        raise KeyStepError(
            f"the key {kid} is {key.state}: only a TAINTED key can be revoked",
            field="kid",
            remedy="taint it first, or revoke it as an emergency",
        )
    revoked = replace(key, state=KeyState.REVOKED, since=_second(now))
    return _end(profile, revoked, replacement, now)


def _end(
    profile: Profile, ended: AttestationKey, replacement: PublicKey | None, now: datetime
) -> Profile:
    keys = []
    for key in profile.keys:
        if key.public != ended.public:
            keys.append(key)
            continue
        keys.append(ended)
        if key.state is not KeyState.ACTIVE:
            continue
        if replacement is None:
            raise KeyStepError(
                f"the key {key.public.kid.hex()} is ACTIVE: without a new key the province could "
                "sign nothing",
                field="kid",
                remedy="give a new key that takes its place",
            )
        keys.append(_new(replacement, KeyState.ACTIVE, now))
    kids = {key.public.kid for key in keys}
    if len(kids) != len(keys):
        raise KeyStepError("the replacement stands in the profile already", remedy="make a new one")
    return replace(profile, keys=tuple(keys))


def _new(public: PublicKey, state: KeyState, now: datetime) -> AttestationKey:
    return AttestationKey(public, state, _second(now))


def _second(time: datetime, *, up: bool = False) -> datetime:
    # Attestations count in whole seconds: rounded the other way, a part of one would slip through.
    whole = time.replace(microsecond=0)
    return whole + timedelta(seconds=1) if up and whole != time else whole


def _revoked(kid: str) -> KeyStepError:
    return KeyStepError(
        f"the key {kid} is REVOKED already", field="kid", remedy="nothing is to be done"
    )


def _words(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
