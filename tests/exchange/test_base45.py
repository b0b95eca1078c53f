from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exchange.codes import base45
from exchange.codes.base45 import ALPHABET
from exchange.errors import MalformedObjectError


def spelled(data: bytes) -> str:
    """RFC 9285 §4 word by word."""
    digits = []
    for at in range(0, len(data) - 1, 2):
        value = data[at] * 256 + data[at + 1]
        digits += [value % 45, value // 45 % 45, value // 2025]
    if len(data) % 2:
        digits += [data[-1] % 45, data[-1] // 45]
    return "".join(ALPHABET[digit] for digit in digits)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"AB", "BB8"),
        (b"Hello!!", "%69 VD92EX0"),
        (b"base-45", "UJCLQE7W581"),
        (b"ietf!", "QED8WEX0"),
        (b"", ""),
        (b"\0", "00"),
        (b"\xff", "U5"),
        (b"\0\0", "000"),
        (b"\xff\xff", "FGW"),
    ],
)
def test_the_examples_of_the_rfc(data: bytes, text: str) -> None:
    assert base45.encode(data) == text
    assert base45.decode(text) == data
    assert base45.decode(text.encode()) == data


@given(st.binary(max_size=400))
def test_every_length_is_written_as_the_rfc_says_and_read_again(data: bytes) -> None:
    text = base45.encode(data)
    assert text == spelled(data)
    assert base45.decode(text) == data


def test_every_pair_of_bytes_and_more_than_a_qr_code_holds() -> None:
    whole = b"".join(value.to_bytes(2, "big") for value in range(1 << 16))
    text = base45.encode(whole)
    assert text == spelled(whole)
    assert base45.decode(text) == whole
    assert base45.decode(base45.encode(whole[1:])) == whole[1:]


def test_every_odd_last_byte() -> None:
    for value in range(256):
        data = bytes((7, 9, value))
        assert base45.encode(data) == spelled(data)
        assert base45.decode(spelled(data)) == data


def refused(text: str | bytes) -> str:
    with pytest.raises(MalformedObjectError) as caught:
        base45.decode(text)
    assert type(caught.value) is MalformedObjectError
    assert caught.value.__cause__ is None
    return caught.value.message


@pytest.mark.parametrize("text", ["0", "BB8B", "A" * 4501])
def test_a_length_that_no_bytes_have_is_refused(text: str) -> None:
    assert "length" in refused(text)


@pytest.mark.parametrize("place", [0, 1, 2, 4, 5, 7])
def test_a_character_that_base45_does_not_have_is_refused(place: int) -> None:
    text = "BB8BB800"
    for wrong in {*map(chr, range(256)), "：", "𝟎"} - {*ALPHABET}:
        bad = text[:place] + wrong + text[place + 1 :]
        assert "character" in refused(bad)
        assert "character" in refused(bad.encode())


@pytest.mark.parametrize(
    "text", ["GGW", ":::", "BB8GGW", "GGWBB8", "000" * 2000 + "GGW", "V5", "::", "BB8V5", "GGW00"]
)
def test_a_group_above_what_its_bytes_hold_is_refused(text: str) -> None:
    assert "group" in refused(text)


@given(st.text(st.sampled_from(ALPHABET), max_size=200) | st.text(max_size=60))
@example(":" * 9)
def test_whatever_is_read_is_written_the_same_again(text: str) -> None:
    try:
        data = base45.decode(text)
    except MalformedObjectError:
        return
    assert base45.encode(data) == text


@given(st.binary(max_size=60))
def test_any_bytes_are_text_or_refused(text: bytes) -> None:
    try:
        data = base45.decode(text)
    except MalformedObjectError:
        return
    assert base45.encode(data).encode() == text
