"""``tongxing attestation verify`` and ``status-lists``: a gate without a connection (离线核验).

``status-lists`` fetches while there is a connection, into a folder of Status List Tokens, one file
a list: ``PROVINCE-NUMBER.cwt``. ``verify``, and ``code verify --offline``, need that folder and the
trust list's, and nobody else.
"""

from __future__ import annotations

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
from exchange.texts import Text
from nodes.cli import client, given, output, shown
from nodes.cli.client import ClientOption
from nodes.cli.output import Form, FormOption

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exchange.attestations import Attestation
    from exchange.client import Client
    from exchange.codes.hcert import ForeignCertificate
    from exchange.codes.healthcode import CodeEvidence, HealthCode
    from exchange.recognition import Verdict
    from exchange.statuslist import Status, StatusList, StatusLists, StatusReference
    from exchange.trust.trustlist import TrustList

__all__ = [
    "Unchecked",
    "list_age",
    "list_document",
    "lists_at_hand",
    "looked_in",
    "read_evidence",
    "read_signed",
    "status_lists",
    "trust_list",
    "unchecked",
    "verify",
]

_SUFFIX = ".cwt"
_NO_PLACE = Text("没有状态信息，只能联网查验", "it names no status list: only a node can tell")
_NOT_AT_HAND = Text("没有足够新的状态列表", "no status list at hand that is fresh enough")
_FETCH = Text(
    "联网时下载：tongxing attestation status-lists CODE --into DIR，再加 --status-lists DIR",
    "while connected, fetch it: tongxing attestation status-lists CODE --into DIR; then give "
    "--status-lists DIR",
)
_FETCH_FOR_FILE = Text(
    "联网时下载：tongxing attestation status-lists FILE --into DIR，再加 --status-lists DIR",
    "while connected, fetch it: tongxing attestation status-lists FILE --into DIR; then give "
    "--status-lists DIR",
)
_ASK_FOR_HOLDER = Text("联网查验：tongxing recognize", "ask a node: tongxing recognize")
_OR_A_CODE = "; or a code's text, or a PNG of it"
_ASK = Text("联网查验：不加 --offline", "verify the code with a node: without --offline")

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
    status_list: StatusList | None
    """The one at hand in which its status stands, however old."""

    @property
    def remedy(self) -> Text | None:
        """What to do where only the list is missing or too old."""
        from exchange.recognition import Verdict

        if self.verdict is not Verdict.STALE or self.attestation is None:
            return None
        return _ASK_FOR_HOLDER if self.attestation.status is None else _FETCH_FOR_FILE

    @property
    def words(self) -> Text:
        from exchange.recognition import Verdict
        from exchange.statuslist import Status

        if self.verdict is not Verdict.STALE:
            return self.verdict.text
        if self.attestation is not None and self.attestation.status is None:
            return _NO_PLACE
        return Status.STALE.text

    def document(self) -> dict[str, Any]:
        from exchange import views

        view: dict[str, Any] = {}
        if (remedy := self.remedy) is not None:
            view["remedy"] = {"zh": remedy.zh, "en": remedy.en}
        if self.status_list is not None:
            view["status_list"] = list_document(self.status_list)
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
        place = None if found is None else found.status
        at = None if place is None else at_hand.held(place)
        judged.append(_Judged(source, verdict, found, at))
    if form is Form.JSON:
        output.print_json({"attestations": [each.document() for each in judged]})
    else:
        for one in judged:
            _print(one, now)
    raise typer.Exit(0 if all(one.verdict is Verdict.ACCEPTED for one in judged) else 3)


def _print(judged: _Judged, now: datetime) -> None:
    from exchange.recognition import Verdict

    accepted = judged.verdict is Verdict.ACCEPTED
    style = "bold white on green" if accepted else "bold white on red"
    console = output.console()
    console.print(output.plain(f" {judged.verdict.text.zh} ", style), end=" ")
    words = judged.words
    console.print(output.plain(f"{judged.verdict} {words.zh} {words.en}", "bold"), end=" ")
    console.print(output.plain(judged.source, "dim"))
    if (remedy := judged.remedy) is not None:
        console.print(output.plain(f"  · {remedy.zh}"))
        console.print(output.plain(f"    {remedy.en}"))
    if judged.attestation is not None:
        rows = shown.attestation_rows(judged.attestation)
        if judged.status_list is not None:
            rows.append(("状态列表签发于 status list of", list_age(judged.status_list, now)))
        output.print_fields(rows)


def list_age(found: StatusList, now: datetime) -> str:
    """From when a status list is, which tells what it cannot know of yet."""
    return f"{output.moment(found.issued_at)} ({output.age(found.issued_at, now)} 前 ago)"


# --- what could not be looked up ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unchecked:
    """That nobody looked up whether a province revoked what a code rests on (未核对撤销)."""

    province: str
    has_place: bool
    """Whether the code names a status list: one that is not at hand, or too old."""

    @property
    def reason(self) -> Text:
        """Why not."""
        return _NOT_AT_HAND if self.has_place else _NO_PLACE

    @property
    def remedy(self) -> Text:
        """What to do about it."""
        return _FETCH if self.has_place else _ASK

    def document(self) -> dict[str, Any]:
        """It in JSON."""
        texts = {"reason": self.reason, "remedy": self.remedy}
        return {
            "province": self.province,
            **{name: {"zh": text.zh, "en": text.en} for name, text in texts.items()},
        }


def unchecked(
    code: HealthCode | ForeignCertificate | None, status: Callable[[StatusReference], Status]
) -> list[Unchecked]:
    """By province, what of a code's evidence no list at hand tells whether it is revoked.

    :param code: what was judged; a foreign certificate has no status anywhere, and is not told of.
    """
    from exchange.codes.healthcode import HealthCode
    from exchange.statuslist import Status

    if not isinstance(code, HealthCode):
        return []
    found = (
        Unchecked(piece.province, piece.status is not None)
        for piece in code.evidence
        if piece.status is None or status(piece.status) is Status.STALE
    )
    return list(dict.fromkeys(found))


def looked_in(
    code: HealthCode | ForeignCertificate | None, at_hand: StatusLists
) -> list[StatusList]:
    """The lists at hand in which the status of a code's evidence stands, however old."""
    from exchange.codes.healthcode import HealthCode

    places = [piece.status for piece in code.evidence] if isinstance(code, HealthCode) else []
    held = {place.uri: at_hand.held(place) for place in places if place is not None}
    return [each for each in held.values() if each is not None]


# --- what is at hand ------------------------------------------------------------------------


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
    if not trust.is_dir():
        raise InvalidFieldError(f"{trust}: not a folder", field="--trust")
    if root is not None and not root.is_file():
        raise InvalidFieldError(f"{root}: no such file", field="--root")
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
            output.print_line(f"{path.name} is passed over: {error} (状态列表未采用：{error.zh})")
    return held


# --- what is signed -------------------------------------------------------------------------


def read_signed(path: Path, name: str = "signed") -> list[bytes]:
    """The signed attestations in a file: COSE_Sign1 bytes, not verified.

    :param path: CBOR as it is; base64 or base64url; or JSON. ``-`` is standard input.
    :param name: what is meant in JSON: every field of this name, ``signed`` or ``receipt``.
    :raises InvalidFieldError: it cannot be read, or holds none.
    """
    what = "signed attestation" if name == "signed" else name
    return _signed(path, _read(path), name, what)


def read_evidence(path: Path) -> list[bytes]:
    """The signed attestations in a file, or the code in its text or picture; not verified.

    :param path: as of `read_signed`; or an HC1 text, or a picture of one.
    :raises InvalidFieldError: it cannot be read, or holds none.
    """
    from exchange.codes import judging

    data = _read(path)
    if not data.lstrip().startswith(b"HC1") and not data.startswith(given.IMAGES):
        return _signed(path, data, "signed", "signed attestation and no code", _OR_A_CODE)
    try:
        return [judging.unpack(given.content(data))]
    except TongxingError as error:
        raise InvalidFieldError(
            f"{path}: {error.message}", field="FILE", remedy=error.remedy
        ) from None


def _read(path: Path) -> bytes:
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(given.LARGEST + 1)
        else:
            with path.open("rb") as file:
                data = file.read(given.LARGEST + 1)
    except OSError as error:
        raise InvalidFieldError(f"{path}: {error.strerror}", field="FILE") from None
    if len(data) > given.LARGEST:
        raise InvalidFieldError(f"{path}: larger than 16 MiB", field="FILE")
    return data


def _signed(path: Path, data: bytes, name: str, what: str, or_else: str = "") -> list[bytes]:
    found = [data] if given.is_signed(data) else _from_text(data, name)
    if not found:
        raise InvalidFieldError(
            f"{path}: holds no {what}",
            field="FILE",
            remedy="give its CBOR, in base64 or as it is, or what recognize --output json prints"
            + or_else,
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
    return [signed for text in texts if (signed := given.from_base64(text))]


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


# --- status-lists ---------------------------------------------------------------------------


def status_lists(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…",
            help="Signed attestations as `verify` takes them; health codes, as text, in a file or "
            "a picture; - for standard input. 已签名的健康证明或健康码。",
            show_default=False,
        ),
    ],
    into: Annotated[
        Path, typer.Option(help="A folder for the lists; made if it is not there. 存放文件夹。")
    ],
    client_file: ClientOption = None,
    form: FormOption = Form.PRETTY,
) -> None:
    """Fetch the status lists by which attestations and codes are checked offline (下载状态列表).

    `verify --status-lists DIR` and `tongxing code verify --offline --status-lists DIR` then work
    without a connection, for as long as each list counts. A list serves all attestations that name
    it. The exit code is 1 if one could not be had.
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
                "lists": [{"file": str(path), **list_document(found)} for path, found in kept],
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


def _named(sources: list[str]) -> list[str]:
    """The lists that attestations and codes name. Who signed them does not matter for that."""
    found = []
    for source in sources:
        is_code = source.startswith("HC1:")
        for signed in _code(source) if is_code else read_evidence(Path(source)):
            try:
                found += [place.uri for place in _places(signed)]
            except TongxingError as error:
                raise error.at("FILE" if is_code else source) from None
    return list(dict.fromkeys(found))


def _code(text: str) -> list[bytes]:
    from exchange.codes import judging

    try:
        return [judging.unpack(text)]
    except TongxingError as error:  # the text may name a person
        raise InvalidFieldError(
            f"the code's text is cut short or damaged: {error.message}",
            field="FILE",
            remedy="copy all of it, in one line, or give its picture",
        ) from None


def _places(signed: bytes) -> list[StatusReference]:
    from exchange import attestations, cose
    from exchange.codes import healthcode

    pieces: Sequence[Attestation | CodeEvidence]
    if given.object_type(signed) is cose.ObjectType.HEALTH_CODE:
        message = cose.parse(signed, cose.ObjectType.HEALTH_CODE)
        pieces = healthcode.decode(message.payload).evidence
    else:
        message = cose.parse(signed, cose.ObjectType.ATTESTATION)
        pieces = [attestations.decode(message.payload)]
    return [piece.status for piece in pieces if piece.status is not None]


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


def list_document(found: StatusList) -> dict[str, str]:
    """A status list in JSON."""
    return {
        "uri": found.uri,
        "issue_time": f"{found.issued_at:%Y-%m-%dT%H:%M:%SZ}",
        "fresh_until": f"{found.issued_at + found.ttl:%Y-%m-%dT%H:%M:%SZ}",
    }
