from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import pickle
import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from exchange.errors import CheckDigitError, DocumentFormError, InvalidFieldError, TongxingError
from exchange.provinces import PROVINCES
from exchange.subjects import (
    TOKEN_BYTES,
    Document,
    DocumentType,
    EpochKey,
    check_credit_code,
    credit_code_check,
    mask_name,
    mod_11_2,
    token_digest,
)

TODAY = dt.date(2022, 1, 10)
SPECIMEN = "11010519491231002X"  # the example in GB 11643
CREDIT_SPECIMEN = "91350100M000100Y43"  # the example in GB 32100
ALPHABET_31 = "0123456789ABCDEFGHJKLMNPQRTUWXY"
ALPHANUMERIC = string.ascii_uppercase + string.digits

RESIDENT = DocumentType.RESIDENT_ID
HMT = DocumentType.HMT_RESIDENCE_PERMIT
HM = DocumentType.HM_TRAVEL_PERMIT
TAIWAN = DocumentType.TAIWAN_TRAVEL_PERMIT
FOREIGNER = DocumentType.FOREIGNER_PERMANENT_RESIDENCE
PASSPORT = DocumentType.PASSPORT
OTHER = DocumentType.OTHER


def parse(document_type: DocumentType, number: str, today: dt.date = TODAY) -> Document:
    return Document.parse(document_type, number, today=today)


def refusal(document_type: DocumentType, number: str) -> TongxingError | None:
    try:
        parse(document_type, number)
    except TongxingError as error:
        return error
    return None


def with_check(first17: str) -> str:
    return first17 + mod_11_2(first17)


def births(oldest: dt.date = dt.date(1850, 1, 1)) -> st.SearchStrategy[str]:
    return st.dates(oldest, TODAY).map("{:%Y%m%d}".format)


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text(string.digits, min_size=count, max_size=count)


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map("".join)


RESIDENT_REGIONS = [code[:2] for code in PROVINCES if code != "660000"]
NUMBERS = {
    RESIDENT: joined(st.sampled_from(RESIDENT_REGIONS), digits(4), births(), digits(3)).map(
        with_check
    ),
    HMT: joined(st.sampled_from(["810000", "820000", "830000"]), births(), digits(3)).map(
        with_check
    ),
    HM: joined(st.sampled_from("HM"), digits(8)),
    TAIWAN: digits(8),
    FOREIGNER: st.one_of(
        joined(st.just("9"), digits(5), births(), digits(3)).map(with_check),
        joined(
            st.text(string.ascii_uppercase, min_size=3, max_size=3),
            digits(4),
            births(dt.date(1950, 1, 1)).map(lambda born: born[2:]),
            digits(2),
        ),
    ),
    PASSPORT: st.text(ALPHANUMERIC, min_size=5, max_size=17),
    OTHER: st.text(ALPHANUMERIC, min_size=4, max_size=32),
}
DOCUMENTS = st.sampled_from(list(DocumentType)).flatmap(
    lambda kind: st.tuples(st.just(kind), NUMBERS[kind])
)
KEYS = st.builds(EpochKey, st.integers(0, 2**32 - 1), st.binary(min_size=32, max_size=32))


# --- Document types ---


def test_the_types_are_those_of_the_contract():
    assert [kind.value for kind in DocumentType] == [
        "RESIDENT_ID",
        "HMT_RESIDENCE_PERMIT",
        "HM_TRAVEL_PERMIT",
        "TAIWAN_TRAVEL_PERMIT",
        "FOREIGNER_PERMANENT_RESIDENCE",
        "PASSPORT",
        "OTHER",
    ]
    assert all(kind.name == kind.value and DocumentType(kind.value) is kind for kind in NUMBERS)
    assert pickle.loads(pickle.dumps(HM)) is HM


def test_the_codes_that_tokens_are_made_of_never_change():
    assert {kind.name: (kind.code, kind.zh) for kind in DocumentType} == {
        "RESIDENT_ID": ("111", "居民身份证"),
        "HMT_RESIDENCE_PERMIT": ("154", "港澳台居民居住证"),
        "HM_TRAVEL_PERMIT": ("516", "港澳居民来往内地通行证"),
        "TAIWAN_TRAVEL_PERMIT": ("511", "台湾居民来往大陆通行证"),
        "FOREIGNER_PERMANENT_RESIDENCE": ("553", "外国人永久居留身份证"),
        "PASSPORT": ("414", "普通护照"),
        "OTHER": ("990", "其他"),
    }


# --- Numbers that are accepted ---


@pytest.mark.parametrize(
    ("kind", "typed", "normalised"),
    [
        (RESIDENT, SPECIMEN, SPECIMEN),
        (RESIDENT, "11010519491231002x", SPECIMEN),
        (RESIDENT, "110105 19491231 002X", SPECIMEN),
        (RESIDENT, " 110105-19491231-002x\n", SPECIMEN),
        (RESIDENT, "１１０１０５１９４９１２３１００２ｘ", SPECIMEN),
        (RESIDENT, "110105\u300019491231－002X", SPECIMEN),
        (RESIDENT, "110105491231002", SPECIMEN),
        (RESIDENT, "１１０１０５ 491231 002", SPECIMEN),
        (HM, "h01234567", "H01234567"),
        (HM, "M0123456702", "M01234567"),
        (TAIWAN, "01234567", "01234567"),
        (TAIWAN, "0123456702", "01234567"),
        (TAIWAN, "0123456702(B)", "01234567"),
        (TAIWAN, "０１２３４５６７０２（b）", "01234567"),
        (FOREIGNER, "911124198108030024", "911124198108030024"),
        (FOREIGNER, "can110081080310", "CAN110081080310"),
        (FOREIGNER, "CAN110000022910", "CAN110000022910"),
        (PASSPORT, "e1234 5678", "E12345678"),
        (OTHER, "ab-12", "AB12"),
    ],
)
def test_what_people_write_becomes_one_form(kind, typed, normalised):
    assert parse(kind, typed).number == normalised


@given(DOCUMENTS)
def test_a_valid_number_parses_to_itself(document):
    kind, number = document
    parsed = parse(kind, number)
    assert parsed == Document(kind, number)
    assert parse(kind, parsed.number) == parsed


@given(DOCUMENTS)
def test_case_and_width_do_not_matter(document):
    kind, number = document
    wide = "".join(chr(ord(c) + 0xFEE0) for c in number.lower())
    assert parse(kind, wide).number == number


@given(
    joined(st.sampled_from(RESIDENT_REGIONS), digits(4)),
    st.dates(dt.date(1900, 1, 1), dt.date(1999, 12, 31)),
    digits(3),
)
def test_fifteen_digits_and_eighteen_are_one_holder(region, born, order):
    old = parse(RESIDENT, f"{region}{born:%y%m%d}{order}")
    new = parse(RESIDENT, with_check(f"{region}{born:%Y%m%d}{order}"))
    assert old == new


# --- Numbers that are refused ---


@given(NUMBERS[RESIDENT], st.integers(0, 17), st.sampled_from("0123456789X"))
def test_any_single_change_is_refused(number, at, other):
    assume(number[at] != other)
    with pytest.raises(InvalidFieldError):
        parse(RESIDENT, number[:at] + other + number[at + 1 :])


@given(NUMBERS[RESIDENT], st.integers(0, 16))
def test_any_swap_of_neighbours_is_refused(number, at):
    assume(number[at] != number[at + 1])
    with pytest.raises(InvalidFieldError):
        parse(RESIDENT, number[:at] + number[at + 1] + number[at] + number[at + 2 :])


@pytest.mark.parametrize("at", range(17))
def test_a_changed_specimen_is_refused(at):
    other = str((int(SPECIMEN[at]) + 1) % 10)
    with pytest.raises(InvalidFieldError):
        parse(RESIDENT, SPECIMEN[:at] + other + SPECIMEN[at + 1 :])


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (RESIDENT, SPECIMEN[:-1] + "1"),
        (HMT, "810000199408230022"),
        (FOREIGNER, "911124198108030023"),
    ],
)
def test_a_wrong_check_digit_is_named(kind, number):
    with pytest.raises(CheckDigitError) as caught:
        parse(kind, number)
    assert caught.value.field == "number"


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (RESIDENT, ""),
        (RESIDENT, SPECIMEN[:-1]),
        (RESIDENT, SPECIMEN + "1"),
        (RESIDENT, "01010519491231002X"),
        (RESIDENT, "1101051949123100ZX"),
        (RESIDENT, "11010519491231002Х"),  # a Cyrillic letter
        (RESIDENT, "١١٠١٠٥١٩٤٩١٢٣١٠٠٢X"),
        (RESIDENT, "110105194912310\u200b02X"),
        (RESIDENT, "110105.19491231.002X"),
        (HMT, SPECIMEN),
        (HMT, "810000940823002"),
        (HMT, "840000199408230024"),
        (HM, "A01234567"),
        (HM, "H0123456"),
        (HM, "H012345678"),
        (HM, "H012345678901"),
        (TAIWAN, "0123456"),
        (TAIWAN, "012345678"),
        (TAIWAN, "01234567012"),
        (TAIWAN, "0123456702(BB)"),
        (TAIWAN, "01234567(B)"),
        (FOREIGNER, SPECIMEN),
        (FOREIGNER, "CA1110081080310"),
        (FOREIGNER, "CAN11008108031"),
        (FOREIGNER, "CAN11008108031X"),
        (PASSPORT, "E123"),
        (PASSPORT, "E" * 18),
        (PASSPORT, "E1234567ß"),
        (PASSPORT, "E1234567ı"),  # its upper case is an ASCII I
        (PASSPORT, "E1234/5678"),
        (OTHER, "A12"),
        (OTHER, "A" * 33),
        (OTHER, "A1 ()"),
        (OTHER, "胡小君胡"),
        (OTHER, "A123\0"),
    ],
)
def test_a_number_of_another_form_is_refused(kind, number):
    with pytest.raises(DocumentFormError) as caught:
        parse(kind, number)
    assert caught.value.field == "number"
    assert caught.value.remedy


@pytest.mark.parametrize("kind", DocumentType)
def test_a_number_far_too_long_is_refused(kind):
    with pytest.raises(DocumentFormError):
        parse(kind, " " * 60 + SPECIMEN)
    with pytest.raises(DocumentFormError):
        parse(kind, "\ufdfa" * 1_000_000)


@pytest.mark.parametrize("region", ["00", "10", "16", "20", "40", "66", "71", "80", "84", "99"])
def test_a_region_that_issues_no_numbers_is_refused(region):
    with pytest.raises(InvalidFieldError):
        parse(RESIDENT, with_check(region + SPECIMEN[2:17]))
    with pytest.raises(InvalidFieldError):
        parse(RESIDENT, region + "0105491231002")


@given(NUMBERS[HMT])
def test_a_residence_permit_is_no_resident_id(number):
    with pytest.raises(DocumentFormError) as caught:
        parse(RESIDENT, number)
    assert "HMT_RESIDENCE_PERMIT" in caught.value.remedy
    assert parse(HMT, number).number == number


@given(NUMBERS[RESIDENT])
def test_a_resident_id_is_no_residence_permit_and_no_foreigners(number):
    for kind in (HMT, FOREIGNER):
        with pytest.raises(DocumentFormError):
            parse(kind, number)


@pytest.mark.parametrize(
    "born",
    [
        "18491231",
        "00000101",
        "19490229",
        "19000229",
        "19491301",
        "19490001",
        "19490100",
        "19490132",
        "20220111",
        "99991231",
    ],
)
def test_a_birth_date_that_cannot_be_is_refused(born):
    for kind, region in ((RESIDENT, "110105"), (HMT, "810000"), (FOREIGNER, "911124")):
        with pytest.raises(InvalidFieldError, match="birth date") as caught:
            parse(kind, with_check(f"{region}{born}002"))
        assert caught.value.field == "number"


@pytest.mark.parametrize("born", ["811301", "810230", "000000", "210229"])
def test_an_old_foreigners_number_without_a_birth_date_is_refused(born):
    with pytest.raises(InvalidFieldError, match="birth date"):
        parse(FOREIGNER, f"CAN1100{born}10")


def test_fifteen_digits_without_a_birth_date_are_refused():
    with pytest.raises(InvalidFieldError, match="birth date"):
        parse(RESIDENT, "110105490229002")


def test_the_day_of_birth_itself_is_accepted_and_the_day_before_refused():
    number = with_check("11010520220110002")
    assert parse(RESIDENT, number).number == number
    with pytest.raises(InvalidFieldError):
        parse(RESIDENT, number, TODAY - dt.timedelta(days=1))
    assert parse(RESIDENT, number, dt.datetime(2022, 1, 10, tzinfo=dt.UTC)).number == number


@pytest.mark.parametrize("first17", ["", "1" * 16, "1" * 18, "1" * 16 + "X", "１" * 17, "١" * 17])
def test_a_check_digit_of_anything_but_seventeen_digits_is_refused(first17):
    with pytest.raises(DocumentFormError):
        mod_11_2(first17)


@given(digits(17))
def test_the_check_digit_fulfils_iso_7064(first17):
    total = 0
    for character in first17 + mod_11_2(first17):
        total = total * 2 + (10 if character == "X" else int(character))
    assert total % 11 == 1


# --- What is never shown ---


@given(DOCUMENTS, st.integers(0, 31), st.sampled_from(ALPHANUMERIC), st.sampled_from(DocumentType))
@example((RESIDENT, SPECIMEN), 17, "1", RESIDENT)
@example((RESIDENT, with_check("66010519491231002")), 0, "6", RESIDENT)
@example((RESIDENT, with_check("11010519491331002")), 0, "1", RESIDENT)
def test_no_error_repeats_the_number(document, at, other, kind):
    number = document[1]
    changed = (number[:at] + other + number[at + 1 :])[: len(number)]
    assume(len(changed) >= 8)  # "1850" may stand in a remedy by itself
    error = refusal(kind, changed)
    if error is not None:
        assert changed not in f"{error!s} {error!r} {error.args} {error.remedy}"
        assert error.__cause__ is None
        assert error.__context__ is None
        assert error.field == "number"
        assert error.remedy


@given(DOCUMENTS)
def test_a_mask_keeps_the_length_and_hides_the_middle(document):
    kind, number = document
    parsed = parse(kind, number)
    hidden = parsed.masked.count("*")
    assert len(parsed.masked) == len(number)
    assert hidden >= len(number) / 2
    assert parsed.masked.strip("*") == parsed.masked
    assert all(shown in ("*", real) for shown, real in zip(parsed.masked, number, strict=True))


@given(DOCUMENTS)
def test_a_repr_shows_only_the_mask(document):
    parsed = parse(*document)
    for shown in (repr(parsed), str(parsed), f"{parsed}", repr([parsed])):
        assert parsed.number not in shown
        assert parsed.masked in shown


@pytest.mark.parametrize(
    ("kind", "number", "masked"),
    [
        (RESIDENT, SPECIMEN, "11**************2X"),
        (HM, "H01234567", "H0*****67"),
        (TAIWAN, "01234567", "01****67"),
        (PASSPORT, "E1234", "E***4"),
        (OTHER, "AB12", "A**2"),
    ],
)
def test_masks(kind, number, masked):
    assert parse(kind, number).masked == masked


# --- Tokens ---


def test_a_token_is_made_as_the_page_says():
    key = EpochKey(7, bytes(range(32)))
    token = parse(RESIDENT, SPECIMEN).token(key)
    expected = hmac.new(key.key, b"111\x0011010519491231002X", hashlib.sha256).digest()
    assert token == b"\0\0\0\7" + expected
    assert len(token) == TOKEN_BYTES == 36


def test_a_token_never_changes_between_versions():
    token = parse(RESIDENT, SPECIMEN).token(EpochKey(1, bytes(32)))
    assert token.hex() == (
        "0000000141fd661c7dc3d2b91a98f7d1ce60703f98a8b89d43a71c6417a9844ed9dc721e"
    )


@given(DOCUMENTS, DOCUMENTS, KEYS)
def test_only_the_same_document_has_the_same_token(one, two, key):
    assert (parse(*one).token(key) == parse(*two).token(key)) == (one == two)


@given(NUMBERS[TAIWAN], KEYS)
def test_one_number_under_other_types_has_other_tokens(number, key):
    kinds = (TAIWAN, PASSPORT, OTHER)
    assert len({parse(kind, number).token(key) for kind in kinds}) == len(kinds)


@given(DOCUMENTS, KEYS, KEYS)
def test_another_epoch_or_key_gives_another_token(document, one, two):
    assume(one != two)
    parsed = parse(*document)
    assert parsed.token(one) != parsed.token(two)
    assert parsed.token(one) != parsed.token(EpochKey(one.epoch ^ 1, one.key))


@given(DOCUMENTS, KEYS)
def test_a_token_does_not_hold_the_number(document, key):
    assert document[1].encode() not in parse(*document).token(key)


@pytest.mark.parametrize("epoch", [-1, 2**32])
def test_an_epoch_out_of_range_is_refused(epoch):
    with pytest.raises(InvalidFieldError) as caught:
        EpochKey(epoch, bytes(32))
    assert caught.value.field == "epoch"


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length):
    with pytest.raises(InvalidFieldError) as caught:
        EpochKey(0, b"\xab" * length)
    assert caught.value.field == "key"
    assert "ab" * 8 not in repr(caught.value)


def test_a_key_is_in_no_repr():
    assert repr(EpochKey(3, b"secret--" * 4)) == "EpochKey(epoch=3)"


@given(DOCUMENTS, KEYS, st.binary(min_size=16, max_size=32))
def test_a_digest_for_logs_is_short_stable_and_keyed(document, key, log_key):
    token = parse(*document).token(key)
    digest = token_digest(token, log_key)
    assert len(digest) == 12
    assert set(digest) <= set("0123456789abcdef")
    assert digest == token_digest(token, log_key)
    assert digest not in token.hex()
    assert digest != token_digest(token, log_key + b"\1")


def test_a_digest_without_a_proper_key_is_refused():
    with pytest.raises(InvalidFieldError):
        token_digest(bytes(36), b"")
    with pytest.raises(InvalidFieldError):
        token_digest(bytes(36), bytes(15))


# --- Names ---


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        ("胡小君", "胡*君"),
        ("胡君", "胡*"),
        ("欧阳小君", "欧**君"),
        ("胡", "*"),
        (" 胡小君\n", "胡*君"),
        ("胡 小 君", "胡*君"),
        ("胡\u3000君", "胡*"),
        ("𠮷小君", "𠮷*君"),
        ("买买提·吐尔逊", "买**·吐**"),
        ("买买提•吐尔逊", "买**·吐**"),
        ("买买提・吐尔逊", "买**·吐**"),
        ("买买提 · 吐尔逊", "买** · 吐**"),
        ("·买买提·", "买*提"),
        ("Maria Silva", "M**** S****"),
        ("Ｍａｒｉａ　Ｓｉｌｖａ", "M**** S****"),
        ("Maria  da\tSilva", "M**** d* S****"),
        ("Li", "L*"),
        ("J K", "* *"),
        ("Maria J", "M**** *"),
        ("\u202e胡小君\u200b", "胡*君"),
    ],
)
def test_names_are_masked(name, masked):
    assert mask_name(name) == masked


@pytest.mark.parametrize("name", ["", " ", "·", "\u3000\n", "\u200b", "\u202e \0"])
def test_a_name_of_nothing_is_refused(name):
    with pytest.raises(InvalidFieldError) as caught:
        mask_name(name)
    assert caught.value.field == "holder_name"


@given(st.text(max_size=40))
def test_no_mask_shows_the_whole_name(name):
    assume("*" not in name and "＊" not in name and "﹡" not in name)
    try:
        masked = mask_name(name)
    except InvalidFieldError:
        return
    assert "*" in masked
    assert masked.isprintable()
    shown = [c for c in masked if c not in "*· "]
    assert len(shown) <= masked.count("*") * 2


@given(st.text("胡小君欧阳买提吐", min_size=1, max_size=8))
def test_of_a_chinese_name_at_most_two_characters_are_shown(name):
    masked = mask_name(name)
    assert len(masked) == len(name)
    assert masked.count("*") == max(len(name) - 2, 1)


# --- Credit codes ---


@pytest.mark.parametrize(
    "typed",
    [
        CREDIT_SPECIMEN,
        CREDIT_SPECIMEN.lower(),
        "91350100-M000100Y4-3",
        " 91350100 M000100Y43 ",
        "９１３５０１００Ｍ０００１００Ｙ４３",
    ],
)
def test_the_standards_own_credit_code_is_accepted(typed):
    assert check_credit_code(typed) == CREDIT_SPECIMEN
    assert credit_code_check(CREDIT_SPECIMEN[:17]) == "3"


CREDIT_BODIES = st.text(ALPHABET_31, min_size=17, max_size=17)


@given(CREDIT_BODIES)
def test_a_generated_credit_code_is_accepted(body):
    code = body + credit_code_check(body)
    assert check_credit_code(code) == code
    assert check_credit_code(check_credit_code(code.lower())) == code


@given(CREDIT_BODIES, st.integers(0, 17), st.sampled_from(ALPHABET_31))
def test_any_single_change_of_a_credit_code_is_refused(body, at, other):
    code = body + credit_code_check(body)
    assume(code[at] != other)
    with pytest.raises(CheckDigitError) as caught:
        check_credit_code(code[:at] + other + code[at + 1 :], field="issuer.credit_code")
    assert caught.value.field == "issuer.credit_code"


@given(CREDIT_BODIES, st.integers(0, 16))
def test_any_swap_of_neighbours_in_a_credit_code_is_refused(body, at):
    code = body + credit_code_check(body)
    assume(code[at] != code[at + 1])
    with pytest.raises(CheckDigitError):
        check_credit_code(code[:at] + code[at + 1] + code[at] + code[at + 2 :])


@pytest.mark.parametrize(
    "code",
    [
        "",
        CREDIT_SPECIMEN[:-1],
        CREDIT_SPECIMEN + "3",
        *(f"9135010{letter}M000100Y43" for letter in "IOSVZ"),
        "91350100M000100Y4٣",
        "9" * 100_000,
    ],
)
def test_a_credit_code_of_another_form_is_refused(code):
    with pytest.raises(InvalidFieldError) as caught:
        check_credit_code(code)
    assert caught.value.field == "credit_code"
    assert not isinstance(caught.value, CheckDigitError)


@pytest.mark.parametrize("body", ["", "9" * 16, "9" * 18, "O" + "9" * 16, "a" * 17])
def test_a_check_character_of_another_body_is_refused(body):
    with pytest.raises(InvalidFieldError):
        credit_code_check(body)
