"""Errors as google.rpc.Status, and back: what a door sends and a client reads."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from exchange import errors
from exchange.errors import TongxingError

__all__ = [
    "DETAILS_KEY",
    "DOMAIN",
    "code_of",
    "from_status",
    "from_trailers",
    "of_reason",
    "to_status",
]

DOMAIN = "tongxing"
DETAILS_KEY = "grpc-status-details-bin"
"""The trailer that carries a google.rpc.Status over gRPC."""

_CODES = {
    "ID_TAKEN": code_pb2.ALREADY_EXISTS,
    "REVOKED": code_pb2.FAILED_PRECONDITION,
    "NOT_FOUND": code_pb2.NOT_FOUND,
    "CALLER_NOT_ALLOWED": code_pb2.PERMISSION_DENIED,
    "NO_IDENTITY": code_pb2.UNAUTHENTICATED,
    "STORE_UNAVAILABLE": code_pb2.UNAVAILABLE,
    "UNREACHABLE": code_pb2.UNAVAILABLE,  # said by `exchange.client`, never sent
    "TRUST_UNUSABLE": code_pb2.FAILED_PRECONDITION,
    "KEY_STEP": code_pb2.FAILED_PRECONDITION,
    "CONFLICT": code_pb2.ABORTED,
    "CURSOR_EXPIRED": code_pb2.OUT_OF_RANGE,
    "NO_COLOUR": code_pb2.FAILED_PRECONDITION,
    "INDETERMINATE": code_pb2.UNAVAILABLE,
    "APPEAL_STATE": code_pb2.FAILED_PRECONDITION,
    "AUDIT_UNAVAILABLE": code_pb2.UNAVAILABLE,
    "OVERLOADED": code_pb2.RESOURCE_EXHAUSTED,
    "DEADLINE": code_pb2.DEADLINE_EXCEEDED,
    "INTERNAL": code_pb2.INTERNAL,
}
_BY_REASON: dict[str, type[TongxingError]] = {
    error.reason: error
    for error in (getattr(errors, name) for name in errors.__all__)
    if "reason" in vars(error) and error is not TongxingError
} | {"INTERNAL": errors.InternalError}


def code_of(error: TongxingError) -> int:
    """The google.rpc.Code of an error; what names a wrong field is INVALID_ARGUMENT."""
    code: int = _CODES.get(error.reason, code_pb2.INVALID_ARGUMENT)
    return code


def of_reason(reason: str) -> type[TongxingError]:
    """The kind of error that a reason names; InternalError where it names none of ours."""
    return _BY_REASON.get(reason, errors.InternalError)


def to_status(error: TongxingError, *, request_id: str = "") -> status_pb2.Status:
    """The error with ErrorInfo and, where they apply, BadRequest, RetryInfo, LocalizedMessage."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.remedy:
        info.metadata["remedy"] = error.remedy
    if request_id:
        info.metadata["request_id"] = request_id
    details = [
        info,
        error_details_pb2.LocalizedMessage(
            locale="zh-CN", message=f"{error.zh}（{error.field}）" if error.field else error.zh
        ),
    ]
    code = code_of(error)
    if code == code_pb2.INVALID_ARGUMENT or error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message, reason=error.reason
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code, message=str(error), details=packed)


def from_status(status: status_pb2.Status) -> TongxingError:
    """The error that a status carries; an InternalError where it carries none of ours."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    try:
        for detail in status.details:
            for known in (info, bad, retry):
                if detail.Is(known.DESCRIPTOR):
                    detail.Unpack(known)
    except DecodeError:
        return errors.InternalError(status.message)
    if info.domain != DOMAIN:
        return errors.InternalError(status.message)
    kind = of_reason(info.reason)
    remedy = info.metadata.get("remedy", "")
    if bad.field_violations:
        violation = bad.field_violations[0]
        error = kind(violation.description, field=violation.field, remedy=remedy)
    else:
        error = kind(status.message.removesuffix(f"; {remedy}"), remedy=remedy)
    if retry.HasField("retry_delay"):
        delay = retry.retry_delay
        error.retry_after = max(0.0, delay.seconds + delay.nanos / 1e9)
    return error


def from_trailers(trailers: Iterable[tuple[str, str | bytes]] | None) -> TongxingError | None:
    """The error that a call's trailing metadata carry; None where they carry none."""
    for key, value in trailers or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                return None
    return None
