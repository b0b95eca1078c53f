import datetime

from exchange.v1 import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from exchange.v1 import options_pb2 as _options_pb2
from exchange.v1 import trust_service_pb2 as _trust_service_pb2
from exchange.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KeyState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KEY_STATE_UNSPECIFIED: _ClassVar[KeyState]
    KEY_STATE_PREPARED: _ClassVar[KeyState]
    KEY_STATE_ACTIVE: _ClassVar[KeyState]
    KEY_STATE_OLD: _ClassVar[KeyState]
    KEY_STATE_TAINTED: _ClassVar[KeyState]
    KEY_STATE_REVOKED: _ClassVar[KeyState]
KEY_STATE_UNSPECIFIED: KeyState
KEY_STATE_PREPARED: KeyState
KEY_STATE_ACTIVE: KeyState
KEY_STATE_OLD: KeyState
KEY_STATE_TAINTED: KeyState
KEY_STATE_REVOKED: KeyState

class Key(_message.Message):
    __slots__ = ("kid", "algorithm", "state", "since_time", "held", "live")
    KID_FIELD_NUMBER: _ClassVar[int]
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    kid: str
    algorithm: str
    state: KeyState
    since_time: _timestamp_pb2.Timestamp
    held: bool
    live: _containers.RepeatedCompositeFieldContainer[KindCount]
    def __init__(self, kid: _Optional[str] = ..., algorithm: _Optional[str] = ..., state: _Optional[_Union[KeyState, str]] = ..., since_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., held: _Optional[bool] = ..., live: _Optional[_Iterable[_Union[KindCount, _Mapping]]] = ...) -> None: ...

class KindCount(_message.Message):
    __slots__ = ("kind", "count")
    KIND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    kind: _types_pb2.Kind
    count: int
    def __init__(self, kind: _Optional[_Union[_types_pb2.Kind, str]] = ..., count: _Optional[int] = ...) -> None: ...

class KeyStep(_message.Message):
    __slots__ = ("keys", "ends", "trust_version", "behind")
    class BehindEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    KEYS_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    TRUST_VERSION_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    ends: _containers.RepeatedCompositeFieldContainer[KindCount]
    trust_version: int
    behind: _containers.ScalarMap[str, int]
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., ends: _Optional[_Iterable[_Union[KindCount, _Mapping]]] = ..., trust_version: _Optional[int] = ..., behind: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("keys", "trust")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    trust: _trust_service_pb2.TrustVersions
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., trust: _Optional[_Union[_trust_service_pb2.TrustVersions, _Mapping]] = ...) -> None: ...

class PrepareKeyRequest(_message.Message):
    __slots__ = ("algorithm", "validate_only")
    ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    algorithm: str
    validate_only: bool
    def __init__(self, algorithm: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class PrepareKeyResponse(_message.Message):
    __slots__ = ("step", "kid")
    STEP_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    step: KeyStep
    kid: str
    def __init__(self, step: _Optional[_Union[KeyStep, _Mapping]] = ..., kid: _Optional[str] = ...) -> None: ...

class ActivateKeyRequest(_message.Message):
    __slots__ = ("kid", "force", "validate_only")
    KID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    kid: str
    force: bool
    validate_only: bool
    def __init__(self, kid: _Optional[str] = ..., force: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class ActivateKeyResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: KeyStep
    def __init__(self, step: _Optional[_Union[KeyStep, _Mapping]] = ...) -> None: ...

class RetireKeyRequest(_message.Message):
    __slots__ = ("kid", "force", "validate_only")
    KID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    kid: str
    force: bool
    validate_only: bool
    def __init__(self, kid: _Optional[str] = ..., force: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class RetireKeyResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: KeyStep
    def __init__(self, step: _Optional[_Union[KeyStep, _Mapping]] = ...) -> None: ...

class TaintKeyRequest(_message.Message):
    __slots__ = ("kid", "from_time", "emergency", "validate_only")
    KID_FIELD_NUMBER: _ClassVar[int]
    FROM_TIME_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    kid: str
    from_time: _timestamp_pb2.Timestamp
    emergency: bool
    validate_only: bool
    def __init__(self, kid: _Optional[str] = ..., from_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., emergency: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class TaintKeyResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: KeyStep
    def __init__(self, step: _Optional[_Union[KeyStep, _Mapping]] = ...) -> None: ...

class RevokeKeyRequest(_message.Message):
    __slots__ = ("kid", "emergency", "validate_only")
    KID_FIELD_NUMBER: _ClassVar[int]
    EMERGENCY_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    kid: str
    emergency: bool
    validate_only: bool
    def __init__(self, kid: _Optional[str] = ..., emergency: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class RevokeKeyResponse(_message.Message):
    __slots__ = ("step",)
    STEP_FIELD_NUMBER: _ClassVar[int]
    step: KeyStep
    def __init__(self, step: _Optional[_Union[KeyStep, _Mapping]] = ...) -> None: ...
