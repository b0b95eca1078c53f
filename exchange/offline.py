"""The verifier without a connection (离线核验): an attestation held against the lists at hand."""

from __future__ import annotations

from datetime import datetime

from exchange.attestations import Attestation, AttestationVerifier
from exchange.errors import ExpiredError, TongxingError, UnknownIssuerError
from exchange.recognition import Verdict
from exchange.statuslist import Status, StatusLists
from exchange.trust.trustlist import TrustList

__all__ = ["check"]

_VERDICTS = {
    Status.VALID: Verdict.ACCEPTED,
    Status.REVOKED: Verdict.REVOKED,
    Status.STALE: Verdict.STALE,
}


def check(
    signed: bytes,
    *,
    trust: TrustList,
    statuses: StatusLists,
    verifier: AttestationVerifier,
    now: datetime,
) -> tuple[Verdict, Attestation | None]:
    """Judge an attestation by what is at hand: signature, times and status.

    The order is that of the draft's §8.3: what does not verify, or has ended, has no status.

    - ACCEPTED (认可): it verifies, and a status list that is within its ``ttl`` does not revoke it.
      No rule was asked, and a correction of it is not known of here: those need a node.
    - REVOKED (撤销): a status list revokes it, however old that list is.
    - STALE (数据过旧): nobody can tell without a connection. The list is past its ``ttl``, or not
      at hand, or has no such place; or the attestation has no status claim at all, so that only
      its province's node knows. It is never accepted: a revoked one would look the same.
    - EXPIRED, UNKNOWN_ISSUER, BAD_SIGNATURE: it does not verify.

    :param signed: COSE_Sign1 bytes.
    :param now: aware, UTC.
    :returns: the verdict, and what the attestation says where it verified, also if it is refused.
    """
    try:
        attestation = verifier.verify(signed, trust, now)
    except ExpiredError:
        return Verdict.EXPIRED, None
    except UnknownIssuerError:
        return Verdict.UNKNOWN_ISSUER, None
    except TongxingError:
        return Verdict.BAD_SIGNATURE, None
    if attestation.status is None:
        return Verdict.STALE, attestation
    return _VERDICTS[statuses.status(attestation.status, trust, now)], attestation
