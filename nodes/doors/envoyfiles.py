"""What Envoy is told: its configuration, its secrets, and what it is asked while it runs.

All of it lies in a folder of the process's own, which is the process's working directory.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import random
import resource
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.rpc import error_details_pb2

from exchange.client.pair import Pair
from nodes.doors.calls import LARGEST_REQUEST
from nodes.doors.envoyshares import replies
from nodes.worker import Worker

if TYPE_CHECKING:
    from nodes.config import NodeConfig

__all__ = [
    "admin",
    "arguments",
    "own_folder",
    "translators",
    "write_authorities",
    "write_bootstrap",
    "write_pair",
]

_BOOTSTRAP, _PAIR, _AUTHORITIES, _ADMIN = "envoy.json", "pair.json", "authorities.json", "admin"
_ADMIN_SECONDS: Final = 1.0
_PATIENCE: Final = "10s"
"""What a caller has for its handshake, and for the head of a request."""
_NEVER: Final = 1 << 32
_API: Final = "type.googleapis.com/envoy.extensions"


def arguments() -> list[str]:
    """Envoy's command line."""
    form = '{"timestamp": "%Y-%m-%dT%T.%fZ", "level": "%l", "event": "envoy", "logger": "%n", '
    return [
        *("--config-path", _BOOTSTRAP),
        "--disable-hot-restart",
        # Python takes one core, whatever Envoy does.
        *("--concurrency", str(max(1, min(4, (os.cpu_count() or 1) - 1)))),
        *("--log-level", "warning"),
        *("--log-format", form + '"said": "%j"}'),
    ]


def own_folder(data: Path) -> Path:
    """A new folder for this process alone, as nodes that are refused may share the data's.

    It holds the node's key, so what nodes have left that were killed is removed.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = data / "envoy"
    place.mkdir(mode=0o700, exist_ok=True)
    for left in place.iterdir():
        if (lock := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    while True:
        made = Path(tempfile.mkdtemp(dir=place))
        lock = _locked(made)
        if lock is not None and made.exists():  # else another has removed it at once
            os.set_inheritable(lock, True)  # Envoy holds it too
            return made


def _locked(folder: Path) -> int | None:
    lock = None
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if lock is not None:
            os.close(lock)
        return None
    return lock


def write_bootstrap(
    config: NodeConfig, address: str, port: int, filters: list[dict[str, Any]]
) -> None:
    """Write Envoy's configuration, with secrets that are empty yet.

    :param filters: what an HTTP request goes through; the last runs the application.
    """
    for name in (_PAIR, _AUTHORITIES):
        _write(name, {"resources": []})  # the node writes them before Envoy looks
    _write(_BOOTSTRAP, _bootstrap(config, address, port, filters))


def _bootstrap(
    config: NodeConfig, address: str, port: int, filters: list[dict[str, Any]]
) -> dict[str, Any]:
    age = config.connections.age_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - not all at once
    manager = {
        "@type": f"{_API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "AUTO",
        "stat_prefix": "door",
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"cert": True},
        "generate_request_id": False,
        "preserve_external_request_id": True,
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": "0s",
        "request_headers_timeout": _PATIENCE,
        "drain_timeout": f"{min(2.0, config.connections.grace_seconds)}s",
        "max_request_headers_kb": 16,
        "common_http_protocol_options": {"max_connection_duration": f"{age:.3f}s"},
        "http2_protocol_options": {
            "stream_reset_burst": _NEVER,  # as below, by its codec
            "stream_reset_rate": _NEVER,
            "initial_stream_window_size": 1024 * 1024,
            "initial_connection_window_size": 4 * 1024 * 1024,
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
        },
        "route_config": {"virtual_hosts": [{"name": "node", "domains": ["*"]}]},
        "local_reply_config": replies(),
        "http_filters": filters,
    }
    secrets = {
        name: {"name": file, "sds_config": _followed(file)}
        for name, file in (("pair", _PAIR), ("authorities", _AUTHORITIES))
    }
    tls = {
        "@type": f"{_API}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificate_sds_secret_configs": [secrets["pair"]],
            "validation_context_sds_secret_config": secrets["authorities"],
        },
    }
    return {
        "node": {"id": config.province, "cluster": "tongxing"},  # SDS asks for names
        "admin": {"address": {"pipe": {"path": _ADMIN, "mode": 0o600}}},
        # Envoy ends a connection of which many calls are given up soon: who is overloaded would
        # lose with them all that could still be answered. Here callers are known by name.
        "layered_runtime": {
            "layers": [
                {
                    "name": "door",
                    "static_layer": {"overload": {"premature_reset_total_stream_count": _NEVER}},
                },
                {"name": "told", "admin_layer": {}},
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_API}.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        # The node's own files and connections need some.
                        "max_active_downstream_connections": max(
                            100, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4
                        ),
                    },
                }
            ]
        },
        "static_resources": {
            "listeners": [
                {
                    "name": "door",
                    "address": {
                        "socket_address": {
                            "address": address,
                            "port_value": port,
                            "ipv4_compat": address == "::",
                        }
                    },
                    # Two nodes on one port would each get half of the calls.
                    "enable_reuse_port": not Worker.here().alone,
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ],
                            "transport_socket_connect_timeout": _PATIENCE,
                            "transport_socket": {
                                "name": "envoy.transport_sockets.tls",
                                "typed_config": tls,
                            },
                        }
                    ],
                }
            ]
        },
    }


def translators(contract: Iterable[ServiceDescriptor]) -> Iterator[dict[str, Any]]:
    """What makes gRPC of gRPC-Web, and of JSON that is posted to a method's path.

    A page of somebody else's can make a browser post a form or plain text with the certificate
    that is installed there, and nothing else: so what comes must say that it is gRPC or JSON. The
    first filter sees to that.
    """
    spoken = [
        {"header": {"name": "content-type", "string_match": {"prefix": each}}}
        for each in ("application/grpc", "application/json")
    ]
    policy = {"permissions": spoken, "principals": [{"any": True}]}
    rbac = f"{_API}.filters.http.rbac.v3.RBAC"
    rules = {"action": "ALLOW", "policies": {"spoken": policy}}
    yield {"name": "envoy.filters.http.rbac", "typed_config": {"@type": rbac, "rules": rules}}
    grpc_web = f"{_API}.filters.http.grpc_web.v3.GrpcWeb"
    yield {"name": "envoy.filters.http.grpc_web", "typed_config": {"@type": grpc_web}}
    services = list(contract)
    if not services:
        return
    files: dict[str, bytes] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in files:
            for imported in file.dependencies:
                add(imported)
            files[file.name] = file.serialized_pb

    for each in services:
        add(each.file)
    add(error_details_pb2.DESCRIPTOR)  # a refusal's details are translated too
    known = descriptor_pb2.FileDescriptorSet()
    for data in files.values():
        known.file.add().MergeFromString(data)
    transcoder = {
        "@type": f"{_API}.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor_bin": base64.b64encode(known.SerializeToString()).decode(),
        "services": [each.full_name for each in services],
        "auto_mapping": True,
        "convert_grpc_status": True,
        "max_request_body_size": LARGEST_REQUEST,
    }
    yield {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder}


def _followed(file: str) -> dict[str, Any]:
    path = f"./{file}"  # without a folder, it is no path to Envoy
    return {"path_config_source": {"path": path}, "resource_api_version": "V3"}


def write_pair(pair: Pair) -> None:
    """Have Envoy show a certificate to new connections."""
    certificate = {
        "certificate_chain": {"inline_string": pair.certificate.decode()},
        "private_key": {"inline_string": pair.key.decode()},
    }
    _write_secret(_PAIR, {"tls_certificate": certificate})


def write_authorities(pem: bytes) -> None:
    """Have Envoy trust authorities on new connections."""
    _write_secret(
        _AUTHORITIES, {"validation_context": {"trusted_ca": {"inline_string": pem.decode()}}}
    )


def _write_secret(file: str, secret: dict[str, Any]) -> None:
    kind = f"{_API}.transport_sockets.tls.v3.Secret"
    _write(file, {"resources": [{"@type": kind, "name": file, **secret}]})


def _write(file: str, content: dict[str, Any]) -> None:
    """Put a file into its place whole, for its owner alone: Envoy reads what is renamed."""
    new = Path(f".{file}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
        json.dump(content, written)
    new.replace(file)


async def admin(verb: str, path: str) -> str:
    """Ask Envoy's admin interface; what it says, or nothing where it ends already."""
    try:
        reader, writer = await asyncio.open_unix_connection(_ADMIN)
    except OSError:
        return ""
    writer.write(f"{verb} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n".encode())
    try:
        async with asyncio.timeout(_ADMIN_SECONDS):
            return (await reader.read()).decode(errors="replace")
    except (OSError, TimeoutError):
        return ""
    finally:
        writer.close()
