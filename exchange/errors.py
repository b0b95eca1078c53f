"""The errors of the exchange: what went wrong, in which field, and what to do about it.

Every error that leaves the exchange is one of these. A door turns it into a ``google.rpc.Status``
(`exchange.status`), the command line into one line. ``reason`` is the name in
``tongxing.v1.ErrorReason`` without its prefix; no message ever holds an identity number, a
subject token or a secret.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AppealStateError",
    "AuditUnavailableError",
    "BadSignatureError",
    "CallerNotAllowedError",
    "CheckDigitError",
    "ConflictError",
    "CursorExpiredError",
    "DeadlineError",
    "DocumentFormError",
    "ExpiredError",
    "FutureTimeError",
    "IdTakenError",
    "IndeterminateError",
    "InternalError",
    "InvalidFieldError",
    "KeyStepError",
    "MalformedObjectError",
    "NoColourError",
    "NoIdentityError",
    "NotFoundError",
    "OverloadedError",
    "RevokedError",
    "StoreUnavailableError",
    "TongxingError",
    "TrustListError",
    "UnexplainedColourError",
    "UnknownIssuerError",
    "UnknownProvinceError",
]


class TongxingError(Exception):
    """Base of all errors of the exchange.

    :param message: what is wrong, in English, without personal data.
    :param field: the request's field that is wrong, as a proto path (``attestation.fact``), or "".
    :param remedy: what the caller can do, in English, or "".
    """

    reason: ClassVar[str] = "INTERNAL"
    zh: ClassVar[str] = "内部错误"
    retry_after: float | None = None
    """Seconds after which the same call may be tried again; None where that would not help."""

    def __init__(self, message: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        then = f"; {self.remedy}" if self.remedy else ""
        return f"{where}{self.message}{then}"

    def at(self, prefix: str) -> TongxingError:
        """The same error, its field put under ``prefix``: ``number`` at ``document``."""
        self.field = f"{prefix}.{self.field}" if self.field else prefix
        return self


class InvalidFieldError(TongxingError):
    """A field breaks its rule in the contract."""

    reason = "INVALID_FIELD"
    zh = "字段不合规"


class CheckDigitError(InvalidFieldError):
    """The number's check digit is wrong (GB 11643, GB 32100)."""

    reason = "CHECK_DIGIT"
    zh = "校验码错误"


class DocumentFormError(InvalidFieldError):
    """A document's number has not the form of its type."""

    reason = "DOCUMENT_FORM"
    zh = "证件号码格式错误"


class UnknownProvinceError(InvalidFieldError):
    """No such province in GB/T 2260, or none in the trust list."""

    reason = "UNKNOWN_PROVINCE"
    zh = "未知省级行政区"


class ExpiredError(InvalidFieldError):
    """A time is past that must not be."""

    reason = "EXPIRED"
    zh = "已过期"


class FutureTimeError(InvalidFieldError):
    """A time lies in the future that must not."""

    reason = "IN_FUTURE"
    zh = "时间在未来"


class UnexplainedColourError(InvalidFieldError):
    """A status that is not green lacks reason, legal basis, assigning body or guidance."""

    reason = "UNEXPLAINED_COLOUR"
    zh = "赋码缺少依据"


class MalformedObjectError(InvalidFieldError):
    """A signed object is not what it should be: size, form, type or algorithm."""

    reason = "MALFORMED_OBJECT"
    zh = "签名对象格式错误"


class BadSignatureError(InvalidFieldError):
    """The signature does not hold under a key of the object's issuer."""

    reason = "BAD_SIGNATURE"
    zh = "验签失败"


class UnknownIssuerError(InvalidFieldError):
    """The trust list holds no key that the object could be signed with."""

    reason = "UNKNOWN_ISSUER"
    zh = "未知发码方"


class IdTakenError(TongxingError):
    """The attestation's id is taken by another fact."""

    reason = "ID_TAKEN"
    zh = "编号已被占用"


class RevokedError(TongxingError):
    """The attestation was revoked; an id is never used again."""

    reason = "REVOKED"
    zh = "已撤销"


class NotFoundError(TongxingError):
    """Nothing of this caller's bears the id."""

    reason = "NOT_FOUND"
    zh = "未找到"


class CallerNotAllowedError(TongxingError):
    """The caller's role or province may not call the method."""

    reason = "CALLER_NOT_ALLOWED"
    zh = "无权调用"


class NoIdentityError(TongxingError):
    """The caller's certificate bears no usable SPIFFE identity."""

    reason = "NO_IDENTITY"
    zh = "缺少身份"


class StoreUnavailableError(TongxingError):
    """The node's store does not answer."""

    reason = "STORE_UNAVAILABLE"
    zh = "存储不可用"
    retry_after = 1.0


class TrustListError(TongxingError):
    """The trust list does not verify, or is too old to verify anything with."""

    reason = "TRUST_UNUSABLE"
    zh = "信任列表不可用"


class KeyStepError(TongxingError):
    """A step of a key's life is not due, or would end what must not end."""

    reason = "KEY_STEP"
    zh = "密钥步骤不可行"


class ConflictError(TongxingError):
    """Somebody else published that version first."""

    reason = "CONFLICT"
    zh = "版本冲突"
    retry_after = 0.1


class CursorExpiredError(TongxingError):
    """The changes cannot be continued from the cursor: the state is to be fetched whole."""

    reason = "CURSOR_EXPIRED"
    zh = "变更游标已失效"


class NoColourError(TongxingError):
    """No rule gives the holder a colour, so there is no code to show."""

    reason = "NO_COLOUR"
    zh = "无可用码色"


class IndeterminateError(TongxingError):
    """A province that might know of the holder did not answer."""

    reason = "INDETERMINATE"
    zh = "无法判定"
    retry_after = 1.0


class AppealStateError(TongxingError):
    """The appeal has its answer already, or what it is to be answered with does not answer it."""

    reason = "APPEAL_STATE"
    zh = "申诉状态不符"


class AuditUnavailableError(TongxingError):
    """The access log cannot be written, and nothing is shown that is not recorded."""

    reason = "AUDIT_UNAVAILABLE"
    zh = "访问日志不可用"
    retry_after = 1.0


class OverloadedError(TongxingError):
    """The node sheds load."""

    reason = "OVERLOADED"
    zh = "系统繁忙"
    retry_after = 1.0


class DeadlineError(TongxingError):
    """The caller's deadline passed before there was an answer."""

    reason = "DEADLINE"
    zh = "超时"


class InternalError(TongxingError):
    """A fault of the node; its log has it under the request id."""
