"""What a proposal changes, in plain words: computed against the list as it stands, never believed.

What these sentences cannot tell is refused, so that nobody signs what they were not shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from exchange.errors import TrustListError
from exchange.provinces import PROVINCES
from exchange.texts import Text
from exchange.trust import roles, submission
from exchange.trust.epochs import SubjectEpoch, epochs_of
from exchange.trust.reading import write_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exchange.trust.proposals import Proposal
    from exchange.trust.standing import Standing

__all__ = ["describe", "short"]

_TOLD_OF_ROOT = ("version", "expires", "keys", "roles", "proposal")
_TOLD_OF_TARGETS = ("version", "expires", "delegations", "targets", "proposal")


def describe(standing: Standing, proposal: Proposal) -> tuple[Text, ...]:
    """Tell everything that a proposal changes; the caller has it checked (`proposals.check`).

    :param standing: the list as it stands.
    :raises TrustListError: it changes something that cannot be told.
    """
    found: list[Text] = []
    if proposal.root is not None:
        found += _root(standing.root, proposal.root.signed)
    if proposal.targets is not None:
        found += _targets(standing.targets, proposal.targets.signed)
    for role, metadata in proposal.provinces.items():
        found += _profile(role[1:], metadata.signed)
    return tuple(found)


def short(keyid: str) -> str:
    """The beginning of a key's id, as it is shown to people."""
    return keyid[:16]


def _root(before: Root, after: Root) -> Iterator[Text]:
    _check_told(before.to_dict(), after.to_dict(), _TOLD_OF_ROOT, "root")
    yield _version("根", "root", before, after)
    for name, zh in ((Root.type, "根"), (Targets.type, "目标")):
        old, new = before.roles[name], after.roles[name]
        for keyid in new.keyids:
            if keyid not in old.keyids:
                yield Text(
                    f"新增{zh}密钥持有人：{short(keyid)}",
                    f"adds the {name} holder key {short(keyid)}",
                )
        for keyid in old.keyids:
            if keyid not in new.keyids:
                yield Text(
                    f"移除{zh}密钥持有人：{short(keyid)}",
                    f"removes the {name} holder key {short(keyid)}",
                )
        counts = (old.threshold, len(old.keyids)), (new.threshold, len(new.keyids))
        if counts[0] != counts[1]:
            (a, b), (c, d) = counts
            yield Text(
                f"{zh}签名门限：{b} 人中 {a} 人 → {d} 人中 {c} 人",
                f"threshold of {name}: {a} of {b} → {c} of {d}",
            )
    for name, zh in ((Snapshot.type, "快照"), (Timestamp.type, "时间戳")):
        old_id, new_id = before.roles[name].keyids[0], after.roles[name].keyids[0]
        if old_id != new_id:
            yield Text(
                f"更换{zh}密钥：{short(old_id)} → {short(new_id)}",
                f"new {name} key {short(new_id)} in place of {short(old_id)}",
            )


def _targets(before: Targets, after: Targets) -> Iterator[Text]:
    _check_told(before.to_dict(), after.to_dict(), _TOLD_OF_TARGETS, "targets")
    told = roles.inline(roles.EPOCHS_PATH, epochs_of(after).to_json())
    if after.targets.get(roles.EPOCHS_PATH, told) != told:
        raise _untold(roles.EPOCHS_PATH, "targets")
    yield _version("目标", "targets", before, after)
    old, new = submission.delegations(before), submission.delegations(after)
    for role, keyid in new.items():
        zh, en = _name(role[1:])
        if role not in old:
            yield Text(
                f"接纳 {zh}，角色密钥 {short(keyid)}", f"admits {en}, role key {short(keyid)}"
            )
        elif old[role] != keyid:
            yield Text(
                f"更换 {zh} 的角色密钥：{short(old[role])} → {short(keyid)}",
                f"new role key {short(keyid)} of {en} in place of {short(old[role])}",
            )
    for role in old:
        if role not in new:
            zh, en = _name(role[1:])
            yield Text(
                f"移除 {zh}：其签发的一切不再被认可",
                f"removes {en}: nothing that it signed is recognised any more",
            )
    yield from _epochs(before, after)


def _epochs(before: Targets, after: Targets) -> Iterator[Text]:
    old = {epoch.number: epoch for epoch in epochs_of(before).epochs}
    new = {epoch.number: epoch for epoch in epochs_of(after).epochs}
    for number, epoch in new.items():
        if number not in old:
            yield Text(
                f"新增主体标识密钥第 {number} 期：{_span(epoch)}，封装给 {_codes(epoch.sealed)}",
                f"begins epoch {number} of subject tokens, {_span(epoch)}, "
                f"sealed for {_codes(epoch.sealed)}",
            )
            continue
        if _span(old[number]) != _span(epoch):
            yield Text(
                f"主体标识密钥第 {number} 期时段：{_span(old[number])} → {_span(epoch)}",
                f"epoch {number} of subject tokens: {_span(old[number])} → {_span(epoch)}",
            )
        changed = [
            code
            for code in {**old[number].sealed, **epoch.sealed}
            if old[number].sealed.get(code) != epoch.sealed.get(code)
        ]
        if changed:
            yield Text(
                f"主体标识密钥第 {number} 期重新封装给 {_codes(changed)}",
                f"seals epoch {number} of subject tokens anew for {_codes(changed)}",
            )
    for number in old.keys() - new.keys():
        yield Text(f"移除主体标识密钥第 {number} 期", f"removes epoch {number} of subject tokens")


def _profile(code: str, metadata: Targets) -> Iterator[Text]:
    profile = roles.profile_of(metadata.targets[roles.target_path(code)], code)
    _, en = _name(code)
    keys = ", ".join(f"{key.public.kid.hex()} ({key.state})" for key in profile.keys)
    addresses = ", ".join(profile.addresses)
    count = len(profile.rules)
    yield Text(
        f"{code} 自签的资料：节点 {addresses}；签名密钥 {keys}；规则 {count} 条；"
        f"应用 {'、'.join(app.zh for app in profile.apps) or '无'}",
        f"what {en} signed itself: nodes {addresses}; attestation keys {keys}; {count} rules; "
        f"apps {', '.join(app.id for app in profile.apps) or 'none'}",
    )


def _version(zh: str, en: str, before: Root | Targets, after: Root | Targets) -> Text:
    until, then = f"{before.expires:%Y-%m-%d}", f"{after.expires:%Y-%m-%d}"
    return Text(
        f"{zh}（{en}）：第 {before.version} 版 → 第 {after.version} 版，"
        f"有效期至 {then}（原 {until}）",
        f"{en}: version {before.version} → {after.version}, expires {then} (before: {until})",
    )


def _name(code: str) -> tuple[str, str]:
    province = PROVINCES.get(code)
    if province is None:
        return code, code
    return f"{code} {province.zh}", f"{code} {province.en} {province.zh}"


def _span(epoch: SubjectEpoch) -> str:
    return f"{write_time(epoch.starts)} – {write_time(epoch.ends)}"


def _codes(codes: Iterable[str]) -> str:
    return ", ".join(sorted(codes))


def _check_told(
    before: dict[str, Any], after: dict[str, Any], told: tuple[str, ...], name: str
) -> None:
    rest = [
        field
        for field in sorted({*before, *after} - {*told})
        if before.get(field) != after.get(field)
    ]
    for role, value in after.get("roles", {}).items():
        known = {"keyids", "threshold"}
        if set(value) - known or role not in before["roles"]:
            rest.append(f"roles.{role}")
    if rest:
        raise _untold(", ".join(rest), name)


def _untold(what: str, name: str) -> TrustListError:
    return TrustListError(
        f"changes {what[:200]}, which this program cannot explain",
        field=name,
        remedy="sign nothing that you were not shown; get the newest version of tongxing",
    )
