"""Proposals (提案): a change of root or targets that several holders sign, each at home.

A proposal is one file of JSON, made to be read: the metadata as it would be published, with the
signatures that it has so far, and what a province signed itself, where it is admitted::

    {"format": "tongxing-proposal/1",
     "files": {"2.targets.json": {"signed": {"proposal": {…}, …}, "signatures": [{"keyid", "sig"}]},
               "1.p330000.json": {…}}}

Nothing in it is believed: what it changes is computed (`exchange.trust.changes`) against the list
that the signer holds, and everything but the signatures is itself signed.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from securesystemslib.exceptions import UnverifiedSignatureError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization.json import JSONSerializer

from exchange.errors import TrustListError
from exchange.texts import Text
from exchange.trust import forms, submission
from exchange.trust.about import About
from exchange.trust.reading import read_object

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from securesystemslib.signer import Key, Signer
    from tuf.api.metadata import VerificationResult

    from exchange.trust.standing import Standing

__all__ = ["Proposal", "Tally", "check", "is_complete", "merge", "progress", "sign", "to_files"]

_FORMAT: Final = "tongxing-proposal/1"
_LARGEST: Final = 4 * 1024 * 1024
_COMPACT: Final = JSONSerializer(compact=True)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change of root or targets, or both, with its signatures so far.

    :param about: what it says of itself; it stands in root and targets.
    :param root: the new root, if it is changed.
    :param targets: the new targets, if they are changed.
    :param provinces: what provinces signed themselves and is published with it, by role.
    """

    about: About
    root: Metadata[Root] | None
    targets: Metadata[Targets] | None
    provinces: Mapping[str, Metadata[Targets]]

    def named(self) -> Iterator[tuple[str, Metadata[Any]]]:
        """Its metadata, by file name."""
        if self.root is not None:
            yield f"{self.root.signed.version}.root.json", self.root
        if self.targets is not None:
            yield f"{self.targets.signed.version}.targets.json", self.targets
        for role, metadata in self.provinces.items():
            yield f"{metadata.signed.version}.{role}.json", metadata

    @property
    def digest(self) -> str:
        """SHA-256 of all that is signed, for holders to compare by telephone; 64 digits."""
        hashed = hashlib.sha256()
        for name, metadata in sorted(self.named()):
            hashed.update(f"{name}\0{len(metadata.signed_bytes)}\0".encode())
            hashed.update(metadata.signed_bytes)
        return hashed.hexdigest()

    def to_bytes(self) -> bytes:
        """Write it as a file, its own account of itself first."""
        files: dict[str, Any] = {}
        for name, metadata in self.named():
            content = metadata.to_dict()
            signed = content["signed"]
            about = {"proposal": signed["proposal"]} if "proposal" in signed else {}
            files[name] = {"signed": about | signed, "signatures": content["signatures"]}
        document = {"format": _FORMAT, "files": files}
        return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a file.

        :raises TrustListError: it is no proposal, or of another form than ours.
        """
        fields = read_object(_parse(data), "proposal")
        if fields.get("format") != _FORMAT or set(fields) != {"format", "files"}:
            raise TrustListError("is not a proposal of this version", field="format")
        root: Metadata[Root] | None = None
        targets: Metadata[Targets] | None = None
        provinces: dict[str, Metadata[Targets]] = {}
        names: set[str] = set()
        for name, value in read_object(fields["files"], "files").items():
            item = submission.item_of(name, json.dumps(value).encode())
            if item.role in names:
                raise TrustListError(f"two versions of {item.role} are proposed", field=name)
            names.add(item.role)
            if item.role == Root.type:
                root = submission.content(item, Root)
            elif item.role == Targets.type:
                targets = submission.content(item, Targets)
            else:
                provinces[item.role] = submission.content(item, Targets)
        return cls(_about(root, targets), root, targets, provinces)


def _about(*proposed: Metadata[Root] | Metadata[Targets] | None) -> About:
    found = [About.of(each.signed) for each in proposed if each is not None]
    if not found or found[0] is None:
        raise TrustListError("does not say who proposes what", field="proposal")
    if any(each != found[0] for each in found):
        raise TrustListError("root and targets are not of the same proposal", field="proposal")
    return found[0]


def _parse(data: bytes) -> object:
    if len(data) > _LARGEST:
        raise TrustListError(f"has more than {_LARGEST} bytes", field="proposal")
    try:
        return json.loads(data, object_pairs_hook=_object, parse_float=_none, parse_constant=_none)
    except (ValueError, RecursionError) as error:
        raise TrustListError(f"is not JSON as it should be: {error}", field="proposal") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        # Who reads with their eyes might see the one, and a program take the other.
        raise ValueError("a name stands twice in one object")
    return made


def _none(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no whole number")


@dataclass(frozen=True, slots=True)
class Tally:
    """Who has signed a file of a proposal, as one of its demands counts.

    :param name: the file.
    :param demanded_by: whose demand it is.
    :param threshold: how many must sign.
    :param signed: the ids of the holders' keys that have.
    :param unsigned: of those that have not.
    """

    name: str
    demanded_by: Text
    threshold: int
    signed: tuple[str, ...]
    unsigned: tuple[str, ...]

    @property
    def missing(self) -> int:
        """How many more must sign."""
        return max(0, self.threshold - len(self.signed))


def progress(standing: Standing, proposal: Proposal) -> tuple[Tally, ...]:
    """Count who has signed: a new root must be signed by old and new holders.

    :param standing: the list as it stands.
    """
    found: list[Tally] = []
    if proposal.root is not None:
        root = proposal.root.signed
        name = f"{root.version}.root.json"
        payload, signatures = proposal.root.signed_bytes, proposal.root.signatures
        before = standing.root.get_verification_result(Root.type, payload, signatures)
        after = root.get_verification_result(Root.type, payload, signatures)
        found.append(_tally(name, Text("现行根", "the root as it stands"), before))
        found.append(_tally(name, Text("新根", "the new root"), after))
    if proposal.targets is not None:
        payload, signatures = proposal.targets.signed_bytes, proposal.targets.signatures
        result = _root_after(standing, proposal).get_verification_result(
            Targets.type, payload, signatures
        )
        whose = (
            Text("现行根", "the root as it stands")
            if proposal.root is None
            else Text("新根", "the new root")
        )
        found.append(_tally(f"{proposal.targets.signed.version}.targets.json", whose, result))
    return tuple(found)


def _tally(name: str, demanded_by: Text, result: VerificationResult) -> Tally:
    return Tally(name, demanded_by, result.threshold, tuple(result.signed), tuple(result.unsigned))


def is_complete(standing: Standing, proposal: Proposal) -> bool:
    """Whether enough have signed, of every kind."""
    return not any(tally.missing for tally in progress(standing, proposal))


def check(standing: Standing, proposal: Proposal, *, now: datetime) -> None:
    """Check that a proposal may be signed or published, but for the signatures that it lacks.

    :param standing: the list as it stands.
    :param now: an aware datetime, UTC.
    :raises ExpiredError: it has expired.
    :raises TrustListError: it is not based on the list as it stands, has another form than our
        own, was changed after somebody signed it, or is signed by somebody who is no holder.
    """
    proposal.about.check(standing.files, now)
    based_on = set(proposal.about.based_on)
    for metadata, before in (
        (proposal.root, standing.root),
        (proposal.targets, standing.targets),
    ):
        if metadata is None:
            continue
        role, version = before.type, metadata.signed.version
        if version != before.version + 1:
            raise TrustListError(
                f"proposes version {version} of {role}, but the next one is {before.version + 1}",
                field=f"{version}.{role}.json",
                remedy="fetch the trust list as it stands; if it is, propose the change anew",
            )
        if f"{before.version}.{role}.json" not in based_on:
            raise TrustListError(f"does not say which {role} it changes", field="based_on")
    if proposal.root is not None:
        forms.check_root(proposal.root.signed)
    targets = standing.targets
    if proposal.targets is not None:
        targets = proposal.targets.signed
        forms.check_targets(targets)
        submission.check_accompanied(standing.targets, targets, set(proposal.provinces))
    _check_provinces(standing, proposal, targets, now)
    _check_signatures(standing, proposal)


def _check_provinces(
    standing: Standing, proposal: Proposal, targets: Targets, now: datetime
) -> None:
    before, after = submission.delegations(standing.targets), submission.delegations(targets)
    for role, metadata in proposal.provinces.items():
        name = f"{metadata.signed.version}.{role}.json"
        if before.get(role) == after.get(role):
            raise TrustListError(
                f"the proposal has nothing to do with {role[1:]}",
                field=name,
                remedy="a province publishes its own profile by itself",
            )
        item = submission.item_of(name, metadata.to_bytes(_COMPACT))
        if item.version != standing.versions.get(role, 0) + 1:
            raise TrustListError(
                f"the next version of {role[1:]} is {standing.versions.get(role, 0) + 1}",
                field=name,
                remedy="the province must sign that version",
            )
        submission.check_profile(item, targets, now)


def _check_signatures(standing: Standing, proposal: Proposal) -> None:
    for name, metadata in _to_sign(proposal):
        entitled = _holders(standing, proposal, metadata)
        for keyid, signature in metadata.signatures.items():
            key = entitled.get(keyid)
            if key is None:
                raise TrustListError(
                    f"is signed by {keyid[:16]}, which is not the key of a holder", field=name
                )
            try:
                key.verify_signature(signature, metadata.signed_bytes)
            except UnverifiedSignatureError:
                raise TrustListError(
                    f"the signature of {keyid[:16]} does not fit: the proposal was changed after "
                    "this holder signed it",
                    field=name,
                    remedy="sign nothing of it; ask the holder what they signed",
                ) from None


def _to_sign(proposal: Proposal) -> Iterator[tuple[str, Metadata[Any]]]:
    for name, metadata in proposal.named():
        if metadata is proposal.root or metadata is proposal.targets:
            yield name, metadata


def _root_after(standing: Standing, proposal: Proposal) -> Root:
    return standing.root if proposal.root is None else proposal.root.signed


def _holders(standing: Standing, proposal: Proposal, metadata: Metadata[Any]) -> dict[str, Key]:
    """Whose signature counts for a file, by key id."""
    after = _root_after(standing, proposal)
    role = metadata.signed.type
    roots = (standing.root, after) if role == Root.type else (after,)
    return {keyid: root.keys[keyid] for root in roots for keyid in root.roles[role].keyids}


def sign(standing: Standing, proposal: Proposal, signer: Signer, *, now: datetime) -> Proposal:
    """Sign what of a proposal the signer is a holder of.

    :param standing: the list as it stands.
    :param signer: a key file, or anything else that securesystemslib can sign with.
    :param now: an aware datetime, UTC.
    :returns: the proposal with the signature; the one given is not changed.
    :raises TrustListError: as `check`; or the signer is no holder, or has signed already.
    """
    check(standing, proposal, now=now)
    keyid = signer.public_key.keyid
    due = [
        metadata
        for _, metadata in _to_sign(proposal)
        if keyid in _holders(standing, proposal, metadata)
    ]
    if not due:
        raise TrustListError(
            f"{keyid[:16]} is not the key of a holder that this proposal concerns",
            field="key",
            remedy="the review lists the holders who may sign",
        )
    due = [metadata for metadata in due if keyid not in metadata.signatures]
    if not due:
        raise TrustListError(
            f"the holder of {keyid[:16]} has signed already",
            field="key",
            remedy="another holder must sign",
        )
    signed = replace(
        proposal, root=copy.deepcopy(proposal.root), targets=copy.deepcopy(proposal.targets)
    )
    for before, after in ((proposal.root, signed.root), (proposal.targets, signed.targets)):
        if after is not None and before in due:
            after.sign(signer, append=True)
    _check_signatures(standing, signed)
    return signed


def merge(first: Proposal, second: Proposal) -> Proposal:
    """Bring together the signatures of two copies of a proposal that went different ways.

    :raises TrustListError: they are not copies of one proposal.
    """
    merged = replace(first, root=copy.deepcopy(first.root), targets=copy.deepcopy(first.targets))
    for into, of in ((merged.root, second.root), (merged.targets, second.targets)):
        if (into is None) != (of is None) or (into and of and into.signed != of.signed):
            raise _not_one_proposal()
        if into is not None and of is not None:
            into.signatures.update(
                {id_: each for id_, each in of.signatures.items() if id_ not in into.signatures}
            )
    if first.provinces != second.provinces:
        raise _not_one_proposal()
    return merged


def _not_one_proposal() -> TrustListError:
    return TrustListError(
        "the files are not copies of one proposal",
        field="proposal",
        remedy="compare their reviews; sign and publish one of them",
    )


def to_files(standing: Standing, proposal: Proposal, *, now: datetime) -> dict[str, bytes]:
    """What is handed in for publication (`exchange.trust.ceremony.accept`).

    :param standing: the list as it stands.
    :param now: an aware datetime, UTC.
    :raises TrustListError: as `check`; or signatures are missing.
    """
    check(standing, proposal, now=now)
    for tally in progress(standing, proposal):
        if tally.missing:
            raise TrustListError(
                f"{tally.missing} more must sign: {len(tally.signed)} of the {tally.threshold} "
                f"holders that {tally.demanded_by.en} demands have",
                field=tally.name,
                remedy="the review lists who may",
            )
    return {name: metadata.to_bytes(_COMPACT) for name, metadata in proposal.named()}
