import datetime

from exchange.v1 import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from exchange.v1 import options_pb2 as _options_pb2
from exchange.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListAccessesRequest(_message.Message):
    __slots__ = ("document", "start_time", "end_time", "page_size", "page_token")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    document: _types_pb2.IdentityDocument
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, document: _Optional[_Union[_types_pb2.IdentityDocument, _Mapping]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAccessesResponse(_message.Message):
    __slots__ = ("accesses", "next_page_token", "partial", "missing_nodes")
    ACCESSES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    MISSING_NODES_FIELD_NUMBER: _ClassVar[int]
    accesses: _containers.RepeatedCompositeFieldContainer[Access]
    next_page_token: str
    partial: bool
    missing_nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, accesses: _Optional[_Iterable[_Union[Access, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., partial: _Optional[bool] = ..., missing_nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class ListNodeAccessesRequest(_message.Message):
    __slots__ = ("subject_tokens", "everybody", "start_time", "end_time", "page_size", "page_token", "asking_node")
    SUBJECT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    EVERYBODY_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ASKING_NODE_FIELD_NUMBER: _ClassVar[int]
    subject_tokens: _containers.RepeatedScalarFieldContainer[bytes]
    everybody: bool
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    asking_node: str
    def __init__(self, subject_tokens: _Optional[_Iterable[bytes]] = ..., everybody: _Optional[bool] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., asking_node: _Optional[str] = ...) -> None: ...

class ListNodeAccessesResponse(_message.Message):
    __slots__ = ("node", "accesses")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ACCESSES_FIELD_NUMBER: _ClassVar[int]
    node: str
    accesses: _containers.RepeatedCompositeFieldContainer[NodeAccess]
    def __init__(self, node: _Optional[str] = ..., accesses: _Optional[_Iterable[_Union[NodeAccess, _Mapping]]] = ...) -> None: ...

class NodeAccess(_message.Message):
    __slots__ = ("access", "day", "process", "sequence")
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    DAY_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    access: Access
    day: str
    process: int
    sequence: int
    def __init__(self, access: _Optional[_Union[Access, _Mapping]] = ..., day: _Optional[str] = ..., process: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class Access(_message.Message):
    __slots__ = ("access_time", "caller", "method", "purpose", "answer", "request_id", "target")
    ACCESS_TIME_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    access_time: _timestamp_pb2.Timestamp
    caller: str
    method: str
    purpose: _types_pb2.Purpose
    answer: str
    request_id: str
    target: str
    def __init__(self, access_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., caller: _Optional[str] = ..., method: _Optional[str] = ..., purpose: _Optional[_Union[_types_pb2.Purpose, str]] = ..., answer: _Optional[str] = ..., request_id: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...
