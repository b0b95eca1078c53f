"""Fuzz the readers with coverage (atheris, libFuzzer): no crash, no hang, no growth.

    pip install atheris          # not one of the project's dependencies
    python scripts/fuzz.py hcert -max_total_time=120

Other targets: hc1, cose, cbor, attestation, healthcode. What follows the target goes to libFuzzer;
these hold unless something else is said: 16 KiB a piece, 5 s, 1 GiB. A reader may refuse what it is
given by one of the exchange's own errors. Whatever else it raises is a finding, and is kept in a
file that libFuzzer names.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import atheris

with atheris.instrument_imports(include=["exchange"]):
    from exchange import attestations, cbor, cose, errors, facts, subjects
    from exchange.codes import base45, envelope, hc1, hcert, healthcode, inspection, lenientcbor
    from exchange.codes.dsc import DocumentSigner
    from exchange.keys import Algorithm, PrivateKey

BOUNDS = ("-max_len=16384", "-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1")
NOW = datetime(2022, 1, 10, tzinfo=UTC)
KEY = PrivateKey.generate(Algorithm.ES256)
PEM = KEY.public.to_pem()
UUID7 = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
ENTRY = {"tg": "840539006", "tt": "LP6464-4", "tr": "260415000", "sc": "2022-01-09", "ci": "x"}


def text_of(signed: bytes) -> str:
    return hc1.PREFIX + base45.encode(zlib.compress(signed, 1))


def fuzz_hc1(data: bytes) -> None:
    with contextlib.suppress(errors.TongxingError):
        hc1.from_text(data.decode("latin-1"))
    if hc1.from_text(text_of(data)) != data:
        raise AssertionError


def fuzz_hcert(data: bytes) -> None:
    """Enter at any layer: what is behind a checksum or a signature is never reached by chance."""
    layer, rest = data[:1], data[1:]
    match layer:
        case b"t":
            text = rest.decode("utf-8", "replace")
        case b"b":
            text = "HC1:" + base45.encode(rest)
        case b"p":
            text = text_of(cose.sign(rest, KEY, cose.ObjectType.STATUS_LIST))
        case _:
            text = text_of(rest)
    inspection.inspect(text, certificate=rest if layer == b"k" else PEM, at=NOW)
    with contextlib.suppress(errors.TongxingError):
        DocumentSigner.read(rest)
    with contextlib.suppress(errors.TongxingError):
        envelope.Envelope.parse(rest)
    claims = lenientcbor.decode(rest)
    hcert.facts(hcert.content(claims))
    hcert.read(text_of(cose.sign(rest, KEY, cose.ObjectType.STATUS_LIST)), KEYS, NOW)


def fuzz_cose(data: bytes) -> None:
    cose.verify(cose.parse(data, cose.ObjectType.HEALTH_CODE), [KEY.public])


def fuzz_cbor(data: bytes) -> None:
    """Both readers agree on what the strict one accepts, and what it reads can be written."""
    found = cbor.decode_map(data)
    if repr(lenientcbor.decode(data)) != repr(found):
        raise AssertionError
    cbor.encode(found)


def fuzz_attestation(data: bytes) -> None:
    attestations.decode(data)


def fuzz_healthcode(data: bytes) -> None:
    healthcode.decode(data)


KEYS = hcert.ForeignKeys.load([("AT", PEM)])
TARGETS = {
    name.removeprefix("fuzz_"): run for name, run in globals().items() if name[:5] == "fuzz_"
}


def seeds() -> list[bytes]:
    """One of everything that is to be read, so that the fuzzer need not find its form."""
    holder = attestations.Holder("胡*君", subjects.DocumentType.OTHER, "")
    fact = facts.NucleicAcidTest(NOW - timedelta(hours=1), facts.TestResult.NEGATIVE)
    attestation = attestations.Attestation(
        id=UUID7, province="440000", token=bytes(subjects.TOKEN_BYTES), fact=fact,
        issuer=attestations.Issuer("12440000455858189U", "广东省人民医院"), holder=holder,
        issued_at=NOW, expires_at=NOW + timedelta(hours=72), data_as_of=NOW,
    )  # fmt: skip
    code = healthcode.HealthCode(
        id=UUID7, province="440000", colour=facts.Colour.GREEN, rule="negative-48h", reason=None,
        holder=holder, evidence=(healthcode.CodeEvidence(UUID7, "440000", fact, None),),
        issued_at=NOW, expires_at=NOW + healthcode.LIFE,
    )  # fmt: skip
    content = {"nam": {"fn": "A"}, "t": [ENTRY], "r": [{**ENTRY, "fr": "2021-01-01"}]}
    span = {6: int(NOW.timestamp()), 4: int(NOW.timestamp()) + 60.5}
    foreign = cbor.encode({1: "AT", **span, -260: {1: content}})
    signed = healthcode.sign(code, KEY)
    foreign_signed = cose.sign(foreign, KEY, cose.ObjectType.STATUS_LIST)
    plain = [attestations.encode(attestation), healthcode.encode(code), foreign, signed, PEM]
    layers = [b"p" + foreign, b"c" + signed, b"c" + foreign_signed, b"b" + zlib.compress(signed)]
    texts = [hc1.to_text(signed).encode(), b"t" + hc1.to_text(signed).encode()]
    return [*plain, *layers, *texts, b"k" + KEY.public.to_der()]


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} {{{','.join(TARGETS)}}} [libFuzzer options]")
    target = TARGETS[sys.argv[1]]

    def one(data: bytes) -> None:
        with contextlib.suppress(errors.TongxingError):
            target(data)

    # Not removed at the end: libFuzzer leaves the process without returning.
    corpus = Path(tempfile.mkdtemp(prefix="tongxing-fuzz-"))
    for number, seed in enumerate(seeds()):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], *BOUNDS, *sys.argv[2:], os.fspath(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
