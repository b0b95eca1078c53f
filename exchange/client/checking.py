"""What a node answered, held against what was signed: a client believes no view and no word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from exchange import receipts, views
from exchange.attestations import Attestation, AttestationVerifier
from exchange.codes import hcert
from exchange.codes import views as code_views
from exchange.codes.healthcode import HealthCode, HealthCodeVerifier
from exchange.codes.judging import is_ours
from exchange.errors import BadSignatureError, ExpiredError, FutureTimeError
from exchange.facts import Colour
from exchange.receipts import Receipt
from exchange.trust.trustlist import TrustList
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2

__all__ = ["Checker"]


class Checker:
    """Verifies answers of a province's node against the trust list.

    :param province: the node's; what it signs itself must be signed as that province's.
    :param trust: gives the verified trust list at each look.
    :param clock: gives the time, aware and in UTC.
    """

    def __init__(
        self, province: str, trust: Callable[[], TrustList], clock: Callable[[], datetime]
    ) -> None:
        self._province = province
        self._trust = trust
        self._clock = clock
        self._attestations = AttestationVerifier()
        self._codes = HealthCodeVerifier()

    def attestation(self, view: types_pb2.Attestation, asked_for: str = "") -> Attestation:
        """An attestation, read from its bytes.

        :param asked_for: its id, where one was asked for.
        :raises BadSignatureError: the view is another's; else as `AttestationVerifier.verify`.
        """
        attestation = self._attestations.verify(view.signed, self._trust(), self._clock())
        view.DiscardUnknownFields()
        if view != views.attestation_to_proto(view.signed, attestation):
            raise BadSignatureError("the view is not what was signed", field="attestation")
        if asked_for and asked_for.lower() != str(attestation.id):
            raise BadSignatureError("another attestation than was asked for", field="attestation")
        return attestation

    def decision(self, decision: pb.Decision, *, receipt: bool = False) -> pb.Decision:
        """A decision, its accepted evidence held against the signed bytes.

        Of evidence that has ended by this clock, or is ahead of it, the bytes alone are left.

        :param receipt: whether a receipt was asked for.
        :raises BadSignatureError: the node calls accepted what does not verify, a view differs
            from its bytes, or the receipt says something else.
        :raises ExpiredError: all that the node accepted has ended by this clock; or
            `FutureTimeError`, where all of it is ahead.
        """
        decision.DiscardUnknownFields()  # nobody here can check them
        accepted, apart = False, None
        for piece in decision.evidence:
            view = piece.attestation
            if view == types_pb2.Attestation(signed=view.signed):
                continue  # bytes alone say nothing
            try:
                self.attestation(view)
            except (ExpiredError, FutureTimeError) as error:
                # By this clock it counts no more, or not yet. Each province can send such a piece
                # with every answer, and must not thereby break what rests on others.
                view.CopyFrom(types_pb2.Attestation(signed=view.signed))
                if piece.verdict == pb.VERDICT_ACCEPTED:
                    apart = error
                continue
            accepted |= piece.verdict == pb.VERDICT_ACCEPTED
        if _passes(decision) and not accepted:
            if apart is not None:  # an honest node's evidence may end on the way
                apart.field, apart.remedy = (
                    "decision.evidence",
                    "ask again; else compare the clocks",
                )
                raise apart
            raise BadSignatureError("recognised without verifiable evidence", field="decision")
        if receipt:
            shown = [(p.sent_by, p.verdict, p.attestation.signed) for p in decision.evidence]
            at = decision.decide_time.seconds
            answers = [(each.province, int(each.state)) for each in decision.answers]
            self._receipt(decision, receipts.Subject.RECOGNITION, at, shown, answers)
        return decision

    def issued(
        self, answer: pb.IssueHealthCodeResponse, nonce: bytes
    ) -> pb.IssueHealthCodeResponse:
        """A new health code, read from its bytes, and the decision behind it.

        :param nonce: what was asked for.
        :raises BadSignatureError: it is not what was asked for, or does not verify.
        """
        self.decision(answer.decision)
        view = answer.health_code
        code = self._codes.verify(view.signed, self._trust(), self._clock())
        self._see(view, code)
        if not view.text or code.province != self._province or code.nonce != nonce:
            raise BadSignatureError("not the code that was asked for", field="health_code")
        if answer.decision.colour != view.colour:
            raise BadSignatureError("not the decision's colour", field="health_code.colour")
        return answer

    def judged(
        self,
        answer: pb.VerifyHealthCodeResponse,
        shown: str | bytes,
        *,
        nonce: bytes = b"",
        receipt: bool = False,
    ) -> pb.VerifyHealthCodeResponse:
        """What a node made of a code that was shown; of a foreign certificate, its word counts.

        :param shown: what was asked about; ``nonce`` what the gate wanted to see in it.
        :raises BadSignatureError: it honours what does not verify, the view is another's, or the
            receipt says something else.
        """
        answer.DiscardUnknownFields()
        view = answer.health_code
        if answer.province != self._province:
            raise BadSignatureError("another province's word", field="province")
        # What is ours is told from the bytes that were shown: a node could call it foreign.
        signed = hcert.unpack(shown) if isinstance(shown, str) else shown
        text = shown if isinstance(shown, str) else view.text
        if (view.signed, view.text) != (signed, text):
            raise BadSignatureError("another code than was shown", field="health_code")
        passes, bare = _passes(answer), view == pb.HealthCode(signed=signed, text=text)
        if is_ours(signed) and (passes or not bare):
            code = self._codes.verify(signed, self._trust(), self._clock())
            self._see(view, code)
            if passes and code.colour is not Colour.GREEN:
                raise BadSignatureError("honoured, and not green", field="health_code.colour")
        # No foreign certificate has one, whatever its view says.
        if passes and nonce and not (is_ours(signed) and view.nonce == nonce):
            raise BadSignatureError("without the gate's nonce", field="health_code.nonce")
        if receipt:
            at = answer.verify_time.seconds
            shown_as = [(view.province, answer.verdict, view.signed)]
            self._receipt(answer, receipts.Subject.HEALTH_CODE, at, shown_as, ())
        return answer

    @staticmethod
    def _see(view: pb.HealthCode, code: HealthCode) -> None:
        """See that a view is what was signed; its text may be packed otherwise than here."""
        view.DiscardUnknownFields()
        if view.text and hcert.unpack(view.text) != view.signed:
            raise BadSignatureError("the text is not what was signed", field="health_code.text")
        expected = code_views.healthcode_to_proto(view.signed, code, text=view.text)
        if view != expected:
            raise BadSignatureError("the view is not what was signed", field="health_code")

    def _receipt(
        self,
        said: pb.Decision | pb.VerifyHealthCodeResponse,
        subject: receipts.Subject,
        at: int,
        evidence: Sequence[tuple[str, int, bytes]],
        answers: Iterable[tuple[str, int]],
    ) -> None:
        receipt = receipts.verify(said.receipt, self._trust(), self._clock())
        same = (
            receipt.subject is subject
            and receipt.province == self._province == said.province
            and said.outcome == pb.Outcome.Value(f"OUTCOME_{receipt.outcome}")
            and said.colour == types_pb2.Colour.Value(f"COLOUR_{receipt.colour}")
            and said.verdict == pb.Verdict.Value(f"VERDICT_{receipt.verdict}")
            and receipt.rules_digest == said.rules_digest
            and receipt.trust_version == said.trust_version
            and int(receipt.decided_at.timestamp()) == at
            and [(each.rule, each.satisfied, each.failed) for each in receipt.said]
            == [(each.rule_id, each.satisfied, each.failed) for each in said.rules]
            and [
                (each.province, pb.AnswerState.Value(f"ANSWER_STATE_{each.state}"))
                for each in receipt.answers
            ]
            == list(answers)
            and _names_all(receipt, evidence)
        )
        if not same:
            raise BadSignatureError("the receipt says something else", field="receipt")


def _names_all(receipt: Receipt, evidence: Sequence[tuple[str, int, bytes]]) -> bool:
    """Whether a receipt names each piece as it was shown; none is left out while there is room."""
    named = Counter(
        (each.province, int(pb.Verdict.Value(f"VERDICT_{each.verdict}")), each.digest)
        for each in receipt.evidence
    )
    shown = Counter(
        (sender, verdict, receipts.digest_in(receipt, signed))
        for sender, verdict, signed in evidence
    )
    least = min(len(evidence), receipts.MOST_EVIDENCE)
    return named <= shown and named.total() == least


def _passes(said: pb.Decision | pb.VerifyHealthCodeResponse) -> bool:
    return said.outcome == pb.OUTCOME_RECOGNIZED or said.colour == types_pb2.COLOUR_GREEN
