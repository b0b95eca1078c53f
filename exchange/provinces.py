"""The provinces (省级行政区) that can take part, by their GB/T 2260 codes.

These are the 31 provincial divisions of the mainland and, under ``660000``, the Xinjiang Corps
(新疆生产建设兵团), which runs its own systems though GB/T 2260 gives it no code.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from exchange.errors import UnknownProvinceError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PROVINCES", "Province", "province", "province_of_trust_domain", "trust_domain"]


@dataclass(frozen=True, slots=True)
class Province:
    """A province (省级行政区).

    :param code: six digits: ``440000``.
    :param zh: the full name: 广东省.
    :param zh_short: the short name (简称) as on number plates: 粤.
    :param en: the English name: Guangdong.
    """

    code: str
    zh: str
    zh_short: str
    en: str


PROVINCES: Mapping[str, Province] = MappingProxyType(
    {
        code: Province(code, zh, zh_short, en)
        for code, zh, zh_short, en in (
            ("110000", "北京市", "京", "Beijing"),
            ("120000", "天津市", "津", "Tianjin"),
            ("130000", "河北省", "冀", "Hebei"),
            ("140000", "山西省", "晋", "Shanxi"),
            ("150000", "内蒙古自治区", "蒙", "Inner Mongolia"),
            ("210000", "辽宁省", "辽", "Liaoning"),
            ("220000", "吉林省", "吉", "Jilin"),
            ("230000", "黑龙江省", "黑", "Heilongjiang"),
            ("310000", "上海市", "沪", "Shanghai"),
            ("320000", "江苏省", "苏", "Jiangsu"),
            ("330000", "浙江省", "浙", "Zhejiang"),
            ("340000", "安徽省", "皖", "Anhui"),
            ("350000", "福建省", "闽", "Fujian"),
            ("360000", "江西省", "赣", "Jiangxi"),
            ("370000", "山东省", "鲁", "Shandong"),
            ("410000", "河南省", "豫", "Henan"),
            ("420000", "湖北省", "鄂", "Hubei"),
            ("430000", "湖南省", "湘", "Hunan"),
            ("440000", "广东省", "粤", "Guangdong"),
            ("450000", "广西壮族自治区", "桂", "Guangxi"),
            ("460000", "海南省", "琼", "Hainan"),
            ("500000", "重庆市", "渝", "Chongqing"),
            ("510000", "四川省", "川", "Sichuan"),
            ("520000", "贵州省", "贵", "Guizhou"),
            ("530000", "云南省", "云", "Yunnan"),
            ("540000", "西藏自治区", "藏", "Xizang"),
            ("610000", "陕西省", "陕", "Shaanxi"),
            ("620000", "甘肃省", "甘", "Gansu"),
            ("630000", "青海省", "青", "Qinghai"),
            ("640000", "宁夏回族自治区", "宁", "Ningxia"),
            ("650000", "新疆维吾尔自治区", "新", "Xinjiang"),
            ("660000", "新疆生产建设兵团", "兵", "Xinjiang Corps"),
        )
    }
)
"""Every province by its code, in the order of the codes."""

_SUFFIX = ".tongxing"
_BY_TRUST_DOMAIN = {code + _SUFFIX: found for code, found in PROVINCES.items()}


def province(code: str, *, field: str = "province") -> Province:
    """Give the province of a GB/T 2260 code.

    :param code: six ASCII digits, exactly as in `PROVINCES`; nothing is normalised.
    :param field: the request's field that the code stands in.
    :raises UnknownProvinceError: no province has the code.
    """
    found = PROVINCES.get(code)
    if found is None:
        # The text is not repeated: an identity number may have been put into the wrong field.
        raise UnknownProvinceError(
            "no province has this code",
            field=field,
            remedy="give the six digits of GB/T 2260, such as 440000 for Guangdong (广东省)",
        )
    return found


def trust_domain(code: str) -> str:
    """Give a province's SPIFFE trust domain: ``510000.tongxing``.

    :param code: as for `province`.
    :raises UnknownProvinceError: no province has the code.
    """
    return province(code).code + _SUFFIX


def province_of_trust_domain(domain: str) -> Province:
    """Give the province of a SPIFFE trust domain, which is compared as it stands.

    :param domain: ``510000.tongxing``, without ``spiffe://`` and path.
    :raises UnknownProvinceError: it is no province's trust domain.
    """
    found = _BY_TRUST_DOMAIN.get(domain)
    if found is None:
        raise UnknownProvinceError(
            "this is no province's trust domain",
            field="trust_domain",
            remedy="it is a province's code and .tongxing, such as 510000.tongxing",
        )
    return found
