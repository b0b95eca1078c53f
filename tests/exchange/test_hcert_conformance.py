"""The EU's public test set of Digital COVID Certificates, as far as it is at hand.

Each case says which steps must succeed and which must fail (the set's README); what it leaves out
is not judged. It lies beside the checkout; without it, these tests are skipped.
"""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from exchange.codes import inspection, lenientcbor
from exchange.codes.dsc import DocumentSigner
from exchange.codes.envelope import Envelope
from exchange.codes.hcert import content, facts, kinds, moment

FOLDER = Path(__file__).parents[3] / "shared" / "testdata" / "hcert"
CASES = sorted(FOLDER.glob("**/raw/*.json"))
ON_ANOTHER_CURVE = {f"ES/2DCode/raw/{number}.json" for number in (401, 402, 403)}
"""ES256 under a P-384 key: the set expects a good signature, its own runner fails, RFC 9053 too."""
WITHOUT_CODES = {f"ES/2DCode/raw/{number}.json" for number in (1101, 1103)}
"""Placeholders where the disease and the result should stand: no fact can be read out of them."""
OF_SOMEBODY_ELSE = {f"PL/1.3.0/2DCode/raw/{number}.json" for number in (1, 5)}
"""The set's JSON names another person than its CBOR."""

pytestmark = pytest.mark.skipif(not CASES, reason="the EU's test set is not at hand")


def name(path):
    return path.relative_to(FOLDER).as_posix()


@pytest.fixture(params=CASES, ids=name, scope="module")
def case(request):
    return json.loads(request.param.read_text(encoding="utf-8")), name(request.param)


def look(case):
    context = case["TESTCTX"]
    at = datetime.fromisoformat(context["VALIDATIONCLOCK"]).astimezone(UTC)
    return inspection.inspect(case["PREFIX"], certificate=context["CERTIFICATE"].encode(), at=at)


def as_times(value):
    """A JSON value in which times are moments: a tagged time may be written in other ways."""
    if isinstance(value, dict):
        return {key: as_times(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_times(each) for each in value]
    return (moment(value) or value) if isinstance(value, str) else value


def test_every_layer_is_what_the_set_expects(case):
    raw, where = case
    expected = {
        key.removeprefix("EXPECTED"): value for key, value in raw["EXPECTEDRESULTS"].items()
    }
    found = look(raw)
    assert found.prefix == expected.get("UNPREFIX", found.prefix)
    assert found.base45 == expected.get("B45DECODE", found.base45)
    assert found.zlib == expected.get("COMPRESSION", found.zlib)
    assert found.cbor == expected.get("DECODE", found.cbor)
    assert found.valid_at == expected.get("EXPIRATIONCHECK", found.valid_at)
    verified = found.signature and found.kid_match
    assert verified == (expected.get("VERIFY", verified) and where not in ON_ANOTHER_CURVE)
    allowed = "key usage" not in found.error
    assert allowed == expected.get("KEYUSAGE", allowed)
    assert found.holds == (found.error == "")


def test_what_is_said_is_the_sets_own_json(case):
    raw, where = case
    if not raw["EXPECTEDRESULTS"].get("EXPECTEDDECODE") or where in OF_SOMEBODY_ELSE:
        pytest.skip("the content is not to be read, or differs within the case")
    assert as_times(look(raw).claims["-260"]["1"]) == as_times(raw["JSON"])


def test_every_entry_that_is_readable_gives_a_fact(case):
    raw, where = case
    if not raw["EXPECTEDRESULTS"].get("EXPECTEDDECODE") or "COSE" not in raw:
        pytest.skip("the content is not to be read")
    certificate = content(lenientcbor.decode(Envelope.parse(bytes.fromhex(raw["COSE"])).payload))
    found = facts(certificate)
    readable = [] if where in WITHOUT_CODES else kinds(certificate)
    assert len(found) == sum(len(certificate[kind]) for kind in readable)


def test_every_certificate_reads_as_x509_has_it(case):
    der = base64.b64decode(case[0]["TESTCTX"]["CERTIFICATE"])
    found = DocumentSigner.read(der)
    try:
        other = x509.load_der_x509_certificate(der)
    except ValueError:
        return  # a strict parser refuses it, and we do not
    assert found.not_before == other.not_valid_before_utc
    assert found.not_after == other.not_valid_after_utc
    country = other.subject.get_attributes_for_oid(x509.NameOID.COUNTRY_NAME)
    assert found.country == (country[0].value if country else "")


def test_the_picture_holds_the_text(case):
    raw, _ = case
    if not raw["EXPECTEDRESULTS"].get("EXPECTEDPICTUREDECODE") or "2DCODE" not in raw:
        pytest.skip("no picture")
    qr = pytest.importorskip("exchange.codes.qr")
    assert qr.read(base64.b64decode(raw["2DCODE"])) == raw["PREFIX"]
