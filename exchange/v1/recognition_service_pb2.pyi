import datetime

from exchange.v1 import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from exchange.v1 import options_pb2 as _options_pb2
from exchange.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_RECOGNIZED: _ClassVar[Outcome]
    OUTCOME_NOT_RECOGNIZED: _ClassVar[Outcome]
    OUTCOME_INDETERMINATE: _ClassVar[Outcome]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_ACCEPTED: _ClassVar[Verdict]
    VERDICT_EXPIRED: _ClassVar[Verdict]
    VERDICT_REVOKED: _ClassVar[Verdict]
    VERDICT_STALE: _ClassVar[Verdict]
    VERDICT_BAD_SIGNATURE: _ClassVar[Verdict]
    VERDICT_UNKNOWN_ISSUER: _ClassVar[Verdict]
    VERDICT_NOT_RECOGNIZED_BY_RULE: _ClassVar[Verdict]
    VERDICT_UNAVAILABLE: _ClassVar[Verdict]
    VERDICT_NO_RECORD: _ClassVar[Verdict]

class AnswerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANSWER_STATE_UNSPECIFIED: _ClassVar[AnswerState]
    ANSWER_STATE_ANSWERED: _ClassVar[AnswerState]
    ANSWER_STATE_NO_RECORD: _ClassVar[AnswerState]
    ANSWER_STATE_UNREACHABLE: _ClassVar[AnswerState]
    ANSWER_STATE_UNTRUSTED: _ClassVar[AnswerState]
    ANSWER_STATE_CACHED: _ClassVar[AnswerState]

class RemedyAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REMEDY_ACTION_UNSPECIFIED: _ClassVar[RemedyAction]
    REMEDY_ACTION_OBTAIN: _ClassVar[RemedyAction]
    REMEDY_ACTION_WAIT: _ClassVar[RemedyAction]
    REMEDY_ACTION_APPEAL: _ClassVar[RemedyAction]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_RECOGNIZED: Outcome
OUTCOME_NOT_RECOGNIZED: Outcome
OUTCOME_INDETERMINATE: Outcome
VERDICT_UNSPECIFIED: Verdict
VERDICT_ACCEPTED: Verdict
VERDICT_EXPIRED: Verdict
VERDICT_REVOKED: Verdict
VERDICT_STALE: Verdict
VERDICT_BAD_SIGNATURE: Verdict
VERDICT_UNKNOWN_ISSUER: Verdict
VERDICT_NOT_RECOGNIZED_BY_RULE: Verdict
VERDICT_UNAVAILABLE: Verdict
VERDICT_NO_RECORD: Verdict
ANSWER_STATE_UNSPECIFIED: AnswerState
ANSWER_STATE_ANSWERED: AnswerState
ANSWER_STATE_NO_RECORD: AnswerState
ANSWER_STATE_UNREACHABLE: AnswerState
ANSWER_STATE_UNTRUSTED: AnswerState
ANSWER_STATE_CACHED: AnswerState
REMEDY_ACTION_UNSPECIFIED: RemedyAction
REMEDY_ACTION_OBTAIN: RemedyAction
REMEDY_ACTION_WAIT: RemedyAction
REMEDY_ACTION_APPEAL: RemedyAction

class RecognizeRequest(_message.Message):
    __slots__ = ("document", "purpose", "destination", "arrival_time", "receipt")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_TIME_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    document: _types_pb2.IdentityDocument
    purpose: _types_pb2.Purpose
    destination: str
    arrival_time: _timestamp_pb2.Timestamp
    receipt: bool
    def __init__(self, document: _Optional[_Union[_types_pb2.IdentityDocument, _Mapping]] = ..., purpose: _Optional[_Union[_types_pb2.Purpose, str]] = ..., destination: _Optional[str] = ..., arrival_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., receipt: _Optional[bool] = ...) -> None: ...

class RecognizeResponse(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class BatchRecognizeRequest(_message.Message):
    __slots__ = ("documents", "purpose", "receipt")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[_types_pb2.IdentityDocument]
    purpose: _types_pb2.Purpose
    receipt: bool
    def __init__(self, documents: _Optional[_Iterable[_Union[_types_pb2.IdentityDocument, _Mapping]]] = ..., purpose: _Optional[_Union[_types_pb2.Purpose, str]] = ..., receipt: _Optional[bool] = ...) -> None: ...

class BatchRecognizeResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[BatchRecognizeItem]
    def __init__(self, items: _Optional[_Iterable[_Union[BatchRecognizeItem, _Mapping]]] = ...) -> None: ...

class BatchRecognizeItem(_message.Message):
    __slots__ = ("status", "decision")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    status: _status_pb2.Status
    decision: Decision
    def __init__(self, status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("outcome", "colour", "verdict", "reason", "rules", "evidence", "answers", "province", "trust_version", "decide_time", "rules_digest", "remedies", "receipt")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COLOUR_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    PROVINCE_FIELD_NUMBER: _ClassVar[int]
    TRUST_VERSION_FIELD_NUMBER: _ClassVar[int]
    DECIDE_TIME_FIELD_NUMBER: _ClassVar[int]
    RULES_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REMEDIES_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    colour: _types_pb2.Colour
    verdict: Verdict
    reason: _types_pb2.LocalText
    rules: _containers.RepeatedCompositeFieldContainer[RuleVerdict]
    evidence: _containers.RepeatedCompositeFieldContainer[Evidence]
    answers: _containers.RepeatedCompositeFieldContainer[ProvinceAnswer]
    province: str
    trust_version: int
    decide_time: _timestamp_pb2.Timestamp
    rules_digest: bytes
    remedies: _containers.RepeatedCompositeFieldContainer[Remedy]
    receipt: bytes
    def __init__(self, outcome: _Optional[_Union[Outcome, str]] = ..., colour: _Optional[_Union[_types_pb2.Colour, str]] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., reason: _Optional[_Union[_types_pb2.LocalText, _Mapping]] = ..., rules: _Optional[_Iterable[_Union[RuleVerdict, _Mapping]]] = ..., evidence: _Optional[_Iterable[_Union[Evidence, _Mapping]]] = ..., answers: _Optional[_Iterable[_Union[ProvinceAnswer, _Mapping]]] = ..., province: _Optional[str] = ..., trust_version: _Optional[int] = ..., decide_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., rules_digest: _Optional[bytes] = ..., remedies: _Optional[_Iterable[_Union[Remedy, _Mapping]]] = ..., receipt: _Optional[bytes] = ...) -> None: ...

class Remedy(_message.Message):
    __slots__ = ("action", "rule_id", "kind", "from_time", "text")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FROM_TIME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    action: RemedyAction
    rule_id: str
    kind: _types_pb2.Kind
    from_time: _timestamp_pb2.Timestamp
    text: _types_pb2.LocalText
    def __init__(self, action: _Optional[_Union[RemedyAction, str]] = ..., rule_id: _Optional[str] = ..., kind: _Optional[_Union[_types_pb2.Kind, str]] = ..., from_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., text: _Optional[_Union[_types_pb2.LocalText, _Mapping]] = ...) -> None: ...

class RuleVerdict(_message.Message):
    __slots__ = ("rule_id", "colour", "satisfied", "attestation_ids", "reason", "failed")
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    COLOUR_FIELD_NUMBER: _ClassVar[int]
    SATISFIED_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_IDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    rule_id: str
    colour: _types_pb2.Colour
    satisfied: bool
    attestation_ids: _containers.RepeatedScalarFieldContainer[str]
    reason: _types_pb2.LocalText
    failed: bool
    def __init__(self, rule_id: _Optional[str] = ..., colour: _Optional[_Union[_types_pb2.Colour, str]] = ..., satisfied: _Optional[bool] = ..., attestation_ids: _Optional[_Iterable[str]] = ..., reason: _Optional[_Union[_types_pb2.LocalText, _Mapping]] = ..., failed: _Optional[bool] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("attestation", "verdict", "sent_by")
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SENT_BY_FIELD_NUMBER: _ClassVar[int]
    attestation: _types_pb2.Attestation
    verdict: Verdict
    sent_by: str
    def __init__(self, attestation: _Optional[_Union[_types_pb2.Attestation, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., sent_by: _Optional[str] = ...) -> None: ...

class ProvinceAnswer(_message.Message):
    __slots__ = ("province", "state", "attestations", "as_of_time", "calls", "circuit_open")
    PROVINCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTESTATIONS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_TIME_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_OPEN_FIELD_NUMBER: _ClassVar[int]
    province: str
    state: AnswerState
    attestations: int
    as_of_time: _timestamp_pb2.Timestamp
    calls: int
    circuit_open: bool
    def __init__(self, province: _Optional[str] = ..., state: _Optional[_Union[AnswerState, str]] = ..., attestations: _Optional[int] = ..., as_of_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., calls: _Optional[int] = ..., circuit_open: _Optional[bool] = ...) -> None: ...

class IssueHealthCodeRequest(_message.Message):
    __slots__ = ("document", "purpose", "destination", "nonce")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    document: _types_pb2.IdentityDocument
    purpose: _types_pb2.Purpose
    destination: str
    nonce: bytes
    def __init__(self, document: _Optional[_Union[_types_pb2.IdentityDocument, _Mapping]] = ..., purpose: _Optional[_Union[_types_pb2.Purpose, str]] = ..., destination: _Optional[str] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class IssueHealthCodeResponse(_message.Message):
    __slots__ = ("health_code", "decision")
    HEALTH_CODE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    health_code: HealthCode
    decision: Decision
    def __init__(self, health_code: _Optional[_Union[HealthCode, _Mapping]] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class HealthCode(_message.Message):
    __slots__ = ("signed", "text", "health_code_id", "province", "colour", "rule_id", "reason", "holder", "evidence", "issue_time", "expire_time", "nonce")
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_CODE_ID_FIELD_NUMBER: _ClassVar[int]
    PROVINCE_FIELD_NUMBER: _ClassVar[int]
    COLOUR_FIELD_NUMBER: _ClassVar[int]
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    ISSUE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    signed: bytes
    text: str
    health_code_id: str
    province: str
    colour: _types_pb2.Colour
    rule_id: str
    reason: _types_pb2.LocalText
    holder: _types_pb2.MaskedHolder
    evidence: _containers.RepeatedCompositeFieldContainer[CodeEvidence]
    issue_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    nonce: bytes
    def __init__(self, signed: _Optional[bytes] = ..., text: _Optional[str] = ..., health_code_id: _Optional[str] = ..., province: _Optional[str] = ..., colour: _Optional[_Union[_types_pb2.Colour, str]] = ..., rule_id: _Optional[str] = ..., reason: _Optional[_Union[_types_pb2.LocalText, _Mapping]] = ..., holder: _Optional[_Union[_types_pb2.MaskedHolder, _Mapping]] = ..., evidence: _Optional[_Iterable[_Union[CodeEvidence, _Mapping]]] = ..., issue_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class CodeEvidence(_message.Message):
    __slots__ = ("attestation_id", "province", "fact", "status")
    ATTESTATION_ID_FIELD_NUMBER: _ClassVar[int]
    PROVINCE_FIELD_NUMBER: _ClassVar[int]
    FACT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    attestation_id: str
    province: str
    fact: _types_pb2.Fact
    status: _types_pb2.StatusReference
    def __init__(self, attestation_id: _Optional[str] = ..., province: _Optional[str] = ..., fact: _Optional[_Union[_types_pb2.Fact, _Mapping]] = ..., status: _Optional[_Union[_types_pb2.StatusReference, _Mapping]] = ...) -> None: ...

class VerifyHealthCodeRequest(_message.Message):
    __slots__ = ("text", "signed", "purpose", "nonce", "receipt")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    text: str
    signed: bytes
    purpose: _types_pb2.Purpose
    nonce: bytes
    receipt: bool
    def __init__(self, text: _Optional[str] = ..., signed: _Optional[bytes] = ..., purpose: _Optional[_Union[_types_pb2.Purpose, str]] = ..., nonce: _Optional[bytes] = ..., receipt: _Optional[bool] = ...) -> None: ...

class VerifyHealthCodeResponse(_message.Message):
    __slots__ = ("outcome", "colour", "verdict", "reason", "rules", "health_code", "remedies", "province", "trust_version", "verify_time", "rules_digest", "receipt")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COLOUR_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    HEALTH_CODE_FIELD_NUMBER: _ClassVar[int]
    REMEDIES_FIELD_NUMBER: _ClassVar[int]
    PROVINCE_FIELD_NUMBER: _ClassVar[int]
    TRUST_VERSION_FIELD_NUMBER: _ClassVar[int]
    VERIFY_TIME_FIELD_NUMBER: _ClassVar[int]
    RULES_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    colour: _types_pb2.Colour
    verdict: Verdict
    reason: _types_pb2.LocalText
    rules: _containers.RepeatedCompositeFieldContainer[RuleVerdict]
    health_code: HealthCode
    remedies: _containers.RepeatedCompositeFieldContainer[Remedy]
    province: str
    trust_version: int
    verify_time: _timestamp_pb2.Timestamp
    rules_digest: bytes
    receipt: bytes
    def __init__(self, outcome: _Optional[_Union[Outcome, str]] = ..., colour: _Optional[_Union[_types_pb2.Colour, str]] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., reason: _Optional[_Union[_types_pb2.LocalText, _Mapping]] = ..., rules: _Optional[_Iterable[_Union[RuleVerdict, _Mapping]]] = ..., health_code: _Optional[_Union[HealthCode, _Mapping]] = ..., remedies: _Optional[_Iterable[_Union[Remedy, _Mapping]]] = ..., province: _Optional[str] = ..., trust_version: _Optional[int] = ..., verify_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., rules_digest: _Optional[bytes] = ..., receipt: _Optional[bytes] = ...) -> None: ...
