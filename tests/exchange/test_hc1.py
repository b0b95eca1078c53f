from __future__ import annotations

import contextlib
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange import cbor
from exchange.codes import base45, hc1
from exchange.codes.hc1 import MAX_CHARACTERS, PREFIX
from exchange.errors import MalformedObjectError


def text(packed: bytes) -> str:
    return PREFIX + base45.encode(packed)


def refused(given_: str) -> str:
    with pytest.raises(MalformedObjectError) as caught:
        hc1.from_text(given_)
    error = caught.value
    assert (type(error), error.field, error.__cause__) == (MalformedObjectError, "text", None)
    return error.message


@given(st.binary(max_size=2000))
def test_what_is_written_is_read_again(signed: bytes) -> None:
    assert hc1.from_text(hc1.to_text(signed)) == signed


def test_the_largest_object_has_a_text(random_bytes: bytes) -> None:
    written = hc1.to_text(random_bytes)
    assert len(random_bytes) == cbor.MAX_BYTES
    assert len(written) <= MAX_CHARACTERS
    assert hc1.from_text(written) == random_bytes


@pytest.fixture
def random_bytes() -> bytes:
    return random.Random(45).randbytes(cbor.MAX_BYTES)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_any_level_of_compression_is_read(level: int) -> None:
    assert hc1.from_text(text(zlib.compress(b"object" * 50, level))) == b"object" * 50


@pytest.mark.parametrize("prefix", ["", "HC1", "HC2:", "hc1:", " HC1:", "HC1::", "HC1: ", "HC1:\n"])
def test_another_prefix_is_refused(prefix: str) -> None:
    refused(prefix + hc1.to_text(b"object")[len(PREFIX) :])


def test_a_text_that_is_too_long_is_refused_before_it_is_read() -> None:
    assert "longer" in refused(PREFIX + "é" * MAX_CHARACTERS)


@pytest.mark.parametrize("rest", ["bb8", "BB8\n", "BB8é", "B", "BB8B", "GGW", "::"])
def test_what_is_not_base45_is_refused(rest: str) -> None:
    assert "base45" in refused(PREFIX + rest)


def test_no_stream_at_all_is_refused() -> None:
    assert "cut short" in refused(PREFIX)


def test_what_is_not_zlib_is_refused() -> None:
    assert "zlib" in refused(text(b"\xd2\x84\x40\xa0\x40\x40"))


def test_raw_deflate_and_gzip_are_refused() -> None:
    for window in (-15, 31):
        packer = zlib.compressobj(wbits=window)
        assert "zlib" in refused(text(packer.compress(b"object") + packer.flush()))


def test_a_preset_dictionary_is_refused() -> None:
    packer = zlib.compressobj(zdict=b"object")
    assert "zlib" in refused(text(packer.compress(b"object") + packer.flush()))


def test_a_stream_that_is_cut_short_is_refused_at_every_byte() -> None:
    packed = zlib.compress(b"an object that is cut", 9)
    for end in range(len(packed)):
        refused(text(packed[:end]))


def test_a_wrong_checksum_is_refused() -> None:
    packed = bytearray(zlib.compress(b"object", 9))
    packed[-1] ^= 1
    assert "zlib" in refused(text(bytes(packed)))


@pytest.mark.parametrize("more", [b"\0", b"more", zlib.compress(b"object")])
def test_bytes_after_the_stream_are_refused(more: bytes) -> None:
    assert "follow" in refused(text(zlib.compress(b"object") + more))


@pytest.mark.parametrize("over", [1, 2, 1 << 16])
def test_an_object_larger_than_any_may_be_is_refused(over: int) -> None:
    assert "64 KiB" in refused(text(zlib.compress(bytes(cbor.MAX_BYTES + over), 9)))


def test_the_largest_object_that_packs_well_is_read() -> None:
    assert hc1.from_text(text(zlib.compress(bytes(cbor.MAX_BYTES), 9))) == bytes(cbor.MAX_BYTES)


def test_a_zip_bomb_is_refused_without_growth() -> None:
    bomb = text(zlib.compress(bytes(80 << 20), 9))  # 80 MiB in 80 KiB, the most that a text holds
    assert len(bomb) <= MAX_CHARACTERS
    tracemalloc.start()
    try:
        refused(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


@given(st.text(max_size=40) | st.binary(max_size=80).map(base45.encode))
def test_any_text_is_read_or_refused(rest: str) -> None:
    for whole in (rest, PREFIX + rest):
        with contextlib.suppress(MalformedObjectError):
            signed = hc1.from_text(whole)
            assert hc1.from_text(hc1.to_text(signed)) == signed
