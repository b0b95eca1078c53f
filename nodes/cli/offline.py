"""``tongxing attestation verify`` and ``status-lists``: a gate without a connection (离线核验).

``status-lists`` fetches while there is a connection, into a folder of Status List Tokens, one file
a list: ``PROVINCE-NUMBER.cwt``. ``verify`` needs that folder and the trust list's, and nobody else.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchange.errors import InvalidFieldError, TongxingError
from nodes.cli import client, output, shown
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from exchange.attestations import Attestation
    from exchange.client import Client
    from exchange.recognition import Verdict
    from exchange.statuslist import StatusList, StatusLists
    from exchange.texts import Text
    from exchange.trust.trustlist import TrustList

__all__ = ["lists_at_hand", "read_signed", "status_lists", "trust_list", "verify"]

_LARGEST = 16 * 1024 * 1024
_SUFFIX = ".cwt"
_BINARY = (0xD2, 0x84)
"""What a COSE_Sign1 begins with: tag 18, or the array in it; neither is text."""

FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE…",
        help="Signed attestations: CBOR, base64, or the JSON that recognize --output json prints; "
        "- for standard input. 已签名的健康证明。",
        show_default=False,
    ),
]


# --- verify ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Judged:
    source: str
    verdict: Verdict
    attestation: Attestation | None

    @property
    def words(self) -> Text:
        from exchange.recognition import Verdict
        from exchange.statuslist import Status
        from exchange.texts import Text

        if self.verdict is not Verdict.STALE:
            return self.verdict.text
        if self.attestation is not None and self.attestation.status is None:
            return Text(
                "没有状态信息，只能联网查验", "it names no status list: only a node can tell"
            )
        return Status.STALE.text

    def document(self) -> dict[str, Any]:
        from exchange import views

        view = {}
        if self.attestation is not None:
            message = views.attestation_to_proto(b"", self.attestation)
            view["attestation"] = output.to_json(message)
        words = self.words
        return {
            "file": self.source,
            "verdict": str(self.verdict),
            "reason": {"zh": words.zh, "en": words.en},
            **view,
        }


def verify(
    sources: FilesArgument,
    trust: Annotated[
        Path | None,
        typer.Option(help="The trust list's folder; else that of --client. 信任列表文件夹。"),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="The pinned root; else the folder's 1.root.json. 预置的根文件。"),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option("--status-lists", help="What status-lists fetched. 状态列表文件夹。"),
    ] = None,
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Check signed attestations without a connection (离线核验).

    ACCEPTED 认可 says that the signature holds and that a status list which is fresh enough does
    not revoke it; no rule is asked, and whether it is the person at the gate is for you to see.
    The exit code is 0 only if all are ACCEPTED, 3 if one is not, 1 for an error.
    """
    from exchange import offline
    from exchange.attestations import AttestationVerifier
    from exchange.recognition import Verdict

    now = datetime.now(UTC)
    signed = [(str(path), each) for path in sources for each in read_signed(path)]
    verified = trust_list(trust, root, client_file)
    at_hand = lists_at_hand(lists, verified, now)
    verifier = AttestationVerifier()
    judged = []
    for source, each in signed:
        verdict, found = offline.check(
            each, trust=verified, statuses=at_hand, verifier=verifier, now=now
        )
        judged.append(_Judged(source, verdict, found))
    if form is Form.JSON:
        output.print_json({"attestations": [each.document() for each in judged]})
    else:
        for one in judged:
            _print(one)
    raise typer.Exit(0 if all(one.verdict is Verdict.ACCEPTED for one in judged) else 3)


def _print(judged: _Judged) -> None:
    from exchange.recognition import Verdict

    accepted = judged.verdict is Verdict.ACCEPTED
    style = "bold white on green" if accepted else "bold white on red"
    console = output.console()
    console.print(output.plain(f" {judged.verdict.text.zh} ", style), end=" ")
    words = judged.words
    console.print(output.plain(f"{judged.verdict} {words.zh} {words.en}", "bold"), end=" ")
    console.print(output.plain(judged.source, "dim"))
    if judged.attestation is not None:
        output.print_fields(shown.attestation_rows(judged.attestation))


def trust_list(trust: Path | None, root: Path | None, client_file: Path | None) -> TrustList:
    """Verify the trust list of a folder under a pinned root; else the client's.

    :raises TongxingError: it does not verify, or there is none.
    """
    if trust is None and root is None:
        return client.trust_list(client.load(client_file).trust)
    if trust is None:
        raise InvalidFieldError(
            "is missing", field="--trust", remedy="give --trust DIR with --root, or --client FILE"
        )
    from nodes.cli.clientfile import TrustFiles

    # Nothing to compare with: it is verified, but may be older than what others saw.
    with tempfile.TemporaryDirectory(prefix="tongxing-trust-") as cache:
        found = TrustFiles(root=root or trust / "1.root.json", metadata=trust, cache=Path(cache))
        return client.trust_list(found)


def lists_at_hand(folder: Path | None, trust: TrustList, now: datetime) -> StatusLists:
    """The lists in a folder; what does not verify is told of, and revokes and proves nothing."""
    from exchange.statuslist import StatusLists

    paths = sorted(folder.glob(f"*{_SUFFIX}")) if folder else []
    if folder and not folder.is_dir():
        raise InvalidFieldError(f"{folder}: not a folder", field="--status-lists")
    held = StatusLists(remember=max(1024, len(paths)))
    for path in paths:
        try:
            held.offer(path.read_bytes(), trust, now)
        except TongxingError as error:
            output.print_line(f"{path.name} is passed over: {error}")
    return held


# --- what is signed -------------------------------------------------------------------------


def read_signed(path: Path, name: str = "signed") -> list[bytes]:
    """The signed attestations in a file: COSE_Sign1 bytes, not verified.

    :param path: CBOR as it is; base64 or base64url; or JSON. ``-`` is standard input.
    :param name: what is meant in JSON: every field of this name, ``signed`` or ``receipt``.
    :raises InvalidFieldError: it cannot be read, or holds none.
    """
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with path.open("rb") as file:
                data = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field="FILE") from None
    if len(data) > _LARGEST:
        raise InvalidFieldError(f"{path}: larger than 16 MiB", field="FILE")
    found = [data] if data[:1] and data[0] in _BINARY else _from_text(data, name)
    if not found:
        what = "signed attestation" if name == "signed" else name
        raise InvalidFieldError(
            f"{path}: holds no {what}",
            field="FILE",
            remedy="give its CBOR, in base64 or as it is, or what recognize --output json prints",
        )
    return found


def _from_text(data: bytes, name: str) -> list[bytes]:
    if data.lstrip().startswith(b"{"):
        try:
            texts = list(dict.fromkeys(_each_named(name, json.loads(data))))
        except (ValueError, RecursionError):
            return []
    else:
        texts = [b"".join(data.split()).decode("ascii", "replace")]
    return [signed for text in texts if (signed := _from_base64(text))]


def _each_named(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == name and isinstance(inner, str):
                yield inner
            else:
                yield from _each_named(name, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _each_named(name, inner)


def _from_base64(text: str) -> bytes:
    plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error):
        return b""


# --- status-lists ---------------------------------------------------------------------------


def status_lists(
    sources: FilesArgument,
    into: Annotated[
        Path, typer.Option(help="A folder for the lists; made if it is not there. 存放文件夹。")
    ],
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Fetch the status lists by which attestations can be checked offline (下载状态列表).

    `verify --status-lists DIR` then works without a connection, for as long as each list counts.
    A list serves all attestations that name it. The exit code is 1 if one could not be had.
    """
    uris = _named(sources)

    async def work(node: Client) -> list[bytes | TongxingError]:
        return await node.status_lists(uris)

    answers = client.call(client_file, work) if uris else []
    trust = client.trust_list(client.load(client_file).trust)
    _make(into)
    kept, refused = [], []
    for uri, answer in zip(uris, answers, strict=True):
        if isinstance(answer, TongxingError):
            answer.field = ""
            refused.append((uri, answer))
            output.print_line(f"{uri}: {answer}")
        else:
            kept.append(_keep(answer, into, trust))
    if form is Form.JSON:
        output.print_json(
            {
                "lists": [_document(*each) for each in kept],
                "refused": [
                    {"uri": uri, "status": output.error_document(error)} for uri, error in refused
                ],
            }
        )
    else:
        for path, found in kept:
            until = output.moment(found.issued_at + found.ttl)
            where = output.province_name(found.province)
            print(f"{path}: {where}, 有效至 counts until {until}")
        if not uris:
            print("无需状态列表 none of them names a status list")
    raise typer.Exit(1 if refused else 0)


def _named(sources: list[Path]) -> list[str]:
    """The lists that attestations name. Who signed them does not matter for that."""
    from exchange import attestations, cose

    found = []
    for path in sources:
        for signed in read_signed(path):
            try:
                message = cose.parse(signed, cose.ObjectType.ATTESTATION)
                status = attestations.decode(message.payload).status
            except TongxingError as error:
                raise error.at(str(path)) from None
            if status is not None:
                found.append(status.uri)
    return list(dict.fromkeys(found))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidFieldError(f"{folder}: {error.strerror}", field="--into") from None


def _keep(signed: bytes, folder: Path, trust: TrustList) -> tuple[Path, StatusList]:
    """Write a list into the folder; a newer one of another node's that lies there stays."""
    from exchange import statuslist

    now = datetime.now(UTC)
    found = statuslist.verify(signed, trust, now)
    path = folder / f"{found.province}-{found.number}{_SUFFIX}"
    try:
        there = statuslist.verify(path.read_bytes(), trust, now)
    except (OSError, TongxingError):
        pass
    else:
        if there.uri == found.uri and there.issued_at > found.issued_at:
            return path, there
    new = path.with_suffix(f".{os.getpid()}.new")
    new.write_bytes(signed)
    new.replace(path)  # whoever reads meanwhile has the old one, whole
    return path, found


def _document(path: Path, found: StatusList) -> dict[str, str]:
    return {
        "uri": found.uri,
        "file": str(path),
        "issue_time": f"{found.issued_at:%Y-%m-%dT%H:%M:%SZ}",
        "fresh_until": f"{found.issued_at + found.ttl:%Y-%m-%dT%H:%M:%SZ}",
    }
