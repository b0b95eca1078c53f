from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.errors import UnknownProvinceError
from exchange.provinces import (
    PROVINCES,
    Province,
    province,
    province_of_trust_domain,
    trust_domain,
)

NOT_CODES = [
    "",
    "44",
    "4400000",
    "440100",
    "710000",
    "810000",
    "820000",
    "990000",
    " 440000",
    "440000\n",
    "４４００００",
    "٤٤٠٠٠٠",
]


def test_there_are_31_provinces_and_the_corps_in_order():
    assert len(PROVINCES) == 32
    assert list(PROVINCES) == sorted(PROVINCES)
    assert list(PROVINCES)[-1] == "660000"
    assert all(code == found.code for code, found in PROVINCES.items())


@pytest.mark.parametrize("name", ["code", "zh", "zh_short", "en"])
def test_no_two_provinces_share_a_name(name):
    assert len({getattr(found, name) for found in PROVINCES.values()}) == len(PROVINCES)


def test_guangdong_is_as_the_standard_has_it():
    assert province("440000") == Province("440000", "广东省", "粤", "Guangdong")


def test_the_list_cannot_be_changed():
    with pytest.raises(TypeError):
        PROVINCES["990000"] = province("440000")
    with pytest.raises(dataclasses.FrozenInstanceError):
        province("440000").code = "510000"


@pytest.mark.parametrize("code", NOT_CODES)
def test_an_unknown_code_is_refused_with_field_and_remedy(code):
    with pytest.raises(UnknownProvinceError) as caught:
        province(code, field="attestation.province")
    assert caught.value.field == "attestation.province"
    assert "440000" in caught.value.remedy
    with pytest.raises(UnknownProvinceError):
        trust_domain(code)


def test_an_identity_number_in_the_wrong_field_is_not_repeated():
    with pytest.raises(UnknownProvinceError) as caught:
        province("11010519491231002X")
    assert "11010519491231002X" not in str(caught.value)


def test_a_trust_domain_is_the_code_and_the_exchange():
    assert trust_domain("510000") == "510000.tongxing"


@pytest.mark.parametrize("code", PROVINCES)
def test_a_trust_domain_leads_back_to_its_province(code):
    assert province_of_trust_domain(trust_domain(code)) is PROVINCES[code]


@pytest.mark.parametrize(
    "domain",
    [
        "",
        "510000",
        ".tongxing",
        "510000.tongxing.",
        "510000.TONGXING",
        "510000.tongxing.example",
        "evil.510000.tongxing",
        "spiffe://510000.tongxing",
        "510000.tongxing\n",
        "990000.tongxing",
    ],
)
def test_a_foreign_trust_domain_is_refused(domain):
    with pytest.raises(UnknownProvinceError) as caught:
        province_of_trust_domain(domain)
    assert caught.value.field == "trust_domain"
    assert "510000.tongxing" in caught.value.remedy


@given(st.text())
def test_whatever_is_no_code_is_refused(text):
    if text not in PROVINCES:
        with pytest.raises(UnknownProvinceError):
            province(text)
        with pytest.raises(UnknownProvinceError):
            province_of_trust_domain(text + ".tongxing")
