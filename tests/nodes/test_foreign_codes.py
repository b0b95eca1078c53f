"""Foreign certificates (境外证书) on a real node, which knows some signers of theirs."""

from __future__ import annotations

import tomllib
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs
from waiting import until

from exchange.client import Purpose
from exchange.codes import base45
from exchange.errors import InvalidFieldError
from exchange.keys import PrivateKey
from exchange.v1 import recognition_service_pb2 as pb
from exchange.v1 import types_pb2
from nodes import setup
from nodes.foreign import ForeignFolder
from nodes.trial import TrialExchange

SHANGHAI = "310000"
RULE = {
    "id": "europe-72h",
    "kinds": ["NUCLEIC_ACID_TEST"],
    "colour": "GREEN",
    "when": 'fact.result == "NEGATIVE" && now - fact.sampled_at <= duration("72h")',
    "reason": {"zh": "欧洲72小时内核酸阴性", "en": "a negative test of Europe within 72 hours"},
    "valid_from": "2020-03-01T00:00:00Z",
    "origins": ["DE", "AT"],
}


class Country:
    """Somebody abroad who signs certificates of tests."""

    def __init__(self, code):
        self.code = code
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, code)])
        now = datetime.now(UTC)
        ends = now + timedelta(days=30)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, ends)
        self.certificate = builder.sign(key, SHA256())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._key = PrivateKey.from_pem(pem, None)

    def text(self, *, hours=1):
        """A certificate of a negative test, taken so many hours ago."""
        now = datetime.now(UTC)
        test = {
            "tg": "840539006",
            "tt": "LP6464-4",
            "tr": "260415000",
            "sc": (now - timedelta(hours=hours)).isoformat(timespec="seconds"),
            "co": self.code,
            "is": "an institute",
            "ci": f"URN:UVCI:01{self.code}/TEST/1#A",
        }
        certificate = {"ver": "1.3.0", "nam": {"fnt": "MUSTERMANN"}, "t": [test]}
        body = cbor2.dumps(
            {
                1: self.code,
                4: int((now + timedelta(days=2)).timestamp()),
                6: int(now.timestamp()),
                -260: {1: certificate},
            }
        )
        protected = cbor2.dumps({1: -7, 4: self.certificate.fingerprint(SHA256())[:8]})
        signature = self._key.sign(cbor2.dumps(["Signature1", protected, b"", body]))
        signed = cbor2.dumps(cbor2.CBORTag(18, [protected, {}, body, signature]))
        return "HC1:" + base45.encode(zlib.compress(signed))


@pytest.fixture(scope="module")
def countries():
    return {code: Country(code) for code in ("DE", "FR", "AT")}


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, countries):
    """Shanghai, whose rules name Germany and Austria, and whose node knows Germany and France."""
    directory = tmp_path_factory.mktemp("foreign")
    known = directory / "certificates"
    known.mkdir()
    for code in ("DE", "FR"):
        pem = countries[code].certificate.public_bytes(Encoding.PEM)
        (known / f"{code}.pem").write_bytes(pem)
    file = Path(setup.__file__).parent / "provinces" / f"{SHANGHAI}.toml"
    own = tomllib.loads(file.read_text(encoding="utf-8"))["rules"]
    for rule in own:
        rule["valid_from"] = "2020-03-01T00:00:00Z"
    with TrialExchange(directory / "x", (SHANGHAI,), rules={SHANGHAI: (*own, RULE)}) as running:
        running.known = known
        running.environment = {
            "TONGXING_FOREIGN__CERTIFICATES": str(known),
            "TONGXING_FOREIGN__POLL_SECONDS": "0.05",
        }
        running.start(environment=running.environment)
        yield running


@pytest.fixture
async def app(exchange):
    async with exchange.client(SHANGHAI, "app") as client:
        yield client


async def verify(app, text, **options):
    return await app.verify_health_code(text, Purpose.PURPOSE_ENTRY_CHECK, **options)


async def test_a_certificate_of_a_country_that_a_rule_names_is_recognised(app, countries):
    text = countries["DE"].text()
    answer = await verify(app, text, receipt=True)
    assert answer.outcome == pb.OUTCOME_RECOGNIZED
    assert answer.colour == types_pb2.COLOUR_GREEN
    code = answer.health_code
    assert (code.province, code.text, code.colour) == ("DE", text, types_pb2.COLOUR_UNSPECIFIED)
    assert "MUSTERMANN" not in code.holder.name
    assert code.evidence[0].fact.nucleic_acid_test.result == types_pb2.TEST_RESULT_NEGATIVE
    assert [rule.rule_id for rule in answer.rules if rule.satisfied] == ["europe-72h"]
    assert (await verify(app, code.signed)).outcome == pb.OUTCOME_RECOGNIZED


async def test_an_old_test_from_abroad_is_refused(app, countries):
    answer = await verify(app, countries["DE"].text(hours=80))
    assert answer.verdict == pb.VERDICT_NOT_RECOGNIZED_BY_RULE


async def test_a_country_that_no_rule_names_is_refused(app, countries):
    answer = await verify(app, countries["FR"].text())
    assert answer.outcome == pb.OUTCOME_NOT_RECOGNIZED
    assert answer.verdict == pb.VERDICT_NOT_RECOGNIZED_BY_RULE
    assert answer.colour == types_pb2.COLOUR_UNSPECIFIED


async def test_a_signer_that_the_node_does_not_know_is_refused(app, countries):
    answer = await verify(app, countries["AT"].text())
    assert answer.verdict == pb.VERDICT_UNKNOWN_ISSUER
    assert not answer.health_code.health_code_id


async def test_the_folder_is_followed_while_the_node_runs(exchange, app, countries):
    async def verdict(code):
        return (await verify(app, countries[code].text())).verdict

    async def until_verdict(code, expected):
        async def is_so():
            return await verdict(code) == expected

        await until(f"{code} is {expected}", is_so)

    pem = countries["AT"].certificate.public_bytes(Encoding.PEM)
    added, broken, germany = (exchange.known / name for name in ("AT.pem", "broken.pem", "DE.pem"))
    kept = germany.read_bytes()
    try:
        added.write_bytes(pem)
        await until_verdict("AT", pb.VERDICT_ACCEPTED)
        broken.write_text("not a certificate")
        await until(
            "the broken file is named",
            lambda: any(
                "foreign.refused" in line and str(broken) in line
                for line in exchange.log(SHANGHAI).read_text().splitlines()
            ),
        )
        assert await verdict("AT") == pb.VERDICT_ACCEPTED
        germany.unlink()
        await until_verdict("DE", pb.VERDICT_UNKNOWN_ISSUER)
    finally:
        for path in (added, broken):
            path.unlink(missing_ok=True)
        germany.write_bytes(kept)
    await until_verdict("AT", pb.VERDICT_UNKNOWN_ISSUER)
    await until_verdict("DE", pb.VERDICT_ACCEPTED)


def test_a_node_does_not_start_with_a_certificate_that_is_none(exchange):
    broken = exchange.known / "broken.pem"
    broken.write_text("not a certificate")
    exchange.stop(SHANGHAI)
    try:
        with pytest.raises(InvalidFieldError, match=r"foreign\.certificates: .*broken\.pem: not a"):
            exchange.start(environment=exchange.environment)
    finally:
        broken.unlink()
        exchange.start(environment=exchange.environment)


def test_what_is_still_being_written_is_left_alone_and_a_lost_folder_changes_nothing(
    tmp_path, countries
):
    known = tmp_path / "known"
    known.mkdir()
    folder = ForeignFolder(known)
    pem = countries["DE"].certificate.public_bytes(Encoding.PEM)
    file = known / "DE.pem"
    with capture_logs() as logs:
        for part in (pem[:100], pem[:200], pem):
            file.write_bytes(part)
            folder.look()
        assert not folder.current()
        folder.look()
        assert [log["event"] for log in logs] == ["foreign.changed"]
        found = folder.current()
        assert found
        known.rename(tmp_path / "lost")
        for _ in range(3):
            folder.look()
    assert [log["event"] for log in logs] == ["foreign.changed", "foreign.refused"]
    assert folder.current() is found
