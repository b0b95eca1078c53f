from exchange.v1 import validate_pb2 as _validate_pb2
from exchange.v1 import options_pb2 as _options_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrustVersions(_message.Message):
    __slots__ = ("root", "timestamp", "snapshot", "roles")
    class RolesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ROOT_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    root: int
    timestamp: int
    snapshot: int
    roles: _containers.ScalarMap[str, int]
    def __init__(self, root: _Optional[int] = ..., timestamp: _Optional[int] = ..., snapshot: _Optional[int] = ..., roles: _Optional[_Mapping[str, int]] = ...) -> None: ...

class MetadataFile(_message.Message):
    __slots__ = ("name", "content")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    content: bytes
    def __init__(self, name: _Optional[str] = ..., content: _Optional[bytes] = ...) -> None: ...

class GetTrustMetadataRequest(_message.Message):
    __slots__ = ("have",)
    HAVE_FIELD_NUMBER: _ClassVar[int]
    have: TrustVersions
    def __init__(self, have: _Optional[_Union[TrustVersions, _Mapping]] = ...) -> None: ...

class GetTrustMetadataResponse(_message.Message):
    __slots__ = ("files", "holds")
    FILES_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[MetadataFile]
    holds: TrustVersions
    def __init__(self, files: _Optional[_Iterable[_Union[MetadataFile, _Mapping]]] = ..., holds: _Optional[_Union[TrustVersions, _Mapping]] = ...) -> None: ...

class WatchTrustRequest(_message.Message):
    __slots__ = ("have",)
    HAVE_FIELD_NUMBER: _ClassVar[int]
    have: TrustVersions
    def __init__(self, have: _Optional[_Union[TrustVersions, _Mapping]] = ...) -> None: ...

class WatchTrustResponse(_message.Message):
    __slots__ = ("files",)
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[MetadataFile]
    def __init__(self, files: _Optional[_Iterable[_Union[MetadataFile, _Mapping]]] = ...) -> None: ...
