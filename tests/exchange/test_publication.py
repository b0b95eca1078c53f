from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from exchange import attestations, publication, views
from exchange.attestations import CLOCK_SKEW, LIFE, Attestation
from exchange.errors import (
    CallerNotAllowedError,
    CheckDigitError,
    DocumentFormError,
    ExpiredError,
    FutureTimeError,
    InvalidFieldError,
    TongxingError,
    UnexplainedColourError,
)
from exchange.facts import Colour, Fact, NucleicAcidTest, Recovery, TestResult, Vaccination
from exchange.status import to_status
from exchange.subjects import DocumentType, mod_11_2
from exchange.v1 import attestation_service_pb2, types_pb2

SICHUAN = "510000"
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
WHY = ("reason", "legal_basis", "assigned_by", "guidance")


def message(world: Any, about: Fact | None = None, /, **changes: Any) -> Any:
    whole: dict[str, Any] = {
        "attestation_id": str(world.id()),
        "document": types_pb2.IdentityDocument(
            type="DOCUMENT_TYPE_RESIDENT_ID", number=world.number
        ),
        "holder_name": "胡小君",
        "fact": views.fact_to_proto(about or world.test()),
        "issuer": types_pb2.Issuer(credit_code=world.lab.credit_code, name=world.lab.name),
    }
    return attestation_service_pb2.NewAttestation(**{**whole, **changes})


def draft(world: Any, new: Any, **changes: Any) -> Attestation:
    known: dict[str, Any] = {
        "province": SICHUAN,
        "author": world.lab.credit_code,
        "epoch": world.epoch,
        "now": world.now,
    }
    return publication.draft(new, **{**known, **changes})


def refused(
    world: Any, kind: type[TongxingError], field: str, new: Any, **changes: Any
) -> TongxingError:
    with pytest.raises(kind) as caught:
        draft(world, new, **changes)
    error = caught.value
    assert type(error) is kind
    assert (error.reason, error.field) == (kind.reason, f"attestation.{field}")
    assert error.__cause__ is None
    assert world.number not in str(to_status(error))
    return error


def number(world: Any, text: str, kind: str = "RESIDENT_ID") -> Any:
    document = types_pb2.IdentityDocument(type=f"DOCUMENT_TYPE_{kind}", number=text)
    return message(world, document=document)


def stamp(time: datetime) -> Timestamp:
    return views.time_to_proto(time)


def test_what_an_issuer_says_becomes_an_attestation(world: Any) -> None:
    new = message(world)
    drafted = draft(world, new, now=world.now + timedelta(microseconds=7))
    assert drafted == Attestation(
        id=UUID(new.attestation_id),
        province=SICHUAN,
        token=world.token,
        fact=world.test(),
        issuer=world.lab,
        holder=attestations.Holder("胡*君", DocumentType.RESIDENT_ID, world.document.masked),
        issued_at=world.now,
        expires_at=world.now - 12 * HOUR + timedelta(days=14),
        data_as_of=world.now - 12 * HOUR,
    )
    assert world.number.encode() not in attestations.encode(drafted)
    assert "胡小君".encode() not in attestations.encode(drafted)


@given(st.data(), st.integers(-6, 400))
@settings(max_examples=150)
def test_what_is_drafted_can_be_signed_and_read(
    world: Any, facts: st.SearchStrategy[Fact], data: st.DataObject, minutes: int
) -> None:
    fact = data.draw(facts)
    new = message(world, fact)
    now = max(fact.sampled_at, datetime(1970, 1, 2, tzinfo=UTC))
    now += timedelta(minutes=minutes, seconds=0.9)
    try:
        drafted = draft(world, new, now=now)
    except InvalidFieldError as error:
        assert error.field.startswith("attestation.")  # noqa: PT017 - it may also be drafted
    else:
        assert attestations.decode(attestations.encode(drafted)) == drafted


@pytest.mark.parametrize("fact_of", [lambda w: w.test(-1 / 12), lambda w: w.status("RED", -0.08)])
def test_what_another_clock_took_a_moment_ahead_is_accepted(world: Any, fact_of: Any) -> None:
    drafted = draft(world, message(world, fact_of(world)), now=world.now + 0.9 * SECOND)
    assert attestations.decode(attestations.encode(drafted)) == drafted


# Documents, names and issuers.


def test_a_wrong_check_digit_is_refused(world: Any) -> None:
    wrong = world.number[:-1] + ("0" if world.number[-1] != "0" else "1")
    error = refused(world, CheckDigitError, "document.number", number(world, wrong))
    assert error.reason == "CHECK_DIGIT"
    assert wrong not in str(to_status(error))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "RESIDENT_ID"),
        ("12345", "RESIDENT_ID"),
        ("X0000000", "HM_TRAVEL_PERMIT"),
        ("é", "OTHER"),
    ],
)
def test_a_number_of_another_form_is_refused(world: Any, text: str, kind: str) -> None:
    refused(world, DocumentFormError, "document.number", number(world, text, kind))


def test_a_number_of_no_province_is_refused(world: Any) -> None:
    body = "17" + world.number[2:17]
    refused(world, InvalidFieldError, "document.number", number(world, body + mod_11_2(body)))


def test_a_birth_date_counts_by_chinas_clock(world: Any) -> None:
    body = world.number[:6] + "20220111" + world.number[14:17]
    new = number(world, body + mod_11_2(body))
    midnight = datetime(2022, 1, 10, 16, tzinfo=UTC)
    refused(world, InvalidFieldError, "document.number", new, now=midnight - SECOND)
    draft(world, new, now=midnight)


@pytest.mark.parametrize("name", [" ", "\u200b", "·", "\n\t"])
def test_a_name_that_nobody_could_see_is_refused(world: Any, name: str) -> None:
    refused(world, InvalidFieldError, "holder_name", message(world, holder_name=name))


def test_a_credit_code_with_a_wrong_check_character_is_refused(world: Any) -> None:
    code = world.lab.credit_code
    wrong = code[:-1] + ("0" if code[-1] != "0" else "1")
    new = message(world, issuer=types_pb2.Issuer(credit_code=wrong, name="x"))
    refused(world, CheckDigitError, "issuer.credit_code", new, author=wrong)


def test_an_issuer_that_is_not_the_caller_is_refused(world: Any) -> None:
    new = message(world)
    author = world.other_lab.credit_code
    refused(world, CallerNotAllowedError, "issuer.credit_code", new, author=author)


@pytest.mark.parametrize(
    "other",
    [pytest.param(str(uuid4()), id="4"), str(UUID(int=0)), str(UUID(int=7 << 76))],
)
def test_an_id_that_is_no_uuid7_is_refused(world: Any, other: str) -> None:
    refused(world, InvalidFieldError, "attestation_id", message(world, attestation_id=other))


def test_a_correction_names_what_it_corrects(world: Any) -> None:
    old = world.id()
    assert draft(world, message(world, supersedes=str(old))).supersedes == old


# Facts.


def test_a_missing_fact_is_refused(world: Any) -> None:
    refused(world, InvalidFieldError, "fact", message(world, fact=types_pb2.Fact()))


def test_a_missing_time_is_refused(world: Any) -> None:
    bare = types_pb2.Fact(
        nucleic_acid_test=types_pb2.NucleicAcidTest(result="TEST_RESULT_NEGATIVE")
    )
    field = "fact.nucleic_acid_test.sample_time"
    refused(world, InvalidFieldError, field, message(world, fact=bare))


@pytest.mark.parametrize("missing", WHY)
@pytest.mark.parametrize("colour", ["RED", "YELLOW", "UNSPECIFIED"])
@pytest.mark.parametrize("empty", ["", " ", "\u3000\u200b"])
def test_a_status_that_is_not_green_without_its_reason_is_refused(
    world: Any, missing: str, colour: str, empty: str
) -> None:
    new = message(world, world.status(colour))
    assert draft(world, new).fact.colour is Colour(colour)  # type: ignore[union-attr]
    setattr(new.fact.health_code_status, missing, empty)
    refused(world, UnexplainedColourError, f"fact.health_code_status.{missing}", new)


def test_a_sample_in_the_future_is_refused(world: Any) -> None:
    for late, holds in ((CLOCK_SKEW, True), (CLOCK_SKEW + SECOND, False)):
        new = message(world, NucleicAcidTest(world.now + late, TestResult.NEGATIVE))
        if holds:
            draft(world, new)
        else:
            refused(world, FutureTimeError, "fact.nucleic_acid_test.sample_time", new)


def test_a_result_in_the_future_is_refused(world: Any) -> None:
    fact = NucleicAcidTest(world.now, TestResult.NEGATIVE, world.now + HOUR)
    refused(world, FutureTimeError, "fact.nucleic_acid_test.result_time", message(world, fact))


def test_data_from_the_future_is_refused(world: Any) -> None:
    new = message(world, data_as_of_time=stamp(world.now + CLOCK_SKEW + SECOND))
    refused(world, FutureTimeError, "data_as_of_time", new)


def test_a_result_before_its_sample_is_refused(world: Any) -> None:
    fact = NucleicAcidTest(world.now - HOUR, TestResult.NEGATIVE, world.now - 2 * HOUR)
    refused(world, InvalidFieldError, "fact.nucleic_acid_test.result_time", message(world, fact))


def test_a_recovery_before_its_infection_is_refused(world: Any) -> None:
    fact = Recovery(world.now - 2 * HOUR, world.now - HOUR)
    refused(world, InvalidFieldError, "fact.recovery.confirm_time", message(world, fact))


def test_a_dose_far_beyond_its_series_is_refused(world: Any) -> None:
    draft(world, message(world, Vaccination(world.now, "CoronaVac", 7, 2)))
    new = message(world, Vaccination(world.now, "CoronaVac", 8, 2))
    refused(world, InvalidFieldError, "fact.vaccination.dose", new)


def test_a_fact_that_no_longer_counts_is_refused(world: Any) -> None:
    life = LIFE[world.test().kind] / HOUR
    draft(world, message(world, world.test(life - 1)))
    error = refused(
        world, ExpiredError, "fact.nucleic_acid_test.sample_time", message(world, world.test(life))
    )
    assert "14 days" in error.message


# The end.


def test_an_end_of_its_own_is_kept(world: Any) -> None:
    end = world.now + 5 * HOUR
    assert draft(world, message(world, expire_time=stamp(end))).expires_at == end


def test_an_end_that_is_past_is_refused(world: Any) -> None:
    for end in (world.now, world.now - HOUR):
        refused(world, ExpiredError, "expire_time", message(world, expire_time=stamp(end)))


def test_an_end_after_the_life_of_the_kind_is_refused(world: Any) -> None:
    longest = world.now - 12 * HOUR + timedelta(days=14)
    assert draft(world, message(world, expire_time=stamp(longest))).expires_at == longest
    new = message(world, expire_time=stamp(longest + SECOND))
    refused(world, InvalidFieldError, "expire_time", new)


@pytest.mark.parametrize("seconds", [-1, 253402300800, (1 << 63) - 1, -(1 << 63)])
def test_a_time_outside_the_calendar_is_refused(world: Any, seconds: int) -> None:
    time = Timestamp(seconds=seconds)
    for field in ("expire_time", "data_as_of_time"):
        refused(world, InvalidFieldError, field, message(world, **{field: time}))
    new = message(world)
    new.fact.nucleic_acid_test.sample_time.CopyFrom(time)
    refused(world, InvalidFieldError, "fact.nucleic_acid_test.sample_time", new)


def test_data_stands_as_of_its_result_where_nothing_else_is_said(world: Any) -> None:
    result = world.now - HOUR
    fact = NucleicAcidTest(world.now - 3 * HOUR, TestResult.NEGATIVE, result)
    assert draft(world, message(world, fact)).data_as_of == result
    stood = world.now - 2 * HOUR
    assert draft(world, message(world, fact, data_as_of_time=stamp(stood))).data_as_of == stood


# Revoking.


@pytest.mark.parametrize(
    "written",
    [
        "{}",
        "录错：{}（胡）",
        "batch 7/{}",
        "0{}",
        "2022-01-10 {} 9",
        "编号{}号",
    ],
)
@pytest.mark.parametrize("spaced", ["{0}{1}{2}", "{0} {1} {2}", "{0}-{1}-{2}", "{0}　{1}·{2}"])
def test_words_of_a_revocation_that_hold_an_identity_number_are_refused(
    world: Any, written: str, spaced: str
) -> None:
    parts = world.number[:6], world.number[6:14], world.number[14:]
    words = written.format(spaced.format(*parts))
    wide = words.translate({ord(c): ord(c) + 0xFEE0 for c in "0123456789X"})
    for text in (words, wide, words.lower()):
        for reason, authority, field in ((text, "", "reason"), ("错", text, "authority")):
            with pytest.raises(InvalidFieldError) as caught:
                publication.check_revocation(reason, authority, world.now)
            assert caught.value.field == field
            assert world.number[6:14] not in str(caught.value)


@pytest.mark.parametrize("reason", ["", " ", "—", "……"])
def test_a_revocation_without_a_reason_is_refused(world: Any, reason: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        publication.check_revocation(reason, "卫健委", world.now)
    assert caught.value.field == "reason"


def test_numbers_that_are_no_identity_numbers_may_stand_in_a_reason(world: Any) -> None:
    wrong = world.number[:-1] + ("0" if world.number[-1] != "0" else "1")
    for reason in ("批次 20220110-0007", world.lab.credit_code, wrong, "x" * 300, "9" * 300):
        publication.check_revocation(reason, "", world.now)


def test_a_range_of_time_is_neither_empty_nor_longer_than_400_days(world: Any) -> None:
    longest = timedelta(days=400)
    for span in (SECOND, longest):
        publication.check_span(world.now, world.now + span, field="end")
    for span in (-SECOND, timedelta(0), longest + SECOND):
        with pytest.raises(InvalidFieldError) as caught:
            publication.check_span(world.now, world.now + span, field="end")
        assert caught.value.field == "end"
