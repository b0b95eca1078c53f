"""An attestation on the screen."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from nodes.cli import files, output

if TYPE_CHECKING:
    from exchange.attestations import Attestation
    from exchange.v1.types_pb2 import Fact

__all__ = ["attestation_rows", "vaccination_words"]


def attestation_rows(found: Attestation) -> list[tuple[str, str]]:
    """Names and values, for `nodes.cli.output.print_fields`."""
    rows = [
        ("编号 id", str(found.id)),
        ("省级行政区 province", output.province_name(found.province)),
        ("类别 kind", f"{found.fact.kind} {found.fact.kind.text.zh}"),
        *_fact_rows(found),
        ("持码人 holder", f"{found.holder.name} {found.holder.document_number}"),
        ("发证机构 issuer", f"{found.issuer.name} {found.issuer.credit_code}"),
        ("签发 signed", output.moment(found.issued_at)),
        ("有效期至 expires", output.moment(found.expires_at)),
    ]
    if found.supersedes:
        rows.append(("更正 corrects", str(found.supersedes)))
    if found.status:
        rows.append(("状态 status", f"{found.status.uri} #{found.status.index}"))
    return rows


def vaccination_words(fact: Fact) -> tuple[str, ...]:
    """A vaccination's product, by the name that rules compare, and its dose; of others nothing."""
    if not fact.HasField("vaccination"):
        return ()
    given = fact.vaccination
    return (f"{given.product} {given.dose}/{given.doses}",)


def _fact_rows(found: Attestation) -> list[tuple[str, str]]:
    from exchange.facts import fact_fields

    rows = []
    for field in fact_fields(type(found.fact)):
        value = getattr(found.fact, field.name)
        if value not in (None, "", False):
            text = output.moment(value) if isinstance(value, datetime) else str(value)
            rows.append((f"{files.COLUMNS[field.proto][0]} {field.proto}", text))
    return rows
