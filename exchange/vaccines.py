"""Vaccines (疫苗) by the names that facts have: the country's own, and those of EU certificates."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["AT_HOME", "EU_NAMES"]

AT_HOME: Final = ("BBIBP-CorV", "CoronaVac", "WIBP-CorV", "Convidecia")

EU_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "EU/1/20/1528": "Comirnaty",
        "EU/1/20/1507": "Spikevax",
        "EU/1/20/1525": "Jcovden",
        "EU/1/21/1529": "Vaxzevria",
        "EU/1/21/1618": "Nuvaxovid",
    }
)
"""The names that a certificate's codes are read as (EU value set ``vaccine-medicinal-product``); a
product that is not here, such as ``CoronaVac``, is read as it stands in the certificate."""
