from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from doors import door_of, need

from nodes.embedded import EmbeddedValkey
from nodes.identity import Authority
from nodes.store.attestations import AttestationStore
from nodes.store.changes import Changes
from nodes.store.connection import Connection
from nodes.trial import TrialExchange

PROVINCES = ("510000", "440000", "310000")
DOORS = ("grpcio", "envoy")
THROUGH_BOTH = {
    "test_authorization",
    "test_bad_input",
    "test_door",
    "test_exchange",
    "test_tls_reload",
}
"""Modules whose ``exchange`` stands behind each of the doors: who holds both to the contract."""


def pytest_generate_tests(metafunc):
    if "exchange" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        if module in THROUGH_BOTH:
            metafunc.parametrize("exchange", DOORS, indirect=True)


def unconstrained(domain: str) -> Authority:
    """An authority that no name constraint keeps to its own province."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "unconstrained")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            # `nodes.identity.issue` asks for it; it constrains nobody.
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{domain}")]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return Authority(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


@pytest.fixture(scope="session")
def rogue() -> Authority:
    """An authority of Shanghai's that would speak for Sichuan; its profile holds it."""
    return unconstrained("510000.tongxing")


@pytest.fixture(scope="session")
def behind(tmp_path_factory, invented, rogue, no_traces):
    """Starts, once, Sichuan, Guangdong and Shanghai behind a door, each a process.

    What they log is held against `people` at the end.
    """
    with contextlib.ExitStack() as stack:

        @functools.cache
        def started(door):
            need(door)
            issuers = dict.fromkeys(PROVINCES, (invented.ISSUER_CREDIT_CODE,))
            trial = TrialExchange(tmp_path_factory.mktemp(door), PROVINCES, issuers=issuers)
            shanghai = trial.trust().profile("310000")
            trial.publish(
                dataclasses.replace(shanghai, tls_ca=shanghai.tls_ca + rogue.certificate.decode())
            )
            trial.door = door
            stack.callback(no_traces, trial)
            stack.enter_context(trial)
            trial.start(environment={"TONGXING_LOG__LEVEL": "debug", "TONGXING_DOOR": door})
            return trial

        yield started


@pytest.fixture(scope="session")
def exchange(request, behind):
    """Sichuan, Guangdong and Shanghai, each a process."""
    return behind(door_of(request))


@pytest.fixture
async def valkey(tmp_path):
    """A Valkey as a node has it."""
    embedded = EmbeddedValkey(tmp_path / "store")
    await embedded.start()
    yield embedded
    if embedded.pid:
        os.kill(embedded.pid, signal.SIGKILL)  # an end in order takes a tenth of a second
    await embedded.stop()


@pytest.fixture
async def store(valkey):
    """Sichuan's."""
    opened = await AttestationStore.open(valkey.url, "510000")
    yield opened
    await opened.close()


@pytest.fixture
async def raw(valkey):
    """A connection of the test's own."""
    opened = await Connection.open(valkey.url)
    yield opened
    await opened.close()


@pytest.fixture
async def changes(valkey):
    opened = await Changes.open(valkey.url)
    yield opened
    await opened.close()
