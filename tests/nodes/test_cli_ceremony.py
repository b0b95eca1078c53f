"""The ceremony by commands alone: holders who each have their own key, folder and copy."""

from __future__ import annotations

import json
import os
import pty
import shutil
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from exchange.trust import epochs, files, refresh
from exchange.trust.drafts import Draft
from exchange.trust.sealkeys import SealPrivateKey
from exchange.trust.signers import load_signer
from exchange.trust.standing import Standing
from nodes.cli import run
from nodes.trial import TrialExchange, free_ports, wait_until

SICHUAN, GUANGDONG, ZHEJIANG = "510000", "440000", "330000"
NOW = datetime.now(UTC)
SECRET = "a trial's passphrase 口令"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TONGXING_CLIENT", "TONGXING_DEBUG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")


def secret(text: str = SECRET) -> int:
    """A descriptor that gives the passphrase."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.write(text + "\n")
    return reading


@dataclass
class Desk:
    """Where commands are given, and what came of them."""

    capsys: pytest.CaptureFixture[str]
    exchange: Path

    @property
    def trust(self) -> Path:
        return self.exchange / "trust"

    def do(self, *arguments: object) -> str:
        code = run([str(each) for each in arguments])
        out, err = self.capsys.readouterr()
        assert code == 0, err
        return out

    def refused(self, *arguments: object) -> str:
        code = run([str(each) for each in arguments])
        err = self.capsys.readouterr().err
        assert code == 1, err
        assert err.count("\n") == 1, err
        assert SECRET not in err
        return err

    def new_key(self, path: Path) -> Path:
        path.parent.mkdir(exist_ok=True)
        self.do("trust", "key", "new", path, "--passphrase-fd", secret())
        return path

    def propose(self, out: Path, *what: object) -> dict[str, Any]:
        answer = self.do(
            *("trust", "propose", *what, "--by", "四川省 王", "--note", "as agreed"),
            *("--trust", self.trust, "--out", out, "--output", "json"),
        )
        document: dict[str, Any] = json.loads(answer)
        return document

    def sign(self, proposal: Path, key: Path, *more: object) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(
            self.do(*self.signing(proposal, key, *more), "--output", "json")
        )
        return document

    def signing(self, proposal: Path, key: Path, *more: object) -> list[object]:
        fd = ["--passphrase-fd", secret()] if b"ENCRYPTED" in key.read_bytes() else []
        return [
            *("trust", "sign", proposal, "--key", key, "--trust", self.trust, "--yes"),
            *(more or fd),
        ]

    def publish(self, *proposals: Path) -> None:
        self.do(
            *("trust", "publish", *proposals, "--directory", self.trust),
            *("--online-keys", self.exchange / "keys"),
        )

    def provinces(self) -> set[str]:
        root = (self.trust / "1.root.json").read_bytes()
        return set(refresh.load(self.trust, root, self.exchange / "cache").profiles)

    def held(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(
            self.do("trust", "holders", "--trust", self.trust, "--output", "json")
        )
        return document


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("once") / "exchange"
    provinces = (f"--province={GUANGDONG}=127.0.0.1:7443", f"--province={SICHUAN}=127.0.0.1:7444")
    assert run(["trust", "init", str(place), *provinces]) == 0
    return place


@pytest.fixture
def desk(once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    shutil.copytree(once, tmp_path / "exchange")
    capsys.readouterr()
    return Desk(capsys, tmp_path / "exchange")


def targets_key(desk: Desk, number: int) -> Path:
    return desk.exchange / "keys" / f"targets-{number}.pem"


def root_key(desk: Desk, number: int) -> Path:
    return desk.exchange / "keys" / f"root-{number}.pem"


def test_a_fourth_province_is_admitted_by_three_holders(desk: Desk, tmp_path: Path) -> None:
    # Three holders make keys of their own, and the trial's keys go.
    keys = [desk.new_key(tmp_path / f"holder-{name}" / "key.pem") for name in "abc"]
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}
    proposal = tmp_path / "holders.json"
    document = desk.propose(
        proposal,
        *("holders", "targets"),
        *(f"--add={key}.pub" for key in keys),
        *(f"--remove={keyid}" for keyid in desk.held()["roles"]["targets"]["keys"]),
    )
    assert {each["missing"] for each in document["signatures"]} == {2}
    for key in (root_key(desk, 1), root_key(desk, 3), keys[0], keys[1]):
        document = desk.sign(proposal, key)
    assert document["complete"]
    desk.publish(proposal)
    assert desk.held()["targets_version"] == 2

    # The fourth province makes its folder and its role key, and signs its profile at home.
    home = tmp_path / "away" / ZHEJIANG
    home.parent.mkdir()
    desk.do("node", "init", home, "--address", "127.0.0.1:7445")
    role_key = desk.new_key(home / "role-key.pem")
    signed = tmp_path / "1.p330000.json"
    desk.do(
        *("trust", "profile", "sign", home / "profile.json", "--key", role_key),
        *("--trust", desk.trust, "--out", signed, "--passphrase-fd", secret()),
    )

    # Somebody proposes; each holder reviews and signs their own copy, offline.
    proposal = tmp_path / "admit.json"
    document = desk.propose(
        proposal,
        *("admit", ZHEJIANG, "--role-key", f"{role_key}.pub", "--profile", signed),
        *("--seal-key", f"{SICHUAN}={desk.exchange / SICHUAN / 'seal-key.pem'}"),
    )
    english = [each["en"] for each in document["changes"]]
    assert any(text.startswith("admits 330000 Zhejiang 浙江省, role key") for text in english)
    assert "seals epoch 1 of subject tokens anew for 330000" in english
    assert any("接纳 330000 浙江省" in each["zh"] for each in document["changes"])
    copies = []
    for key in keys[1:]:
        copy = key.parent / "admit.json"
        shutil.copy(proposal, copy)
        shutil.copytree(desk.trust, key.parent / "trust")
        review = desk.do(
            "trust", "review", copy, "--trust", key.parent / "trust", "--output", "json"
        )
        assert json.loads(review)["digest"] == document["digest"]
        assert desk.sign(copy, key)["signatures"][0]["missing"] == 1
        copies.append(copy)
    assert "1 more must sign" in desk.refused(
        *("trust", "publish", copies[0], "--directory", desk.trust),
        *("--online-keys", desk.exchange / "keys"),
    )
    desk.publish(*copies)

    assert desk.provinces() == {GUANGDONG, SICHUAN, ZHEJIANG}
    opening = SealPrivateKey.from_pem((home / "seal-key.pem").read_bytes())
    standing = Standing.of(files.read(desk.trust), (desk.trust / "1.root.json").read_bytes())
    (epoch,) = epochs.epochs_of(standing.targets).epochs
    assert epochs.unseal(epoch.sealed[ZHEJIANG], 1, ZHEJIANG, opening)


def test_what_is_printed_before_signing_is_in_both_languages(desk: Desk, tmp_path: Path) -> None:
    proposal = tmp_path / "p.json"
    desk.propose(proposal, "remove", SICHUAN)

    printed = desk.do("trust", "review", proposal, "--trust", desk.trust)

    for words in ("removes 510000 Sichuan", "移除 510000 四川省", "签名未齐", "四川省 王"):
        assert words in printed.replace("\n", " ")


def test_a_holder_confirms_at_a_terminal(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposal = tmp_path / "p.json"
    desk.propose(proposal, "remove", SICHUAN)
    command = [each for each in desk.signing(proposal, targets_key(desk, 1)) if each != "--yes"]
    for answer, signed in (("n", False), ("y", True)):
        ours, theirs = pty.openpty()
        os.write(ours, f"{answer}\n".encode())
        with os.fdopen(theirs, "r") as terminal:
            monkeypatch.setattr("sys.stdin", terminal)
            assert (run([str(each) for each in command]) == 0) is signed
        os.close(ours)
        printed = desk.capsys.readouterr().out
        assert "removes 510000 Sichuan" in printed.replace("\n", " ")
        assert (b'"sig"' in proposal.read_bytes()) is signed


def test_nothing_is_signed_that_nobody_confirms(desk: Desk, tmp_path: Path) -> None:
    proposal = tmp_path / "p.json"
    desk.propose(proposal, "remove", SICHUAN)
    before = proposal.read_bytes()
    command = [each for each in desk.signing(proposal, targets_key(desk, 1)) if each != "--yes"]
    assert run([str(each) for each in command]) == 1
    assert "nobody is there to confirm it" in desk.capsys.readouterr().err
    assert proposal.read_bytes() == before


def test_online_keys_and_threshold_change_by_commands(desk: Desk, tmp_path: Path) -> None:
    new = desk.new_key(tmp_path / "desk" / "timestamp.pem")
    proposal = tmp_path / "online.json"
    desk.propose(proposal, "online", f"--timestamp={new}.pub")
    for number in (1, 2):
        desk.sign(proposal, root_key(desk, number))
    words = desk.refused(
        *("trust", "publish", proposal, "--directory", desk.trust),
        *("--online-keys", desk.exchange / "keys"),
    )
    assert "root version 2 names another timestamp key" in words
    shutil.copy(desk.exchange / "keys" / "snapshot.pem", new.parent)
    desk.do(
        *("trust", "publish", proposal, "--directory", desk.trust, "--online-keys", new.parent),
        *("--passphrase-fd", secret()),
    )
    assert desk.provinces() == {GUANGDONG, SICHUAN}

    proposal = tmp_path / "threshold.json"
    document = desk.propose(proposal, "holders", "root", "--threshold", 3)
    assert "threshold of root: 2 of 3 → 3 of 3" in [each["en"] for each in document["changes"]]


def test_root_and_targets_are_renewed_by_commands(desk: Desk, tmp_path: Path) -> None:
    proposal = tmp_path / "renew.json"
    desk.propose(proposal, "renew")
    for number in (1, 2):
        desk.sign(proposal, root_key(desk, number))
        desk.sign(proposal, targets_key(desk, number))
    desk.publish(proposal)
    assert (desk.held()["root_version"], desk.held()["targets_version"]) == (2, 2)


def test_a_profile_in_toml_is_signed(desk: Desk, tmp_path: Path) -> None:
    home = tmp_path / ZHEJIANG
    desk.do("node", "init", home, "--address", "127.0.0.1:7445")
    fields = json.loads((home / "profile.json").read_bytes())
    key = fields["keys"][0]
    text = (
        f'province = "{ZHEJIANG}"\ntls_ca = {json.dumps(fields["tls_ca"])}\n'
        'addresses = ["127.0.0.1:7445"]\nrules = []\n[[keys]]\n'
        f'kid = "{key["kid"]}"\npublic = {json.dumps(key["public"])}\nalgorithm = "ES256"\n'
        'state = "ACTIVE"\nsince = 2026-01-01T00:00:00Z\n'
    )
    (tmp_path / "profile.toml").write_text(text)
    role_key = desk.new_key(home / "role-key.pem")
    command = ["trust", "profile", "sign", tmp_path / "profile.toml", "--key", role_key]
    desk.do(
        *command, "--version", 1, "--out", tmp_path / "signed.json", "--passphrase-fd", secret()
    )
    assert json.loads((tmp_path / "signed.json").read_bytes())["signed"]["version"] == 1
    assert "--version" in desk.refused(*command, "--passphrase-fd", secret())


CHANGED = """
[[rules]]
id = "nat-24h"
kinds = ["NUCLEIC_ACID_TEST"]
colour = "GREEN"
when = 'fact.result == "NEGATIVE"'
valid_from = 2022-01-10T00:00:00+08:00
reason.zh = "阴性"
reason.en = "negative"
"""


def test_a_province_publishes_changed_rules_and_a_stale_export_is_refused(
    desk: Desk, tmp_path: Path
) -> None:
    rules, exported, signed = (tmp_path / name for name in ("r.toml", "r.json", "s.json"))
    rules.write_text(CHANGED, encoding="utf-8")
    export = ["trust", "profile", "export", SICHUAN, "--trust", desk.trust]
    sign = ["--key", desk.exchange / "keys" / f"p{SICHUAN}.pem", "--trust", desk.trust]
    stood = json.loads(desk.do(*export))
    exported.write_text(desk.do(*export, "--rules", rules), encoding="utf-8")
    document = json.loads(exported.read_bytes())
    assert [rule["id"] for rule in document["rules"]] == ["nat-24h"]
    assert document["rules"][0]["valid_from"] == "2022-01-09T16:00:00Z"
    assert document | {"rules": stood["rules"]} == stood
    assert "--rules FILE" in desk.refused("trust", "profile", "sign", rules, *sign)
    desk.do("trust", "profile", "sign", exported, *sign, "--out", signed)
    place = ["--directory", desk.trust, "--online-keys", desk.exchange / "keys"]
    desk.do("trust", "profile", "publish", signed, *place)
    assert json.loads(desk.do(*export))["rules"] == document["rules"]

    again = ["trust", "profile", "sign", exported, *sign, "--out", tmp_path / "again.json"]
    assert "was exported at version 1, and 2 stands" in desk.refused(*again)
    assert not (tmp_path / "again.json").exists()


def test_misspelt_rules_are_not_exported(desk: Desk, tmp_path: Path) -> None:
    rules = tmp_path / "r.toml"
    rules.write_text(CHANGED.replace('"NEGATIVE"', '"NEGATIV"'), encoding="utf-8")
    export = ["trust", "profile", "export", SICHUAN, "--trust", desk.trust]
    assert 'did you mean "NEGATIVE"?' in desk.refused(*export, "--rules", rules)


def test_a_province_publishes_a_changed_profile_in_a_folder(desk: Desk, tmp_path: Path) -> None:
    exported, signed = tmp_path / "profile.json", tmp_path / "signed.json"
    authority = desk.exchange / SICHUAN / "authority.pem"
    command = ["trust", "profile", "export", SICHUAN, "--trust", desk.trust]
    exported.write_text(desk.do(*command, "--tls-ca", authority))
    assert json.loads(exported.read_bytes())["version"] == 1
    role_key = desk.exchange / "keys" / f"p{SICHUAN}.pem"
    desk.do("trust", "profile", "sign", exported, "--key", role_key, "--out", signed)
    place = ["--directory", desk.trust, "--online-keys", desk.exchange / "keys"]
    assert "2.p510000.json" in desk.do("trust", "profile", "publish", signed, *place)
    assert desk.provinces() == {GUANGDONG, SICHUAN}
    assert json.loads(desk.do(*command))["version"] == 2

    private = desk.exchange / SICHUAN / "authority-key.pem"
    assert "holds a private key" in desk.refused(*command, "--tls-ca", private)
    assert "no profile that can be used" in desk.refused(
        "trust", "profile", "export", ZHEJIANG, "--trust", desk.trust
    )
    assert "is no profile" in desk.refused("trust", "profile", "publish", exported, *place)
    assert "--online-keys" in desk.refused("trust", "profile", "publish", signed, *place[:2])


# --- with a registry and running nodes ---------------------------------------------------------


def test_a_province_is_admitted_while_the_exchange_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TrialExchange(tmp_path / "exchange", [GUANGDONG, SICHUAN], registry=True) as trial:
        trial.start()
        desk = Desk(capsys, trial.directory)
        admin = desk.exchange / SICHUAN / "admin.toml"
        registry = f"--registry={GUANGDONG}={trial.addresses['registry']}"
        (port,) = free_ports(1)
        address = f"127.0.0.1:{port}"
        home = desk.exchange / ZHEJIANG
        desk.do("node", "init", home, "--address", address, registry)
        # The node signs its own profile, and nobody is there to ask for the passphrase.
        (home / "role-passphrase").write_text(SECRET)
        (home / "role-passphrase").chmod(0o600)
        role_key = desk.new_key(home / "role-key.pem")
        signed = tmp_path / "1.p330000.json"
        desk.do(
            *("trust", "profile", "sign", home / "profile.json", "--key", role_key),
            *("--version", 1, "--out", signed, "--passphrase-fd", secret()),
        )
        proposal = tmp_path / "admit.json"
        desk.do(
            *("trust", "propose", "admit", ZHEJIANG, "--role-key", f"{role_key}.pub"),
            *(
                "--profile",
                signed,
                "--seal-key",
                f"{SICHUAN}={desk.exchange / SICHUAN / 'seal-key.pem'}",
            ),
            *("--by", "四川省 王", "--client", admin, "--out", proposal),
        )
        for number in (1, 3):
            desk.sign(proposal, targets_key(desk, number))
        desk.do("trust", "publish", proposal, "--client", admin)

        def arrived() -> bool:
            fetched = desk.do("trust", "fetch", desk.trust, "--client", admin)
            return "targets version 2" in fetched

        wait_until("the node has the new list", arrived, 20)
        trial.addresses[ZHEJIANG] = address
        trial.start(ZHEJIANG)
        shown = desk.do("trust", "show", "--client", home / "app.toml", "--output", "json")
        assert {each["province"] for each in json.loads(shown)["provinces"]} == {
            *(GUANGDONG, SICHUAN, ZHEJIANG)
        }
        words = desk.refused("trust", "publish", proposal, "--client", admin)
        assert "the next one is 3" in words or "based on another" in words
    for name in (GUANGDONG, SICHUAN, ZHEJIANG):
        assert "Traceback" not in trial.log(name).read_text()


# --- mistakes, in plain words ------------------------------------------------------------------


def test_a_wrong_passphrase_is_refused(desk: Desk, tmp_path: Path) -> None:
    key = desk.new_key(tmp_path / "a" / "key.pem")
    proposal = tmp_path / "p.json"
    desk.propose(proposal, "remove", SICHUAN)

    words = desk.refused(*desk.signing(proposal, key, "--passphrase-fd", secret("wrong")))
    assert "the key cannot be opened; check the passphrase" in words


def test_a_passphrase_that_nobody_can_be_asked_for_is_refused(desk: Desk, tmp_path: Path) -> None:
    assert "passphrase of k.pem is missing" in desk.refused(
        "trust", "key", "new", tmp_path / "k.pem"
    )
    words = desk.refused("trust", "key", "new", tmp_path / "k.pem", "--passphrase-fd", secret(""))
    assert "never kept without a passphrase" in words
    words = desk.refused("trust", "key", "new", tmp_path / "k.pem", "--passphrase-fd", 999)
    assert "--passphrase-fd" in words
    assert not (tmp_path / "k.pem").exists()


def test_a_key_is_never_written_over(desk: Desk, tmp_path: Path) -> None:
    key = desk.new_key(tmp_path / "a" / "key.pem")
    before = key.read_bytes()
    words = desk.refused("trust", "key", "new", key, "--passphrase-fd", secret())
    assert "a key is there already" in words
    assert key.read_bytes() == before


def test_a_key_in_an_hsm_is_refused_in_plain_words(desk: Desk, tmp_path: Path) -> None:
    proposal = tmp_path / "p.json"
    desk.propose(proposal, "remove", SICHUAN)
    words = desk.refused(
        *("trust", "sign", proposal, "--key", "pkcs11:token=holder;object=root"),
        *("--trust", desk.trust, "--yes"),
    )
    assert "no support for pkcs11 keys" in words


def test_a_private_key_is_not_taken_for_a_public_one(desk: Desk, tmp_path: Path) -> None:
    key = desk.new_key(tmp_path / "a" / "key.pem")
    words = desk.refused(
        *("trust", "propose", "holders", "root", "--add", key, "--by", "x"),
        *("--trust", desk.trust, "--out", tmp_path / "p.json"),
    )
    assert "is a private key" in words
    assert not (tmp_path / "p.json").exists()


def test_a_holder_of_another_role_or_who_signed_already_is_refused(
    desk: Desk, tmp_path: Path
) -> None:
    proposal = tmp_path / "p.json"
    desk.propose(proposal, "remove", SICHUAN)
    assert "not the key of a holder" in desk.refused(*desk.signing(proposal, root_key(desk, 1)))
    desk.sign(proposal, targets_key(desk, 1))
    assert "has signed already" in desk.refused(*desk.signing(proposal, targets_key(desk, 1)))


def test_an_edit_after_a_signature_is_refused(desk: Desk, tmp_path: Path) -> None:
    proposal = tmp_path / "p.json"
    desk.propose(proposal, "remove", SICHUAN)
    desk.sign(proposal, targets_key(desk, 1))
    proposal.write_text(proposal.read_text().replace("as agreed", "as nobody agreed"))
    for command in (
        desk.signing(proposal, targets_key(desk, 2)),
        ["trust", "review", proposal, "--trust", desk.trust],
    ):
        assert "changed after this holder signed it" in desk.refused(*command)


def test_an_expired_proposal_is_refused(desk: Desk, tmp_path: Path) -> None:
    current = files.read(desk.trust)
    standing = Standing.of(current, current["1.root.json"])
    old = Draft(standing, "四川省 王", "", NOW - timedelta(days=15)).remove(SICHUAN)
    proposal = tmp_path / "p.json"
    proposal.write_bytes(old.to_bytes())
    for command in (
        desk.signing(proposal, targets_key(desk, 2)),
        ["trust", "review", proposal, "--trust", desk.trust],
        [
            *("trust", "publish", proposal, "--directory", desk.trust),
            *("--online-keys", desk.exchange / "keys"),
        ],
    ):
        assert "the proposal expired at" in desk.refused(*command)


def test_a_proposal_that_was_overtaken_is_refused(desk: Desk, tmp_path: Path) -> None:
    first, late = tmp_path / "first.json", tmp_path / "late.json"
    desk.propose(first, "remove", SICHUAN)
    desk.propose(late, "remove", GUANGDONG)
    for number in (1, 2):
        desk.sign(first, targets_key(desk, number))
        desk.sign(late, targets_key(desk, number))
    desk.publish(first)
    words = desk.refused(
        *("trust", "publish", late, "--directory", desk.trust),
        *("--online-keys", desk.exchange / "keys"),
    )
    assert "based on another 1.targets.json" in words
    assert desk.provinces() == {GUANGDONG}


def test_a_revoked_holders_key_is_refused(desk: Desk, tmp_path: Path) -> None:
    gone = load_signer(root_key(desk, 1)).public_key.keyid
    proposal = tmp_path / "p.json"
    desk.propose(proposal, "holders", "root", f"--remove={gone[:16]}")
    for number in (2, 3):
        desk.sign(proposal, root_key(desk, number))
    desk.publish(proposal)
    proposal = tmp_path / "next.json"
    desk.propose(proposal, "renew", "--role", "root")
    assert "not the key of a holder" in desk.refused(*desk.signing(proposal, root_key(desk, 1)))


def test_a_profile_of_the_wrong_version_is_not_proposed(desk: Desk, tmp_path: Path) -> None:
    home = tmp_path / ZHEJIANG
    desk.do("node", "init", home, "--address", "127.0.0.1:7445")
    role_key = desk.new_key(home / "role-key.pem")
    signed = tmp_path / "2.p330000.json"
    desk.do(
        *("trust", "profile", "sign", home / "profile.json", "--key", role_key, "--version", 2),
        *("--out", signed, "--passphrase-fd", secret()),
    )
    words = desk.refused(
        *("trust", "propose", "admit", ZHEJIANG, "--role-key", f"{role_key}.pub"),
        *("--profile", signed, "--by", "x", "--trust", desk.trust, "--out", tmp_path / "p.json"),
    )
    assert "the next version of 330000 is 1" in words


def test_a_proposal_is_never_written_over(desk: Desk, tmp_path: Path) -> None:
    proposal = tmp_path / "p.json"
    desk.propose(proposal, "remove", SICHUAN)
    words = desk.refused(
        *("trust", "propose", "renew", "--by", "x", "--trust", desk.trust, "--out", proposal)
    )
    assert "exists" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("review",), "--trust"),
        (("publish", "--directory", "x"), "--online-keys"),
    ],
)
def test_what_is_missing_is_named(
    desk: Desk, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    proposal = tmp_path / "p.json"
    desk.propose(proposal, "remove", SICHUAN)
    verb, *rest = arguments
    assert words in desk.refused("trust", verb, proposal, *rest)
