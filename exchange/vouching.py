"""Who may vouch for what: the one rule by which a key's state counts, for every signed object."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from exchange.errors import BadSignatureError, UnknownIssuerError
from exchange.keys import PublicKey
from exchange.trust.trustlist import TrustList

__all__ = ["CLOCK_SKEW", "check_key"]

CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far ahead another machine's clock may be."""


def check_key(
    public: PublicKey, province: str, issued_at: datetime, trust: TrustList, *, field: str = "iss"
) -> None:
    """See that a key, under which a signature held, may vouch for a province's object now.

    :param province: the one in whose name the object speaks.
    :param issued_at: the object's ``iat``.
    :param field: the claim that names the province.
    :raises UnknownIssuerError: the key is not in the trust list, or its state forbids it.
    :raises BadSignatureError: the key is another province's.
    """
    bearers = [
        (owner, key)
        for owner, key in trust.keys(public.kid)
        if key.public.thumbprint == public.thumbprint
    ]
    for owner, key in bearers:
        if owner == province:
            if key.verifies(issued_at):
                return
            raise UnknownIssuerError(
                f"the key is {key.state.value} since {key.since:%Y-%m-%dT%H:%M:%SZ}", field="kid"
            )
    if bearers:
        raise BadSignatureError(f"signed by {bearers[0][0]} in the name of {province}", field=field)
    raise UnknownIssuerError("the key is no longer in the trust list", field="kid")
