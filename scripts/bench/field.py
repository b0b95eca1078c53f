"""What is measured on: exchanges of real nodes, with invented holders in them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from exchange.subjects import Document, DocumentType, EpochKey, credit_code_check, mod_11_2
from exchange.v1 import attestation_service_pb2, types_pb2
from nodes.identity import server_name
from nodes.trial import START_SECONDS, TrialExchange, free_ports
from scripts.bench.load import Load
from scripts.bench.measure import child_of
from scripts.bench.peers import PATH, BareServer, Pair, echo
from scripts.bench.target import Target

__all__ = ["HOME", "ISSUER", "Field", "attestation", "document", "numbers"]

HOME = "510000"
"""The province whose issuers publish: Sichuan."""
_BODY = "12510100MB0X58800"
ISSUER = types_pb2.Issuer(credit_code=_BODY + credit_code_check(_BODY), name="成都市示例医院")
HOLDERS = 1024
"""How many holders a case goes through: more than calls in flight, fewer than a node remembers."""

_PUBLISH = "/tongxing.v1.AttestationService/PublishAttestations"


def numbers(count: int, first: int = 0) -> Iterator[str]:
    """Citizens' numbers, valid in form only: there is no county 519901."""
    for index in range(first, first + count):
        born = datetime(1960, 1, 1, tzinfo=UTC) + timedelta(days=index // 100)
        body = f"519901{born:%Y%m%d}9{index % 100:02}"
        yield body + mod_11_2(body)


def document(number: str) -> types_pb2.IdentityDocument:
    """The document of a request."""
    return types_pb2.IdentityDocument(type="DOCUMENT_TYPE_RESIDENT_ID", number=number)


def attestation(number: str, now: datetime) -> attestation_service_pb2.NewAttestation:
    """A negative test of six hours ago, under a new id: about 460 bytes once signed."""
    return attestation_service_pb2.NewAttestation(
        attestation_id=_uuid7(now),
        document=document(number),
        holder_name="胡小君",
        fact=types_pb2.Fact(
            nucleic_acid_test=types_pb2.NucleicAcidTest(
                sample_time=_seconds(now - timedelta(hours=6)),
                result_time=_seconds(now - timedelta(hours=1)),
                result="TEST_RESULT_NEGATIVE",
            )
        ),
        issuer=ISSUER,
    )


def _seconds(time: datetime) -> Timestamp:
    return Timestamp(seconds=int(time.timestamp()))


def _uuid7(now: datetime) -> str:
    random = uuid.uuid4().int & (1 << 76) - 1  # with the variant's bits
    return str(uuid.UUID(int=int(now.timestamp() * 1000) << 80 | 7 << 76 | random))


class Field:
    """An exchange; ``provinces`` has Sichuan among them.

    :param load: what calls it.
    :param asked: the province whose node the apps and the peers call.
    :param forgets: it asks the others each time, and keeps no answer.
    :param sheds: its node takes fewer calls at once where these take long, as nodes do, and has an
        address for all but apps, where its door can have one; only where it is alone.
    """

    def __init__(
        self,
        directory: Path,
        load: Load,
        provinces: tuple[str, ...],
        asked: str,
        *,
        forgets: bool = False,
        sheds: bool = False,
    ) -> None:
        self._environment = {"TONGXING_PEERS__CACHED_SECONDS": "0"} if forgets else {}
        self.reserved = ""
        """The address that apps do not call; empty where there is no other."""
        if not sheds:
            self._environment["TONGXING_OVERLOAD__TARGET_MS"] = "1000"
        elif os.environ.get("TONGXING_DOOR", "grpcio") == "grpcio":
            self.reserved = f"127.0.0.1:{free_ports(1)[0]}"
            self._environment["TONGXING_OVERLOAD__RESERVED_LISTEN"] = self.reserved
        self.load = load
        self.asked = asked
        self._exchange = TrialExchange(directory, provinces, issuers={HOME: (ISSUER.credit_code,)})

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start the nodes; one may take so long."""
        self._exchange.start(environment=self._environment, seconds=seconds)

    def restart(self, seconds: float) -> None:
        """Stop the nodes, and start them again."""
        self.stop()
        self.__dict__.pop("pids", None)
        self.start(seconds)

    @property
    def exchange(self) -> TrialExchange:
        """Its nodes."""
        return self._exchange

    @cached_property
    def pids(self) -> tuple[int, int]:
        """The asked node's process, and its Valkey's."""
        node = self._exchange.pid(self.asked)
        return node, child_of(node, "valkey-server")

    def stop(self) -> None:
        """Stop the nodes."""
        self._exchange.stop()

    @cached_property
    def holders(self) -> list[str]:
        """The numbers of holders who have one attestation each, in Sichuan."""
        holders = list(numbers(HOLDERS))
        self.publish(self.publications(holders))
        return holders

    @staticmethod
    def publications(holders: Iterable[str], together: int = 64) -> list[bytes]:
        """The messages of a stream that publishes a new attestation for each.

        :param together: items of a message; ``exchange.client`` sends 64.
        """
        now = datetime.now(UTC)
        form = attestation_service_pb2.PublishAttestationsRequest
        items = [
            form(index=index, attestation=attestation(number, now))
            for index, number in enumerate(holders)
        ]
        if together == 1:
            return [item.SerializeToString() for item in items]
        return [
            form(items=items[at : at + together]).SerializeToString()
            for at in range(0, len(items), together)
        ]

    def publish(self, messages: list[bytes]) -> float:
        """Publish such messages; how many items a second."""
        return self.load.publish(self.target(HOME, "issuer", _PUBLISH), messages)

    def token(self, number: str) -> bytes:
        """A holder's subject token."""
        today = datetime.now(UTC).date()
        return Document.parse(DocumentType.RESIDENT_ID, number, today=today).token(self._epoch)

    @cached_property
    def _epoch(self) -> EpochKey:
        return self._exchange.epoch_key()

    def target(
        self, province: str, who: str, path: str, address: str = "", *, json: bool = False
    ) -> Target:
        """A method of a province's node, or of what stands at an address in its name."""
        return Target(
            address=address or self._exchange.addresses[province],
            path=path,
            certificate=self._read(province, f"{who}.pem"),
            key=self._read(province, f"{who}-key.pem"),
            authority=self._read(province, "authority.pem"),
            server_name=server_name(province),
            json=json,
        )

    @property
    def pair(self) -> Pair:
        """What a peer is held by that stands in the place of the asked node."""
        home = self._exchange.directory / self.asked
        return Pair(home / "node.pem", home / "node-key.pem", home / "authority.pem")

    @property
    def store(self) -> str:
        """The URL of the asked node's Valkey."""
        return f"unix://{self._exchange.store(self.asked)}"

    def echo(self, answer: bytes) -> tuple[BareServer, Target]:
        """An echo server in the place of the asked node, and how to call it."""
        server = BareServer(self.pair, echo, answer)
        return server, self.target(self.asked, "app", PATH, server.address)

    def _read(self, province: str, name: str) -> bytes:
        return (self._exchange.directory / province / name).read_bytes()
