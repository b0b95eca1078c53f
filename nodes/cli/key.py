"""``tongxing key``: an admin leads the province's attestation keys through their lives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import KeyStepError
from nodes.cli import client, files, output
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.client.admin import Key, Keys, KeyStep

__all__ = ["key"]

key = typer.Typer(no_args_is_help=True, help="Attestation keys (签名密钥).")

_STATES = {
    "PREPARED": "预备",
    "ACTIVE": "在用",
    "OLD": "停用",
    "TAINTED": "存疑",
    "REVOKED": "吊销",
}

KidArgument = Annotated[
    str | None,
    typer.Argument(help="The key's kid; may be left out where only one fits. 密钥标识。"),
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Only say what it would do and end. 仅试算，不执行。")
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Though it harms; it is recorded. 强制执行（记录在案）。")
]
EmergencyOption = Annotated[
    bool,
    typer.Option(
        "--emergency",
        help="At once, whatever its state; an ACTIVE key is replaced. It is recorded. "
        "紧急处置（记录在案）。",
    ),
]


class AlgorithmName(StrEnum):
    """The algorithms of attestation keys."""

    ES256 = "ES256"
    EDDSA = "EDDSA"
    ML_DSA_44 = "ML_DSA_44"


@key.command("list", short_help="The keys and what each holds up (列出密钥).")
def list_(client_file: ClientOption = None, form: FormOption = Form.PRETTY) -> None:
    """List the keys, their states, and the live attestations that each holds up. 列出密钥。"""
    answer = _call(client_file, lambda keys: keys.list())
    if form is Form.JSON:
        output.print_json(output.to_json(answer))
        return
    _print_keys(answer.keys)
    print(f"信任列表 trust list: version {answer.trust.snapshot}")


@key.command(short_help="Make and publish a new key (预备新密钥).")
def prepare(
    algorithm: Annotated[
        AlgorithmName, typer.Option(help="Of the new key. 算法。")
    ] = AlgorithmName.ES256,
    dry_run: DryOption = False,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Make a new key and publish it: others verify by it, nobody signs with it. 预备新密钥。"""
    step, kid = _call(client_file, lambda keys: keys.prepare(algorithm, dry=dry_run))
    _print_step(step, form, dry=dry_run, kid=kid)


@key.command(short_help="Sign with a prepared key from now on (启用密钥).")
def activate(
    kid: KidArgument = None,
    force: ForceOption = False,
    dry_run: DryOption = False,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Sign with a prepared key from now on; the one before becomes OLD. 启用密钥。

    Refused until every peer that can be reached holds the key; --force does it all the same.
    """

    async def work(keys: Keys) -> KeyStep:
        return await keys.activate(await _chosen(keys, kid, "PREPARED"), force=force, dry=dry_run)

    _print_step(_call(client_file, work), form, dry=dry_run)


@key.command(short_help="Take an old key out of the list (移除密钥).")
def retire(
    kid: KidArgument = None,
    force: ForceOption = False,
    dry_run: DryOption = False,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Take an OLD or a prepared key out of the list. 移除密钥。

    Refused while attestations that it signed live; --force ends them.
    """

    async def work(keys: Keys) -> KeyStep:
        return await keys.retire(await _chosen(keys, kid, "OLD"), force=force, dry=dry_run)

    _print_step(_call(client_file, work), form, dry=dry_run)


@key.command(short_help="Doubt an old key from a time on (标记存疑).")
def taint(
    kid: KidArgument = None,
    since: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="TIME",
            help="RFC 3339; without offset, China's; now, where it is left out. 起始时间。",
        ),
    ] = "",
    emergency: EmergencyOption = False,
    dry_run: DryOption = False,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Let nothing count that an OLD key signed from a time on. 标记存疑。"""
    at = files.time_from_text(since, field="--from") if since else None

    async def work(keys: Keys) -> KeyStep:
        chosen = await _chosen(keys, kid, "ACTIVE" if emergency else "OLD")
        return await keys.taint(chosen, at, emergency=emergency, dry=dry_run)

    _print_step(_call(client_file, work), form, dry=dry_run)


@key.command(short_help="End a key and all that it signed (吊销密钥).")
def revoke(
    kid: KidArgument = None,
    emergency: EmergencyOption = False,
    dry_run: DryOption = False,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """End a TAINTED key and all that it signed, for good. 吊销密钥。

    A stolen key: `tongxing key revoke --emergency` ends the ACTIVE key at once, and a new one takes
    its place in the same step. Naming its kid saves a call.
    """

    async def work(keys: Keys) -> KeyStep:
        chosen = await _chosen(keys, kid, "ACTIVE" if emergency else "TAINTED")
        return await keys.revoke(chosen, emergency=emergency, dry=dry_run)

    _print_step(_call(client_file, work), form, dry=dry_run)


def _call(client_file: Path | None, work: Callable[[Keys], Awaitable[Any]]) -> Any:
    async def with_keys(node: Any) -> Any:
        from exchange.client.admin import Keys

        return await work(Keys(node))

    return client.call(client_file, with_keys)


async def _chosen(keys: Keys, kid: str | None, state: str) -> str:
    """The key that was named, or else the only one in a state."""
    if kid is not None:
        return kid
    found = [each.kid for each in (await keys.list()).keys if _state(each) == state]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} keys are" if found else "no key is"
    raise KeyStepError(
        f"{what} {state}", field="KID", remedy="name one of those that `tongxing key list` shows"
    )


# --- printing -------------------------------------------------------------------------------


def _print_step(step: KeyStep, form: Form, *, dry: bool, kid: str = "") -> None:
    if form is Form.JSON:
        document = {"step": output.to_json(step)}
        output.print_json(document | ({"kid": kid} if kid else {}))
        return
    print("试算，未执行 only tried:" if dry else "已执行 done:")
    _print_keys(step.keys)
    ends = ", ".join(_counts(step.ends)) or "无 none"
    print(f"失效的证明 attestations that {'would end' if dry else 'end'}: {ends}")
    if step.behind:
        console = output.console()
        rows = (
            (output.province_name(code), str(version) if version else "没有应答 no answer, or none")
            for code, version in sorted(step.behind.items())
        )
        console.print(output.table("未同步的省份 Behind", ("province", "version held"), rows))
    if kid:
        print(f"新密钥 new key: {kid}")
    if not dry:
        print(f"信任列表 trust list: version {step.trust_version}")


def _print_keys(keys: Iterable[Key]) -> None:
    output.console().print(
        output.table(
            "签名密钥 Attestation keys",
            ("kid", "algorithm", "状态 state", "since", "本机 held", "有效证明 live"),
            (
                (
                    each.kid or "(新 new)",
                    each.algorithm,
                    f"{_STATES.get(_state(each), '')} {_state(each)}".strip(),
                    output.moment(each.since_time),
                    "是 yes" if each.held else "否 no",
                    output.lines(_counts(each.live)),
                )
                for each in keys
            ),
        )
    )


def _state(each: Key) -> str:
    from exchange.v1 import key_service_pb2 as pb

    return output.enum_name(pb.KeyState, each.state)


def _counts(counts: Iterable[Any]) -> list[str]:
    from exchange.facts import Kind
    from exchange.v1 import types_pb2

    words = []
    for each in counts:
        name = output.enum_name(types_pb2.Kind, each.kind)
        text = f"{Kind(name).text.zh} " if name in Kind.__members__ else ""
        words.append(f"{text}{name} {each.count:,}")
    return words
