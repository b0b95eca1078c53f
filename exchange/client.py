"""The app's SDK: a typed, asynchronous client of the caller's own province's node.

It verifies what it is given: every attestation in an answer is read from its signed bytes and held
against the trust list, whatever the view beside them says.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from exchange import status, views
from exchange.attestations import Attestation, AttestationVerifier
from exchange.errors import BadSignatureError, InternalError, StoreUnavailableError, TongxingError
from exchange.provinces import trust_domain
from exchange.trust.trustlist import TrustList
from exchange.v1 import attestation_service_pb2, recognition_service_pb2, types_pb2

__all__ = ["Client", "Document", "Item", "NewAttestation", "Purpose", "UnreachableError"]

_SERVICE = "/tongxing.v1."
_READ_AHEAD = 64
Document = types_pb2.IdentityDocument
Purpose = recognition_service_pb2.Purpose
DecisionMessage = recognition_service_pb2.Decision
NewAttestation = attestation_service_pb2.NewAttestation


class UnreachableError(StoreUnavailableError):
    """The node does not answer."""

    reason = "UNREACHABLE"
    zh = "节点没有应答"


@dataclass(frozen=True, slots=True)
class Item:
    """One item's answer in a stream: its index, and the attestation's id or the error."""

    index: int
    attestation_id: str = ""
    already_published: bool = False
    error: TongxingError | None = None


class Client:
    """A connection to a node.

    :param address: ``host:port`` of the node.
    :param province: whose node it is: it must prove to be that province's.
    :param certificate: PEM of the caller's certificate; ``key`` of its key.
    :param trust: gives the verified trust list at each look.
    :param timeout: seconds that an answer may take.
    :param clock: gives the time, aware and in UTC.
    """

    def __init__(
        self,
        address: str,
        *,
        province: str,
        certificate: bytes,
        key: bytes,
        trust: Callable[[], TrustList],
        timeout: float = 10.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._trust = trust
        self._clock = clock
        self._timeout = timeout
        self._verifier = AttestationVerifier()
        self._channel = grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(
                root_certificates=trust().profile(province).tls_ca.encode(),
                private_key=key,
                certificate_chain=certificate,
            ),
            options=[
                ("grpc.ssl_target_name_override", f"node.{trust_domain(province)}"),
                ("grpc.max_receive_message_length", 64 * 1024 * 1024),
                ("grpc.keepalive_time_ms", 30_000),
            ],
        )

    @classmethod
    def from_files(
        cls, address: str, *, province: str, certificate: Path, key: Path, trust: TrustList
    ) -> Self:
        """A client whose identity lies in PEM files."""
        return cls(
            address,
            province=province,
            certificate=certificate.read_bytes(),
            key=key.read_bytes(),
            trust=lambda: trust,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def publish(self, attestation: NewAttestation) -> tuple[Attestation, bool]:
        """Publish one attestation.

        :returns: what was signed, verified, and whether it stood there already.
        :raises TongxingError: the node's error, or `UnreachableError`.
        """
        request = attestation_service_pb2.PublishAttestationRequest(attestation=attestation)
        answer = await self._call(
            "AttestationService/PublishAttestation",
            request,
            attestation_service_pb2.PublishAttestationResponse,
        )
        return self._verified(answer.attestation, attestation.attestation_id), (
            answer.already_published
        )

    async def publish_all(
        self, attestations: Iterable[tuple[int, NewAttestation]]
    ) -> AsyncIterator[Item]:
        """Publish many over one stream; each item answers for itself, in any order.

        :param attestations: an index of the caller's own, and what to publish. It is read from a
            thread, as far ahead as the stream takes.
        :raises TongxingError: the stream broke; items without an answer may be sent again.
        """
        pb = attestation_service_pb2
        method = self._channel.stream_stream(
            f"{_SERVICE}AttestationService/PublishAttestations",
            request_serializer=pb.PublishAttestationsRequest.SerializeToString,
            response_deserializer=pb.PublishAttestationsResponse.FromString,
        )
        source = iter(attestations)

        async def requests() -> AsyncIterator[pb.PublishAttestationsRequest]:
            # Reading may wait for a disk: in a thread, and some at a time, for a thread costs.
            while chunk := await asyncio.to_thread(list, itertools.islice(source, _READ_AHEAD)):
                for index, attestation in chunk:
                    yield pb.PublishAttestationsRequest(index=index, attestation=attestation)

        try:
            async for answer in method(requests()):
                failed = answer.status.code != code_pb2.OK
                yield Item(
                    answer.index,
                    answer.attestation_id,
                    answer.already_published,
                    status.from_status(answer.status) if failed else None,
                )
        except grpc.aio.AioRpcError as error:
            raise _error(error) from None

    async def revoke(self, attestation_id: UUID, reason: str) -> datetime:
        """End an attestation for good.

        :returns: when it was revoked, also where that was earlier.
        """
        answer = await self._call(
            "AttestationService/RevokeAttestation",
            attestation_service_pb2.RevokeAttestationRequest(
                attestation_id=str(attestation_id), reason=reason
            ),
            attestation_service_pb2.RevokeAttestationResponse,
        )
        return views.time_from_proto(answer.revoke_time, field="revoke_time")

    async def get(self, attestation_id: UUID) -> Attestation:
        """An attestation that the caller published, verified."""
        answer = await self._call(
            "AttestationService/GetAttestation",
            attestation_service_pb2.GetAttestationRequest(attestation_id=str(attestation_id)),
            attestation_service_pb2.GetAttestationResponse,
        )
        return self._verified(answer.attestation, str(attestation_id))

    async def recognize(self, document: Document, purpose: Purpose) -> DecisionMessage:
        """The province's decision on one holder; its accepted evidence is verified here too."""
        answer = await self._call(
            "RecognitionService/Recognize",
            recognition_service_pb2.RecognizeRequest(document=document, purpose=purpose),
            recognition_service_pb2.RecognizeResponse,
        )
        return self._checked(answer.decision)

    async def recognize_all(
        self, documents: Sequence[Document], purpose: Purpose
    ) -> list[DecisionMessage | TongxingError]:
        """Decisions on up to 1,000 holders, in their order; a wrong document gives its error."""
        answer = await self._call(
            "RecognitionService/BatchRecognize",
            recognition_service_pb2.BatchRecognizeRequest(documents=documents, purpose=purpose),
            recognition_service_pb2.BatchRecognizeResponse,
        )
        if len(answer.items) != len(documents):
            raise InternalError("the node answered for another number of documents")
        return [
            self._checked(item.decision)
            if item.status.code == code_pb2.OK
            else status.from_status(item.status)
            for item in answer.items
        ]

    async def _call(self, method: str, request: Any, response: type[Any]) -> Any:
        call = self._channel.unary_unary(
            _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return await call(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise _error(error) from None

    def _checked(self, decision: DecisionMessage) -> DecisionMessage:
        """Hold the evidence that a decision accepts against its signed bytes.

        :raises BadSignatureError: the node calls accepted what does not verify, or a view differs
            from its bytes.
        """
        pb = recognition_service_pb2
        decision.DiscardUnknownFields()  # nobody here can check them
        accepted = False
        for piece in decision.evidence:
            view = piece.attestation
            if view == types_pb2.Attestation(signed=view.signed):
                continue  # bytes alone say nothing
            self._verified(view)
            accepted |= piece.verdict == pb.VERDICT_ACCEPTED
        passes = (
            decision.outcome == pb.OUTCOME_RECOGNIZED or decision.colour == types_pb2.COLOUR_GREEN
        )
        if passes and not accepted:
            raise BadSignatureError("recognised without verifiable evidence", field="decision")
        return decision

    def _verified(self, view: types_pb2.Attestation, asked_for: str = "") -> Attestation:
        attestation = self._verifier.verify(view.signed, self._trust(), self._clock())
        view.DiscardUnknownFields()
        if view != views.attestation_to_proto(view.signed, attestation):
            raise BadSignatureError("the view is not what was signed", field="attestation")
        if asked_for and asked_for.lower() != str(attestation.id):
            raise BadSignatureError("another attestation than was asked for", field="attestation")
        return attestation


def _error(error: grpc.aio.AioRpcError) -> TongxingError:
    """The exchange's error behind a gRPC error."""
    for key, value in error.trailing_metadata() or ():
        if key == status.DETAILS_KEY and isinstance(value, bytes):
            try:
                return status.from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break
    code = grpc.StatusCode
    # A node's own fault carries details; without them INTERNAL is how gRPC's core may report a
    # stream that broke.
    if error.code() in (code.UNAVAILABLE, code.DEADLINE_EXCEEDED, code.INTERNAL):
        return UnreachableError(
            f"the node does not answer: {error.details()}",
            remedy="is it running, and does it trust this certificate?",
        )
    return InternalError(f"{error.code().name}: {error.details()}")
