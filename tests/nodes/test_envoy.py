"""The Envoy door alone: whom it believes, and what it does with what is no gRPC."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import os
import signal
import stat
import zlib
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2
from hypothesis import given, strategies

from exchange.v1 import trust_service_pb2 as pb
from nodes.doors.calls import LARGEST_REQUEST
from nodes.doors.envoy import EnvoyDoor
from nodes.doors.wire import Frames, WireError, frame, seconds, trailers
from nodes.tlsfiles import TlsFiles
from nodes.trial import wait_until

SICHUAN = "510000"
LIST_KEYS = "/tongxing.v1.KeyService/ListKeys"
CHECK = "/grpc.health.v1.Health/Check"
FORGED = "x-forwarded-client-cert"
METADATA = "/tongxing.v1.TrustService/GetTrustMetadata"
WATCH = "/tongxing.v1.TrustService/WatchTrust"
CODES = {code.value[0]: code.name for code in grpc.StatusCode}


def pem(exchange, who, province=SICHUAN):
    return (exchange.directory / province / f"{who}.pem").read_bytes()


def named(certificate):
    """The header that Envoy writes for a certificate."""
    return f'Hash={hashlib.sha256(certificate).hexdigest()};Cert="{quote(certificate, safe="")}"'


@pytest.fixture(scope="module")
def exchange(behind):
    return behind("envoy")


# --- a node behind Envoy -------------------------------------------------------------------------


def test_envoy_has_taken_the_place_of_the_nodes_process(exchange):
    assert Path(f"/proc/{exchange.pid(SICHUAN)}/exe").resolve().name == "envoy"


def test_the_doors_files_are_the_nodes_alone(exchange):
    (folder,) = (exchange.directory / SICHUAN / "data" / "envoy").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(("admin", "authorities.json", "envoy.json", "pair.json"), 0o600)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("path", [LIST_KEYS, CHECK])
async def test_a_forged_client_certificate_header_is_refused(exchange, refusal, path, times):
    """An app says that it is the admin: it is the app all the same."""
    forged = ((FORGED, named(pem(exchange, "admin"))),) * times
    async with exchange.client(SICHUAN, "admin") as admin:
        await admin._channel.unary_unary(path)(b"", timeout=10)
    async with exchange.client(SICHUAN, "app") as app:
        call = app._channel.unary_unary(path)(b"", timeout=10, metadata=forged)
        if path == CHECK:
            await call
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert refusal(caught.value) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED", "")
    assert "the caller is app" in caught.value.details()


async def test_compressed_messages_are_read(exchange):
    async with exchange.client(SICHUAN, "app") as app:
        for how in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            request = pb.GetTrustMetadataRequest(have=pb.TrustVersions(root=1)).SerializeToString()
            call = app._channel.unary_unary(METADATA)
            plain = await call(request, timeout=10)
            assert await call(request, timeout=10, compression=how) == plain


async def test_a_killed_node_leaves_nothing_that_the_next_does_not_clear(
    exchange, tmp_path, alone
):
    place = alone.directory / SICHUAN / "data" / "envoy"
    alone.start()
    (left,) = place.iterdir()
    alone.kill(SICHUAN)
    wait_until("its Valkey ends", lambda: not alone.store(SICHUAN).exists() or _refuses(alone), 10)
    alone.start()
    (folder,) = place.iterdir()
    assert folder != left
    alone.signal(SICHUAN, signal.SIGTERM)
    assert await asyncio.to_thread(alone.exit_code, SICHUAN) == 0
    assert list(place.iterdir()) == []
    assert '"door.ended"' not in alone.log(SICHUAN).read_text()
