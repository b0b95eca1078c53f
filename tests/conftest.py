"""What the tests on real nodes share: invented people, and how a refusal is read."""

from __future__ import annotations

import nodes  # noqa: F401 - first: it settles how grpc forks, before anybody imports grpc

# isort: split

import importlib.util
import os
import random
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2
from waiting import heard, is_recognised

from exchange.client import Client
from exchange.status import DETAILS_KEY, DOMAIN
from exchange.subjects import Document, DocumentType, EpochKey, mod_11_2
from exchange.v1 import attestation_service_pb2 as pb
from exchange.v1 import types_pb2 as types
from nodes import trial
from nodes.trial import TrialExchange

if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # no two take the same port at one time
    trial.PORTS = trial.PORTS[int(worker.removeprefix("gw")) :: 8]

# A run in the background inherits that SIGINT is ignored, and so would what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["TONGXING_OVERLOAD__TARGET_MS"] = "1000"  # a busy machine is no crowd

os.environ.pop("COLUMNS", None)  # xdist sets it, and what is printed would be as narrow

TRAVELLERS = Path(__file__).parents[1] / "scripts" / "travellers.py"
_spec = importlib.util.spec_from_file_location("travellers", TRAVELLERS)
travellers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(travellers)

NAMES = "㐀㐁㐂㐃㐄㐅㐆㐇㐈㐉㐊㐋㐌㐍㐎㐏"
"""Characters of names that no log says by chance."""


def ago(hours: float) -> Timestamp:
    return Timestamp(seconds=int((datetime.now(UTC) - timedelta(hours=hours)).timestamp()))


def uuid7() -> str:
    high = time.time_ns() // 1_000_000 << 16 | 0x7000 | random.getrandbits(12)
    return str(uuid.UUID(int=high << 64 | 1 << 63 | random.getrandbits(62)))


class People:
    """Invented holders and what is said of them; every one of them is known to `traces`."""

    issuer = types.Issuer(credit_code=travellers.ISSUER_CREDIT_CODE, name=travellers.ISSUER_NAME)

    def __init__(self) -> None:
        self._random = random.Random(os.urandom(8))
        self.numbers: set[str] = set()
        self.names: set[str] = set()

    def document(self) -> types.IdentityDocument:
        born = date(1955, 1, 1) + timedelta(days=self._random.randrange(47 * 365))
        body = f"51990{self._random.randrange(1, 6)}{born:%Y%m%d}9{self._random.randrange(100):02}"
        number = body + mod_11_2(body)
        if number in self.numbers:
            return self.document()
        self.numbers.add(number)
        return types.IdentityDocument(type=types.DOCUMENT_TYPE_RESIDENT_ID, number=number)

    def attested(self, fact: types.Fact, **fields: Any) -> pb.NewAttestation:
        name = "".join(self._random.choices(NAMES, k=4))
        self.names.add(name)
        values = {
            "attestation_id": uuid7(),
            "document": fields.get("document") or self.document(),
            "holder_name": name,
            "issuer": self.issuer,
        }
        return pb.NewAttestation(**values | {"fact": fact} | fields)

    def tested(
        self, hours: float = 6, result: str = "NEGATIVE", **fields: Any
    ) -> pb.NewAttestation:
        """Somebody's nucleic-acid test, sampled so many hours ago."""
        test = types.NucleicAcidTest(sample_time=ago(hours), result=f"TEST_RESULT_{result}")
        return self.attested(types.Fact(nucleic_acid_test=test), **fields)

    def coloured(self, colour: str, hours: float = 1, **fields: Any) -> pb.NewAttestation:
        """Somebody's health-code status, with all that one which is not green must say."""
        status = types.HealthCodeStatus(
            sample_time=ago(hours),
            colour=f"COLOUR_{colour}",
            reason="密切接触者",
            legal_basis="传染病防治法第三十九条",
            assigned_by="成都市示例疾控中心",
            guidance="居家等待联系",
        )
        return self.attested(types.Fact(health_code_status=status), **fields)

    def each_kind(self) -> dict[str, pb.NewAttestation]:
        """Somebody new for each of the six kinds, fresh enough for a green of Sichuan."""
        facts = [
            types.Fact(
                medical_examination=types.MedicalExamination(
                    sample_time=ago(48), conclusion=types.FITNESS_FIT
                )
            ),
            types.Fact(
                nucleic_acid_test=types.NucleicAcidTest(
                    sample_time=ago(6),
                    result_time=ago(2),
                    result=types.TEST_RESULT_NEGATIVE,
                )
            ),
            types.Fact(
                antigen_test=types.AntigenTest(
                    sample_time=ago(3), result=types.TEST_RESULT_NEGATIVE
                )
            ),
            types.Fact(
                vaccination=types.Vaccination(
                    sample_time=ago(24 * 20), product="BBIBP-CorV", dose=2, doses=2
                )
            ),
            types.Fact(recovery=types.Recovery(sample_time=ago(24 * 30))),
            types.Fact(
                health_code_status=types.HealthCodeStatus(
                    sample_time=ago(2), colour=types.COLOUR_GREEN, local_status="绿码"
                )
            ),
        ]
        return {fact.WhichOneof("kind"): self.attested(fact) for fact in facts}

    def traces(self, key: EpochKey) -> set[str]:
        """All that no log may hold: numbers, names, and tokens in every spelling."""
        found = self.numbers | self.names
        for number in self.numbers:
            document = Document(DocumentType.RESIDENT_ID, number)
            token = document.token(key)
            found |= {token.hex(), token[4:].hex(), repr(token)[2:-1], repr(token[4:])[2:-1]}
        return found


class Refusal(NamedTuple):
    """What tells callers of an error: the status code, ErrorInfo's reason, BadRequest's field."""

    code: str
    reason: str
    field: str = ""


def details(error: grpc.aio.AioRpcError | status_pb2.Status) -> status_pb2.Status:
    """The google.rpc.Status of a refused call."""
    if isinstance(error, status_pb2.Status):
        return error
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=error.code().value[0], message=error.details())


def info(error: grpc.aio.AioRpcError | status_pb2.Status) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo of a refused call."""
    found = error_details_pb2.ErrorInfo()
    for detail in details(error).details:
        if detail.Is(found.DESCRIPTOR):
            detail.Unpack(found)
            assert found.domain == DOMAIN
    return found


def read_refusal(error: grpc.aio.AioRpcError | status_pb2.Status) -> Refusal:
    status = details(error)
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
    field = bad.field_violations[0].field if bad.field_violations else ""
    return Refusal(code_pb2.Code.Name(status.code), info(error).reason, field)


@pytest.fixture(scope="session")
def people() -> People:
    return People()


@pytest.fixture(scope="session")
def refusal() -> Callable[[grpc.aio.AioRpcError | status_pb2.Status], Refusal]:
    """Reads an error as (code, reason, field)."""
    return read_refusal


@pytest.fixture(scope="session")
def error_info() -> Callable[[grpc.aio.AioRpcError | status_pb2.Status], Any]:
    return info


@pytest.fixture(scope="session")
def new_id() -> Callable[[], str]:
    return uuid7


@pytest.fixture(scope="session")
def hours_ago() -> Callable[[float], Timestamp]:
    return ago


@pytest.fixture(scope="session")
def invented() -> Any:
    """The travellers' generator, ``scripts/travellers.py``."""
    return travellers


@pytest.fixture(scope="session")
def epoch_key() -> Callable[[TrialExchange], EpochKey]:
    """Reads the key of an exchange's subject tokens."""
    return TrialExchange.epoch_key


@pytest.fixture(scope="session")
def no_traces(people: People, epoch_key: Any) -> Callable[[TrialExchange], None]:
    """Fails where a node's log says who somebody is."""

    def check(exchange: TrialExchange) -> None:
        traces = people.traces(epoch_key(exchange))
        for province in exchange.provinces:
            text = exchange.log(province).read_text(encoding="utf-8")
            found = [trace for trace in traces if trace in text]
            assert not found, f"the log of {province} holds personal data"

    return check


@pytest.fixture(scope="session")
def heard_of(people: People) -> Callable[..., Awaitable[pb.NewAttestation]]:
    """Publishes, and waits until an app's node knows of it, without asking for it."""

    async def publish(
        exchange: TrialExchange,
        app: Client,
        message: pb.NewAttestation | None = None,
        province: str = "510000",
    ) -> pb.NewAttestation:
        somebody, later = message or people.tested(), people.tested()
        async with exchange.client(province, "issuer") as issuer:
            await issuer.publish(somebody)
            await issuer.publish(later)  # changes come in their order
        await heard(app, later.document, is_recognised)
        return somebody

    return publish
