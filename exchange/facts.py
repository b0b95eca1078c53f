"""Health facts: what an attestation says, by kind, as plain values.

One fact has three forms: the dataclass, the ``health`` claim (a CBOR map) and the proto message.
All three have the same fields, so each conversion is one loop over a class's fields
(`FactField`) and a new kind is one dataclass here and one message in ``types.proto``.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from exchange.errors import MalformedObjectError
from exchange.texts import Text

__all__ = [
    "FACTS",
    "AntigenTest",
    "Colour",
    "Fact",
    "FactField",
    "Fitness",
    "HealthCodeStatus",
    "Kind",
    "MedicalExamination",
    "NucleicAcidTest",
    "Recovery",
    "TestResult",
    "Vaccination",
    "fact_fields",
    "fact_from_claim",
    "fact_to_claim",
    "from_seconds",
]


class Kind(enum.StrEnum):
    """Kind of a health fact."""

    MEDICAL_EXAMINATION = "MEDICAL_EXAMINATION"
    NUCLEIC_ACID_TEST = "NUCLEIC_ACID_TEST"
    ANTIGEN_TEST = "ANTIGEN_TEST"
    VACCINATION = "VACCINATION"
    RECOVERY = "RECOVERY"
    HEALTH_CODE_STATUS = "HEALTH_CODE_STATUS"

    @property
    def text(self) -> Text:
        """The kind in words."""
        return _KIND_TEXTS[self]


_KIND_TEXTS = {
    Kind.MEDICAL_EXAMINATION: Text("健康体检", "medical examination"),
    Kind.NUCLEIC_ACID_TEST: Text("核酸检测", "nucleic-acid test"),
    Kind.ANTIGEN_TEST: Text("抗原检测", "antigen test"),
    Kind.VACCINATION: Text("疫苗接种", "vaccination"),
    Kind.RECOVERY: Text("康复/解除隔离", "recovery"),
    Kind.HEALTH_CODE_STATUS: Text("健康码状态", "health-code status"),
}


class Colour(enum.StrEnum):
    """Colour of a health code (码色); UNSPECIFIED is never taken for green."""

    UNSPECIFIED = "UNSPECIFIED"
    GREEN = "GREEN"
    YELLOW = "YELLOW"
    RED = "RED"

    @property
    def text(self) -> Text:
        """The colour in words."""
        return _COLOUR_TEXTS[self]


_COLOUR_TEXTS = {
    Colour.UNSPECIFIED: Text("无码色", "no colour"),
    Colour.GREEN: Text("绿码", "green"),
    Colour.YELLOW: Text("黄码", "yellow"),
    Colour.RED: Text("红码", "red"),
}


class TestResult(enum.StrEnum):
    """Result of a nucleic-acid or antigen test."""

    __test__ = False  # pytest would collect it by its name

    NEGATIVE = "NEGATIVE"
    POSITIVE = "POSITIVE"
    INCONCLUSIVE = "INCONCLUSIVE"


class Fitness(enum.StrEnum):
    """Conclusion of a medical examination."""

    FIT = "FIT"
    UNFIT = "UNFIT"
    FOLLOW_UP = "FOLLOW_UP"


@dataclass(frozen=True, slots=True)
class MedicalExamination:
    """健康体检."""

    kind: ClassVar[Kind] = Kind.MEDICAL_EXAMINATION
    sampled_at: datetime
    conclusion: Fitness
    result_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NucleicAcidTest:
    """核酸检测."""

    kind: ClassVar[Kind] = Kind.NUCLEIC_ACID_TEST
    sampled_at: datetime
    result: TestResult
    result_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AntigenTest:
    """抗原检测."""

    kind: ClassVar[Kind] = Kind.ANTIGEN_TEST
    sampled_at: datetime
    result: TestResult
    result_at: datetime | None = None
    self_tested: bool = False


@dataclass(frozen=True, slots=True)
class Vaccination:
    """疫苗接种: one dose of a series."""

    kind: ClassVar[Kind] = Kind.VACCINATION
    sampled_at: datetime
    product: str
    dose: int
    doses: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """康复/解除隔离: ``sampled_at`` is the release."""

    kind: ClassVar[Kind] = Kind.RECOVERY
    sampled_at: datetime
    confirmed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class HealthCodeStatus:
    """健康码状态: ``sampled_at`` is the assignment of the colour."""

    kind: ClassVar[Kind] = Kind.HEALTH_CODE_STATUS
    sampled_at: datetime
    colour: Colour
    local_status: str = ""
    reason: str = ""
    legal_basis: str = ""
    assigned_by: str = ""
    guidance: str = ""


Fact = (
    MedicalExamination | NucleicAcidTest | AntigenTest | Vaccination | Recovery | HealthCodeStatus
)
FACTS: dict[Kind, type[Fact]] = {fact.kind: fact for fact in typing.get_args(Fact)}


@dataclass(frozen=True, slots=True)
class FactField:
    """One field of a fact: its name here and in CBOR, its name in proto, its type."""

    name: str
    proto: str
    type: type
    required: bool


# AIP-142 wants `_time` in proto; rules read better with `_at`.
_PROTO_NAMES = {
    "sampled_at": "sample_time",
    "result_at": "result_time",
    "confirmed_at": "confirm_time",
}


def fact_fields(fact: type[Fact]) -> tuple[FactField, ...]:
    """The fields of a kind of fact."""
    return _FIELDS[fact]


def _fields(fact: type[Fact]) -> tuple[FactField, ...]:
    hints = typing.get_type_hints(fact)
    return tuple(
        FactField(
            field.name,
            _PROTO_NAMES.get(field.name, field.name),
            _plain(hints[field.name]),
            field.default is dataclasses.MISSING,
        )
        for field in dataclasses.fields(fact)
    )


def _plain(hint: Any) -> type:
    """``datetime`` of ``datetime | None``."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return typing.cast("type", hint)


_FIELDS = {fact: _fields(fact) for fact in FACTS.values()}
_BY_NAME = {kind.value: fact for kind, fact in FACTS.items()}


def fact_to_claim(fact: Fact) -> dict[str, Any]:
    """The fact as the map under claim −70001; what is absent or empty is left out."""
    claim: dict[str, Any] = {"kind": fact.kind.value}
    for field in fact_fields(type(fact)):
        value = getattr(fact, field.name)
        if field.type is datetime and value is not None:
            claim[field.name] = int(value.timestamp())
        elif isinstance(value, enum.Enum):
            claim[field.name] = value.value
        elif field.required or value:
            claim[field.name] = value
    return claim


def fact_from_claim(claim: dict[Any, Any]) -> Fact:
    """The fact from its map; fields that a later version adds are passed over.

    :raises MalformedObjectError: the kind is unknown, or a field is missing or of a wrong type.
    """
    kind = claim.get("kind")
    fact = _BY_NAME.get(kind) if type(kind) is str else None
    if fact is None:
        raise MalformedObjectError("unknown kind of fact", field="health.kind")
    values: dict[str, Any] = {}
    for field in fact_fields(fact):
        value = claim.get(field.name)
        if value is None:
            if field.required:
                raise MalformedObjectError("missing", field=f"health.{field.name}")
            continue
        values[field.name] = _read(field, value)
    return fact(**values)


def _read(field: FactField, value: Any) -> Any:
    try:
        if field.type is datetime:
            return from_seconds(value)
        if issubclass(field.type, enum.Enum):
            return field.type(value)
    except ValueError:
        pass
    else:
        # CBOR's integers are wider than the contract's uint32 and than CEL's.
        too_wide = type(value) is int and not 0 <= value < 1 << 32
        if type(value) is field.type and not too_wide:
            return value
    raise MalformedObjectError("not a value of this field", field=f"health.{field.name}")


def from_seconds(value: Any) -> datetime:
    """Whole seconds since 1970 (RFC 8392 NumericDate without a fraction) as a datetime.

    :raises ValueError: not a whole number, or not between 1970 and 9999.
    """
    if type(value) is not int or not 0 <= value < 253402300800:
        raise ValueError("not a time in whole seconds since 1970")
    return datetime.fromtimestamp(value, UTC)
