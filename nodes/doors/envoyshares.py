"""What Envoy refuses by itself, before Python hears of it: calls beyond their caller's share.

To refuse a call costs Python a quarter of what it costs to answer one; Envoy does it in a thread
of its own. So the places of `nodes.doors.shares` are counted there too, by the SPIFFE ID of the
caller's certificate. Envoy's filter for it would find by itself how many there should be, by how
long calls take; here it is told.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.json_format import MessageToJson
from google.rpc import status_pb2

from exchange.provinces import PROVINCES, trust_domain
from nodes.doors.calls import refusals
from nodes.doors.shares import MOST
from nodes.doors.wire import frame, trailers
from nodes.identity import Role

__all__ = ["BLOCKED", "replies", "shares", "told"]

BLOCKED: Final = "rq_blocked"
"""How the name of Envoy's count ends of the calls that it refused."""

_API: Final = "type.googleapis.com/envoy.extensions"
_URI: Final = f"{_API}.matching.common_inputs.ssl.v3.UriSanInput"
_HEADER: Final = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
_REFUSED: Final = 429
_BUCKETS: Final = 8
"""Into so many the apps, and the issuers, are put by their names, which Envoy does not know: who
floods takes the places of its own bucket alone."""
_ENOUGH: Final = "10s"
"""What calls may take before Envoy lowers the number itself; it cannot, its bounds are one."""
_KEY: Final = "adaptive_concurrency.gradient_controller"


def shares(province: str, streams: Iterable[str]) -> dict[str, Any]:
    """The filter that refuses.

    :param province: the node's own, whose admins are never refused.
    :param streams: paths of methods that have limits of their own.
    """
    own = f"spiffe://{trust_domain(province)}"
    uri = {"name": "uri", "typed_config": {"@type": _URI}}
    path = {"name": "path", "typed_config": {"@type": _HEADER, "header_name": ":path"}}
    skip = _action(f"{_API}.filters.common.matcher.action.v3.SkipFilter")
    callers = {
        f"{own}/{Role.ADMIN}/": skip,
        f"{own}/{Role.APP}/": _by_name(uri),
        f"{own}/{Role.ISSUER}/": _by_name(uri),
        **{f"spiffe://{trust_domain(code)}/{Role.NODE}/": _places() for code in PROVINCES},
    }
    by_caller = {
        "matcher_tree": {"input": uri, "prefix_match_map": {"map": callers}},
        # Who is none of these may call nothing: Python says so, to some at once.
        "on_no_match": _places(),
    }
    by_path = {
        "matcher_tree": {
            "input": path,
            "exact_match_map": {"map": dict.fromkeys(streams, skip)},
        },
        "on_no_match": {"matcher": by_caller},
    }
    return {
        "name": "shares",
        "typed_config": {
            "@type": f"{_API}.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {
                "name": "composite",
                "typed_config": {"@type": f"{_API}.filters.http.composite.v3.Composite"},
            },
            "xds_matcher": by_path,
        },
    }


def _by_name(uri: dict[str, Any]) -> dict[str, Any]:
    hashing = f"{_API}.matching.input_matchers.consistent_hashing.v3.ConsistentHashing"
    matchers = [
        {
            "predicate": {
                "single_predicate": {
                    "input": uri,
                    "custom_match": {
                        "name": "bucket",
                        "typed_config": {"@type": hashing, "threshold": at, "modulo": _BUCKETS},
                    },
                }
            },
            "on_match": _places(),
        }
        for at in range(_BUCKETS - 1, 0, -1)  # each takes those from its number on
    ]
    return {"matcher": {"matcher_list": {"matchers": matchers}, "on_no_match": _places()}}


def _action(kind: str, **fields: Any) -> dict[str, Any]:
    return {"action": {"name": "action", "typed_config": {"@type": kind, **fields}}}


def _places() -> dict[str, Any]:
    limited = {
        "@type": f"{_API}.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency",
        "gradient_controller_config": {
            "sample_aggregate_percentile": {"value": 50},
            "concurrency_limit_params": {
                "max_concurrency_limit": MOST,
                "concurrency_update_interval": "0.05s",
            },
            "min_rtt_calc_params": {"fixed_value": _ENOUGH, "min_concurrency": MOST},
        },
        "enabled": {"default_value": True, "runtime_key": f"{_KEY}.enabled"},
        "concurrency_limit_exceeded_status": {"code": _REFUSED},
    }
    kind = f"{_API}.filters.http.composite.v3.ExecuteFilterAction"
    return _action(kind, typed_config={"name": "places", "typed_config": limited})


def told(each: int) -> str:
    """The path of Envoy's admin interface that tells it how many calls each caller may have."""
    return f"/runtime_modify?{_KEY}.min_concurrency={each}&{_KEY}.max_concurrency_limit={each}"


def replies() -> dict[str, Any]:
    """How Envoy says it to whoever speaks gRPC, gRPC-Web or JSON: as Python does.

    Which of the delays a refusal names is left to chance.
    """
    said = refusals()
    left = range(len(said), 0, -1)
    return {
        "mappers": [
            {"filter": _when(spoken, 1 / rest), **reply(status)}
            for spoken, reply in _REPLIES.items()
            for rest, status in zip(left, said, strict=True)
        ]
    }


def _when(spoken: str, part: float) -> dict[str, Any]:
    """To such a part of those calls that Envoy refuses of a content type."""
    refused = {"op": "EQ", "value": {"default_value": _REFUSED, "runtime_key": "door.refused"}}
    content = {"name": "content-type", "string_match": {"prefix": spoken}}
    chance = {
        "runtime_key": "door.chance",
        "percent_sampled": {"numerator": round(part * 1_000_000), "denominator": "MILLION"},
        "use_independent_randomness": True,
    }
    filters = [
        {"status_code_filter": {"comparison": refused}},
        {"header_filter": {"header": content}},
        {"runtime_filter": chance},
    ]
    return {"and_filter": {"filters": filters}}


def _grpc(status: status_pb2.Status) -> dict[str, Any]:
    headers = [
        {
            "header": {"key": name.decode(), "value": value.decode()},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for name, value in _ended(status)
        if name != b"grpc-message"  # Envoy makes it of the body
    ]
    return {"headers_to_add": headers, "body": {"inline_string": status.message}}


def _grpc_web(status: status_pb2.Status) -> dict[str, Any]:
    lines = b"".join(name + b":" + value + b"\r\n" for name, value in _ended(status))
    body = b"\x80" + frame(lines)[1:]
    return {"status_code": 200, **_body("application/grpc-web+proto", body)}


def _json(status: status_pb2.Status) -> dict[str, Any]:
    return _body("application/json", MessageToJson(status, indent=None).encode())


def _ended(status: status_pb2.Status) -> Iterable[tuple[bytes, bytes]]:
    return trailers(status.code, status.message, status.SerializeToString())


def _body(content: str, body: bytes) -> dict[str, Any]:
    text = {"inline_bytes": base64.b64encode(body.replace(b"%", b"%%")).decode()}
    return {"body_format_override": {"text_format_source": text, "content_type": content}}


_REPLIES: Final = {
    "application/grpc-web": _grpc_web,
    "application/grpc": _grpc,
    "application/json": _json,
}
"""By the beginning of a request's content type."""
