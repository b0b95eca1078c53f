"""What an administrator (管理员) calls at its own province's node."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from exchange import views
from exchange.client import Client
from exchange.v1 import key_service_pb2 as pb
from exchange.v1 import peering_service_pb2

__all__ = [
    "Key",
    "KeyStep",
    "Keys",
    "ListKeysResponse",
    "ListPeersResponse",
    "Peer",
    "Peering",
]

Key = pb.Key
KeyStep = pb.KeyStep
ListKeysResponse = pb.ListKeysResponse
ListPeersResponse = peering_service_pb2.ListPeersResponse
Peer = peering_service_pb2.Peer


class Keys:
    """The attestation keys of the client's province, and their steps.

    Each step raises KeyStepError where it may not be taken, and with ``dry`` only says what it
    would do.

    :param client: of an admin.
    :param timeout: seconds that an answer may take: the node counts its attestations for it.
    """

    def __init__(self, client: Client, *, timeout: float = 120.0) -> None:
        self._client = client
        self._timeout = timeout

    async def list(self) -> ListKeysResponse:
        """The keys, and the trust list that they stand in."""
        answer: ListKeysResponse = await self._client.call(
            "KeyService/ListKeys", pb.ListKeysRequest(), pb.ListKeysResponse, seconds=self._timeout
        )
        return answer

    async def prepare(self, algorithm: str = "", *, dry: bool = False) -> tuple[KeyStep, str]:
        """Make a key, and publish it.

        :param algorithm: ``ES256`` (where it is empty), ``EDDSA`` or ``ML_DSA_44``.
        :returns: the step, and the new key's kid; with ``dry`` there is none.
        """
        request = pb.PrepareKeyRequest(algorithm=algorithm, validate_only=dry)
        answer: pb.PrepareKeyResponse = await self._client.call(
            "KeyService/PrepareKey", request, pb.PrepareKeyResponse, seconds=self._timeout
        )
        return answer.step, answer.kid

    async def activate(self, kid: str, *, force: bool = False, dry: bool = False) -> KeyStep:
        """Sign with a prepared key from now on.

        :param force: though peers are behind.
        """
        request = pb.ActivateKeyRequest(kid=kid, force=force, validate_only=dry)
        return await self._step("ActivateKey", request, pb.ActivateKeyResponse)

    async def retire(self, kid: str, *, force: bool = False, dry: bool = False) -> KeyStep:
        """Take a key out of the list.

        :param force: though attestations that it signed live.
        """
        request = pb.RetireKeyRequest(kid=kid, force=force, validate_only=dry)
        return await self._step("RetireKey", request, pb.RetireKeyResponse)

    async def taint(
        self,
        kid: str,
        at: datetime | None = None,
        *,
        emergency: bool = False,
        dry: bool = False,
    ) -> KeyStep:
        """Let nothing count that a key signed from a time on.

        :param at: aware; None for now.
        :param emergency: of a key that is not OLD.
        """
        request = pb.TaintKeyRequest(
            kid=kid,
            from_time=None if at is None else views.time_to_proto(at),
            emergency=emergency,
            validate_only=dry,
        )
        return await self._step("TaintKey", request, pb.TaintKeyResponse)

    async def revoke(self, kid: str, *, emergency: bool = False, dry: bool = False) -> KeyStep:
        """End a key and all that it signed.

        :param emergency: of a key that is not TAINTED.
        """
        request = pb.RevokeKeyRequest(kid=kid, emergency=emergency, validate_only=dry)
        return await self._step("RevokeKey", request, pb.RevokeKeyResponse)

    async def _step(self, method: str, request: Any, response: type[Any]) -> KeyStep:
        answer = await self._client.call(
            f"KeyService/{method}", request, response, seconds=self._timeout
        )
        step: KeyStep = answer.step
        return step


class Peering:
    """How the node of the client's province stands with the other provinces.

    :param client: of an admin.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(self) -> ListPeersResponse:
        """Every other province as the node sees it now, by code."""
        answer: ListPeersResponse = await self._client.call(
            "PeeringService/ListPeers",
            peering_service_pb2.ListPeersRequest(),
            peering_service_pb2.ListPeersResponse,
        )
        return answer
