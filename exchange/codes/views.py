"""Views of health codes: the contract's messages, from the values of `exchange.codes`.

A view stands beside the signed bytes and is never what counts.
"""

from __future__ import annotations

from exchange import views
from exchange.attestations import Holder
from exchange.codes import hc1
from exchange.codes.hcert import ForeignCertificate
from exchange.codes.healthcode import HealthCode
from exchange.codes.judging import Judgement
from exchange.statuslist import StatusReference
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2

__all__ = ["foreign_to_proto", "healthcode_to_proto", "judgement_to_proto"]


def healthcode_to_proto(signed: bytes, code: HealthCode, *, text: str = "") -> pb.HealthCode:
    """The view of a health code.

    :param signed: its COSE_Sign1 bytes.
    :param text: its text where that was shown; else it is made.
    """
    return pb.HealthCode(
        signed=signed,
        text=text or hc1.to_text(signed),
        health_code_id=str(code.id),
        province=code.province,
        colour=views.colour_to_proto(code.colour),
        rule_id=code.rule,
        reason=views.text_to_proto(code.reason) if code.reason else None,
        holder=_holder(code.holder),
        evidence=[
            pb.CodeEvidence(
                attestation_id=str(piece.id),
                province=piece.province,
                fact=views.fact_to_proto(piece.fact),
                status=_status(piece.status) if piece.status else None,
            )
            for piece in code.evidence
        ],
        issue_time=views.time_to_proto(code.issued_at),
        expire_time=views.time_to_proto(code.expires_at),
        nonce=code.nonce,
    )


def foreign_to_proto(
    signed: bytes, certificate: ForeignCertificate, *, text: str = ""
) -> pb.HealthCode:
    """The view of a foreign certificate, which has no colour of its own.

    :param signed: its COSE_Sign1 bytes.
    :param text: its text, where that was shown.
    """
    return pb.HealthCode(
        signed=signed,
        text=text,
        health_code_id=certificate.id,
        province=certificate.country,
        holder=_holder(certificate.holder),
        evidence=[
            pb.CodeEvidence(
                attestation_id=str(identifier),
                province=certificate.country,
                fact=views.fact_to_proto(fact),
            )
            for identifier, fact in certificate.facts
        ],
        issue_time=views.time_to_proto(certificate.issued_at),
        expire_time=views.time_to_proto(certificate.expires_at),
    )


def judgement_to_proto(judgement: Judgement, shown: str | bytes) -> pb.VerifyHealthCodeResponse:
    """A judgement as the answer of VerifyHealthCode.

    :param shown: the text or the bytes that were judged.
    """
    signed = judgement.signed
    text = shown if isinstance(shown, str) else ""
    match judgement.code:
        case HealthCode() as code:
            view = healthcode_to_proto(signed, code, text=text)
        case ForeignCertificate() as certificate:
            view = foreign_to_proto(signed, certificate, text=text)
        case None:
            view = pb.HealthCode(signed=signed, text=text)
    return pb.VerifyHealthCodeResponse(
        outcome=f"OUTCOME_{judgement.outcome.value}",
        colour=views.colour_to_proto(judgement.colour),
        verdict=f"VERDICT_{judgement.verdict.value}",
        reason=views.text_to_proto(judgement.reason),
        rules=[views.rule_verdict_to_proto(said) for said in judgement.rules],
        health_code=view,
        remedies=[views.remedy_to_proto(remedy) for remedy in judgement.remedies],
        province=judgement.province,
        trust_version=judgement.trust_version,
        verify_time=views.time_to_proto(judgement.judged_at),
        rules_digest=judgement.rules_digest,
    )


def _holder(holder: Holder) -> types_pb2.MaskedHolder:
    return types_pb2.MaskedHolder(
        name=holder.name,
        document_type=f"DOCUMENT_TYPE_{holder.document_type.value}",
        document_number=holder.document_number,
    )


def _status(place: StatusReference) -> types_pb2.StatusReference:
    return types_pb2.StatusReference(uri=place.uri, index=place.index)
