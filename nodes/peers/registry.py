"""The registry, as a node sees it: where it hands in metadata and hears of new versions first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from exchange import status, views
from exchange.errors import StoreUnavailableError, TongxingError
from exchange.trust.files import Files, Versions
from exchange.v1 import registry_service_pb2 as pb
from exchange.v1 import trust_service_pb2 as trust_pb
from nodes.config import RegistryConfig
from nodes.identity import registry_name

__all__ = ["Registry", "RegistryUnavailableError"]

_FETCH = "/tongxing.v1.TrustService/GetTrustMetadata"
_SUBMIT = "/tongxing.v1.RegistryService/SubmitMetadata"
_SUBMIT_SECONDS = 10.0
_LARGEST = 16 * 1024 * 1024


class RegistryUnavailableError(StoreUnavailableError):
    """The registry does not answer."""

    reason = "UNREACHABLE"
    zh = "登记处没有应答"


class Registry:
    """Opens channels to the registry with the caller's own certificate.

    :param certificate: PEM file of the caller's certificate; ``key`` of its key.
    """

    def __init__(self, config: RegistryConfig, certificate: Path, key: Path) -> None:
        self._config = config
        self._certificate = certificate
        self._key = key

    @property
    def config(self) -> RegistryConfig:
        """Where it is, and how patient to be."""
        return self._config

    def channel(self) -> grpc.aio.Channel:
        """A new channel; its files are read anew, so a renewed certificate is used from here on."""
        return grpc.aio.secure_channel(
            self._config.address,
            grpc.ssl_channel_credentials(
                root_certificates=self._config.authority.read_bytes(),
                private_key=self._key.read_bytes(),
                certificate_chain=self._certificate.read_bytes(),
            ),
            options=[
                ("grpc.ssl_target_name_override", registry_name(self._config.province)),
                ("grpc.max_receive_message_length", _LARGEST),
                ("grpc.max_send_message_length", _LARGEST),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    async def fetch(self) -> Files:
        """The whole list, unverified.

        :raises TongxingError: the registry refused, or `RegistryUnavailableError`.
        """
        async with self.channel() as channel:
            call: Any = channel.unary_unary(
                _FETCH,
                request_serializer=trust_pb.GetTrustMetadataRequest.SerializeToString,
                response_deserializer=trust_pb.GetTrustMetadataResponse.FromString,
            )
            try:
                answer = await call(trust_pb.GetTrustMetadataRequest(), timeout=_SUBMIT_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise _refusal(error) from None
        return views.files_from_proto(answer.files)

    async def submit(self, files: Files) -> Versions:
        """Hand in signed metadata.

        :returns: what the registry holds after it.
        :raises TongxingError: it was refused, or `RegistryUnavailableError`.
        """
        request = pb.SubmitMetadataRequest(files=views.files_to_proto(files))
        async with self.channel() as channel:
            call: Any = channel.unary_unary(
                _SUBMIT,
                request_serializer=pb.SubmitMetadataRequest.SerializeToString,
                response_deserializer=pb.SubmitMetadataResponse.FromString,
            )
            try:
                answer = await call(request, timeout=_SUBMIT_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise _refusal(error) from None
        return views.versions_from_proto(answer.holds)


def _refusal(error: grpc.aio.AioRpcError) -> TongxingError:
    return status.from_trailers(error.trailing_metadata()) or RegistryUnavailableError(
        f"the registry does not answer: {error.details()}", remedy="is it running?"
    )
