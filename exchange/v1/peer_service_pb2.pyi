import datetime

from exchange.v1 import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from exchange.v1 import options_pb2 as _options_pb2
from exchange.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FetchAttestationsRequest(_message.Message):
    __slots__ = ("subject_tokens", "purpose")
    SUBJECT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    subject_tokens: _containers.RepeatedScalarFieldContainer[bytes]
    purpose: _types_pb2.Purpose
    def __init__(self, subject_tokens: _Optional[_Iterable[bytes]] = ..., purpose: _Optional[_Union[_types_pb2.Purpose, str]] = ...) -> None: ...

class FetchAttestationsResponse(_message.Message):
    __slots__ = ("subjects",)
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    subjects: _containers.RepeatedCompositeFieldContainer[SubjectAttestations]
    def __init__(self, subjects: _Optional[_Iterable[_Union[SubjectAttestations, _Mapping]]] = ...) -> None: ...

class SubjectAttestations(_message.Message):
    __slots__ = ("signed_attestations", "revoked_attestations")
    SIGNED_ATTESTATIONS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_ATTESTATIONS_FIELD_NUMBER: _ClassVar[int]
    signed_attestations: _containers.RepeatedScalarFieldContainer[bytes]
    revoked_attestations: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, signed_attestations: _Optional[_Iterable[bytes]] = ..., revoked_attestations: _Optional[_Iterable[bytes]] = ...) -> None: ...

class WatchChangesRequest(_message.Message):
    __slots__ = ("cursor",)
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    cursor: bytes
    def __init__(self, cursor: _Optional[bytes] = ...) -> None: ...

class WatchChangesResponse(_message.Message):
    __slots__ = ("cursor", "as_of_time", "subjects", "revocations", "presence_generation")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    AS_OF_TIME_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    REVOCATIONS_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_GENERATION_FIELD_NUMBER: _ClassVar[int]
    cursor: bytes
    as_of_time: _timestamp_pb2.Timestamp
    subjects: bytes
    revocations: _containers.RepeatedCompositeFieldContainer[Revocation]
    presence_generation: int
    def __init__(self, cursor: _Optional[bytes] = ..., as_of_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., subjects: _Optional[bytes] = ..., revocations: _Optional[_Iterable[_Union[Revocation, _Mapping]]] = ..., presence_generation: _Optional[int] = ...) -> None: ...

class Revocation(_message.Message):
    __slots__ = ("attestation_id", "subject", "place")
    ATTESTATION_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    attestation_id: bytes
    subject: bytes
    place: StatusPlace
    def __init__(self, attestation_id: _Optional[bytes] = ..., subject: _Optional[bytes] = ..., place: _Optional[_Union[StatusPlace, _Mapping]] = ...) -> None: ...

class StatusPlace(_message.Message):
    __slots__ = ("list", "index")
    LIST_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    list: int
    index: int
    def __init__(self, list: _Optional[int] = ..., index: _Optional[int] = ...) -> None: ...

class GetPresenceRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetPresenceResponse(_message.Message):
    __slots__ = ("header", "bits", "revoked")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    header: PresenceHeader
    bits: bytes
    revoked: RevokedPlaces
    def __init__(self, header: _Optional[_Union[PresenceHeader, _Mapping]] = ..., bits: _Optional[bytes] = ..., revoked: _Optional[_Union[RevokedPlaces, _Mapping]] = ...) -> None: ...

class PresenceHeader(_message.Message):
    __slots__ = ("cursor", "generation", "size", "hashes", "subjects", "as_of_time", "heartbeat")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_TIME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    cursor: bytes
    generation: int
    size: int
    hashes: int
    subjects: int
    as_of_time: _timestamp_pb2.Timestamp
    heartbeat: _duration_pb2.Duration
    def __init__(self, cursor: _Optional[bytes] = ..., generation: _Optional[int] = ..., size: _Optional[int] = ..., hashes: _Optional[int] = ..., subjects: _Optional[int] = ..., as_of_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., heartbeat: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RevokedPlaces(_message.Message):
    __slots__ = ("list", "bits")
    LIST_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    list: int
    bits: bytes
    def __init__(self, list: _Optional[int] = ..., bits: _Optional[bytes] = ...) -> None: ...
