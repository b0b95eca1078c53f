import datetime

from exchange.v1 import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from exchange.v1 import options_pb2 as _options_pb2
from exchange.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AppealState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    APPEAL_STATE_UNSPECIFIED: _ClassVar[AppealState]
    APPEAL_STATE_FILED: _ClassVar[AppealState]
    APPEAL_STATE_DELIVERED: _ClassVar[AppealState]
    APPEAL_STATE_ANSWERED: _ClassVar[AppealState]

class AppealResolution(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    APPEAL_RESOLUTION_UNSPECIFIED: _ClassVar[AppealResolution]
    APPEAL_RESOLUTION_CORRECTED: _ClassVar[AppealResolution]
    APPEAL_RESOLUTION_REVOKED: _ClassVar[AppealResolution]
    APPEAL_RESOLUTION_UPHELD: _ClassVar[AppealResolution]
    APPEAL_RESOLUTION_REJECTED: _ClassVar[AppealResolution]
APPEAL_STATE_UNSPECIFIED: AppealState
APPEAL_STATE_FILED: AppealState
APPEAL_STATE_DELIVERED: AppealState
APPEAL_STATE_ANSWERED: AppealState
APPEAL_RESOLUTION_UNSPECIFIED: AppealResolution
APPEAL_RESOLUTION_CORRECTED: AppealResolution
APPEAL_RESOLUTION_REVOKED: AppealResolution
APPEAL_RESOLUTION_UPHELD: AppealResolution
APPEAL_RESOLUTION_REJECTED: AppealResolution

class Appeal(_message.Message):
    __slots__ = ("appeal_id", "province", "answering_province", "attestation_id", "receipt", "statement", "file_time", "deliver_time", "state", "answer", "holder_unchecked")
    APPEAL_ID_FIELD_NUMBER: _ClassVar[int]
    PROVINCE_FIELD_NUMBER: _ClassVar[int]
    ANSWERING_PROVINCE_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    FILE_TIME_FIELD_NUMBER: _ClassVar[int]
    DELIVER_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    HOLDER_UNCHECKED_FIELD_NUMBER: _ClassVar[int]
    appeal_id: str
    province: str
    answering_province: str
    attestation_id: str
    receipt: bytes
    statement: str
    file_time: _timestamp_pb2.Timestamp
    deliver_time: _timestamp_pb2.Timestamp
    state: AppealState
    answer: AppealAnswer
    holder_unchecked: bool
    def __init__(self, appeal_id: _Optional[str] = ..., province: _Optional[str] = ..., answering_province: _Optional[str] = ..., attestation_id: _Optional[str] = ..., receipt: _Optional[bytes] = ..., statement: _Optional[str] = ..., file_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., deliver_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[AppealState, str]] = ..., answer: _Optional[_Union[AppealAnswer, _Mapping]] = ..., holder_unchecked: _Optional[bool] = ...) -> None: ...

class AppealAnswer(_message.Message):
    __slots__ = ("resolution", "reason", "superseding_attestation_id", "answer_time")
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDING_ATTESTATION_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_TIME_FIELD_NUMBER: _ClassVar[int]
    resolution: AppealResolution
    reason: str
    superseding_attestation_id: str
    answer_time: _timestamp_pb2.Timestamp
    def __init__(self, resolution: _Optional[_Union[AppealResolution, str]] = ..., reason: _Optional[str] = ..., superseding_attestation_id: _Optional[str] = ..., answer_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class FileAppealRequest(_message.Message):
    __slots__ = ("appeal_id", "document", "attestation", "receipt", "statement")
    APPEAL_ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    appeal_id: str
    document: _types_pb2.IdentityDocument
    attestation: AttestationReference
    receipt: bytes
    statement: str
    def __init__(self, appeal_id: _Optional[str] = ..., document: _Optional[_Union[_types_pb2.IdentityDocument, _Mapping]] = ..., attestation: _Optional[_Union[AttestationReference, _Mapping]] = ..., receipt: _Optional[bytes] = ..., statement: _Optional[str] = ...) -> None: ...

class AttestationReference(_message.Message):
    __slots__ = ("province", "attestation_id")
    PROVINCE_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_ID_FIELD_NUMBER: _ClassVar[int]
    province: str
    attestation_id: str
    def __init__(self, province: _Optional[str] = ..., attestation_id: _Optional[str] = ...) -> None: ...

class FileAppealResponse(_message.Message):
    __slots__ = ("appeal",)
    APPEAL_FIELD_NUMBER: _ClassVar[int]
    appeal: Appeal
    def __init__(self, appeal: _Optional[_Union[Appeal, _Mapping]] = ...) -> None: ...

class GetAppealRequest(_message.Message):
    __slots__ = ("appeal_id",)
    APPEAL_ID_FIELD_NUMBER: _ClassVar[int]
    appeal_id: str
    def __init__(self, appeal_id: _Optional[str] = ...) -> None: ...

class GetAppealResponse(_message.Message):
    __slots__ = ("appeal",)
    APPEAL_FIELD_NUMBER: _ClassVar[int]
    appeal: Appeal
    def __init__(self, appeal: _Optional[_Union[Appeal, _Mapping]] = ...) -> None: ...

class ListAppealsRequest(_message.Message):
    __slots__ = ("document", "unanswered", "page_size", "page_token")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    UNANSWERED_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    document: _types_pb2.IdentityDocument
    unanswered: bool
    page_size: int
    page_token: str
    def __init__(self, document: _Optional[_Union[_types_pb2.IdentityDocument, _Mapping]] = ..., unanswered: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAppealsResponse(_message.Message):
    __slots__ = ("appeals", "next_page_token")
    APPEALS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    appeals: _containers.RepeatedCompositeFieldContainer[Appeal]
    next_page_token: str
    def __init__(self, appeals: _Optional[_Iterable[_Union[Appeal, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class AnswerAppealRequest(_message.Message):
    __slots__ = ("appeal_id", "answer")
    APPEAL_ID_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    appeal_id: str
    answer: AppealAnswer
    def __init__(self, appeal_id: _Optional[str] = ..., answer: _Optional[_Union[AppealAnswer, _Mapping]] = ...) -> None: ...

class AnswerAppealResponse(_message.Message):
    __slots__ = ("appeal",)
    APPEAL_FIELD_NUMBER: _ClassVar[int]
    appeal: Appeal
    def __init__(self, appeal: _Optional[_Union[Appeal, _Mapping]] = ...) -> None: ...

class ExchangeAppealsRequest(_message.Message):
    __slots__ = ("appeals",)
    APPEALS_FIELD_NUMBER: _ClassVar[int]
    appeals: _containers.RepeatedCompositeFieldContainer[FiledAppeal]
    def __init__(self, appeals: _Optional[_Iterable[_Union[FiledAppeal, _Mapping]]] = ...) -> None: ...

class FiledAppeal(_message.Message):
    __slots__ = ("appeal", "subject_tokens")
    APPEAL_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    appeal: Appeal
    subject_tokens: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, appeal: _Optional[_Union[Appeal, _Mapping]] = ..., subject_tokens: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ExchangeAppealsResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ExchangeAppealsItem]
    def __init__(self, items: _Optional[_Iterable[_Union[ExchangeAppealsItem, _Mapping]]] = ...) -> None: ...

class ExchangeAppealsItem(_message.Message):
    __slots__ = ("status", "appeal")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    APPEAL_FIELD_NUMBER: _ClassVar[int]
    status: _status_pb2.Status
    appeal: Appeal
    def __init__(self, status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., appeal: _Optional[_Union[Appeal, _Mapping]] = ...) -> None: ...
