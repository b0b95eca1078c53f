"""Drills of the trust keys on real nodes (密钥轮换演练).

`drill.py rotation`: apps recognise without a pause at three provinces while attestation keys, TLS
certificates, an authority, the online keys and the root change. No answer may fail or be wrong.

`drill.py stolen`: 32 nodes; how long from `tongxing key revoke --emergency` until every node
refuses what the stolen key signed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from demo import GUANGDONG, SHANGHAI, SICHUAN, arrived, nucleic_acid_test, outcome, resident
from rich.console import Console
from travellers import ISSUER_CREDIT_CODE

from exchange.client import Client, Document, Purpose
from exchange.client.admin import Keys
from exchange.errors import TongxingError
from exchange.provinces import PROVINCES
from exchange.trust.roles import role_name
from exchange.trust.signers import load_signer
from exchange.v1 import trust_service_pb2
from nodes import issuing
from nodes.trial import TrialExchange

GATE = Purpose.PURPOSE_ENTRY_CHECK
TRAVELLERS = 60
# A drill cannot wait half an hour for old connections, nor a day between two steps.
HURRY = {
    "TONGXING_CONNECTIONS__AGE_SECONDS": "3",
    "TONGXING_CONNECTIONS__GRACE_SECONDS": "5",
    "TONGXING_IDENTITY__POLL_SECONDS": "0.2",
    "TONGXING_KEYS__MIN_PUBLISHED_HOURS": "0",
}
console = Console(width=118 if not sys.stdout.isatty() else None)


class Crowd:
    """Apps that ask without a pause, and what they were answered."""

    def __init__(self, apps: dict[str, Client], documents: Sequence[Document]) -> None:
        self._apps = apps
        self._documents = documents
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.slowest = 0.0

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Ask for as long as the block runs."""
        over = asyncio.Event()
        tasks = [asyncio.create_task(self._ask(code, over)) for code in self._apps]
        tasks += [asyncio.create_task(app.follow_trust()) for app in self._apps.values()]
        try:
            yield
        finally:
            over.set()
            await asyncio.gather(*tasks[: len(self._apps)])
            for task in tasks[len(self._apps) :]:
                task.cancel()

    async def _ask(self, code: str, over: asyncio.Event) -> None:
        turn = 0
        while not over.is_set():
            document = self._documents[turn % len(self._documents)]
            turn += 1
            begun = time.perf_counter()
            try:
                decision = await self._apps[code].recognize(document, GATE)
            except TongxingError as error:
                self.answers["failed"] += 1
                self.wrong.append(f"{code}: {type(error).__name__}: {error}")
                continue
            self.slowest = max(self.slowest, time.perf_counter() - begun)
            got = outcome(decision)
            self.answers[got] += 1
            if got != "RECOGNIZED":
                self.wrong.append(f"{code}: {got}: {decision.reason.en}")


async def rotation(exchange: TrialExchange) -> bool:
    """Rotate everything under load."""
    async with contextlib.AsyncExitStack() as stack:
        hospital = await stack.enter_async_context(
            exchange.client(SICHUAN, "issuer", trust=exchange.live_trust("hospital"))
        )
        documents = [resident(number) for number in range(TRAVELLERS)]
        now = datetime.now(UTC)
        for document in documents:
            await hospital.publish(nucleic_acid_test(document, now - timedelta(hours=1)))
        apps = {
            code: await stack.enter_async_context(
                exchange.client(code, "app", trust=exchange.live_trust(code))
            )
            for code in exchange.provinces
        }
        crowd = Crowd(apps, documents)
        steps: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("签名密钥 attestation keys of all provinces", lambda: rotate_keys(exchange)),
            ("节点证书 TLS certificates of all nodes", lambda: reissue(exchange)),
            ("省级 CA an authority: both, then reissue, then the new alone",
             lambda: rotate_authority(exchange)),
            ("在线密钥 the online keys, by two of three root holders",
             lambda: rotate_online(exchange)),
            ("根密钥 a root holder's key, by two of three", lambda: rotate_root(exchange)),
        ]  # fmt: skip
        following = asyncio.create_task(hospital.follow_trust())
        async with crowd.asking():
            await asyncio.sleep(1)
            for what, step in steps:
                before, begun = sum(crowd.answers.values()), time.perf_counter()
                await step()
                await asyncio.sleep(1)
                console.print(
                    f"{what}: {time.perf_counter() - begun:.1f} s, meanwhile "
                    f"{sum(crowd.answers.values()) - before:,} answers"
                )
            fresh = resident(900)
            await hospital.publish(nucleic_acid_test(fresh, datetime.now(UTC)))
            after = [outcome(await app.recognize(fresh, GATE)) for app in apps.values()]
            # Old connections end meanwhile, and the apps come back over new ones.
            await asyncio.sleep(8)
        following.cancel()
        for line in crowd.wrong[:10]:
            console.print(f"[red]{line}")
        right = not crowd.wrong and set(after) == {"RECOGNIZED"}
        console.print(
            f"[bold {'green' if right else 'red'}]{sum(crowd.answers.values()):,} answers at "
            f"{len(apps)} provinces, {crowd.answers['failed']} failed, "
            f"{len(crowd.wrong) - crowd.answers['failed']} wrong; slowest {crowd.slowest:.2f} s"
        )
        return right


async def rotate_keys(exchange: TrialExchange) -> None:
    """A new attestation key for each province."""
    for code in exchange.provinces:
        async with exchange.client(code, "admin", trust=exchange.live_trust(f"admin{code}")) as one:
            keys = Keys(one)
            _, kid = await keys.prepare()
            while True:
                with contextlib.suppress(TongxingError):
                    await keys.activate(kid)
                    break
                await asyncio.sleep(0.1)


async def reissue(exchange: TrialExchange) -> None:
    """New certificates for nodes, apps, admins and the hospital."""
    for code in exchange.provinces:
        await asyncio.to_thread(issue_all, exchange, code)
    await asyncio.sleep(2)


def issue_all(exchange: TrialExchange, code: str) -> None:
    """New certificates of a province's node and its clients."""
    home = exchange.directory / code
    now, life = datetime.now(UTC), timedelta(days=90)
    for stem, identity in issuing.borne(home).items():
        issuing.issue_into(home, stem, identity, now=now, lifetime=life)


async def rotate_authority(exchange: TrialExchange) -> None:
    """Sichuan's authority gives way to its successor."""
    home = exchange.directory / SICHUAN
    now, life = datetime.now(UTC), timedelta(days=365)
    both = issuing.rotate(home, now=now, lifetime=life)
    await submit_authority(exchange, both.read_text())
    # The handbook says a day: who knows the old authority alone when it goes must be told anew.
    await asyncio.sleep(3)
    issuing.adopt(home, both.read_bytes())
    issue_all(exchange, SICHUAN)
    await asyncio.sleep(3)
    new = (home / "authority.pem").read_text().split("-----END CERTIFICATE-----")[0]
    await submit_authority(exchange, f"{new}-----END CERTIFICATE-----\n")


async def submit_authority(exchange: TrialExchange, tls_ca: str) -> None:
    """Publish Sichuan's profile with other authorities, and wait until all nodes hold it."""
    version = await exchange.submit(SICHUAN, tls_ca=tls_ca)
    await until_held(exchange, exchange.provinces, SICHUAN, version)


async def rotate_online(exchange: TrialExchange) -> None:
    """New snapshot and timestamp keys."""
    keys = exchange.directory / "keys"
    new = {name: new_key(keys / f"{name}-next.pem") for name in ("snapshot", "timestamp")}
    proposal = exchange.directory / "online.json"
    await propose(
        *(exchange, proposal, "online"),
        *("--snapshot", new["snapshot"], "--timestamp", new["timestamp"]),
    )
    await sign_and_publish(exchange, proposal, ("root-1", "root-2"))


async def rotate_root(exchange: TrialExchange) -> None:
    """The first root holder's key gives way to a new one."""
    keys = exchange.directory / "keys"
    proposal = exchange.directory / "root.json"
    gone = load_signer(keys / "root-1.pem").public_key.keyid
    await propose(
        *(exchange, proposal, "holders", "root"),
        *("--remove", gone, "--add", new_key(keys / "root-4.pem")),
    )
    await sign_and_publish(exchange, proposal, ("root-2", "root-3"))


def new_key(path: Path) -> Path:
    """A key without a passphrase, as a drill may; its public part."""
    key = Ed25519PrivateKey.generate()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = path.with_name(path.name + ".pub")
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return public


async def propose(exchange: TrialExchange, out: Path, *what: object) -> None:
    """Make a proposal."""
    await tongxing(
        *("trust", "propose", *what, "--out", out, "--by", "drill"),
        *("--trust", mirror(exchange), "--root", exchange.directory / "trust" / "1.root.json"),
    )


async def sign_and_publish(exchange: TrialExchange, proposal: Path, holders: Sequence[str]) -> None:
    """Each holder signs; an admin hands it in."""
    for holder in holders:
        await tongxing(
            *("trust", "sign", proposal, "--trust", mirror(exchange), "--yes"),
            *("--root", exchange.directory / "trust" / "1.root.json"),
            *("--key", exchange.directory / "keys" / f"{holder}.pem"),
        )
    await tongxing("trust", "publish", proposal, "--client", registry_client(exchange))
    await asyncio.sleep(2)


def mirror(exchange: TrialExchange) -> Path:
    """The list as Guangdong's node holds it."""
    return exchange.directory / GUANGDONG / "data" / "trust" / "mirror"


def registry_client(exchange: TrialExchange) -> Path:
    """An admin's configuration."""
    return exchange.directory / SICHUAN / "admin.toml"


async def tongxing(*arguments: object) -> None:
    """Run a command as an admin would; what it says is shown only if it fails."""
    command = [sys.executable, "-m", "nodes.cli", *map(str, arguments)]
    run = await asyncio.to_thread(
        subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if run.returncode:
        sys.exit(
            f"tongxing {' '.join(map(str, arguments))}\n{run.stdout.decode()}{run.stderr.decode()}"
        )


async def until_held(
    exchange: TrialExchange, provinces: Sequence[str], of: str, version: int
) -> None:
    """Wait until nodes hold a version of a province's role."""
    for code in provinces:
        async with exchange.client(code, "admin", trust=exchange.live_trust(f"wait{code}")) as one:
            while await held(one, of) < version:
                await asyncio.sleep(0.02)


async def held(client: Client, province: str) -> int:
    """The version of a province's role that a node holds."""
    pb = trust_service_pb2
    answer = await client.call(
        "TrustService/GetTrustMetadata", pb.GetTrustMetadataRequest(), pb.GetTrustMetadataResponse
    )
    return int(answer.holds.roles[role_name(province)])


async def stolen(exchange: TrialExchange) -> bool:
    """Revoke a key in an emergency, and time it at every node."""
    victim = resident(901)
    async with contextlib.AsyncExitStack() as stack:
        hospital = await stack.enter_async_context(
            exchange.client(SICHUAN, "issuer", trust=exchange.live_trust("hospital"))
        )
        await hospital.publish(nucleic_acid_test(victim, datetime.now(UTC) - timedelta(hours=1)))
        admins = {
            code: await stack.enter_async_context(exchange.client(code, "admin"))
            for code in exchange.provinces
        }
        gates = {
            code: await stack.enter_async_context(
                exchange.client(code, "app", trust=exchange.live_trust(f"app{code}"))
            )
            for code in exchange.provinces
        }
        await asyncio.gather(*(arrived(gate, victim, "ACCEPTED") for gate in gates.values()))
        before = Counter([outcome(await g.recognize(victim, GATE)) for g in gates.values()])
        console.print(f"before: {dict(before)} at {len(gates)} provinces")
        version = await held(admins[SICHUAN], SICHUAN)
        keys = Keys(admins[SICHUAN])
        (key,) = (await keys.list()).keys

        begun = time.perf_counter()

        async def seen(client: Client) -> float:
            while await held(client, SICHUAN) == version:
                await asyncio.sleep(0.1)  # more often, and the asking would be the load
            return time.perf_counter() - begun

        watching = [asyncio.create_task(seen(client)) for client in admins.values()]
        await keys.revoke(key.kid, emergency=True)
        answered = time.perf_counter() - begun
        times = sorted(await asyncio.gather(*watching))
        after = Counter([outcome(await g.recognize(victim, GATE)) for g in gates.values()])
        await hospital.publish(nucleic_acid_test(resident(902), datetime.now(UTC)))
        await asyncio.gather(*(arrived(g, resident(902), "ACCEPTED") for g in gates.values()))
        signs = Counter([outcome(await g.recognize(resident(902), GATE)) for g in gates.values()])
    console.print(
        f"revoked: the command answered after {answered:.2f} s; the first node refused after "
        f"{times[0]:.2f} s, half of them after {times[len(times) // 2]:.2f} s, "
        f"[bold]the last of {len(times)} after {times[-1]:.2f} s[/] (aim 2 s)"
    )
    console.print(f"after: {dict(after)}; signed by the key in its place: {dict(signs)}")
    return set(before) == set(signs) == {"RECOGNIZED"} and set(after) == {"NOT_RECOGNIZED"}


def main() -> None:
    """Run a drill; exit 0 only if it came out right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("drill", choices=["rotation", "stolen"])
    parser.add_argument("--provinces", type=int, default=0, help="how many nodes")
    arguments = parser.parse_args()
    others = [code for code in PROVINCES if code not in (SICHUAN, GUANGDONG, SHANGHAI)]
    count = arguments.provinces or (3 if arguments.drill == "rotation" else len(PROVINCES))
    codes = [SICHUAN, GUANGDONG, SHANGHAI, *others][:count]
    if arguments.drill == "rotation":  # 32 nodes would do nothing but connect anew
        os.environ.update(HURRY)
    with tempfile.TemporaryDirectory(prefix="tongxing-drill-") as scratch:
        exchange = TrialExchange(
            Path(scratch, "exchange"),
            codes,
            issuers={SICHUAN: (ISSUER_CREDIT_CODE,)},
            registry=True,
        )
        with exchange:
            begun = time.perf_counter()
            exchange.start(seconds=300)
            took = time.perf_counter() - begun
            console.print(f"{len(codes)} nodes and a registry are up after {took:.0f} s")
            right = asyncio.run((rotation if arguments.drill == "rotation" else stolen)(exchange))
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
