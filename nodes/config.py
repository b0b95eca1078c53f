"""A node's configuration: a TOML file, overridden by the environment.

``TONGXING_STORE__URL=redis://…`` overrides ``url`` under ``[store]``. Relative paths are relative
to the file. `nodes/README.md` explains every field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from nodes import settings
from nodes.settings import ProvinceCode, Section

__all__ = ["EMBEDDED", "NodeConfig", "host_and_port", "load"]

EMBEDDED = "embedded"


def host_and_port(address: str) -> str:
    """Check an address.

    :raises ValueError: it is none.
    """
    host, _, port = address.rpartition(":")
    # grpc would take 99999 for 34463.
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError("not HOST:PORT with a port up to 65535")
    return address


class IdentityConfig(Section):
    """The node's own certificate (PEM, leaf first), its key, and how often to look for new ones."""

    certificate: Path
    key: Path
    poll_seconds: float = Field(default=2.0, gt=0, le=3600)


class NodeIdentityConfig(IdentityConfig):
    """A node has, besides, the key that opens what the trust list seals for its province (PEM)."""

    seal_key: Path


class ConnectionsConfig(Section):
    """How long a client's connection lives, and its calls beyond that."""

    age_seconds: float = Field(default=1800.0, ge=1, le=24 * 3600)
    grace_seconds: float = Field(default=60.0, ge=1, le=3600)


class OverloadConfig(Section):
    """What the shortest calls may take before the node takes fewer at once.

    And a second address of the door grpcio, where there are no apps to wait behind.
    """

    target_ms: float = Field(default=20.0, ge=1, le=1000)
    reserved_listen: Annotated[str, AfterValidator(host_and_port)] | None = None


class RegistryConfig(Section):
    """The registry: its address, the province that hosts it, that province's authority (PEM).

    Who says nothing for ``silence_seconds`` counts as dead, and who says nothing new for
    ``stale_seconds`` is held against what the other provinces have.
    """

    address: Annotated[str, AfterValidator(host_and_port)]
    province: ProvinceCode
    authority: Path
    silence_seconds: float = Field(default=60.0, gt=0, le=3600)
    stale_seconds: float = Field(default=900.0, gt=0, le=24 * 3600)


class TrustConfig(Section):
    """The pinned root, the folder of TUF metadata, how often to look there, and the registry.

    On the one node that publishes the province's key steps, also the province's role key (PKCS#8
    PEM), and the file that holds its passphrase, if any.
    """

    root: Path
    metadata: Path
    poll_seconds: float = Field(default=2.0, gt=0, le=3600)
    grace_hours: float = Field(default=24.0, ge=0, le=24 * 30)
    registry: RegistryConfig | None = None
    role_key: Path | None = None
    role_passphrase_file: Path | None = None


class SigningConfig(Section):
    """The attestation key (PKCS#8 PEM), and the file that holds its passphrase, if any."""

    key: Path
    passphrase_file: Path | None = None


class KeysConfig(Section):
    """How the attestation keys rotate: by hand, unless it is said after how many days.

    A new key is published for so many hours before it signs: longer than anybody goes without
    refreshing the trust list who reads health codes offline.
    """

    rotate_days: float | None = Field(default=None, gt=0, le=3650)
    min_published_hours: float = Field(default=24.0, ge=0, le=24 * 90)
    algorithm: Literal["ES256", "EDDSA", "ML_DSA_44"] = "ES256"


class StoreConfig(Section):
    """Where attestations are kept: the embedded Valkey, or a URL.

    What is acknowledged is also on the disks of ``replicas`` replicas of its server.
    """

    url: str = EMBEDDED
    replicas: int = Field(default=0, ge=0, le=16)

    @field_validator("replicas")
    @classmethod
    def _has_replicas(cls, replicas: int, others: ValidationInfo) -> int:
        if replicas and others.data.get("url") == EMBEDDED:
            raise ValueError("the embedded store has no replicas; name a store of your own as url")
        return replicas


class PeersConfig(Section):
    """How long the other provinces have for an answer, and how long their last word counts.

    While a province is not heard from, what it answered before counts for ``cached_seconds``, and
    that it knows nothing of somebody for ``presence_hours``. This node itself says something to
    those that listen every ``heartbeat_seconds``.
    """

    timeout_seconds: float = Field(default=1.5, gt=0, le=30)
    cached_seconds: float = Field(default=3600.0, ge=0, le=24 * 3600)
    presence_hours: float = Field(default=24.0, ge=0, le=24 * 7)
    heartbeat_seconds: float = Field(default=5.0, ge=0.1, le=60)


class StatusConfig(Section):
    """How long a status list may be used without a connection."""

    ttl_seconds: int = Field(default=3600, ge=60, le=24 * 3600)


class AuditConfig(Section):
    """For how many days the access log is kept: six months at least, of which some have 184.

    And where the province's other nodes are asked for theirs, if not at the addresses that stand in
    its profile, which may be a load balancer's.
    """

    keep_days: int = Field(default=184, ge=184, le=3660)
    siblings: tuple[Annotated[str, AfterValidator(host_and_port)], ...] = ()


class ForeignConfig(Section):
    """Whose foreign certificates (境外证书) are read: a folder of their signers' certificates.

    Without it, nobody's. What such a certificate is worth here, the province's rules say. How often
    to look there for a change.
    """

    certificates: Path | None = None
    poll_seconds: float = Field(default=2.0, gt=0, le=3600)


class AppealsConfig(Section):
    """How often the other provinces are asked for the answers to what was filed here."""

    poll_seconds: float = Field(default=5.0, gt=0, le=3600)


class MetricsConfig(Section):
    """Where metrics are served in plain HTTP, if anywhere: on a network of the operator's own."""

    listen: Annotated[str, AfterValidator(host_and_port)]


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
    listen: Annotated[str, AfterValidator(host_and_port)] = "0.0.0.0:7443"
    door: Literal["grpcio", "envoy"] = "grpcio"
    workers: int = Field(default=1, ge=1, le=64)
    data: Path
    drain_seconds: float = Field(default=20.0, ge=0, le=600)
    identity: NodeIdentityConfig
    trust: TrustConfig
    signing: SigningConfig
    keys: KeysConfig = Field(default_factory=KeysConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)
    connections: ConnectionsConfig = Field(default_factory=ConnectionsConfig)
    overload: OverloadConfig = Field(default_factory=OverloadConfig)
    peers: PeersConfig = Field(default_factory=PeersConfig)
    status: StatusConfig = Field(default_factory=StatusConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)
    foreign: ForeignConfig = Field(default_factory=ForeignConfig)
    appeals: AppealsConfig = Field(default_factory=AppealsConfig)
    metrics: MetricsConfig | None = None
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
