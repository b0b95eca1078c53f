"""A node's configuration: a TOML file, overridden by the environment.

``TONGXING_STORE__URL=redis://…`` overrides ``url`` under ``[store]``. Relative paths are relative
to the file. `nodes/README.md` explains every field.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from exchange.errors import InvalidFieldError
from exchange.subjects import EpochKey
from nodes import settings
from nodes.settings import ProvinceCode, Section

__all__ = ["EMBEDDED", "NodeConfig", "load", "read_epoch_key"]

EMBEDDED = "embedded"


def _host_and_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    # grpc would take 99999 for 34463.
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError("not HOST:PORT with a port up to 65535")
    return address


class IdentityConfig(Section):
    """The node's own certificate (PEM, leaf first) and its key."""

    certificate: Path
    key: Path


class TrustConfig(Section):
    """The pinned root, the folder of TUF metadata, and how often to look for a change."""

    root: Path
    metadata: Path
    poll_seconds: float = Field(default=2.0, gt=0, le=3600)
    grace_hours: float = Field(default=24.0, ge=0, le=24 * 30)


class SigningConfig(Section):
    """The attestation key (PKCS#8 PEM), and the file that holds its passphrase, if any."""

    key: Path
    passphrase_file: Path | None = None


class SubjectsConfig(Section):
    """The files of the epoch keys of subject tokens: the current first, older ones behind it."""

    keys: tuple[Path, ...] = Field(min_length=1, max_length=4)


class StoreConfig(Section):
    """Where attestations are kept: the embedded Valkey, or a URL."""

    url: str = EMBEDDED


class PeersConfig(Section):
    """How long the other provinces have for an answer."""

    timeout_seconds: float = Field(default=1.5, gt=0, le=30)


class LogConfig(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    form: Literal["json", "console"] = "json"


class NodeConfig(BaseSettings):
    """All of it."""

    model_config = SettingsConfigDict(
        env_prefix="TONGXING_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    province: ProvinceCode
    listen: Annotated[str, AfterValidator(_host_and_port)] = "0.0.0.0:7443"
    data: Path
    drain_seconds: float = Field(default=20.0, ge=0, le=600)
    identity: IdentityConfig
    trust: TrustConfig
    signing: SigningConfig
    subjects: SubjectsConfig
    store: StoreConfig = Field(default_factory=StoreConfig)
    peers: PeersConfig = Field(default_factory=PeersConfig)
    log: LogConfig = Field(default_factory=LogConfig)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file."""
        del dotenv_settings, file_secret_settings
        file = init_settings.init_kwargs if isinstance(init_settings, InitSettingsSource) else {}
        return env_settings, InitSettingsSource(settings_cls, file)


def load(path: Path) -> NodeConfig:
    """Read a node's configuration.

    :raises InvalidFieldError: the file cannot be read, or a field is wrong; names it.
    """
    return settings.read(path, NodeConfig)


def read_epoch_key(path: Path) -> EpochKey:
    """Read the key of one epoch: TOML with ``epoch`` (a number) and ``key`` (64 hex digits).

    :raises InvalidFieldError: the file cannot be read, or is none.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return EpochKey(values["epoch"], bytes.fromhex(values["key"]))
    except (OSError, ValueError, KeyError, TypeError, InvalidFieldError):
        raise InvalidFieldError(
            f"{path} is not an epoch key",
            field="subjects.keys",
            remedy='it must hold `epoch = 1` and `key = "64 hex digits"`',
        ) from None
