import datetime

from exchange.v1 import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Colour(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COLOUR_UNSPECIFIED: _ClassVar[Colour]
    COLOUR_GREEN: _ClassVar[Colour]
    COLOUR_YELLOW: _ClassVar[Colour]
    COLOUR_RED: _ClassVar[Colour]

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_MEDICAL_EXAMINATION: _ClassVar[Kind]
    KIND_NUCLEIC_ACID_TEST: _ClassVar[Kind]
    KIND_ANTIGEN_TEST: _ClassVar[Kind]
    KIND_VACCINATION: _ClassVar[Kind]
    KIND_RECOVERY: _ClassVar[Kind]
    KIND_HEALTH_CODE_STATUS: _ClassVar[Kind]

class DocumentType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DOCUMENT_TYPE_UNSPECIFIED: _ClassVar[DocumentType]
    DOCUMENT_TYPE_RESIDENT_ID: _ClassVar[DocumentType]
    DOCUMENT_TYPE_HMT_RESIDENCE_PERMIT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_HM_TRAVEL_PERMIT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_TAIWAN_TRAVEL_PERMIT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_FOREIGNER_PERMANENT_RESIDENCE: _ClassVar[DocumentType]
    DOCUMENT_TYPE_PASSPORT: _ClassVar[DocumentType]
    DOCUMENT_TYPE_OTHER: _ClassVar[DocumentType]

class TestResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEST_RESULT_UNSPECIFIED: _ClassVar[TestResult]
    TEST_RESULT_NEGATIVE: _ClassVar[TestResult]
    TEST_RESULT_POSITIVE: _ClassVar[TestResult]
    TEST_RESULT_INCONCLUSIVE: _ClassVar[TestResult]

class Fitness(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FITNESS_UNSPECIFIED: _ClassVar[Fitness]
    FITNESS_FIT: _ClassVar[Fitness]
    FITNESS_UNFIT: _ClassVar[Fitness]
    FITNESS_FOLLOW_UP: _ClassVar[Fitness]

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_ENTRY_CHECK: _ClassVar[Purpose]
    PURPOSE_TRAVEL_PLANNING: _ClassVar[Purpose]
    PURPOSE_HOLDER_ACCESS: _ClassVar[Purpose]
    PURPOSE_CODE_DISPLAY: _ClassVar[Purpose]
    PURPOSE_APPEAL: _ClassVar[Purpose]
COLOUR_UNSPECIFIED: Colour
COLOUR_GREEN: Colour
COLOUR_YELLOW: Colour
COLOUR_RED: Colour
KIND_UNSPECIFIED: Kind
KIND_MEDICAL_EXAMINATION: Kind
KIND_NUCLEIC_ACID_TEST: Kind
KIND_ANTIGEN_TEST: Kind
KIND_VACCINATION: Kind
KIND_RECOVERY: Kind
KIND_HEALTH_CODE_STATUS: Kind
DOCUMENT_TYPE_UNSPECIFIED: DocumentType
DOCUMENT_TYPE_RESIDENT_ID: DocumentType
DOCUMENT_TYPE_HMT_RESIDENCE_PERMIT: DocumentType
DOCUMENT_TYPE_HM_TRAVEL_PERMIT: DocumentType
DOCUMENT_TYPE_TAIWAN_TRAVEL_PERMIT: DocumentType
DOCUMENT_TYPE_FOREIGNER_PERMANENT_RESIDENCE: DocumentType
DOCUMENT_TYPE_PASSPORT: DocumentType
DOCUMENT_TYPE_OTHER: DocumentType
TEST_RESULT_UNSPECIFIED: TestResult
TEST_RESULT_NEGATIVE: TestResult
TEST_RESULT_POSITIVE: TestResult
TEST_RESULT_INCONCLUSIVE: TestResult
FITNESS_UNSPECIFIED: Fitness
FITNESS_FIT: Fitness
FITNESS_UNFIT: Fitness
FITNESS_FOLLOW_UP: Fitness
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_ENTRY_CHECK: Purpose
PURPOSE_TRAVEL_PLANNING: Purpose
PURPOSE_HOLDER_ACCESS: Purpose
PURPOSE_CODE_DISPLAY: Purpose
PURPOSE_APPEAL: Purpose

class IdentityDocument(_message.Message):
    __slots__ = ("type", "number")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    type: DocumentType
    number: str
    def __init__(self, type: _Optional[_Union[DocumentType, str]] = ..., number: _Optional[str] = ...) -> None: ...

class Issuer(_message.Message):
    __slots__ = ("credit_code", "name")
    CREDIT_CODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    credit_code: str
    name: str
    def __init__(self, credit_code: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class LocalText(_message.Message):
    __slots__ = ("zh", "en")
    ZH_FIELD_NUMBER: _ClassVar[int]
    EN_FIELD_NUMBER: _ClassVar[int]
    zh: str
    en: str
    def __init__(self, zh: _Optional[str] = ..., en: _Optional[str] = ...) -> None: ...

class MedicalExamination(_message.Message):
    __slots__ = ("sample_time", "result_time", "conclusion")
    SAMPLE_TIME_FIELD_NUMBER: _ClassVar[int]
    RESULT_TIME_FIELD_NUMBER: _ClassVar[int]
    CONCLUSION_FIELD_NUMBER: _ClassVar[int]
    sample_time: _timestamp_pb2.Timestamp
    result_time: _timestamp_pb2.Timestamp
    conclusion: Fitness
    def __init__(self, sample_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., result_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., conclusion: _Optional[_Union[Fitness, str]] = ...) -> None: ...

class NucleicAcidTest(_message.Message):
    __slots__ = ("sample_time", "result_time", "result")
    SAMPLE_TIME_FIELD_NUMBER: _ClassVar[int]
    RESULT_TIME_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    sample_time: _timestamp_pb2.Timestamp
    result_time: _timestamp_pb2.Timestamp
    result: TestResult
    def __init__(self, sample_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., result_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., result: _Optional[_Union[TestResult, str]] = ...) -> None: ...

class AntigenTest(_message.Message):
    __slots__ = ("sample_time", "result_time", "result", "self_tested")
    SAMPLE_TIME_FIELD_NUMBER: _ClassVar[int]
    RESULT_TIME_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SELF_TESTED_FIELD_NUMBER: _ClassVar[int]
    sample_time: _timestamp_pb2.Timestamp
    result_time: _timestamp_pb2.Timestamp
    result: TestResult
    self_tested: bool
    def __init__(self, sample_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., result_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., result: _Optional[_Union[TestResult, str]] = ..., self_tested: _Optional[bool] = ...) -> None: ...

class Vaccination(_message.Message):
    __slots__ = ("sample_time", "product", "dose", "doses")
    SAMPLE_TIME_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    DOSE_FIELD_NUMBER: _ClassVar[int]
    DOSES_FIELD_NUMBER: _ClassVar[int]
    sample_time: _timestamp_pb2.Timestamp
    product: str
    dose: int
    doses: int
    def __init__(self, sample_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., product: _Optional[str] = ..., dose: _Optional[int] = ..., doses: _Optional[int] = ...) -> None: ...

class Recovery(_message.Message):
    __slots__ = ("sample_time", "confirm_time")
    SAMPLE_TIME_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_TIME_FIELD_NUMBER: _ClassVar[int]
    sample_time: _timestamp_pb2.Timestamp
    confirm_time: _timestamp_pb2.Timestamp
    def __init__(self, sample_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., confirm_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class HealthCodeStatus(_message.Message):
    __slots__ = ("sample_time", "colour", "local_status", "reason", "legal_basis", "assigned_by", "guidance")
    SAMPLE_TIME_FIELD_NUMBER: _ClassVar[int]
    COLOUR_FIELD_NUMBER: _ClassVar[int]
    LOCAL_STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LEGAL_BASIS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_BY_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    sample_time: _timestamp_pb2.Timestamp
    colour: Colour
    local_status: str
    reason: str
    legal_basis: str
    assigned_by: str
    guidance: str
    def __init__(self, sample_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., colour: _Optional[_Union[Colour, str]] = ..., local_status: _Optional[str] = ..., reason: _Optional[str] = ..., legal_basis: _Optional[str] = ..., assigned_by: _Optional[str] = ..., guidance: _Optional[str] = ...) -> None: ...

class Fact(_message.Message):
    __slots__ = ("medical_examination", "nucleic_acid_test", "antigen_test", "vaccination", "recovery", "health_code_status")
    MEDICAL_EXAMINATION_FIELD_NUMBER: _ClassVar[int]
    NUCLEIC_ACID_TEST_FIELD_NUMBER: _ClassVar[int]
    ANTIGEN_TEST_FIELD_NUMBER: _ClassVar[int]
    VACCINATION_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_FIELD_NUMBER: _ClassVar[int]
    HEALTH_CODE_STATUS_FIELD_NUMBER: _ClassVar[int]
    medical_examination: MedicalExamination
    nucleic_acid_test: NucleicAcidTest
    antigen_test: AntigenTest
    vaccination: Vaccination
    recovery: Recovery
    health_code_status: HealthCodeStatus
    def __init__(self, medical_examination: _Optional[_Union[MedicalExamination, _Mapping]] = ..., nucleic_acid_test: _Optional[_Union[NucleicAcidTest, _Mapping]] = ..., antigen_test: _Optional[_Union[AntigenTest, _Mapping]] = ..., vaccination: _Optional[_Union[Vaccination, _Mapping]] = ..., recovery: _Optional[_Union[Recovery, _Mapping]] = ..., health_code_status: _Optional[_Union[HealthCodeStatus, _Mapping]] = ...) -> None: ...

class MaskedHolder(_message.Message):
    __slots__ = ("name", "document_type", "document_number")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    name: str
    document_type: DocumentType
    document_number: str
    def __init__(self, name: _Optional[str] = ..., document_type: _Optional[_Union[DocumentType, str]] = ..., document_number: _Optional[str] = ...) -> None: ...

class Attestation(_message.Message):
    __slots__ = ("signed", "attestation_id", "province", "fact", "issuer", "holder", "issue_time", "expire_time", "data_as_of_time", "supersedes", "status")
    SIGNED_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_ID_FIELD_NUMBER: _ClassVar[int]
    PROVINCE_FIELD_NUMBER: _ClassVar[int]
    FACT_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    ISSUE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    DATA_AS_OF_TIME_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDES_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    signed: bytes
    attestation_id: str
    province: str
    fact: Fact
    issuer: Issuer
    holder: MaskedHolder
    issue_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    data_as_of_time: _timestamp_pb2.Timestamp
    supersedes: str
    status: StatusReference
    def __init__(self, signed: _Optional[bytes] = ..., attestation_id: _Optional[str] = ..., province: _Optional[str] = ..., fact: _Optional[_Union[Fact, _Mapping]] = ..., issuer: _Optional[_Union[Issuer, _Mapping]] = ..., holder: _Optional[_Union[MaskedHolder, _Mapping]] = ..., issue_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., data_as_of_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., supersedes: _Optional[str] = ..., status: _Optional[_Union[StatusReference, _Mapping]] = ...) -> None: ...

class StatusReference(_message.Message):
    __slots__ = ("uri", "index")
    URI_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    uri: str
    index: int
    def __init__(self, uri: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...
