"""A node's configuration: a TOML file, overridden by the environment.

``TONGXING_STORE__URL=redis://…`` overrides ``url`` under ``[store]``. Relative paths are relative
to the file. `nodes/README.md` explains every field.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from exchange.errors import InvalidFieldError, TongxingError
from exchange.provinces import province

__all__ = ["EMBEDDED", "NodeConfig", "load"]

EMBEDDED = "embedded"


def _known_province(code: str) -> str:
    try:
        return province(code).code
    except TongxingError as error:
        raise ValueError(f"{error.message}; {error.remedy}") from None


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IdentityConfig(_Section):
    """The node's own certificate (PEM, leaf first) and its key."""

    certificate: Path
    key: Path


class TrustConfig(_Section):
    """The pinned root, the folder of TUF metadata, and how often to look for a change."""

    root: Path
    metadata: Path
    poll_seconds: float = Field(default=2.0, gt=0, le=3600)
    grace_hours: float = Field(default=24.0, ge=0, le=24 * 30)


class SigningConfig(_Section):
    """The attestation key (PKCS#8 PEM), and the file that holds its passphrase, if any."""

    key: Path
    passphrase_file: Path | None = None


class SubjectsConfig(_Section):
    """The files of the epoch keys of subject tokens: the current first, older ones behind it."""

    keys: tuple[Path, ...] = Field(min_length=1, max_length=4)


class StoreConfig(_Section):
    """Where attestations are kept: the embedded Valkey, or a URL."""

    url: str = EMBEDDED


class PeersConfig(_Section):
    """How long the other provinces have for an answer."""

    timeout_seconds: float = Field(default=1.5, gt=0, le=30)


class LogConfig(_Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    form: Literal["json", "console"] = "json"


class NodeConfig(BaseSettings):
    """All of it."""

    model_config = SettingsConfigDict(
        env_prefix="TONGXING_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    province: Annotated[str, AfterValidator(_known_province)]
    listen: str = Field(default="0.0.0.0:7443", pattern=r"^.+:\d{1,5}$")
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
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidFieldError(error.strerror or "cannot be read", field=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidFieldError(f"not TOML: {error}", field=str(path)) from None
    try:
        config = NodeConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidFieldError(
            message[0].lower() + message[1:], field=field, remedy=f"see {path}"
        ) from None
    return _resolved(config, path.resolve().parent)


def _resolved(config: NodeConfig, base: Path) -> NodeConfig:
    """The same with every path absolute."""

    def resolve(value: Any) -> Any:
        if isinstance(value, Path):
            return base / value
        if isinstance(value, tuple):
            return tuple(resolve(part) for part in value)
        if isinstance(value, _Section):
            return value.model_copy(
                update={name: resolve(getattr(value, name)) for name in type(value).model_fields}
            )
        return value

    return config.model_copy(
        update={name: resolve(getattr(config, name)) for name in type(config).model_fields}
    )
