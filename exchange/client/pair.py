"""A certificate and its key: two files that are only ever of use together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from exchange.errors import InvalidFieldError, NoIdentityError

__all__ = ["Pair", "PairFiles"]


@dataclass(frozen=True, slots=True)
class Pair:
    """What proves who its holder is.

    :param certificate: PEM, the leaf first.
    :param key: its key, PKCS#8 PEM without a passphrase.
    """

    certificate: bytes
    key: bytes = field(repr=False)

    def leaf(self) -> x509.Certificate:
        """Read the certificate.

        :raises NoIdentityError: it cannot be read; field ``certificate``.
        """
        try:
            return x509.load_pem_x509_certificates(self.certificate)[0]
        except ValueError:
            raise NoIdentityError("not a certificate in PEM", field="certificate") from None

    def check(self) -> None:
        """Hold the certificate against the key.

        :raises NoIdentityError: one cannot be read, or they do not belong together; field
            ``certificate`` or ``key``.
        """
        leaf = self.leaf()
        try:
            public = load_pem_private_key(self.key, None).public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise NoIdentityError(
                "not a private key in PEM without a passphrase", field="key"
            ) from None
        if public != leaf.public_key():
            raise NoIdentityError(
                "the key is not the certificate's",
                field="key",
                remedy="name the two files that were issued together",
            )


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Where a pair lies.

    :param certificate: the certificate's file; ``key`` its key's.
    """

    certificate: Path
    key: Path

    def read(self) -> Pair:
        """Read and check the pair.

        :raises InvalidFieldError: a file cannot be read; field ``certificate`` or ``key``.
        :raises NoIdentityError: what they hold is no pair, as `Pair.check` says.
        """
        pair = Pair(_read(self.certificate, "certificate"), _read(self.key, "key"))
        pair.check()
        return pair

    def fingerprint(self) -> object:
        """Give what differs after either file was written, without reading them."""
        return _stamp(self.certificate), _stamp(self.key)


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidFieldError(
            f"{path}: {error.strerror}", field=name, remedy="check the path and its mode"
        ) from None


def _stamp(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
