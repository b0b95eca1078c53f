from exchange.v1 import validate_pb2 as _validate_pb2
from exchange.v1 import options_pb2 as _options_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FetchAttestationsRequest(_message.Message):
    __slots__ = ("subject_tokens",)
    SUBJECT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    subject_tokens: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, subject_tokens: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FetchAttestationsResponse(_message.Message):
    __slots__ = ("subjects",)
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    subjects: _containers.RepeatedCompositeFieldContainer[SubjectAttestations]
    def __init__(self, subjects: _Optional[_Iterable[_Union[SubjectAttestations, _Mapping]]] = ...) -> None: ...

class SubjectAttestations(_message.Message):
    __slots__ = ("signed_attestations",)
    SIGNED_ATTESTATIONS_FIELD_NUMBER: _ClassVar[int]
    signed_attestations: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, signed_attestations: _Optional[_Iterable[bytes]] = ...) -> None: ...
