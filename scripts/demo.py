"""The main job: a certificate issued in Sichuan is honoured in Guangdong.

`demo.py` plays it in a folder that it removes; `demo.py up` leaves provinces running under
`.demo/exchange`, three or as many as its argument says: `tongxing exchange` shows and ends them.
``--door envoy`` puts Envoy before them.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import secrets
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table
from travellers import ISSUER_CREDIT_CODE, ISSUER_NAME, travellers

from exchange import attestations, publication
from exchange.client import (
    Client,
    DecisionMessage,
    Document,
    JudgedCode,
    NewAttestation,
    Purpose,
)
from exchange.client.auditing import Accesses
from exchange.codes import qr
from exchange.errors import TongxingError
from exchange.facts import Colour, Kind
from exchange.keys import Algorithm, PrivateKey, PublicKey
from exchange.provinces import PROVINCES
from exchange.recognition import Outcome
from exchange.subjects import mod_11_2
from exchange.v1 import recognition_service_pb2, types_pb2
from nodes.cli import files
from nodes.cli.exchange import raised
from nodes.store.attestations import AttestationStore
from nodes.store.records import NewRecord
from nodes.trial import TrialExchange
from nodes.trial.standing import choose

SICHUAN, GUANGDONG, SHANGHAI = "510000", "440000", "310000"
PASSENGERS = 588
HOME = Path(".demo")
GATE = Purpose.PURPOSE_ENTRY_CHECK
SHOWING = Purpose.PURPOSE_CODE_DISPLAY
ARRIVAL_SECONDS = 30.0
console = Console(width=118 if not sys.stdout.isatty() else None)


@dataclass(frozen=True)
class Case:
    """One scene: what is asked, and how it must come out."""

    zh: str
    en: str
    ask: Callable[[], Awaitable[DecisionMessage]]
    expected: str


@dataclass(frozen=True)
class Forger:
    """Signs in the name of a key that it does not hold."""

    public: PublicKey
    own: PrivateKey

    def sign(self, data: bytes) -> bytes:
        """A signature that cannot hold."""
        return self.own.sign(data)


def resident(sequence: int) -> Document:
    """An invented resident's document: valid in form, of a county that does not exist."""
    body = f"51999219900101{sequence:03d}"
    return Document(type="DOCUMENT_TYPE_RESIDENT_ID", number=body + mod_11_2(body))


def nucleic_acid_test(document: Document, sampled_at: datetime) -> NewAttestation:
    """A negative test of the holder."""
    when = {"seconds": int(sampled_at.timestamp())}
    return NewAttestation(
        attestation_id=str(
            files.uuid7(int(sampled_at.timestamp() * 1000), secrets.token_bytes(10))
        ),
        document=document,
        holder_name="胡小君",
        fact=types_pb2.Fact(
            nucleic_acid_test=types_pb2.NucleicAcidTest(
                sample_time=when, result_time=when, result="TEST_RESULT_NEGATIVE"
            )
        ),
        issuer=types_pb2.Issuer(credit_code=ISSUER_CREDIT_CODE, name=ISSUER_NAME),
    )


def write_travellers(path: Path, now: datetime) -> None:
    """The file that the hospital sends in."""
    rows = list(travellers(PASSENGERS, now=now, seed=20200301))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


async def publish(client: Client, path: Path) -> list[Document]:
    """Publish the file; the travellers' documents."""
    rows = [row for row in files.read(path, None) if isinstance(row, files.Row)]
    begun = time.perf_counter()
    answers = [i async for i in client.publish_all((row.line, row.attestation) for row in rows)]
    took = time.perf_counter() - begun
    refused = [item for item in answers if item.error]
    for item in refused[:5]:
        console.print(f"[red]第{item.index}行 line {item.index}: {item.error}")
    if refused or len(answers) != PASSENGERS:
        sys.exit("文件未全部发布 the file was not published whole")
    console.print(
        f"四川发布[bold]{len(answers)}[/]份已签名证明，用时{took:.2f}秒，每份先落盘后确认\n"
        f"  Sichuan published {len(answers)} signed attestations in {took:.2f} s, "
        f"each on disk before it was acknowledged ({len(answers) / took:,.0f}/s)"
    )
    return [row.attestation.document for row in rows]


async def arrived(app: Client, document: Document, word: str) -> float:
    """Wait until a node knows of a change, and so of all before it; how many seconds it took."""
    begun = time.perf_counter()
    async with asyncio.timeout(ARRIVAL_SECONDS):
        while verdict(await app.recognize(document, GATE)) != word:
            await asyncio.sleep(0.001)
    return time.perf_counter() - begun


async def recognise_train(app: Client, documents: list[Document], later: Document) -> bool:
    """One BatchRecognize for the whole train, then each by itself for the latencies.

    :param later: of whom was published after all of them, whose own order is any.
    """
    lag = await arrived(app, later, "ACCEPTED")
    console.print(f"广东获知全部 Guangdong knew of all of them {lag * 1000:.0f} ms later")
    begun = time.perf_counter()
    decisions = await app.recognize_all(documents, GATE)
    took = time.perf_counter() - begun
    outcomes = Counter(
        str(decision) if isinstance(decision, TongxingError) else outcome(decision)
        for decision in decisions
    )
    latencies = []
    for document in documents[:100]:
        begun = time.perf_counter()
        await app.recognize(document, GATE)
        latencies.append((time.perf_counter() - begun) * 1000)
    quantiles = statistics.quantiles(latencies, n=100)
    console.print(
        f"广东一次批量查询认可{len(documents)}人中的[bold green]{outcomes['RECOGNIZED']}[/]人，"
        f"用时{took * 1000:.0f}毫秒；关口逐一查验 p50 {quantiles[49]:.1f} ms，"
        f"p99 {quantiles[98]:.1f} ms\n"
        f"  Guangdong recognised {outcomes['RECOGNIZED']} "
        f"of {len(documents)} by one BatchRecognize in {took * 1000:.0f} ms; "
        f"one by one at the gate p50 {quantiles[49]:.1f} ms, p99 {quantiles[98]:.1f} ms"
    )
    kinds = Counter(
        piece.attestation.fact.WhichOneof("kind")
        for decision in decisions
        if not isinstance(decision, TongxingError)
        for piece in decision.evidence
    )
    counts = [(count, Kind(kind.upper()).text) for kind, count in kinds.most_common()]
    console.print("  " + "，".join(f"{kind.zh}{count}份" for count, kind in counts))
    console.print("  " + ", ".join(f"{count} × {kind.en}" for count, kind in counts))
    return outcomes == {"RECOGNIZED": len(documents)}


def outcome(decision: DecisionMessage | JudgedCode) -> str:
    """RECOGNIZED, NOT_RECOGNIZED or INDETERMINATE."""
    return recognition_service_pb2.Outcome.Name(decision.outcome).removeprefix("OUTCOME_")


def verdict(decision: DecisionMessage | JudgedCode) -> str:
    """The one reason: ACCEPTED, REVOKED, NO_RECORD …"""
    return recognition_service_pb2.Verdict.Name(decision.verdict).removeprefix("VERDICT_")


def in_words(decision: DecisionMessage | JudgedCode) -> str:
    """The outcome in both languages."""
    words = Outcome[outcome(decision)].text
    return f"{words.zh} {words.en}"


def colour_of(number: int) -> str:
    """A colour of the contract in both languages."""
    words = Colour[types_pb2.Colour.Name(number).removeprefix("COLOUR_")].text
    return f"{words.zh} {words.en}"


async def forge(exchange: TrialExchange, victim: Document, now: datetime) -> None:
    """Put an attestation that Sichuan never signed into Sichuan's own store."""
    home = exchange.directory / SICHUAN
    draft = publication.draft(
        nucleic_acid_test(victim, now - timedelta(hours=1)),
        province=SICHUAN,
        author=ISSUER_CREDIT_CODE,
        epoch=exchange.epoch_key(),
        now=now,
    )
    key = exchange.trust().profile(SICHUAN).keys[0].public
    signed = attestations.sign(draft, Forger(key, PrivateKey.generate(Algorithm.ES256)))
    store = await AttestationStore.open(f"unix://{home / 'data' / 'valkey' / 'valkey.sock'}")
    await store.publish(
        NewRecord(
            id=draft.id.bytes,
            token=draft.token,
            issuer=ISSUER_CREDIT_CODE,
            digest=attestations.digest(draft),
            expires=int(draft.expires_at.timestamp()),
            signed=signed,
        )
    )
    await store.close()


async def play(exchange: TrialExchange, now: datetime) -> bool:
    """Every scene; whether all came out right."""
    path = exchange.directory / "travellers.csv"
    write_travellers(path, now)
    clients = contextlib.AsyncExitStack()
    async with clients:
        hospital = await clients.enter_async_context(exchange.client(SICHUAN, "issuer"))
        gate = await clients.enter_async_context(exchange.client(GUANGDONG, "app"))
        shanghai = await clients.enter_async_context(exchange.client(SHANGHAI, "app"))
        home = await clients.enter_async_context(exchange.client(SICHUAN, "app"))
        stale, forged, revoked, unknown, unseen, later = (resident(900 + n) for n in range(6))
        documents = await publish(hospital, path)
        await hospital.publish(nucleic_acid_test(later, now - timedelta(hours=2)))
        right = await recognise_train(gate, documents, later)

        await hospital.publish(nucleic_acid_test(stale, now - timedelta(hours=60)))
        await hospital.publish(nucleic_acid_test(unseen, now - timedelta(hours=2)))
        await forge(exchange, forged, now)
        ended, _ = await hospital.publish(nucleic_acid_test(revoked, now - timedelta(hours=2)))
        await hospital.revoke(ended.id, "样本污染 the sample was contaminated")
        for app in (gate, shanghai):
            await arrived(app, revoked, "REVOKED")

        def ask(client: Client, document: Document) -> Callable[[], Awaitable[DecisionMessage]]:
            return lambda: client.recognize(document, GATE)

        cases = [
            Case("列车上的一位旅客", "a traveller of the train", ask(gate, documents[0]),
                 "RECOGNIZED/ACCEPTED"),
            Case("没有任何记录", "a traveller without a record", ask(gate, unknown),
                 "NOT_RECOGNIZED/NO_RECORD"),
            Case("60小时前采样，到广东", "a test 60 h old, in Guangdong (48 h)", ask(gate, stale),
                 "NOT_RECOGNIZED/NOT_RECOGNIZED_BY_RULE"),
            Case("同一份检测，到上海", "the same test, in Shanghai (72 h)", ask(shanghai, stale),
                 "RECOGNIZED/ACCEPTED"),
            Case("伪造的证明", "a forged attestation in Sichuan's store", ask(gate, forged),
                 "NOT_RECOGNIZED/BAD_SIGNATURE"),
            Case("已撤销的证明", "an attestation revoked a moment ago", ask(gate, revoked),
                 "NOT_RECOGNIZED/REVOKED"),
            Case("发证机构冒用应用接口", "an issuer calls what only an app may",
                 ask(hospital, documents[0]), "CALLER_NOT_ALLOWED"),
        ]  # fmt: skip
        table = scene_table()
        for case in cases:
            right &= await show(table, case)
        fresh, old = [await home.issue_health_code(of, SHOWING) for of in (documents[0], stale)]
        seen = await Accesses(home).list(documents[0])
        exchange.stop(SICHUAN)
        for case in (
            Case("四川节点停机，此前查过", "Sichuan is switched off: one looked up before",
                 ask(gate, documents[0]), "RECOGNIZED/ACCEPTED"),
            Case("四川节点停机，未曾查过", "Sichuan is switched off: one never looked up",
                 ask(gate, unseen), "INDETERMINATE/UNAVAILABLE"),
            Case("四川节点停机，别无记录", "Sichuan is switched off: one it knows nothing of",
                 ask(gate, unknown), "NOT_RECOGNIZED/NO_RECORD"),
        ):  # fmt: skip
            right &= await show(table, case)
        console.print(table)
        console.print(
            f"本人可查：四川有{len(seen.accesses)}次访问，最近一次是四川的应用亮码\n"
            f"  the holder sees who looked: {len(seen.accesses)} accesses in Sichuan, "
            "the newest by an app of Sichuan's that showed a code"
        )
        newest = seen.accesses[0]
        print(f"  {newest.method}, {newest.caller}")
        right &= newest.method == "IssueHealthCode" and f"//{SICHUAN}." in newest.caller
        right &= await show_code(gate, fresh.health_code.text, "RECOGNIZED/ACCEPTED")
        right &= await show_code(
            gate, old.health_code.text, "NOT_RECOGNIZED/NOT_RECOGNIZED_BY_RULE", picture=False
        )
    return right


async def show_code(gate: Client, text: str, expected: str, *, picture: bool = True) -> bool:
    """Show a Sichuan health code at Guangdong's gate; whether it came out right."""
    if picture:
        console.print(
            f"\n天府健康通亮码，四川节点已停机（二维码版本{qr.version(text)}，5分钟有效）\n"
            f"A code of Sichuan, whose node is switched off "
            f"(QR version {qr.version(text)}, good for 5 minutes):"
        )
        print(qr.blocks(text, ansi=sys.stdout.isatty()), end="")
    judged = await gate.verify_health_code(text, GATE)
    got = f"{outcome(judged)}/{verdict(judged)}"
    mark = "[green]✔" if got == expected else f"[red]✘ 预期 expected {expected}"
    holder = judged.health_code.holder
    console.print(
        f"广东粤康码验码 Guangdong verifies: {holder.name} {holder.document_number}, "
        f"在四川 in Sichuan {colour_of(judged.health_code.colour)}: "
        f"[bold]{in_words(judged)}[/] {mark}\n  {judged.reason.zh}\n  {judged.reason.en}"
    )
    for remedy in judged.remedies[:2]:
        console.print(f"  怎样变绿 how it turns green: {remedy.text.zh}\n    {remedy.text.en}")
    return got == expected


def scene_table() -> Table:
    """The table that the demonstration prints."""
    table = Table(title="结果与原因 What happened, and why", title_justify="left", expand=True)
    table.add_column("情形 case", ratio=5)
    table.add_column("结果 outcome", ratio=4)
    table.add_column("原因 why", ratio=7, overflow="fold")
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    return table


async def show(table: Table, case: Case) -> bool:
    """Ask, add a row, and say whether it came out right."""
    begun = time.perf_counter()
    try:
        decision = await case.ask()
    except TongxingError as error:
        got, why = error.reason, f"{error.zh}\n{error}"
        shown = "拒绝调用 refused"
    else:
        got = f"{outcome(decision)}/{verdict(decision)}"
        why = f"{decision.reason.zh}\n{decision.reason.en}"
        style = {"RECOGNIZED": "green", "NOT_RECOGNIZED": "red"}.get(outcome(decision), "yellow")
        shown = f"[{style}]{in_words(decision)}[/]"
        if decision.colour:
            shown += f"\n{colour_of(decision.colour)}"
    took = (time.perf_counter() - begun) * 1000
    as_expected = got == case.expected
    mark = "[green]✔" if as_expected else f"[red]✘ 预期 expected {case.expected}"
    table.add_row(f"{case.zh}\n{case.en}", shown, why, f"{took:.1f}", mark)
    return as_expected


def open_exchange(directory: Path) -> TrialExchange:
    """Three provinces; a hospital in Sichuan."""
    return TrialExchange(
        directory,
        (SICHUAN, GUANGDONG, SHANGHAI),
        issuers={SICHUAN: (ISSUER_CREDIT_CODE,)},
    )


def demo() -> None:
    """Play it, clean up, exit 0 only if every scene came out right."""
    with tempfile.TemporaryDirectory(prefix="tongxing-demo-") as scratch:
        with open_exchange(Path(scratch, "exchange")) as exchange:
            begun = time.perf_counter()
            exchange.start()
            names = ", ".join(f"{PROVINCES[c].zh} {PROVINCES[c].en}" for c in exchange.provinces)
            console.print(
                f"三省节点{time.perf_counter() - begun:.1f}秒内启动 three nodes are up: {names}\n"
                f"  双向TLS，各有内嵌Valkey，信任列表第{exchange.trust().version}版 mutual TLS, "
                f"an embedded Valkey each, trust list version {exchange.trust().version}"
            )
            pids = [exchange.pid(code) for code in exchange.provinces]
            right = asyncio.run(play(exchange, datetime.now(UTC)))
        left = [pid for pid in pids if alive(pid)]
    if left:
        right = False
        console.print(f"[red]仍有进程未结束 processes are left behind: {left}")
    console.print(
        f"[bold green]认可{PASSENGERS}人，全部符合预期 "
        f"{PASSENGERS} recognised; every case came out right"
        if right
        else "[bold red]有不符合预期的结果 not every case came out right"
    )
    sys.exit(0 if right else 1)


def alive(pid: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def up(count: int | None = None) -> None:
    """Leave some provinces running, Sichuan's store filled."""
    provinces = choose(count) if count else None
    issuers = {SICHUAN: (ISSUER_CREDIT_CODE,)}
    directory = HOME / "exchange"
    with raised(directory, provinces, registry=None, issuers=issuers) as (standing, _, seen):
        fill(standing.trial())
    if seen.faults:
        console.print(
            "[red]有异常，请查看 not all is well: .venv/bin/tongxing exchange status -d", directory
        )


def fill(exchange: TrialExchange) -> None:
    """Publish the travellers, and say how to call the nodes."""
    directory = exchange.directory
    path = HOME / "travellers.csv"
    write_travellers(path, datetime.now(UTC))

    async def send() -> list[Document]:
        async with exchange.client(SICHUAN, "issuer") as hospital:
            return await publish(hospital, path)

    document = asyncio.run(send())[0]
    home = directory / GUANGDONG
    kind = types_pb2.DocumentType.Name(document.type)
    number = document.number
    console.print("各省节点运行中 the nodes are running:")
    for code in exchange.provinces:
        name = f"{PROVINCES[code].zh} {PROVINCES[code].en}"
        console.print(f"  {code} {name}: {exchange.addresses[code]}")
    console.print("\n问广东 ask Guangdong about a traveller of the train, with the command line:")
    print(
        f"  .venv/bin/tongxing recognize --client {home / 'app.toml'}"
        f" --document-type {kind.removeprefix('DOCUMENT_TYPE_')} --document-number {number}"
    )
    console.print("或用 buf curl（反射） or with buf curl, by reflection:")
    print(
        f"  .venv/bin/buf curl --protocol grpc --cacert {home / 'authority.pem'}"
        f" --cert {home / 'app.pem'} --key {home / 'app-key.pem'}"
        f" --servername node.{GUANGDONG}.tongxing"
        f' -d \'{{"document": {{"type": "{kind}", "number": "{number}"}},'
        f' "purpose": "PURPOSE_ENTRY_CHECK"}}\''
        f" https://{exchange.addresses[GUANGDONG]}/tongxing.v1.RecognitionService/Recognize"
    )
    console.print("\n信任列表 the trust list:")
    print(f"  .venv/bin/tongxing trust show --client {home / 'app.toml'}")
    console.print("\n各省状态 how they all stand:")
    print(f"  .venv/bin/tongxing exchange status --directory {directory}")
    console.print("停止 stop them: make down")


class Ended(SystemExit):
    """A signal asked for the end."""

    code: int


def end(number: int, _: FrameType | None) -> None:
    """Leave by the way of every ``with``; a second signal must not cut the cleaning short."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    threading.excepthook = lambda _: None  # a thread of gRPC may find its channel closed
    raise Ended(128 + number)


if __name__ == "__main__":
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)
    match sys.argv[1:]:
        case [*rest, "--door", ("grpcio" | "envoy") as door]:
            os.environ["TONGXING_DOOR"] = door
        case rest:
            pass
    match rest:
        case [] | ["demo"]:
            command = demo
        case ["up"]:
            command = up
        case ["up", count] if count.isdigit() and int(count) > 1:
            command = partial(up, int(count))
        case _:
            sys.exit("usage: demo.py [demo | up [N]] [--door grpcio | envoy]")
    try:
        command()
    except TongxingError as error:
        sys.exit(str(error))
    except Ended as ended:  # all is stopped and removed
        sys.stdout.flush()
        os._exit(ended.code)  # threads of gRPC that were cut short somewhere may never end
