from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from exchange import client, errors, publication, status
from exchange.client import connection
from exchange.errors import (
    CheckDigitError,
    InternalError,
    InvalidFieldError,
    OverloadedError,
    StoreUnavailableError,
    TongxingError,
)
from exchange.status import DOMAIN, code_of, from_status, to_status
from exchange.subjects import mod_11_2
from exchange.v1 import errors_pb2, types_pb2

CONTRACT = Path(__file__).parents[2] / "proto" / "tongxing" / "v1" / "errors.proto"
CLASSES = sorted(
    (cls for name in errors.__all__ if (cls := getattr(errors, name)) is not TongxingError),
    key=lambda cls: str(cls.reason),
)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.reason)


def details(message: status_pb2.Status) -> dict[str, Any]:
    known = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.LocalizedMessage,
    )
    found = {}
    for detail in message.details:
        (kind,) = (kind for kind in known if detail.Is(kind.DESCRIPTOR))
        found[kind.__name__] = kind.FromString(detail.value)
    assert len(found) == len(message.details)
    return found


# The reasons.


def test_every_reason_is_in_the_contract_and_the_other_way_round() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118 - an enum wrapper is no dict
    assert names == {"UNSPECIFIED"} | {cls.reason for cls in CLASSES}
    assert len({cls.reason for cls in CLASSES}) == len(CLASSES)


@every_class
def test_every_code_is_the_one_that_the_contract_states(cls: type[TongxingError]) -> None:
    stated = re.search(
        rf"// ([A-Z_]+): .*(?:\n  //.*)*\n  ERROR_REASON_{cls.reason} =", CONTRACT.read_text()
    )
    assert stated is not None
    assert code_of(cls("x")) == code_pb2.Code.Value(stated[1])


@every_class
def test_every_error_has_words_in_chinese(cls: type[TongxingError]) -> None:
    assert cls.zh
    assert not cls.zh.isascii()


# There and back.


@every_class
@pytest.mark.parametrize("field", ["", "attestation.fact"])
@pytest.mark.parametrize("remedy", ["", "look again"])
def test_every_error_comes_back_as_itself(
    cls: type[TongxingError], field: str, remedy: str
) -> None:
    error = cls("something is wrong", field=field, remedy=remedy)
    sent = to_status(error, request_id="r1").SerializeToString()
    back = from_status(status_pb2.Status.FromString(sent))
    assert type(back) is cls
    assert (back.message, back.field, back.remedy) == (error.message, field, remedy)
    assert str(back) == str(error)
    assert back.retry_after == error.retry_after


@every_class
def test_every_error_has_the_details_of_its_class(cls: type[TongxingError]) -> None:
    message = to_status(cls("wrong", field="document", remedy="look again"), request_id="r1")
    found = details(message)
    info = found["ErrorInfo"]
    assert (info.domain, info.reason) == (DOMAIN, cls.reason)
    assert dict(info.metadata) == {"remedy": "look again", "request_id": "r1"}
    (violation,) = found["BadRequest"].field_violations
    assert (violation.field, violation.description) == ("document", "wrong")
    assert violation.reason == cls.reason
    assert found["LocalizedMessage"].locale == "zh-CN"
    assert found["LocalizedMessage"].message == f"{cls.zh}（document）"
    assert ("RetryInfo" in found) == (cls.retry_after is not None)
    assert message.message == "document: wrong; look again"


@every_class
def test_bad_request_stands_only_where_a_field_is_wrong(cls: type[TongxingError]) -> None:
    message = to_status(cls("wrong"))
    found = details(message)
    assert ("BadRequest" in found) == (message.code == code_pb2.INVALID_ARGUMENT)
    assert ("BadRequest" in found) == issubclass(cls, InvalidFieldError)
    assert dict(found["ErrorInfo"].metadata) == {}
    assert found["LocalizedMessage"].message == cls.zh


@pytest.mark.parametrize("cls", [StoreUnavailableError, OverloadedError])
def test_what_passes_says_when_to_try_again(cls: type[TongxingError]) -> None:
    retry = details(to_status(cls("busy")))["RetryInfo"]
    assert retry.retry_delay.ToMilliseconds() == 1000


def test_only_what_passes_says_when_to_try_again() -> None:
    passing = {cls.reason for cls in CLASSES if cls.retry_after}
    assert passing == {
        "AUDIT_UNAVAILABLE",
        "CONFLICT",
        "INDETERMINATE",
        "OVERLOADED",
        "STORE_UNAVAILABLE",
    }


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(CLASSES))
def test_any_words_come_back(words: str, cls: type[TongxingError]) -> None:
    for error in (cls(words), cls(words, remedy=words), cls("x", field=words, remedy=words)):
        back = from_status(to_status(error))
        assert (back.message, back.field, back.remedy) == (error.message, error.field, error.remedy)


# What is not ours.


def packed(detail: Any) -> AnyMessage:
    message = AnyMessage()
    message.Pack(detail)
    return message


INFO = error_details_pb2.ErrorInfo


@pytest.mark.parametrize(
    "found",
    [
        [],
        [packed(INFO(domain="example.com", reason="CHECK_DIGIT"))],
        [packed(INFO(domain=DOMAIN, reason="A_LATER_REASON"))],
        [packed(INFO(domain=DOMAIN, reason=""))],
        [packed(error_details_pb2.BadRequest())],
        [AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")],
        [AnyMessage(type_url="nonsense", value=b"\xff")],
    ],
)
def test_a_status_of_no_error_of_ours_is_an_internal_error(found: list[AnyMessage]) -> None:
    error = from_status(status_pb2.Status(code=3, message="as it came", details=found))
    assert type(error) is InternalError
    assert error.message == "as it came"


@given(st.binary(max_size=200))
def test_whatever_a_status_holds_it_is_an_error(junk: bytes) -> None:
    url = "type.googleapis.com/google.rpc."
    found = [AnyMessage(type_url=url + kind, value=junk) for kind in ("ErrorInfo", "BadRequest")]
    assert isinstance(from_status(status_pb2.Status(details=found)), TongxingError)


# What a client reads of a failed call.


def failed(code: grpc.StatusCode, *trailers: tuple[str, bytes | str]) -> TongxingError:
    error = grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details="as it came"
    )
    return connection.as_error(error)


def test_a_client_reads_the_nodes_own_error() -> None:
    sent = to_status(CheckDigitError("wrong", field="document.number")).SerializeToString()
    error = failed(grpc.StatusCode.INVALID_ARGUMENT, (status.DETAILS_KEY, sent))
    assert type(error) is CheckDigitError
    assert error.field == "document.number"


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,  # a call that outlives the node's drain
    ],
)
def test_a_node_that_does_not_answer_is_named_so(code: grpc.StatusCode) -> None:
    error = failed(code)
    assert type(error) is client.UnreachableError
    assert error.retry_after


@pytest.mark.parametrize(
    "trailers", [[], [(status.DETAILS_KEY, b"\xff\xff")], [("x-other", "nothing")]]
)
def test_an_error_without_details_is_an_internal_one(trailers: list[Any]) -> None:
    assert type(failed(grpc.StatusCode.PERMISSION_DENIED, *trailers)) is InternalError


# Nothing personal.


def document(kind: str, number: str) -> types_pb2.IdentityDocument:
    return types_pb2.IdentityDocument(type=f"DOCUMENT_TYPE_{kind}", number=number)


TYPES = [
    name.removeprefix("DOCUMENT_TYPE_")
    for name in types_pb2.DocumentType.keys()  # noqa: SIM118 - an enum wrapper is no dict
    if name != "DOCUMENT_TYPE_UNSPECIFIED"
]


@given(
    st.sampled_from(TYPES),
    st.from_regex(r"[0-9]{17}", fullmatch=True)
    | st.from_regex(r"[A-Z]{1,3}[0-9]{8,12}[a-z]?", fullmatch=True)
    | st.from_regex(r"(11|44|51|81|99)[0-9]{4}(19|20)[0-9]{9}", fullmatch=True).map(
        lambda body: body + mod_11_2(body)
    ),
)
def test_no_status_holds_an_identity_number(kind: str, number: str) -> None:
    now = datetime(2022, 1, 10, tzinfo=UTC)
    try:
        read = publication.read_document(document(kind, number), now, field="document")
    except InvalidFieldError as error:
        assert error.field == "document.number"  # noqa: PT017 - it may also be read
        told = f"{to_status(error)} {error!r} {error.__cause__!r}"
        assert number not in told
        assert number[4:14] not in told
    else:
        assert number not in repr(read)
