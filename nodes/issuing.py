"""A province's authority at work in the folder that holds it: it issues, and another succeeds it.

::

    authority.pem, authority-key.pem             the authority; while it changes, the old one behind
    NAME.pem, NAME-key.pem                       what it issued
    authority-next.pem, authority-next-key.pem   its successor, from `rotate` until `adopt`
    authority-both.pem                           what to publish while both vouch
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from exchange.client.pair import Pair
from exchange.errors import ConflictError, InvalidFieldError, NoIdentityError
from nodes.identity import Authority, Identity, issue, make_authority, uris
from nodes.tlsfiles import write_pair

__all__ = ["adopt", "authority_of", "borne", "borne_by", "issue_into", "next_authority", "rotate"]


def authority_of(home: Path) -> Authority:
    """Read a province's authority.

    :raises InvalidFieldError: there is none; field ``directory``.
    """
    try:
        return Authority(
            (home / "authority.pem").read_bytes(), (home / "authority-key.pem").read_bytes()
        )
    except OSError as error:
        raise InvalidFieldError(
            f"{home} holds no authority: {error.strerror}", field="directory"
        ) from None


def issue_into(
    home: Path, stem: str, identity: Identity, *, now: datetime, lifetime: timedelta
) -> datetime:
    """Issue a certificate in the province's folder, in the place of the one before it if any.

    :param stem: the files are ``STEM.pem`` and ``STEM-key.pem``.
    :returns: when it ends.
    :raises TongxingError: there is no authority, or it is another province's.
    """
    pair = Pair(*issue(authority_of(home), identity, now=now, lifetime=lifetime))
    write_pair(pair, home / f"{stem}.pem", home / f"{stem}-key.pem")
    return pair.leaf().not_valid_after_utc


def borne(home: Path) -> dict[str, Identity]:
    """Find all that lies in the folder with its key, by stem; authorities are none of it."""
    found = {}
    for key in home.glob("*-key.pem"):
        stem = key.name.removesuffix("-key.pem")
        try:
            (uri,) = uris(x509.load_pem_x509_certificate((home / f"{stem}.pem").read_bytes()))
            found[stem] = Identity.parse(uri)
        except (OSError, ValueError, NoIdentityError):
            continue
    return found


def borne_by(home: Path, stems: Iterable[str], uri: str) -> str:
    """Give the first stem whose certificate bears a SPIFFE ID, or ""."""
    for stem in stems:
        try:
            found = uris(x509.load_pem_x509_certificate((home / f"{stem}.pem").read_bytes()))
        except (OSError, ValueError):
            continue
        if uri in found:
            return stem
    return ""


def rotate(home: Path, *, now: datetime, lifetime: timedelta) -> Path:
    """Make the authority's successor; it vouches for nobody until `adopt`.

    :returns: the file to publish as the profile's ``tls_ca``: both authorities.
    :raises InvalidFieldError: the folder holds no authority.
    :raises ConflictError: there is a successor already.
    """
    current = authority_of(home)
    if (home / "authority-next-key.pem").exists():
        raise ConflictError(
            f"{home} holds a next authority already",
            field="directory",
            remedy="adopt it, or delete it if it was never published",
        )
    (domain,) = uris(x509.load_pem_x509_certificate(current.certificate))
    province = domain.removeprefix("spiffe://").partition(".")[0]
    successor = make_authority(province, now=now, lifetime=lifetime)
    write_pair(
        Pair(successor.certificate, successor.key),
        home / "authority-next.pem",
        home / "authority-next-key.pem",
    )
    both = home / "authority-both.pem"
    both.write_bytes(current.certificate + successor.certificate)
    return both


def next_authority(home: Path) -> Authority:
    """Read the authority's successor.

    :raises InvalidFieldError: there is none; field ``directory``.
    """
    try:
        return Authority(
            (home / "authority-next.pem").read_bytes(),
            (home / "authority-next-key.pem").read_bytes(),
        )
    except OSError:
        raise InvalidFieldError(
            f"{home} holds no next authority", field="directory", remedy="make one: rotate"
        ) from None


def adopt(home: Path, published: bytes) -> None:
    """Let the successor issue from now on.

    :param published: the ``tls_ca`` of the province's profile as others see it.
    :raises InvalidFieldError: there is no successor.
    :raises NoIdentityError: it is not published: nobody would accept what it issues.
    """
    old, new = authority_of(home), next_authority(home)
    certificate = x509.load_pem_x509_certificate(new.certificate)
    if certificate not in x509.load_pem_x509_certificates(published):
        raise NoIdentityError(
            "the next authority is not in the trust list",
            field="directory",
            remedy="publish authority-both.pem in the province's profile first",
        )
    # The first issues; whoever reads the file to trust it still takes what the old one issued.
    write_pair(
        Pair(new.certificate + old.certificate, new.key),
        home / "authority.pem",
        home / "authority-key.pem",
    )
    (home / "authority-next-key.pem").unlink()
