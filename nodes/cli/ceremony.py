"""``tongxing trust propose``, ``review``, ``sign``, ``publish``: the ceremony of several admins.

A proposal goes from one holder to the next as a file; each reviews and signs it on their own
machine, offline. `holding` has what each does with their own key.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InvalidFieldError
from nodes.cli import holding, output, published
from nodes.cli.client import ClientOption
from nodes.cli.holding import PassphraseOption
from nodes.cli.output import Form, FormOption
from nodes.cli.published import DirectoryOption, OnlineKeysOption, RootOption, TrustOption

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exchange.subjects import EpochKey
    from exchange.texts import Text
    from exchange.trust.drafts import Draft
    from exchange.trust.proposals import Proposal
    from exchange.trust.standing import Standing

__all__ = ["fetch", "holders", "propose", "publish", "review", "sign"]

propose = typer.Typer(no_args_is_help=True, help="Propose a change of trust (提案).")

ByOption = Annotated[str, typer.Option("--by", help="Who proposes; it is published. 提案人。")]
NoteOption = Annotated[str, typer.Option("--note", help="Why; it is published. 说明。")]
OutOption = Annotated[Path, typer.Option("--out", help="The proposal, a new file. 提案文件。")]
FileArgument = Annotated[Path, typer.Argument(help="The proposal. 提案文件。")]
SealOption = Annotated[
    str | None,
    typer.Option(
        "--seal-key",
        help="CODE=PEM: a province's seal key, which opens the subject-token keys. 封装密钥。",
    ),
]


@propose.command("admit")
def propose_admit(
    province: Annotated[str, typer.Argument(help="Its code. 省级行政区代码。")],
    role_key: Annotated[Path, typer.Option(help="Its role key, public part. 角色公钥。")],
    profile: Annotated[Path, typer.Option(help="What `profile sign` wrote. 自签资料。")],
    by: ByOption,
    out: OutOption,
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    note: NoteOption = "",
    seal_key: SealOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Admit a province, or give one another role key. 接纳省份或更换其角色密钥。"""
    draft = _draft(trust, root, client_file, by, note)
    public = holding.public_key(role_key, "--role-key")
    epochs = _epoch_keys(draft.standing, seal_key)
    proposal = draft.admit(province, public, profile.read_bytes(), epochs)
    _save(draft.standing, proposal, out, form)
    if not epochs and draft.standing.targets.targets:
        output.print_line(
            f"no subject-token key is sealed for {province}: it cannot make or look up tokens "
            "until it is (--seal-key, or `tongxing trust propose reseal` later)"
        )


@propose.command("remove")
def propose_remove(
    province: Annotated[str, typer.Argument(help="Its code. 省级行政区代码。")],
    by: ByOption,
    out: OutOption,
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    note: NoteOption = "",
    form: FormOption = Form.PRETTY,
) -> None:
    """Remove a province. 移除省份。"""
    draft = _draft(trust, root, client_file, by, note)
    _save(draft.standing, draft.remove(province), out, form)


@propose.command("holders")
def propose_holders(
    role: Annotated[str, typer.Argument(help="root or targets. 角色。")],
    by: ByOption,
    out: OutOption,
    add: Annotated[
        list[Path] | None, typer.Option(help="A new holder's public part. 新持有人公钥。")
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(help="The id of a key that goes, or its public part. 移除的密钥标识或公钥。"),
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, help="How many must sign. 签名门限。")
    ] = None,
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    note: NoteOption = "",
    form: FormOption = Form.PRETTY,
) -> None:
    """Change who holds root or targets, and how many must sign. 变更持有人或门限。

    To rotate a holder's key, add the new one and remove the old one.
    """
    from exchange.trust.drafts import Holders

    draft = _draft(trust, root, client_file, by, note)
    added = [holding.public_key(path, "--add") for path in add or ()]
    removed = [_key_id(each) for each in remove or ()]
    change = Holders(added, removed, threshold)
    _save(draft.standing, draft.holders(role, change), out, form)


@propose.command("online")
def propose_online(
    by: ByOption,
    out: OutOption,
    snapshot: Annotated[Path | None, typer.Option(help="New key, public part. 快照公钥。")] = None,
    timestamp: Annotated[
        Path | None, typer.Option(help="New key, public part. 时间戳公钥。")
    ] = None,
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    note: NoteOption = "",
    form: FormOption = Form.PRETTY,
) -> None:
    """Give the registry other online keys. 更换登记处的在线密钥。"""
    draft = _draft(trust, root, client_file, by, note)
    proposal = draft.online(
        snapshot=holding.public_key(snapshot, "--snapshot") if snapshot else None,
        timestamp=holding.public_key(timestamp, "--timestamp") if timestamp else None,
    )
    _save(draft.standing, proposal, out, form)


@propose.command("renew")
def propose_renew(
    by: ByOption,
    out: OutOption,
    role: Annotated[
        str, typer.Option(help="root or targets; both where it is not given. 角色。")
    ] = "",
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    note: NoteOption = "",
    form: FormOption = Form.PRETTY,
) -> None:
    """Sign root and targets for another term, unchanged. 续期。"""
    if role not in ("", "root", "targets"):
        raise InvalidFieldError("must be root or targets", field="--role")
    draft = _draft(trust, root, client_file, by, note)
    proposal = draft.renew(root=role != "targets", targets=role != "root")
    _save(draft.standing, proposal, out, form)


@propose.command("epoch")
def propose_epoch(
    by: ByOption,
    out: OutOption,
    starts: Annotated[datetime, typer.Option(help="From when on, UTC. 起始时间。")],
    days: Annotated[int, typer.Option(min=1, help="How long it is asked for. 有效天数。")] = 2190,
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    note: NoteOption = "",
    form: FormOption = Form.PRETTY,
) -> None:
    """Begin a new epoch of subject tokens, sealed for every province. 新增主体标识密钥。

    Its key is made here at random, and the proposal holds only sealed forms of it; but this machine
    sees it, and with it the tokens of known numbers can be computed. Use one that forgets.
    """
    from datetime import timedelta

    from exchange.subjects import EpochKey
    from exchange.trust.epochs import epochs_of
    from exchange.trust.roles import TIMESTAMP_LIFETIME

    draft = _draft(trust, root, client_file, by, note)
    numbers = [epoch.number for epoch in epochs_of(draft.standing.targets).epochs]
    begins = starts.replace(tzinfo=starts.tzinfo or UTC)
    if begins < draft.now + TIMESTAMP_LIFETIME:
        raise InvalidFieldError(
            "too soon: nodes may go by the list before it for a day, and would not ask for what "
            "others publish under the new epoch",
            field="--starts",
            remedy="leave a day, and as long as it takes to sign and publish",
        )
    proposal = draft.epoch(
        EpochKey.generate(max(numbers, default=0) + 1),
        starts=begins,
        ends=begins + timedelta(days=days),
    )
    _save(draft.standing, proposal, out, form)


@propose.command("reseal")
def propose_reseal(
    province: Annotated[str, typer.Argument(help="Its code. 省级行政区代码。")],
    seal_key: SealOption,
    by: ByOption,
    out: OutOption,
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    note: NoteOption = "",
    form: FormOption = Form.PRETTY,
) -> None:
    """Seal the subject-token keys for a province's other seal key. 重新封装主体标识密钥。"""
    draft = _draft(trust, root, client_file, by, note)
    proposal = draft.reseal(province, _epoch_keys(draft.standing, seal_key))
    _save(draft.standing, proposal, out, form)


def review(
    file: FileArgument,
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Show what a proposal changes, who has signed, and what is missing. 审阅提案。"""
    standing = published.standing(trust, root, client_file)
    _show(standing, _read(file), form)


def sign(
    file: FileArgument,
    key: Annotated[str, typer.Option(help="The holder's key (PEM). 持有人密钥。")],
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    passphrase_fd: PassphraseOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask. 不再确认。")] = False,
    form: FormOption = Form.PRETTY,
) -> None:
    """Review a proposal and sign it, offline; the signature is added to the file. 签署提案。"""
    from exchange.trust import proposals

    standing = published.standing(trust, root, client_file)
    proposal = _read(file)
    if not yes:
        _show(standing, proposal, Form.PRETTY)
        if not sys.stdin.isatty():
            raise InvalidFieldError(
                "nobody is there to confirm it",
                field="--yes",
                remedy="run it at a terminal, or give --yes after a review",
            )
        typer.confirm("Sign this? 确认签署？", abort=True, err=True)
    signer = holding.open_signer(key, passphrase_fd)
    signed = proposals.sign(standing, proposal, signer, now=datetime.now(UTC))
    _replace(file, signed.to_bytes())
    output.print_line(f"signed {file} by {signer.public_key.keyid[:16]}")
    _show(standing, signed, form)


def publish(
    file: Annotated[
        list[Path], typer.Argument(help="The proposal; copies signed apart too. 提案文件。")
    ],
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    directory: DirectoryOption = None,
    online_keys: OnlineKeysOption = None,
    passphrase_fd: PassphraseOption = None,
) -> None:
    """Publish a proposal that enough have signed: by the registry, or in a folder. 发布提案。"""
    from exchange.trust import proposals

    published.check_place(directory, online_keys)
    standing = published.standing(trust or directory, root, client_file)
    proposal = _read(file[0])
    for path in file[1:]:
        proposal = proposals.merge(proposal, _read(path))
    submitted = proposals.to_files(standing, proposal, now=datetime.now(UTC))
    where = published.hand_in(
        submitted,
        client_file=client_file,
        directory=directory,
        online_keys=online_keys,
        passphrase_fd=passphrase_fd,
    )
    typer.echo(f"published in {where}: {', '.join(sorted(submitted))}")


def fetch(
    directory: Annotated[Path, typer.Argument(help="Where to. 目标文件夹。")],
    client_file: ClientOption = None,
) -> None:
    """Fetch the trust list's files from the node, for machines that are offline. 获取信任列表。"""
    from exchange.trust import files

    standing = published.standing(None, None, client_file)
    files.write(directory, standing.files)
    typer.echo(
        f"fetched root version {standing.root.version}, targets version {standing.targets.version} "
        f"into {directory}"
    )


def holders(
    trust: TrustOption = None,
    root: RootOption = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Show who holds which keys of the trust list, and how many must sign. 查看持有人。"""
    standing = published.standing(trust, root, client_file)
    held = standing.root.roles
    if form is Form.JSON:
        output.print_json(
            {
                "root_version": standing.root.version,
                "root_expires": f"{standing.root.expires:%Y-%m-%dT%H:%M:%SZ}",
                "targets_version": standing.targets.version,
                "targets_expires": f"{standing.targets.expires:%Y-%m-%dT%H:%M:%SZ}",
                "roles": {
                    name: {"threshold": role.threshold, "keys": list(role.keyids)}
                    for name, role in held.items()
                },
            }
        )
        return
    output.console().print(
        output.table(
            "密钥持有人 Holders",
            ("role", "must sign", "key ids"),
            (
                (name, f"{role.threshold} of {len(role.keyids)}", output.lines(role.keyids))
                for name, role in held.items()
            ),
        )
    )
    output.print_fields(
        [
            (signed.type, f"version {signed.version}, expires {output.moment(signed.expires)}")
            for signed in (standing.root, standing.targets)
        ]
    )


# --- what the commands share -------------------------------------------------------------------


def _draft(
    trust: Path | None, root: Path | None, client_file: Path | None, by: str, note: str
) -> Draft:
    from exchange.trust.drafts import Draft

    return Draft(published.standing(trust, root, client_file), by, note, datetime.now(UTC))


def _key_id(text: str) -> str:
    path = Path(text)
    return holding.public_key(path, "--remove").keyid if path.is_file() else text


def _epoch_keys(standing: Standing, seal_key: str | None) -> Sequence[EpochKey]:
    from exchange.trust.epochs import epochs_of, unseal_all
    from exchange.trust.sealkeys import SealPrivateKey

    if seal_key is None:
        return ()
    code, equals, path = seal_key.partition("=")
    if not equals:
        raise InvalidFieldError("not a pair", field="--seal-key", remedy="write CODE=PEM")
    opening = SealPrivateKey.from_pem(Path(path).read_bytes())
    return unseal_all(epochs_of(standing.targets), code, opening, now=datetime.now(UTC))


def _read(path: Path) -> Proposal:
    from exchange.trust.proposals import Proposal

    return Proposal.from_bytes(path.read_bytes())


def _save(standing: Standing, proposal: Proposal, out: Path, form: Form) -> None:
    with out.open("xb") as file:
        file.write(proposal.to_bytes())
    output.print_line(f"wrote {out}: nobody has signed it yet")
    _show(standing, proposal, form)


def _replace(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def _show(standing: Standing, proposal: Proposal, form: Form) -> None:
    """Print what a proposal is, after it was checked."""
    from exchange.trust import proposals
    from exchange.trust.changes import describe

    proposals.check(standing, proposal, now=datetime.now(UTC))
    changes = describe(standing, proposal)
    if form is Form.JSON:
        output.print_json(_document(standing, proposal, changes))
        return
    about = proposal.about
    output.print_fields(
        [
            ("提案 proposal", about.kind.value),
            ("提案人 by", about.by),
            ("说明 note", about.note),
            ("提出 made", output.moment(about.made)),
            ("失效 expires", output.moment(about.expires)),
            ("摘要 digest", proposal.digest),
            ("依据 based on", ", ".join(sorted(about.based_on))),
        ]
    )
    console = output.console()
    console.print(
        output.table(
            "变更 What it changes",
            ("中文", "English"),
            ((text.zh, text.en) for text in changes),
        )
    )
    tallies = proposals.progress(standing, proposal)
    console.print(
        output.table(
            "签名 Signatures",
            ("file", "demanded by", "must sign", "have signed", "may sign", "missing"),
            (
                (
                    tally.name,
                    f"{tally.demanded_by.zh} {tally.demanded_by.en}",
                    str(tally.threshold),
                    output.lines(_short(tally.signed)),
                    output.lines(_short(tally.unsigned)),
                    str(tally.missing),
                )
                for tally in tallies
            ),
        )
    )
    complete = not any(tally.missing for tally in tallies)
    console.print(
        "签名已齐，可以发布 Enough have signed: it can be published."
        if complete
        else "签名未齐 More must sign."
    )


def _short(keyids: Iterable[str]) -> list[str]:
    return [keyid[:16] for keyid in keyids]


def _document(standing: Standing, proposal: Proposal, changes: Iterable[Text]) -> dict[str, Any]:
    from exchange.trust import proposals

    about = proposal.about
    tallies = proposals.progress(standing, proposal)
    return {
        "kind": about.kind.value,
        "by": about.by,
        "note": about.note,
        "made": f"{about.made:%Y-%m-%dT%H:%M:%SZ}",
        "expires": f"{about.expires:%Y-%m-%dT%H:%M:%SZ}",
        "digest": proposal.digest,
        "based_on": dict(about.based_on),
        "changes": [{"zh": text.zh, "en": text.en} for text in changes],
        "signatures": [
            {
                "file": tally.name,
                "demanded_by": {"zh": tally.demanded_by.zh, "en": tally.demanded_by.en},
                "threshold": tally.threshold,
                "signed": list(tally.signed),
                "unsigned": list(tally.unsigned),
                "missing": tally.missing,
            }
            for tally in tallies
        ],
        "complete": not any(tally.missing for tally in tallies),
    }
