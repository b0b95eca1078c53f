"""A whole exchange in a folder, for trials: what the ceremony of many hands makes, by one.

::

    trust/             the signed metadata, which everybody may see
    keys/              root, targets, province, snapshot and timestamp keys: offline in earnest
    510000/            one folder a province:
        node.toml      the node's configuration
        issuer.toml    a client's configuration, likewise app.toml and admin.toml
        *.pem          certificates, and keys that only their owner may read
        epoch-1.toml   the key of the subject tokens, the same in every province
"""

from __future__ import annotations

import json
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from exchange.errors import InvalidFieldError
from exchange.keys import Algorithm, PrivateKey
from exchange.provinces import province as known_province
from exchange.rules import Rule, RuleBook
from exchange.trust import ceremony
from exchange.trust.profile import AttestationKey, KeyState, Profile
from exchange.trust.signers import Signers
from nodes.identity import Authority, Identity, Role, issue, make_authority

__all__ = ["Member", "initialise", "issue_client", "published_rules"]

_AUTHORITY_LIFE = timedelta(days=5 * 365)
_LEAF_LIFE = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Member:
    """A province that takes part: its node's address, and its issuers' credit codes."""

    province: str
    address: str
    issuers: tuple[str, ...] = ()


def published_rules(province: str) -> tuple[dict[str, Any], ...]:
    """The rules that a province publishes: ``nodes/provinces/CODE.toml``, or the national ones."""
    folder = resources.files("nodes") / "provinces"
    file = folder / f"{province}.toml"
    if not file.is_file():
        file = folder / "national.toml"
    rules = tomllib.loads(file.read_text(encoding="utf-8"))["rules"]
    return tuple(Rule.from_json(rule).to_json() for rule in rules)


def initialise(
    directory: Path,
    members: Mapping[str, Member],
    *,
    now: datetime,
    passphrase: bytes | None = None,
    rules: Mapping[str, tuple[dict[str, Any], ...]] | None = None,
) -> None:
    """Make a new exchange.

    :param directory: new or empty.
    :param passphrase: encrypts the keys under ``keys/``.
    :param rules: by province, in place of the published ones.
    :raises InvalidFieldError: the folder is not empty, or a member is wrong.
    """
    if directory.exists() and any(directory.iterdir()):
        raise InvalidFieldError(
            f"{directory} is not empty", field="directory", remedy="name a new folder"
        )
    epoch = f'epoch = 1\nkey = "{secrets.token_hex(32)}"\n'
    profiles = []
    for code, member in members.items():
        known_province(code)
        home = directory / code
        home.mkdir(mode=0o700, parents=True)
        key = PrivateKey.generate(Algorithm.ES256)
        authority = make_authority(code, now=now, lifetime=_AUTHORITY_LIFE)
        _write_private(home / "attestation-key.pem", key.to_pem())
        _write_private(home / "authority-key.pem", authority.key)
        (home / "authority.pem").write_bytes(authority.certificate)
        _write_private(home / "epoch-1.toml", epoch.encode())
        _write_identity(home, "node", authority, Identity(code, Role.NODE, "node-1"), now)
        (home / "node.toml").write_text(_node_toml(member), encoding="utf-8")
        for name, role, stem in (
            *(
                (issuer, Role.ISSUER, "issuer" if at == 0 else f"issuer-{issuer}")
                for at, issuer in enumerate(member.issuers)
            ),
            ("app", Role.APP, "app"),
            ("admin", Role.ADMIN, "admin"),
        ):
            issue_client(home, Identity(code, role, name), stem, address=member.address, now=now)
        published = published_rules(code) if rules is None else rules[code]
        RuleBook(published)
        profiles.append(
            Profile(
                province=code,
                keys=(AttestationKey(key.public, KeyState.ACTIVE, now.replace(microsecond=0)),),
                tls_ca=authority.certificate.decode(),
                addresses=(member.address,),
                rules=published,
            )
        )
    signers = Signers.generate(members)
    signers.save(directory / "keys", passphrase)
    ceremony.write(directory / "trust", ceremony.initialise(profiles, signers, now=now))


def issue_client(home: Path, identity: Identity, stem: str, *, address: str, now: datetime) -> Path:
    """Issue a certificate from a province's folder, and the client's configuration beside it.

    :param home: the province's folder, with ``authority.pem`` and ``authority-key.pem``.
    :param stem: the files are ``STEM.pem``, ``STEM-key.pem`` and ``STEM.toml``.
    :returns: the configuration.
    """
    try:
        authority = Authority(
            (home / "authority.pem").read_bytes(), (home / "authority-key.pem").read_bytes()
        )
    except OSError as error:
        raise InvalidFieldError(
            f"{home} holds no authority: {error.strerror}", field="directory"
        ) from None
    _write_identity(home, stem, authority, identity, now)
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


def _node_toml(member: Member) -> str:
    province = known_province(member.province)
    return f"""# The node of {province.en} ({province.zh}).
province = "{member.province}"
listen = {json.dumps(member.address)}
data = "data"

[identity]
certificate = "node.pem"
key = "node-key.pem"

[trust]
root = "../trust/1.root.json"
metadata = "../trust"

[signing]
key = "attestation-key.pem"

[subjects]
keys = ["epoch-1.toml"]

[store]
url = "embedded"
"""
