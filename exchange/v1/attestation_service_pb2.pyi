import datetime

from exchange.v1 import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from exchange.v1 import options_pb2 as _options_pb2
from exchange.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NewAttestation(_message.Message):
    __slots__ = ("attestation_id", "document", "holder_name", "fact", "issuer", "expire_time", "data_as_of_time", "supersedes")
    ATTESTATION_ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    HOLDER_NAME_FIELD_NUMBER: _ClassVar[int]
    FACT_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    DATA_AS_OF_TIME_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDES_FIELD_NUMBER: _ClassVar[int]
    attestation_id: str
    document: _types_pb2.IdentityDocument
    holder_name: str
    fact: _types_pb2.Fact
    issuer: _types_pb2.Issuer
    expire_time: _timestamp_pb2.Timestamp
    data_as_of_time: _timestamp_pb2.Timestamp
    supersedes: str
    def __init__(self, attestation_id: _Optional[str] = ..., document: _Optional[_Union[_types_pb2.IdentityDocument, _Mapping]] = ..., holder_name: _Optional[str] = ..., fact: _Optional[_Union[_types_pb2.Fact, _Mapping]] = ..., issuer: _Optional[_Union[_types_pb2.Issuer, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., data_as_of_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., supersedes: _Optional[str] = ...) -> None: ...

class PublishAttestationRequest(_message.Message):
    __slots__ = ("attestation", "signed_attestation")
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    SIGNED_ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    attestation: NewAttestation
    signed_attestation: bytes
    def __init__(self, attestation: _Optional[_Union[NewAttestation, _Mapping]] = ..., signed_attestation: _Optional[bytes] = ...) -> None: ...

class PublishAttestationResponse(_message.Message):
    __slots__ = ("attestation", "already_published")
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    ALREADY_PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    attestation: _types_pb2.Attestation
    already_published: bool
    def __init__(self, attestation: _Optional[_Union[_types_pb2.Attestation, _Mapping]] = ..., already_published: _Optional[bool] = ...) -> None: ...

class PublishAttestationsRequest(_message.Message):
    __slots__ = ("index", "attestation", "signed_attestation", "items")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    SIGNED_ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    index: int
    attestation: NewAttestation
    signed_attestation: bytes
    items: _containers.RepeatedCompositeFieldContainer[PublishAttestationsRequest]
    def __init__(self, index: _Optional[int] = ..., attestation: _Optional[_Union[NewAttestation, _Mapping]] = ..., signed_attestation: _Optional[bytes] = ..., items: _Optional[_Iterable[_Union[PublishAttestationsRequest, _Mapping]]] = ...) -> None: ...

class PublishAttestationsResponse(_message.Message):
    __slots__ = ("index", "status", "attestation_id", "already_published", "items")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_ID_FIELD_NUMBER: _ClassVar[int]
    ALREADY_PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    index: int
    status: _status_pb2.Status
    attestation_id: str
    already_published: bool
    items: _containers.RepeatedCompositeFieldContainer[PublishAttestationsResponse]
    def __init__(self, index: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., attestation_id: _Optional[str] = ..., already_published: _Optional[bool] = ..., items: _Optional[_Iterable[_Union[PublishAttestationsResponse, _Mapping]]] = ...) -> None: ...

class RevokeAttestationRequest(_message.Message):
    __slots__ = ("attestation_id", "reason", "authority")
    ATTESTATION_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    attestation_id: str
    reason: str
    authority: str
    def __init__(self, attestation_id: _Optional[str] = ..., reason: _Optional[str] = ..., authority: _Optional[str] = ...) -> None: ...

class RevokeAttestationResponse(_message.Message):
    __slots__ = ("revoke_time",)
    REVOKE_TIME_FIELD_NUMBER: _ClassVar[int]
    revoke_time: _timestamp_pb2.Timestamp
    def __init__(self, revoke_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class BatchRevokeAttestationsRequest(_message.Message):
    __slots__ = ("attestation_ids", "reason", "authority")
    ATTESTATION_IDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    attestation_ids: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    authority: str
    def __init__(self, attestation_ids: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., authority: _Optional[str] = ...) -> None: ...

class BatchRevokeAttestationsResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[BatchRevokeAttestationsItem]
    def __init__(self, items: _Optional[_Iterable[_Union[BatchRevokeAttestationsItem, _Mapping]]] = ...) -> None: ...

class BatchRevokeAttestationsItem(_message.Message):
    __slots__ = ("status", "revoke_time")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TIME_FIELD_NUMBER: _ClassVar[int]
    status: _status_pb2.Status
    revoke_time: _timestamp_pb2.Timestamp
    def __init__(self, status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., revoke_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RevokeIssuerAttestationsRequest(_message.Message):
    __slots__ = ("credit_code", "sample_start_time", "sample_end_time", "kinds", "reason", "authority", "validate_only")
    CREDIT_CODE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_START_TIME_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_END_TIME_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    credit_code: str
    sample_start_time: _timestamp_pb2.Timestamp
    sample_end_time: _timestamp_pb2.Timestamp
    kinds: _containers.RepeatedScalarFieldContainer[_types_pb2.Kind]
    reason: str
    authority: str
    validate_only: bool
    def __init__(self, credit_code: _Optional[str] = ..., sample_start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sample_end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kinds: _Optional[_Iterable[_Union[_types_pb2.Kind, str]]] = ..., reason: _Optional[str] = ..., authority: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class RevokeIssuerAttestationsResponse(_message.Message):
    __slots__ = ("looked_at", "revoked", "already_revoked", "done")
    LOOKED_AT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    ALREADY_REVOKED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    looked_at: int
    revoked: int
    already_revoked: int
    done: bool
    def __init__(self, looked_at: _Optional[int] = ..., revoked: _Optional[int] = ..., already_revoked: _Optional[int] = ..., done: _Optional[bool] = ...) -> None: ...

class GetAttestationRequest(_message.Message):
    __slots__ = ("attestation_id",)
    ATTESTATION_ID_FIELD_NUMBER: _ClassVar[int]
    attestation_id: str
    def __init__(self, attestation_id: _Optional[str] = ...) -> None: ...

class GetAttestationResponse(_message.Message):
    __slots__ = ("attestation",)
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    attestation: _types_pb2.Attestation
    def __init__(self, attestation: _Optional[_Union[_types_pb2.Attestation, _Mapping]] = ...) -> None: ...
