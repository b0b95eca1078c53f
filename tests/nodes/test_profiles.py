"""What the provinces publish, and the trial that is laid out by it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from exchange.errors import TrustListError, UnknownProvinceError
from exchange.facts import Colour
from exchange.provinces import PROVINCES
from exchange.rules import RuleBook, RuleError
from exchange.trust import ceremony, files, refresh
from exchange.trust.profile import App, Profile
from exchange.trust.signers import Signers, save_signer
from nodes.cli import cases, run
from nodes.cli.client import load
from nodes.config import TrustConfig
from nodes.identity import Identity, Role, make_authority, uris
from nodes.profiles import FOLDER, published, published_rules
from nodes.setup import Member, initialise
from nodes.trust import TrustKeeper

NOW = datetime(2022, 1, 10, 4, 0, tzinfo=UTC)
GUANGDONG, SICHUAN = "440000", "510000"


def test_every_province_has_its_file_and_no_other_lies_there():
    codes = {path.stem for path in FOLDER.glob("*.toml")}
    assert codes == {*PROVINCES, "national"}
    with pytest.raises(UnknownProvinceError):
        published("national")


@pytest.mark.parametrize("code", PROVINCES)
def test_a_province_publishes_its_apps_and_its_rules(code):
    found = published(code)
    assert found.apps
    assert len({app.id for app in found.apps}) == len(found.apps)
    for app in found.apps:
        assert Identity(code, Role.APP, app.id).uri == f"spiffe://{code}.tongxing/app/{app.id}"
        assert not app.zh.isascii()
    assert {Colour.RED, Colour.YELLOW, Colour.GREEN} <= {
        rule.colour for rule in RuleBook(found.rules).rules
    }
    assert found.own_rules == ("[[rules]]" in (FOLDER / f"{code}.toml").read_text())
    if not found.own_rules:
        assert found.rules == published_rules("130000")


def test_no_two_apps_of_the_country_share_a_name():
    names = [app.zh for code in PROVINCES for app in published(code).apps]
    assert len(set(names)) == len(names)
    assert {"粤康码", "粤省事", "天府健康通", "天府市民云", "随申码", "北京健康宝"} <= set(names)


@pytest.mark.parametrize(
    ("code", "digest"),
    [
        ("310000", "a098e418cfa290ab"),
        ("440000", "6266cf2108e15f70"),
        ("510000", "87edacb96df3ec35"),
    ],
)
def test_the_first_three_publish_what_they_always_did(code, digest):
    document = json.dumps(published_rules(code)).encode()
    assert hashlib.sha256(document).hexdigest()[:16] == digest


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.cases.csv")), ids=lambda path: path.name)
def test_the_published_rules_pass_their_cases(path):
    rules = path.with_name(path.name.replace(".cases.csv", ".toml"))
    code = "130000" if rules.stem == "national" else rules.stem
    book = RuleBook(published_rules(code))
    read, faults = cases.read(path, NOW)
    assert faults == []
    results = [cases.run(book, case) for case in read]
    assert [result for result in results if not result.passes] == []
    decides = {result.rule for result in results}
    # Tianjin's is named in a case of its time.
    assert {rule.id for rule in book.rules} <= decides
    assert Colour.UNSPECIFIED in {result.colour for result in results}


def test_every_file_with_rules_has_its_cases():
    with_rules = {code for code in PROVINCES if published(code).own_rules} | {"national"}
    assert {path.name.partition(".")[0] for path in FOLDER.glob("*.csv")} == with_rules
    assert len(with_rules) >= 8


# --- in a profile -----------------------------------------------------------------------------


AUTHORITY = make_authority(SICHUAN, now=NOW, lifetime=timedelta(days=1)).certificate.decode()


def profile(*apps):
    return Profile(SICHUAN, (), AUTHORITY, ("node.example:1",), apps=apps)


def test_apps_survive_json():
    made = profile(*published(SICHUAN).apps)
    document = json.loads(json.dumps(made.to_json()))
    assert document["apps"][0] == {
        "id": "tianfujiankangtong",
        "zh": "天府健康通",
        "en": "Tianfu Health Pass",
    }
    assert Profile.from_json(document) == made


def test_a_profile_without_apps_is_written_as_before_there_were_any():
    assert "apps" not in profile().to_json()
    assert Profile.from_json(profile().to_json()).apps == ()


APP = {"id": "yuekangma", "zh": "粤康码", "en": "Yuekang Code"}


@pytest.mark.parametrize(
    ("apps", "field"),
    [
        ("yuekangma", "apps"),
        (["yuekangma"], "apps[0]"),
        ([{**APP, "id": ""}], "apps[0].id"),
        ([{**APP, "id": "粤康码"}], "apps[0].id"),
        ([{**APP, "id": "Yuekangma"}], "apps[0].id"),
        ([{**APP, "id": "a/b"}], "apps[0].id"),
        ([{**APP, "id": "-a"}], "apps[0].id"),
        ([{**APP, "id": "a" * 41}], "apps[0].id"),
        ([{**APP, "id": "a\n"}], "apps[0].id"),
        ([{**APP, "id": 7}], "apps[0].id"),
        ([{"id": "a", "en": "A"}], "apps[0].zh"),
        ([{**APP, "zh": " "}], "apps[0].zh"),
        ([{**APP, "zh": "粤\u202e康码"}], "apps[0].zh"),
        ([{**APP, "en": "two\nlines"}], "apps[0].en"),
        ([{**APP, "en": "x" * 41}], "apps[0].en"),
        ([APP, {**APP, "zh": "另一个"}], "apps[1].id"),
        ([{**APP, "id": f"app-{at}"} for at in range(17)], "apps"),
    ],
)
def test_an_app_that_is_none_is_refused(apps, field):
    with pytest.raises(TrustListError) as caught:
        Profile.from_json({**profile().to_json(), "apps": apps})
    assert caught.value.field == field


def test_a_field_of_a_later_version_is_left_aside():
    read = Profile.from_json({**profile().to_json(), "apps": [{**APP, "icon": "x"}]})
    assert read.apps == (App(**APP),)


# --- the node's own ---------------------------------------------------------------------------


MISSPELT = {
    "id": "nat",
    "kinds": ["NUCLEIC_ACID_TEST"],
    "colour": "GREEN",
    "when": 'fact.result == "NEGATIV"',
    "reason": {"zh": "核酸阴性", "en": "a negative test"},
    "valid_from": "2022-01-01T00:00:00Z",
}


async def test_a_node_goes_by_its_misspelt_rules_as_its_peers_do_and_says_so(tmp_path):
    now = datetime.now(UTC)
    misspelt = dataclasses.replace(profile(), rules=(MISSPELT,))
    other = make_authority(GUANGDONG, now=now, lifetime=timedelta(days=1)).certificate.decode()
    profiles = (misspelt, Profile(GUANGDONG, (), other, ("other.example:1",)))
    trust = tmp_path / "trust"
    signers = Signers.generate([SICHUAN, GUANGDONG])
    files.write(trust, ceremony.initialise(profiles, signers, now=now))

    def keeper(province):
        config = TrustConfig(root=trust / "1.root.json", metadata=trust)
        return TrustKeeper(config, province, tmp_path / province, lambda: now)

    with capture_logs() as logged:
        assert (await keeper(SICHUAN).start()).profile(SICHUAN).rules == (MISSPELT,)
    (said,) = [each for each in logged if each["event"] == "trust.rules_doubtful"]
    assert "rules[nat].when" in said["why"]
    with capture_logs() as logged:
        assert (await keeper(GUANGDONG).start()).profile(SICHUAN).rules == (MISSPELT,)
    assert "trust.rules_doubtful" not in [each["event"] for each in logged]


def test_a_trial_with_misspelt_rules_is_refused(tmp_path):
    members = {SICHUAN: Member(SICHUAN, "127.0.0.1:7443")}
    with pytest.raises(RuleError):
        initialise(tmp_path / "x", members, now=NOW, rules={SICHUAN: (MISSPELT,)})


def test_misspelt_rules_are_neither_signed_nor_published(tmp_path, capsys):
    signers = Signers.generate([SICHUAN])
    misspelt = dataclasses.replace(profile(), rules=(MISSPELT,))
    document, key = tmp_path / "profile.json", tmp_path / "role.pem"
    document.write_text(json.dumps(misspelt.to_json()))
    save_signer(key, signers.provinces[SICHUAN], None)
    signed = tmp_path / "signed.json"
    sign = ["trust", "profile", "sign", document, "--key", key, "--version", 2, "--out", signed]
    assert run(list(map(str, sign))) == 1
    assert "rules[nat].when" in capsys.readouterr().err
    assert not signed.exists()
    signed.write_bytes(
        ceremony.sign_profile(misspelt, signers.provinces[SICHUAN], version=2, now=NOW)
    )
    assert run(["trust", "profile", "publish", str(signed), "--client", "none.toml"]) == 1
    assert "rules[nat].when" in capsys.readouterr().err


# --- the trial ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trial") / "exchange"
    members = {
        code: Member(code, f"127.0.0.1:{port}")
        for port, code in enumerate((SICHUAN, GUANGDONG, "660000"), 7443)
    }
    initialise(directory, members, now=datetime.now(UTC))
    return directory


def identity(path):
    return uris(x509.load_pem_x509_certificate(path.read_bytes()))


@pytest.mark.parametrize(
    ("stem", "name"), [("app", "yuekangma"), ("app-yueshengshi", "yueshengshi")]
)
def test_the_trials_apps_bear_their_real_names(trial, stem, name):
    home = trial / GUANGDONG
    assert identity(home / f"{stem}.pem") == [f"spiffe://440000.tongxing/app/{name}"]
    assert stat.S_IMODE((home / f"{stem}-key.pem").stat().st_mode) == 0o600
    config = load(home / f"{stem}.toml")
    assert (config.province, config.certificate.name) == (GUANGDONG, f"{stem}.pem")


def test_a_province_of_one_app_has_one(trial):
    assert sorted(path.name for path in (trial / "660000").glob("app*.toml")) == ["app.toml"]


def test_the_trust_list_says_which_apps_a_province_has(trial, tmp_path):
    root = (trial / "trust" / "1.root.json").read_bytes()
    found = refresh.load(trial / "trust", root, tmp_path / "cache")
    assert found.profile(GUANGDONG).apps == published(GUANGDONG).apps
    changed = dataclasses.replace(found.profile(GUANGDONG), apps=())
    assert "apps" not in changed.to_json()
