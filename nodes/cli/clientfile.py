"""The client's configuration.

::

    node = "127.0.0.1:7443"        # the caller's own province's; several nodes with commas between
    province = "510000"
    certificate = "issuer.pem"     # paths are relative to the file
    key = "issuer-key.pem"

    [trust]
    root = "trust/1.root.json"     # the pinned root
    metadata = "trust"             # the folder of the signed files
    cache = "trust-cache"          # may be left out

Apart from what reads it: commands that need no configuration need not wait for pydantic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from nodes.config import RegistryConfig
from nodes.settings import ProvinceCode, Section

__all__ = ["ClientConfig", "TrustFiles"]


class TrustFiles(Section):
    """The pinned root, the folder of TUF metadata, one for what was seen before; the registry."""

    root: Path
    metadata: Path
    cache: Path = Path("trust-cache")
    registry: RegistryConfig | None = None


class ClientConfig(Section):
    """All of it."""

    node: Annotated[str, Field(pattern=r"^[^\s,]+:\d{1,5}(, ?[^\s,]+:\d{1,5})*$")]
    province: ProvinceCode
    certificate: Path
    key: Path
    trust: TrustFiles
