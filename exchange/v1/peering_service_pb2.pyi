import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from exchange.v1 import options_pb2 as _options_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PEER_STATE_UNSPECIFIED: _ClassVar[PeerState]
    PEER_STATE_SYNCHRONISED: _ClassVar[PeerState]
    PEER_STATE_RESYNCHRONISING: _ClassVar[PeerState]
    PEER_STATE_SILENT: _ClassVar[PeerState]
PEER_STATE_UNSPECIFIED: PeerState
PEER_STATE_SYNCHRONISED: PeerState
PEER_STATE_RESYNCHRONISING: PeerState
PEER_STATE_SILENT: PeerState

class ListPeersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPeersResponse(_message.Message):
    __slots__ = ("province", "trust_version", "subjects", "memory_bytes", "peers")
    PROVINCE_FIELD_NUMBER: _ClassVar[int]
    TRUST_VERSION_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    province: str
    trust_version: int
    subjects: int
    memory_bytes: int
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    def __init__(self, province: _Optional[str] = ..., trust_version: _Optional[int] = ..., subjects: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("province", "addresses", "state", "as_of_time", "presence_time", "subjects", "presence_generation", "lag", "circuit_open", "calls", "errors", "resynchronisations", "last_error")
    PROVINCE_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_TIME_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_TIME_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_GENERATION_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_OPEN_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    RESYNCHRONISATIONS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    province: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    state: PeerState
    as_of_time: _timestamp_pb2.Timestamp
    presence_time: _timestamp_pb2.Timestamp
    subjects: int
    presence_generation: int
    lag: _duration_pb2.Duration
    circuit_open: bool
    calls: int
    errors: int
    resynchronisations: int
    last_error: str
    def __init__(self, province: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., state: _Optional[_Union[PeerState, str]] = ..., as_of_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., presence_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., subjects: _Optional[int] = ..., presence_generation: _Optional[int] = ..., lag: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., circuit_open: _Optional[bool] = ..., calls: _Optional[int] = ..., errors: _Optional[int] = ..., resynchronisations: _Optional[int] = ..., last_error: _Optional[str] = ...) -> None: ...
