"""A whole exchange in a folder, for trials: what the ceremony of many hands makes, by one.

::

    trust/             the signed metadata, which everybody may see
    keys/              root, targets, province, snapshot and timestamp keys: offline in earnest
    510000/            one folder a province:
        node.toml      the node's configuration
        issuer.toml    a client's configuration, likewise admin.toml and app.toml, which is that
                       of the province's chief app (粤康码); another's is app-yueshengshi.toml
        *.pem          certificates, and keys that only their owner may read
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from exchange import authoring
from exchange.errors import InvalidFieldError
from exchange.keys import Algorithm, PrivateKey
from exchange.provinces import province as known_province
from exchange.trust import ceremony, files
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.sealkeys import SealPrivateKey
from exchange.trust.signers import Signers, load_signer, public_pem
from nodes.identity import Authority, Identity, Role, issue, make_authority
from nodes.issuing import issue_into
from nodes.profiles import published, published_rules

__all__ = [
    "Member",
    "RegistryPlace",
    "initialise",
    "issue_client",
    "lay_province",
    "published_rules",
]

_AUTHORITY_LIFE = timedelta(days=5 * 365)
_LEAF_LIFE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Member:
    """A province that takes part: its node's address, and its issuers' credit codes."""

    province: str
    address: str
    issuers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """Where a registry runs: the province that hosts it, and its address."""

    province: str
    address: str


def initialise(
    directory: Path,
    members: Mapping[str, Member],
    *,
    now: datetime,
    passphrase: bytes | None = None,
    rules: Mapping[str, tuple[dict[str, Any], ...]] | None = None,
    registry: RegistryPlace | None = None,
) -> None:
    """Make a new exchange.

    :param directory: new or empty.
    :param passphrase: encrypts the keys under ``keys/``.
    :param rules: by province, in place of the published ones.
    :param registry: where a registry will run; without it, the folder of metadata is all.
    :raises InvalidFieldError: the folder is not empty, or a member is wrong.
    """
    if directory.exists() and any(directory.iterdir()):
        raise InvalidFieldError(
            f"{directory} is not empty", field="directory", remedy="name a new folder"
        )
    profiles = [
        lay_province(
            directory / code,
            member,
            now=now,
            rules=published_rules(code) if rules is None else rules[code],
            registry=registry,
            trial=True,
            role_key=passphrase is None,
        )
        for code, member in members.items()
    ]
    signers = Signers.generate(members)
    signers.save(directory / "keys", passphrase)
    for path in sorted((directory / "keys").glob("*.pem")):
        # Who takes over from a holder names the key that goes by its public part.
        path.with_name(f"{path.name}.pub").write_bytes(public_pem(load_signer(path, passphrase)))
    files.write(directory / "trust", ceremony.initialise(profiles, signers, now=now))
    if registry:
        _lay_registry(directory, registry, now)
        if passphrase is not None:
            _write_private(directory / "registry" / "online-passphrase", passphrase + b"\n")


def lay_province(
    home: Path,
    member: Member,
    *,
    now: datetime,
    rules: tuple[dict[str, Any], ...],
    registry: RegistryPlace | None = None,
    trial: bool = False,
    role_key: bool = True,
) -> Profile:
    """Make a province's folder: its keys, its authority, certificates and configurations.

    :param home: a new folder, named by the province's code.
    :param trial: its role key lies with all others, and keys are used as soon as they are made.
    :param role_key: whether the node of a trial has the role key at hand; an encrypted one it
        has not.
    :returns: the profile for the trust list, for the province to sign.
    :raises TongxingError: the member or a rule is wrong.
    """
    code = known_province(member.province).code
    authoring.check(rules)
    home.mkdir(mode=0o700, parents=True)
    key = PrivateKey.generate(Algorithm.ES256)
    authority = make_authority(code, now=now, lifetime=_AUTHORITY_LIFE)
    _write_private(home / "attestation-key.pem", key.to_pem())
    _write_private(home / "authority-key.pem", authority.key)
    (home / "authority.pem").write_bytes(authority.certificate)
    seal_key = SealPrivateKey.generate()
    apps = published(code).apps
    _write_private(home / "seal-key.pem", seal_key.to_pem())
    _write_identity(home, "node", authority, Identity(code, Role.NODE, "node-1"), now)
    (home / "node.toml").write_text(
        _node_toml(member, registry, trial=trial, role_key=role_key), encoding="utf-8"
    )
    for name, role, stem in (
        *(
            (issuer, Role.ISSUER, "issuer" if at == 0 else f"issuer-{issuer}")
            for at, issuer in enumerate(member.issuers)
        ),
        *((app.id, Role.APP, "app" if at == 0 else f"app-{app.id}") for at, app in enumerate(apps)),
        ("admin", Role.ADMIN, "admin"),
    ):
        path = issue_client(home, Identity(code, role, name), stem, address=member.address, now=now)
        if registry and role is Role.ADMIN:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"\n{_registry_toml(registry)}")
    return Profile(
        province=code,
        keys=(AttestationKey(key.public, KeyState.ACTIVE, now.replace(microsecond=0)),),
        tls_ca=authority.certificate.decode(),
        addresses=(member.address,),
        rules=rules,
        seal_keys=(seal_key.public,),
        apps=apps,
    )


def issue_client(
    home: Path,
    identity: Identity,
    stem: str,
    *,
    address: str,
    now: datetime,
    lifetime: timedelta = _LEAF_LIFE,
) -> Path:
    """Issue a certificate from a province's folder, and the client's configuration beside it.

    :param home: the province's folder, with ``authority.pem`` and ``authority-key.pem``.
    :param stem: the files are ``STEM.pem``, ``STEM-key.pem`` and ``STEM.toml``.
    :returns: the configuration.
    """
    issue_into(home, stem, identity, now=now, lifetime=lifetime)
    path = home / f"{stem}.toml"
    path.write_text(
        f"# {identity.uri}\n"
        f"node = {json.dumps(address)}\n"
        f'province = "{identity.province}"\n'
        f'certificate = "{stem}.pem"\n'
        f'key = "{stem}-key.pem"\n'
        '\n[trust]\nroot = "../trust/1.root.json"\nmetadata = "../trust"\n',
        encoding="utf-8",
    )
    return path


def _write_identity(
    home: Path, stem: str, authority: Authority, identity: Identity, now: datetime
) -> None:
    certificate, key = issue(authority, identity, now=now, lifetime=_LEAF_LIFE)
    (home / f"{stem}.pem").write_bytes(certificate)
    _write_private(home / f"{stem}-key.pem", key)


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _lay_registry(directory: Path, registry: RegistryPlace, now: datetime) -> None:
    """The registry's folder; its certificate is of the province that hosts it."""
    host = directory / registry.province
    home = directory / "registry"
    home.mkdir(mode=0o700)
    authority = Authority(
        (host / "authority.pem").read_bytes(), (host / "authority-key.pem").read_bytes()
    )
    identity = Identity(registry.province, Role.REGISTRY, "registry-1")
    _write_identity(home, "registry", authority, identity, now)
    (home / "registry.toml").write_text(
        f"""# The registry (登记处), hosted by {known_province(registry.province).en}.
listen = {json.dumps(registry.address)}
data = "data"

[identity]
certificate = "registry.pem"
key = "registry-key.pem"

[trust]
root = "../trust/1.root.json"
metadata = "../trust"

[online]
snapshot = ["../keys/snapshot.pem", "../keys/snapshot-next.pem"]
timestamp = ["../keys/timestamp.pem", "../keys/timestamp-next.pem"]
passphrase_file = "online-passphrase"  # of those that are encrypted
""",
        encoding="utf-8",
    )


def _registry_toml(registry: RegistryPlace) -> str:
    return f"""[trust.registry]
address = {json.dumps(registry.address)}
province = "{registry.province}"
authority = "../{registry.province}/authority.pem"
"""


def _node_toml(
    member: Member, registry: RegistryPlace | None, *, trial: bool, role_key: bool
) -> str:
    at_registry = ""
    if registry and trial:
        at_hand = f'role_key = "../keys/p{member.province}.pem"\n' if role_key else ""
        at_registry = f"""{at_hand}
{_registry_toml(registry)}
[keys]
min_published_hours = 0.0
"""
    elif registry:
        at_registry = f"""role_key = "role-key.pem"
role_passphrase_file = "role-passphrase"

{_registry_toml(registry)}"""
    province = known_province(member.province)
    return f"""# The node of {province.en} ({province.zh}).
province = "{member.province}"
listen = {json.dumps(member.address)}
data = "data"

[identity]
certificate = "node.pem"
key = "node-key.pem"
seal_key = "seal-key.pem"

[trust]
root = "../trust/1.root.json"
metadata = "../trust"
{at_registry}
[signing]
key = "attestation-key.pem"

[store]
url = "embedded"
"""
