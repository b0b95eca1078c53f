from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_CHECK_DIGIT: _ClassVar[ErrorReason]
    ERROR_REASON_UNKNOWN_PROVINCE: _ClassVar[ErrorReason]
    ERROR_REASON_EXPIRED: _ClassVar[ErrorReason]
    ERROR_REASON_IN_FUTURE: _ClassVar[ErrorReason]
    ERROR_REASON_UNEXPLAINED_COLOUR: _ClassVar[ErrorReason]
    ERROR_REASON_DOCUMENT_FORM: _ClassVar[ErrorReason]
    ERROR_REASON_ID_TAKEN: _ClassVar[ErrorReason]
    ERROR_REASON_REVOKED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_CALLER_NOT_ALLOWED: _ClassVar[ErrorReason]
    ERROR_REASON_NO_IDENTITY: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_TRUST_UNUSABLE: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_MALFORMED_OBJECT: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_SIGNATURE: _ClassVar[ErrorReason]
    ERROR_REASON_UNKNOWN_ISSUER: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE: _ClassVar[ErrorReason]
    ERROR_REASON_KEY_STEP: _ClassVar[ErrorReason]
    ERROR_REASON_CONFLICT: _ClassVar[ErrorReason]
    ERROR_REASON_CURSOR_EXPIRED: _ClassVar[ErrorReason]
    ERROR_REASON_NO_COLOUR: _ClassVar[ErrorReason]
    ERROR_REASON_INDETERMINATE: _ClassVar[ErrorReason]
    ERROR_REASON_APPEAL_STATE: _ClassVar[ErrorReason]
    ERROR_REASON_AUDIT_UNAVAILABLE: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_CHECK_DIGIT: ErrorReason
ERROR_REASON_UNKNOWN_PROVINCE: ErrorReason
ERROR_REASON_EXPIRED: ErrorReason
ERROR_REASON_IN_FUTURE: ErrorReason
ERROR_REASON_UNEXPLAINED_COLOUR: ErrorReason
ERROR_REASON_DOCUMENT_FORM: ErrorReason
ERROR_REASON_ID_TAKEN: ErrorReason
ERROR_REASON_REVOKED: ErrorReason
ERROR_REASON_NOT_FOUND: ErrorReason
ERROR_REASON_CALLER_NOT_ALLOWED: ErrorReason
ERROR_REASON_NO_IDENTITY: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_TRUST_UNUSABLE: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_MALFORMED_OBJECT: ErrorReason
ERROR_REASON_BAD_SIGNATURE: ErrorReason
ERROR_REASON_UNKNOWN_ISSUER: ErrorReason
ERROR_REASON_DEADLINE: ErrorReason
ERROR_REASON_KEY_STEP: ErrorReason
ERROR_REASON_CONFLICT: ErrorReason
ERROR_REASON_CURSOR_EXPIRED: ErrorReason
ERROR_REASON_NO_COLOUR: ErrorReason
ERROR_REASON_INDETERMINATE: ErrorReason
ERROR_REASON_APPEAL_STATE: ErrorReason
ERROR_REASON_AUDIT_UNAVAILABLE: ErrorReason
