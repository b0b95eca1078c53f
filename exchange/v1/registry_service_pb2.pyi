from exchange.v1 import validate_pb2 as _validate_pb2
from exchange.v1 import options_pb2 as _options_pb2
from exchange.v1 import trust_service_pb2 as _trust_service_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubmitMetadataRequest(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[_trust_service_pb2.MetadataFile]
    def __init__(self, files: _Optional[_Iterable[_Union[_trust_service_pb2.MetadataFile, _Mapping]]] = ...) -> None: ...

class SubmitMetadataResponse(_message.Message):
    __slots__ = ("holds",)
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    holds: _trust_service_pb2.TrustVersions
    def __init__(self, holds: _Optional[_Union[_trust_service_pb2.TrustVersions, _Mapping]] = ...) -> None: ...
