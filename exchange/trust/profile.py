"""A province's profile: what it publishes of itself in the trust list (信任列表).

Plain JSON without fractions, for it is signed in TUF's canonical JSON, which has none.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from exchange.errors import InvalidFieldError, TrustListError, UnknownProvinceError
from exchange.keys import PublicKey
from exchange.provinces import province as look_up
from exchange.trust.reading import (
    read_list,
    read_object,
    read_text,
    read_texts,
    read_time,
    write_time,
)
from exchange.trust.sealkeys import SealKey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["App", "AttestationKey", "KeyState", "Profile"]

_DEPTH: Final = 32
"""How deep a rule may nest; far above any real one, far below Python's own limit."""
_APP_ID: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")
_LONGEST_NAME: Final = 40
_MOST_APPS: Final = 16


class KeyState(enum.StrEnum):
    """What an attestation key (签名密钥) may do; each step takes away, none gives back."""

    PREPARED = "PREPARED"
    ACTIVE = "ACTIVE"
    OLD = "OLD"
    TAINTED = "TAINTED"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """A key that signs, signed or will sign a province's attestations.

    :param public: the key.
    :param state: its state.
    :param since: when it entered the state, UTC; for TAINTED, from when on it is not believed. Who
        taints a key that is OLD keeps the earlier time, or what a thief signed since then passes.
    """

    public: PublicKey
    state: KeyState
    since: datetime

    @property
    def signs(self) -> bool:
        """Whether the province signs with it now."""
        return self.state is KeyState.ACTIVE

    def verifies(self, issued_at: datetime) -> bool:
        """Whether its signature counts on what was issued at a time.

        Until there is a transparency log a TAINTED key is believed on the object's word for its
        time, which a thief can choose: REVOKED is the only answer to a key that is known stolen.

        :param issued_at: the object's ``iat``, an aware datetime.
        """
        match self.state:
            case KeyState.PREPARED | KeyState.ACTIVE:
                return True
            case KeyState.OLD | KeyState.TAINTED:
                return issued_at < self.since
            case KeyState.REVOKED:
                return False


@dataclass(frozen=True, slots=True)
class App:
    """A health-code app (健康码应用) of a province, such as 粤康码: a client of its own node.

    :param id: its name in its SPIFFE identity: ``yuekangma`` in
        ``spiffe://440000.tongxing/app/yuekangma``; 1 to 40 of ``a-z 0-9 -``, a letter first.
    :param zh: its Chinese name, at most 40 characters.
    :param en: its English name, at most 40 characters.
    :raises TrustListError: one of them is none; names it.
    """

    id: str
    zh: str
    en: str

    def __post_init__(self) -> None:
        if not _APP_ID.fullmatch(self.id):
            raise TrustListError("must be 1 to 40 of a-z, 0-9 and -, a letter first", field="id")
        for name in ("zh", "en"):
            text = getattr(self, name)
            # It is shown on other provinces' screens: nothing in it may hide or break a line.
            if not (0 < len(text) <= _LONGEST_NAME and text.isprintable() and text.strip()):
                raise TrustListError(f"must be 1 to {_LONGEST_NAME} visible characters", field=name)

    @classmethod
    def from_json(cls, value: object, field: str) -> App:
        """Read an app of a profile; fields that this version does not know are left aside.

        :param field: where it stands: ``apps[0]``.
        :raises TrustListError: a field is missing or wrong; names it.
        """
        fields = read_object(value, field)
        texts = (read_text(fields.get(name), f"{field}.{name}") for name in ("id", "zh", "en"))
        try:
            return cls(*texts)
        except TrustListError as error:
            if error.field.startswith(field):
                raise
            raise TrustListError(error.message, field=f"{field}.{error.field}") from None

    def to_json(self) -> dict[str, str]:
        """As it stands in a profile."""
        return {"id": self.id, "zh": self.zh, "en": self.en}


@dataclass(frozen=True, slots=True)
class Profile:
    """What a province publishes of itself.

    :param province: its GB/T 2260 code.
    :param keys: its attestation keys, each kid once.
    :param tls_ca: the certificates of its TLS authority, PEM; two while it changes.
    :param addresses: where its nodes listen, as gRPC targets.
    :param rules: its recognition rules (互认规则) as JSON objects; `exchange.rules` reads them.
    :param status_lists: where its status lists are.
    :param seal_keys: what the subject-token keys are sealed for (`exchange.trust.epochs`), the
        newest first; two or more while it changes.
    :param apps: its health-code apps (健康码应用), each id once; at most 16.
    :raises TrustListError: if it contradicts itself; the error names the field.
    """

    province: str
    keys: tuple[AttestationKey, ...]
    tls_ca: str
    addresses: tuple[str, ...]
    rules: tuple[Mapping[str, object], ...] = ()
    status_lists: tuple[str, ...] = ()
    seal_keys: tuple[SealKey, ...] = ()
    apps: tuple[App, ...] = ()

    def __post_init__(self) -> None:
        try:
            look_up(self.province)
        except UnknownProvinceError as error:
            raise TrustListError(error.message, field="province") from error
        kids: set[bytes] = set()
        for index, key in enumerate(self.keys):
            if key.public.kid in kids:
                raise TrustListError("another key bears this kid", field=f"keys[{index}].kid")
            kids.add(key.public.kid)
        _check_authority(self.tls_ca)
        for index, rule in enumerate(self.rules):
            _check_json(rule, f"rules[{index}]", _DEPTH)
        _check_apps(self.apps)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the trust list."""
        return {
            "province": self.province,
            "keys": [
                {
                    "kid": key.public.kid.hex(),
                    "public": key.public.to_pem().decode("ascii"),
                    "algorithm": key.public.algorithm.name,
                    "state": key.state.value,
                    "since": write_time(key.since),
                }
                for key in self.keys
            ],
            "tls_ca": self.tls_ca,
            "addresses": list(self.addresses),
            "rules": [dict(rule) for rule in self.rules],
            "status_lists": list(self.status_lists),
            "seal_keys": [key.to_json() for key in self.seal_keys],
            # One that names none keeps the bytes that it was signed with before there were any.
            **({"apps": [app.to_json() for app in self.apps]} if self.apps else {}),
        }

    @classmethod
    def from_json(cls, value: object) -> Profile:
        """Read a profile; fields that this version does not know are left aside.

        :param value: the parsed JSON.
        :raises TrustListError: if a field is missing, has another type or contradicts another.
        """
        fields = read_object(value, "profile")
        return cls(
            province=read_text(fields.get("province"), "province"),
            keys=tuple(
                _key(item, f"keys[{index}]")
                for index, item in enumerate(read_list(fields.get("keys"), "keys"))
            ),
            tls_ca=read_text(fields.get("tls_ca"), "tls_ca"),
            addresses=read_texts(fields.get("addresses"), "addresses"),
            rules=tuple(
                read_object(item, f"rules[{index}]")
                for index, item in enumerate(read_list(fields.get("rules"), "rules"))
            ),
            status_lists=read_texts(fields.get("status_lists", []), "status_lists"),
            seal_keys=tuple(
                SealKey.from_json(item, f"seal_keys[{index}]")
                for index, item in enumerate(read_list(fields.get("seal_keys", []), "seal_keys"))
            ),
            apps=tuple(
                App.from_json(item, f"apps[{index}]")
                for index, item in enumerate(read_list(fields.get("apps", []), "apps"))
            ),
        )


def _key(value: object, field: str) -> AttestationKey:
    fields = read_object(value, field)
    pem = read_text(fields.get("public"), f"{field}.public")
    try:
        public = PublicKey.from_pem(pem.encode())
    except InvalidFieldError as error:
        raise TrustListError(error.message, field=f"{field}.public") from error
    if read_text(fields.get("kid"), f"{field}.kid") != public.kid.hex():
        raise TrustListError("the kid is not that of the public key", field=f"{field}.kid")
    if read_text(fields.get("algorithm"), f"{field}.algorithm") != public.algorithm.name:
        raise TrustListError(
            f"the public key is one for {public.algorithm.name}", field=f"{field}.algorithm"
        )
    state = read_text(fields.get("state"), f"{field}.state")
    if state not in KeyState.__members__:
        raise TrustListError(
            "unknown key state", field=f"{field}.state", remedy=f"one of {', '.join(KeyState)}"
        )
    return AttestationKey(public, KeyState(state), read_time(fields.get("since"), f"{field}.since"))


def _check_apps(apps: tuple[App, ...]) -> None:
    if len(apps) > _MOST_APPS:
        raise TrustListError(f"more than {_MOST_APPS}", field="apps")
    ids: set[str] = set()
    for index, app in enumerate(apps):
        if app.id in ids:
            raise TrustListError("another app bears this id", field=f"apps[{index}].id")
        ids.add(app.id)


def _check_authority(pem: str) -> None:
    # One careless copy of the wrong file would publish the province's CA key to the world.
    if "PRIVATE KEY" in pem:
        raise TrustListError(
            "holds a private key",
            field="tls_ca",
            remedy="publish the certificate alone, and replace the key if this list was shown",
        )
    try:
        # cryptography reads names and extensions only when asked. gRPC reads all at once, and stops
        # at a certificate that it cannot read: in a pool, every authority behind it would be lost.
        for each in x509.load_pem_x509_certificates(pem.encode()):
            _ = each.subject, each.issuer, each.extensions, each.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise TrustListError("must be certificates in PEM", field="tls_ca") from error


def _check_json(value: object, field: str, depth: int) -> None:
    if depth == 0:
        raise TrustListError(f"nests deeper than {_DEPTH}", field=field.partition(".")[0])
    match value:
        case None | bool() | int() | str():
            pass
        case list():
            for index, item in enumerate(value):
                _check_json(item, f"{field}[{index}]", depth - 1)
        case dict():
            for name, item in value.items():
                _check_json(item, f"{field}.{name}", depth - 1)
        case float():
            raise TrustListError(
                "canonical JSON has no fractions", field=field, remedy="write it as a string"
            )
        case _:
            raise TrustListError("is not JSON", field=field)
