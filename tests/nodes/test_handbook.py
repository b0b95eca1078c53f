"""The admin's handbook, done as it stands: its commands are run, and their effect is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from tuf.api.metadata import Root
from waiting import SECONDS, until

from exchange.attestations import AttestationVerifier
from exchange.client import Client, Purpose
from exchange.errors import TongxingError, UnknownIssuerError
from exchange.rules import RuleBook
from exchange.trust import files, refresh
from exchange.trust.files import Bundle
from exchange.trust.profile import KeyState
from exchange.trust.signers import load_signer
from exchange.v1 import recognition_service_pb2 as recognition
from exchange.v1 import trust_service_pb2
from exchange.v1 import types_pb2 as types
from nodes.cli import app
from nodes.trial import TrialExchange, free_ports, wait_until

CHECKOUT = Path(__file__).parents[2]
HANDBOOK = CHECKOUT / "nodes" / "README.md"
CHAPTER = "# The admin's handbook"
SICHUAN, GUANGDONG, SHANGHAI, ZHEJIANG = "510000", "440000", "310000", "330000"
SECTION_SECONDS = 150
"""That a section may take on a busy machine: some of its commands wait for what others do."""
pytestmark = pytest.mark.timeout(2 * SECTION_SECONDS)
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


# --- reading it --------------------------------------------------------------------------------


def console(text: str) -> list[str]:
    """The command lines of the console blocks of a text, those that go on over lines whole."""
    commands: list[str] = []
    for block in _BLOCK.findall(text):
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append(line[2:])
            elif commands and line.startswith(("> ", "    ")):
                commands[-1] += "\n" + line.removeprefix("> ")
    return commands


def sections() -> list[str]:
    """The sections of the admin's chapter, in their order."""
    chapter = HANDBOOK.read_text(encoding="utf-8").split(CHAPTER)[1]
    return [part for part in chapter.split("\n## ") if re.match(r"\d\. ", part)]


# --- doing it ----------------------------------------------------------------------------------


class Handbook:
    """One working directory, in which section after section is done."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.done = 0
        self._groups: list[int] = []
        self._text = [self._on_free_ports("\n".join(console(each))) for each in sections()]

    def _on_free_ports(self, text: str) -> str:
        return re.sub(r"127\.0\.0\.1:(\d+)", lambda found: f"127.0.0.1:{port(found[1])}", text)

    def do(self) -> None:
        """Do the next section, each command having to succeed."""
        self.bash(self._text[self.done])
        self.done += 1

    def bash(self, script: str) -> None:
        """Run commands as a person would in a shell; what they leave running goes on."""
        said = self.place / f"said-{self.done + 1}"
        clean = {name: value for name, value in os.environ.items() if "TONGXING" not in name}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with said.open("ab") as out:
            shell = subprocess.Popen(
                ["bash", "-c", f"set -euxo pipefail\n{script}"],
                cwd=self.place,
                env=clean | {"PATH": path, "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._groups.append(shell.pid)
        try:
            code = shell.wait(SECTION_SECONDS)
        except subprocess.TimeoutExpired:
            shell.kill()  # or its loops would go on beside what comes next
            code = shell.wait()
        assert code == 0, said.read_text()[-3000:]

    def end(self, *words: str, by: signal.Signals) -> None:
        """End what was left running whose command line holds some words; wait until it has."""
        for pid in (found := self._running(words)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, by)
        wait_until(f"{found} end", lambda: not self._running(words), SECONDS)

    def _running(self, words: tuple[str, ...]) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
                line = (process / "cmdline").read_bytes().split(b"\0")
                ours = state != "Z" and int(group) in self._groups
                if ours and all(word.encode() in line for word in words):
                    found.append(int(process.name))
        return found

    @functools.cached_property
    def exchange(self) -> TrialExchange:
        exchange = TrialExchange(self.place / "trial", (GUANGDONG, SICHUAN, SHANGHAI))
        exchange.addresses[ZHEJIANG] = f"127.0.0.1:{port('7433')}"
        return exchange

    def root(self) -> Root:
        newest = self.exchange.newest()
        return files.signed(newest, files.newest_root(newest), Root)

    def key_id(self, who: str, role: str) -> str:
        """The id of a holder's key."""
        home = self.place / f"holder-{who}"
        secret = (home / "pass").read_bytes().strip()
        return load_signer(home / f"{role}.pem", secret).public_key.keyid


PORTS: dict[str, int] = {}


def port(written: str) -> int:
    """A free port for one that the handbook names, always the same."""
    while written not in PORTS:
        (free,) = free_ports(1)
        if free not in PORTS.values():
            PORTS[written] = free
    return PORTS[written]


@pytest.fixture(scope="module")
def documents(invented, tmp_path_factory):
    """Invented holders in a file as issuers have them."""
    rows = []
    for row in invented.travellers(40, now=datetime.now(UTC), seed=20200301):
        if row["document_type"] == "RESIDENT_ID" and len(rows) < 2:
            rows.append(row)
    path = tmp_path_factory.mktemp("handbook") / "people.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path, [resident(row["document_number"]) for row in rows]


def resident(number: str) -> types.IdentityDocument:
    return types.IdentityDocument(type=types.DOCUMENT_TYPE_RESIDENT_ID, number=number)


@pytest.fixture(scope="module")
def begun(documents):
    path, _ = documents
    handbook = Handbook(path.parent)
    try:
        yield handbook
    finally:
        handbook.end(by=signal.SIGTERM)
    for log in (*handbook.place.glob("trial/*/node.log"), *handbook.place.glob("trial/*log")):
        assert "Traceback" not in log.read_text(), log


@pytest.fixture
def handbook(begun, request):
    """What was done so far: all sections before the test's own, which builds on them."""
    if begun.done + 1 != int(request.node.name.split("_")[1]):
        pytest.skip(f"section {begun.done + 1} was not done")
    return begun


def recognised(handbook, document, at=GUANGDONG):
    """Ask a province's node until it recognises somebody; the decision."""
    return answered(handbook, document, at, recognition.OUTCOME_RECOGNIZED)


def answered(handbook, document, at, outcome):
    exchange = handbook.exchange

    async def says():
        async with exchange.client(at, "app", trust=exchange.live_trust("app")) as client:
            decision = await client.recognize(document, Purpose.PURPOSE_ENTRY_CHECK)
        return decision.outcome == outcome and decision

    return asyncio.run(until(f"{at} says {outcome}", says))


def published(handbook, person):
    async def publish():
        exchange = handbook.exchange
        async with exchange.client(SICHUAN, "issuer", trust=exchange.live_trust("issuer")) as node:
            await node.publish(person)

    asyncio.run(publish())
    return person


def stolen_pair(handbook, name):
    """Copies of the admin's certificate and key, as a thief would have them."""
    home = handbook.place / name
    home.mkdir()
    for file in ("admin.pem", "admin-key.pem"):
        shutil.copy(handbook.place / "trial" / SICHUAN / file, home)
    return home


def is_refused(handbook, home):
    """Whether Sichuan's node refuses a pair that it once took."""

    async def ask():
        exchange = handbook.exchange
        async with Client.from_files(
            exchange.addresses[SICHUAN],
            province=SICHUAN,
            certificate=home / "admin.pem",
            key=home / "admin-key.pem",
            trust=exchange.live_trust("thief"),
        ) as client:
            await client.call(
                "TrustService/GetTrustMetadata",
                trust_service_pb2.GetTrustMetadataRequest(),
                trust_service_pb2.GetTrustMetadataResponse,
            )

    try:
        asyncio.run(ask())
    except TongxingError:
        return True
    return False


def sichuan(handbook):
    """Sichuan's profile as the registry has it."""
    return current(handbook).profile(SICHUAN)


def current(handbook):
    root = (handbook.place / "trial" / "trust" / "1.root.json").read_bytes()
    return refresh.load(handbook.exchange.newest(), root, handbook.place / "looked")


def states(handbook):
    return Counter(key.state for key in sichuan(handbook).keys)


# --- section after section ---------------------------------------------------------------------


def test_1_an_exchange_begins_and_its_holders_take_over(handbook, documents):
    handbook.do()
    for document in documents[1]:
        recognised(handbook, document)
    root = handbook.root()
    for role in ("root", "targets"):
        assert set(root.roles[role].keyids) == {handbook.key_id(who, role) for who in "abc"}
        assert root.roles[role].threshold == 2


def test_2_a_fourth_province_is_admitted(handbook, documents):
    handbook.do()
    assert set(current(handbook).profiles) == {GUANGDONG, SICHUAN, SHANGHAI, ZHEJIANG}
    recognised(handbook, documents[1][0], at=ZHEJIANG)


def test_3_everything_rotates_and_what_was_issued_before_counts(handbook, documents, people):
    old = stolen_pair(handbook, "before-rotation")
    online = handbook.root().roles["timestamp"].keyids
    handbook.do()
    assert states(handbook) == {KeyState.ACTIVE: 1, KeyState.OLD: 1}
    assert sichuan(handbook).tls_ca.count("BEGIN CERTIFICATE") == 1
    assert handbook.root().roles["timestamp"].keyids != online
    assert is_refused(handbook, old)
    recognised(handbook, documents[1][0])
    recognised(handbook, published(handbook, people.tested()).document)


def test_4_what_a_stolen_key_signed_is_refused_until_it_is_published_again(
    handbook, documents, people
):
    handbook.bash("tongxing key prepare --client trial/510000/admin.toml")
    lost = published(handbook, people.tested())
    stolen = [
        recognised(handbook, each).evidence[0].attestation.signed
        for each in (*documents[1], lost.document)
    ]
    handbook.do()
    assert states(handbook) == {KeyState.ACTIVE: 1, KeyState.REVOKED: 3}
    for signed in stolen:
        with pytest.raises(UnknownIssuerError):
            AttestationVerifier().verify(signed, current(handbook), datetime.now(UTC))
    answered(handbook, lost.document, GUANGDONG, recognition.OUTCOME_NOT_RECOGNIZED)
    for document in documents[1]:
        recognised(handbook, document)


def test_5_a_stolen_certificate_is_refused(handbook, documents):
    stolen = stolen_pair(handbook, "stolen")
    assert not is_refused(handbook, stolen)
    handbook.do()
    new = handbook.place / "trial" / SICHUAN
    wait_until("the new one is taken", lambda: not is_refused(handbook, new), SECONDS)
    assert is_refused(handbook, stolen)
    recognised(handbook, documents[1][0])


def test_6_a_lost_root_key_holds_nothing_any_more(handbook):
    handbook.do()
    keyids = handbook.root().roles["root"].keyids
    assert set(keyids) == {handbook.key_id(who, "root") for who in "abd"}


def test_7_a_lost_registry_is_replaced(handbook, documents):
    online = handbook.root().roles["timestamp"].keyids
    handbook.end("registry", "run", by=signal.SIGKILL)
    shutil.rmtree(handbook.place / "trial" / "registry")
    recognised(handbook, documents[1][0])
    handbook.do()
    assert handbook.root().roles["timestamp"].keyids != online
    assert states(handbook)[KeyState.PREPARED] == 1
    mirror = handbook.place / "trial" / GUANGDONG / "data" / "trust" / "mirror"

    def followed():
        newest = Bundle.of(handbook.exchange.newest()).versions
        return Bundle.of(files.read(mirror)).versions == newest

    wait_until("the new registry is followed", followed, SECONDS)
    recognised(handbook, documents[1][0])


def test_8_a_new_epoch_is_sealed_for_every_province(handbook, documents):
    handbook.do()
    first, second = current(handbook).epochs.epochs
    assert (first.number, second.number) == (1, 2)
    assert set(second.sealed) == {GUANGDONG, SICHUAN, SHANGHAI, ZHEJIANG}
    recognised(handbook, documents[1][0])


def test_9_a_province_publishes_changed_rules_and_a_stale_export_is_refused(handbook, people):
    handbook.do()
    changed = RuleBook(sichuan(handbook).rules)
    assert [rule.id for rule in changed.rules] == ["status-red", "nat-24h"]
    old = published(handbook, people.tested(hours=30)).document

    async def by_the_new_rules():
        exchange = handbook.exchange
        async with exchange.client(SICHUAN, "app", trust=exchange.live_trust("app")) as client:
            decision = await client.recognize(old, Purpose.PURPOSE_ENTRY_CHECK)
        return decision.rules_digest == changed.digest and decision

    decision = asyncio.run(until("Sichuan goes by them", by_the_new_rules))
    assert decision.outcome == recognition.OUTCOME_NOT_RECOGNIZED
    recognised(handbook, old)
    handbook.bash(
        "! tongxing trust profile sign rules.json --trust trial/trust "
        "--key trial/keys/p510000.pem --out again.json"
    )
    assert not (handbook.place / "again.json").exists()
    assert handbook.done == len(sections())


# --- every command that is named ---------------------------------------------------------------

_TONGXING = typer.main.get_command(app)
_SPAN = re.compile(r"`(tongxing [^`]+)`")
_INNER = re.compile(r"\$\(([^)]*)\)")
_CALL = re.compile(r"(?:^|[|;&(!]|\bdo\b|\buntil\b)\s*(tongxing [^|;&)<>#\n]+)", re.MULTILINE)


def named(text: str) -> list[str]:
    """Every ``tongxing …`` of a text: in console blocks and in code spans."""
    commands = [command.replace("\\\n", " ") for command in console(text)]
    inner = [each for command in commands for each in _INNER.findall(command)]
    outer = [_INNER.sub("…", command) for command in commands]
    found = [call for command in outer + inner for call in _CALL.findall(command)]
    outside = _BLOCK.sub("", text)
    return found + [" ".join(span.split()) for span in _SPAN.findall(outside)]


def check_command(call: str) -> None:
    """Fail where a command does not exist, or not with these options."""
    words = call.split()[1:]
    command = _TONGXING
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"{call}: no command {name}"
        command = command.commands[name]
    known = {option for param in command.params for option in param.opts + param.secondary_opts}
    for word in words:
        if word.startswith("-") and word != "-":
            option = word.partition("=")[0]
            assert option in known | {"--help", "-h"}, f"{call}: no option {option}"


@pytest.mark.parametrize("path", [HANDBOOK, CHECKOUT / "README.md"], ids=["handbook", "README"])
def test_every_command_that_is_named_exists_with_its_options(path):
    calls = named(path.read_text(encoding="utf-8"))
    assert calls
    for call in calls:
        check_command(call)


@pytest.mark.parametrize("call", ["tongxing trust forget", "tongxing key list --all"])
def test_a_command_that_does_not_exist_is_noticed(call):
    with pytest.raises(AssertionError):
        check_command(call)


def test_what_runs_for_long_is_left_running():
    for section in sections():
        for command in console(section):
            for call in re.findall(r"tongxing (?:node|registry) run.*", command):
                assert call.endswith("&")
