"""``tongxing attestation revoke``, ``revoke-issuer``, ``verify`` and ``status-lists``."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import io
import json
import os
import pty
import random
import select
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import cbor2
import pytest

from exchange import attestations, publication
from exchange.errors import InvalidFieldError, NotFoundError, RevokedError
from exchange.keys import PrivateKey
from exchange.v1 import attestation_service_pb2 as pb
from nodes.cli import run
from nodes.cli.offline import read_signed
from nodes.cli.revoking import read_ids
from nodes.trial import TrialExchange

SICHUAN = "510000"
WHY = ["--reason", "试剂批次不合格"]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("TONGXING_CLIENT", "TONGXING_DEBUG", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, invented, no_traces):
    trial = TrialExchange(
        tmp_path_factory.mktemp("revoke-cli"),
        (SICHUAN,),
        issuers={SICHUAN: (invented.ISSUER_CREDIT_CODE,)},
    )
    with trial:
        trial.start()
        yield trial
    no_traces(trial)


@pytest.fixture
def publish(exchange, people):
    """Publishes tests, and gives their ids and signed bytes."""

    async def work(count, fields):
        found = []
        async with exchange.client(SICHUAN, "issuer") as issuer:
            for _ in range(count):
                request = pb.PublishAttestationRequest(attestation=people.tested(**fields))
                answer = await issuer.call(
                    "AttestationService/PublishAttestation", request, pb.PublishAttestationResponse
                )
                view = answer.attestation
                found.append((view.attestation_id, view.signed))
        return found

    return lambda count=1, **fields: asyncio.run(work(count, fields))


@pytest.fixture
def tongxing(exchange, capsys):
    """Runs ``tongxing attestation …`` as somebody of Sichuan's: exit code, output, what was said.

    ``who=None`` is somebody without any configuration."""

    def attestation(*arguments, who="issuer"):
        file = exchange.directory / SICHUAN / f"{who}.toml"
        client = ["--client", str(file)] if who else []
        capsys.readouterr()
        code = run(["attestation", *map(str, arguments), *client])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return attestation


@pytest.fixture
def lives(exchange):
    """Whether an attestation still lives at its node."""

    async def work(id_):
        request = pb.GetAttestationRequest(attestation_id=id_)
        async with exchange.client(SICHUAN, "issuer") as issuer:
            try:
                await issuer.call(
                    "AttestationService/GetAttestation", request, pb.GetAttestationResponse
                )
            except RevokedError:
                return False
        return True

    return lambda id_: asyncio.run(work(id_))


# --- revoke ---------------------------------------------------------------------------------


def test_one_is_revoked_and_told(tongxing, publish, lives):
    ((id_, _), (other, _)) = publish(2)
    code, out, err = tongxing("revoke", id_, *WHY, "--authority", "成都市示例卫健委")
    assert (code, err) == (0, "")
    assert "已撤销 revoked at" in out
    assert id_ in out
    assert not lives(id_)
    assert lives(other)
    assert tongxing("show", id_)[0] == 1
    assert "成都市示例卫健委" in tongxing("show", id_)[2]


def test_many_are_revoked_from_a_file_and_the_command_line(tongxing, publish, lives, tmp_path):
    ids = [id_ for id_, _ in publish(5)]
    file = tmp_path / "ids.txt"
    text = f"\ufeff# 批次 7\n{ids[0]}\n\n  {ids[1].upper()}\n{ids[0]}\n"
    file.write_text(text, encoding="utf-8")
    code, out, _ = tongxing("revoke", ids[2], "--file", file, *WHY, "-o", "json")
    assert code == 0
    said = json.loads(out)
    assert {each["attestation_id"] for each in said["revoked"]} == set(ids[:3])
    assert said["refused"] == []
    assert [lives(id_) for id_ in ids] == [False, False, False, True, True]


def test_the_report_of_publish_file_says_what_to_revoke(publish, new_id, tmp_path):
    report = tmp_path / "report.csv"
    ids = [id_ for id_, _ in publish(2)]
    with report.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["line", "outcome", "attestation_id", "message"])
        writer.writerow([2, "published", ids[0], ""])
        writer.writerow([3, "refused", new_id(), "two\nlines"])
        writer.writerow([5, "already_published", ids[1], ""])
    assert [str(id_) for id_ in read_ids(report)] == ids


def test_an_admin_revokes_what_an_issuer_published(tongxing, publish, lives):
    ((id_, _),) = publish()
    assert tongxing("revoke", id_, *WHY, who="admin")[0] == 0
    assert not lives(id_)


def test_one_that_is_not_there_is_named_and_the_others_are_revoked(
    tongxing, publish, lives, new_id
):
    ((id_, _),) = publish()
    unknown = new_id()
    code, out, err = tongxing("revoke", unknown, id_, *WHY)
    assert code == 1
    assert not lives(id_)
    assert err.count("\n") == 1
    assert unknown in err
    assert "NOT_FOUND" in err
    assert "revoked 1, 未撤销 not revoked 1" in out
    code, out, _ = tongxing("revoke", unknown, *WHY, "--output", "json")
    assert code == 1
    (refused,) = json.loads(out)["refused"]
    assert refused["attestation_id"] == unknown


@pytest.mark.parametrize(
    "line", ["510000-1", "6ba7b810-9dad-11d1-80b4", "胡小君", "6ba7b810 9dad", '"', "a,b"]
)
def test_a_file_with_a_line_that_is_no_id_revokes_nothing(tongxing, publish, lives, tmp_path, line):
    ((id_, _),) = publish()
    file = tmp_path / "ids.txt"
    file.write_text(f"{id_}\n{line}\n", encoding="utf-8")
    code, _, err = tongxing("revoke", "--file", file, *WHY)
    assert code == 1
    assert "--file: line 2" in err
    assert line not in err
    assert lives(id_)


def test_a_file_that_is_not_text_or_not_there_is_refused(tongxing, tmp_path):
    file = tmp_path / "ids"
    for data in (None, "编号".encode("gb18030"), b""):
        if data is not None:
            file.write_bytes(data)
        assert tongxing("revoke", "--file", file, *WHY)[0] == 1


def test_ids_come_from_standard_input(monkeypatch, publish, tongxing, lives):
    ((id_, _),) = publish()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{id_}\n".encode())))
    assert tongxing("revoke", "--file", "-", *WHY)[0] == 0
    assert not lives(id_)


def test_without_an_id_or_a_reason_nothing_is_called(tongxing, new_id):
    assert tongxing("revoke", *WHY)[0] == 1
    assert tongxing("revoke", new_id())[0] == 2


# --- revoke-issuer --------------------------------------------------------------------------


def china(hours):
    """A time so many hours ago, as people in China write it."""
    at = datetime.now(UTC) - timedelta(hours=hours) + timedelta(hours=8)
    return f"{at:%Y-%m-%d %H:%M:%S}"


def test_a_bad_batch_is_counted_and_then_revoked(tongxing, publish, lives, people):
    ids = [id_ for id_, _ in publish(3, hours=100)]
    ((outside, _),) = publish(hours=110)
    batch = ["revoke-issuer", people.issuer.credit_code, "--from", china(101), "--to", china(99)]
    code, out, _ = tongxing(*batch, "--dry-run")
    assert code == 0
    assert "试算" in out
    assert "would be revoked 3" in out
    assert all(map(lives, ids))
    code, out, _ = tongxing(*batch, "--kind", "疫苗接种", *WHY, "-o", "json")
    assert json.loads(out)["revoked"] == 0
    code, out, _ = tongxing(*batch, "--kind", "核酸检测", *WHY, "-o", "json", who="admin")
    assert code == 0
    said = json.loads(out)
    assert (said["revoked"], said["already_revoked"], said["dry_run"]) == (3, 0, False)
    assert not any(map(lives, ids))
    assert lives(outside)
    code, out, _ = tongxing(*batch, *WHY)
    assert "revoked 0, 原已撤销 revoked before 3" in out


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"--to": "2022-01-10 08:00"}, "--to"),
        ({"--from": "2020-01-01"}, "--to"),
        ({"--from": "昨天"}, "--from"),
        ({"--to": "2022-13-01"}, "--to"),
        ({"--kind": "核酸"}, "--kind"),
        ({"--reason": ""}, "--reason"),
        ({"--reason": "—"}, "--reason"),
    ],
)
def test_a_batch_that_is_wrong_is_named_by_its_option(tongxing, people, changes, named):
    options = {
        "--from": "2022-01-10 08:00",
        "--to": "2022-01-10 20:00",
        "--reason": "试剂批次不合格",
    } | changes
    words = [word for option in options.items() for word in option]
    code, _, err = tongxing("revoke-issuer", people.issuer.credit_code, *words)
    assert code == 1
    assert f"{named}: " in err


def test_at_a_terminal_a_bar_shows_how_far_it_has_come(exchange, people, publish):
    publish(2)
    client = str(exchange.directory / SICHUAN / "issuer.toml")
    span = ["--from", china(48), "--to", china(0), "--dry-run", "--client", client]
    command = ["attestation", "revoke-issuer", people.issuer.credit_code, *span]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "nodes.cli", *command], stdout=subprocess.PIPE, stderr=theirs
    ) as asking:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how a pseudo-terminal ends
            while select.select([ours], [], [], 30)[0]:
                shown += os.read(ours, 65536)
        os.close(ours)
        said = asking.stdout.read().decode()
        assert asking.wait(30) == 0
    assert "试算" in said
    assert "撤销 revoked" in shown.decode()
    assert "Traceback" not in shown.decode()


# --- verify and status-lists ----------------------------------------------------------------


@pytest.fixture
def offline(exchange, tongxing, tmp_path):
    """A gate's folder: a copy of the trust list, and status lists."""
    trust = tmp_path / "trust"
    shutil.copytree(exchange.directory / "trust", trust)

    class Gate:
        lists = tmp_path / "lists"

        def fetch(self, *files):
            return tongxing("status-lists", *files, "--into", self.lists, who="app")

        def verify(self, *files, lists=True):
            known = ["--status-lists", self.lists] if lists else []
            return tongxing("verify", *files, "--trust", trust, *known, "-o", "json", who=None)

        def verdicts(self, *files, lists=True):
            code, out, _ = self.verify(*files, lists=lists)
            return code, [each["verdict"] for each in json.loads(out)["attestations"]]

    return Gate()


@pytest.fixture
def written(tmp_path):
    """Writes signed bytes into a file, in one of the forms that are read."""

    def write(signed, form="cbor"):
        text = base64.b64encode(signed).decode()
        url = base64.urlsafe_b64encode(signed).decode().rstrip("=")
        data = {
            "cbor": signed,
            "base64": text.encode(),
            "wrapped": "\n".join(text[at : at + 64] for at in range(0, len(text), 64)).encode(),
            "base64url": url.encode(),
            "json": json.dumps({"decision": {"evidence": [{"attestation": {"signed": text}}]}}),
        }[form]
        path = tmp_path / f"{random.getrandbits(64):x}.{form}"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return write


@pytest.mark.parametrize("form", ["cbor", "base64", "wrapped", "base64url", "json"])
def test_what_is_signed_is_read_in_each_form(written, form):
    signed = b"\xd2\x84" + random.Random(7).randbytes(300)
    assert read_signed(written(signed, form)) == [signed]


def test_a_gate_accepts_without_a_connection_until_it_hears_of_a_revocation(
    offline, publish, written, tongxing
):
    (one_id, one), (_, two) = publish(2)
    files = [written(one, "base64"), written(two, "json")]
    assert offline.verdicts(*files, lists=False) == (3, ["STALE", "STALE"])
    code, out, _ = offline.fetch(*files)
    assert code == 0
    assert "四川省" in out
    assert offline.verdicts(*files) == (0, ["ACCEPTED", "ACCEPTED"])
    assert tongxing("revoke", one_id, *WHY)[0] == 0
    assert offline.verdicts(*files) == (0, ["ACCEPTED", "ACCEPTED"])  # it has not heard yet
    assert offline.fetch(*files)[0] == 0
    assert offline.verdicts(*files) == (3, ["REVOKED", "ACCEPTED"])
    assert offline.verdicts(files[1]) == (0, ["ACCEPTED"])


def test_the_verdict_is_said_in_both_languages(offline, publish, written, tongxing, exchange):
    ((id_, signed),) = publish()
    file = written(signed)
    offline.fetch(file)
    trust = ["--trust", exchange.directory / "trust"]
    code, out, _ = tongxing("verify", file, *trust, "--status-lists", offline.lists, who=None)
    assert code == 0
    for words in ("认可", "ACCEPTED", "accepted", id_, "核酸检测", "510000 四川省", "前 ago)"):
        assert words in out
    code, out, _ = tongxing("verify", file, *trust, who=None)
    assert code == 3
    for words in ("数据过旧", "STALE", "no status list that is fresh enough"):
        assert words in out
    for words in (
        "联网时下载：tongxing attestation status-lists FILE",
        "while connected, fetch it",
    ):
        assert words in out


def test_from_when_a_status_list_is_that_still_counts_is_told(offline, publish, written):
    ((_, signed),) = publish()
    file = written(signed)
    told = json.loads(offline.fetch(file, "-o", "json")[1])["lists"][0]
    (said,) = json.loads(offline.verify(file)[1])["attestations"]
    assert said["status_list"]["issue_time"] == told["issue_time"]
    assert "remedy" not in said
    (said,) = json.loads(offline.verify(file, lists=False)[1])["attestations"]
    assert "status_list" not in said
    assert "attestation status-lists" in said["remedy"]["en"]


def test_the_trust_list_of_the_client_serves_too(offline, publish, written, tongxing):
    ((_, signed),) = publish()
    file = written(signed)
    offline.fetch(file)
    assert tongxing("verify", file, "--status-lists", offline.lists, who="app")[0] == 0


def test_what_was_changed_or_is_no_attestation_is_not_accepted(offline, publish, written):
    ((_, signed),) = publish()
    offline.fetch(written(signed))
    tag = cbor2.loads(signed)
    protected, unprotected, payload, signature = tag.value
    forged = [
        signed[:-1] + bytes([signed[-1] ^ 1]),
        cbor2.dumps(cbor2.CBORTag(18, [protected, unprotected, payload[:-1] + b"x", signature])),
        signed + b"\x00",
        signed[:-1],
        b"\xd2\x84",
    ]
    for each in forged:
        assert offline.verdicts(written(each)) == (3, ["BAD_SIGNATURE"])
        assert offline.verdicts(written(each), written(signed))[0] == 3


def test_a_key_that_no_province_published_is_not_accepted(
    offline, exchange, people, written, epoch_key
):
    drafted = publication.draft(
        people.tested(),
        province=SICHUAN,
        author=people.issuer.credit_code,
        epoch=epoch_key(exchange),
        now=datetime.now(UTC),
    )
    ours = PrivateKey.from_pem(
        (exchange.directory / SICHUAN / "attestation-key.pem").read_bytes(), None
    )
    stranger = PrivateKey.generate(ours.public.algorithm)
    code, verdicts = offline.verdicts(written(attestations.sign(drafted, stranger)), lists=False)
    assert (code, verdicts) == (3, ["UNKNOWN_ISSUER"])
    unlisted = written(attestations.sign(drafted, ours))
    code, out, _ = offline.verify(unlisted, lists=False)
    (said,) = json.loads(out)["attestations"]
    assert (code, said["verdict"]) == (3, "STALE")
    assert "only a node can tell" in said["reason"]["en"]
    code, out, _ = offline.fetch(unlisted)
    assert code == 0
    assert "无需状态列表" in out


def test_what_cannot_be_read_is_an_error_and_never_accepted(offline, tmp_path):
    for data in (b"", b"{", b'{"signed": "!"}', b"{}", "文".encode(), b"hello world!", b"[" * 9999):
        path = tmp_path / "unreadable"
        path.write_bytes(data)
        code, out, err = offline.verify(path, lists=False)
        assert code == 1
        assert "holds no signed attestation" in err
        assert "error" in json.loads(out)
    assert offline.verify(tmp_path / "missing", lists=False)[0] == 1


def test_a_status_list_that_does_not_verify_is_passed_over(offline, publish, written):
    ((_, signed),) = publish()
    file = written(signed)
    offline.fetch(file)
    (held,) = offline.lists.glob("*.cwt")
    data = held.read_bytes()
    for wrong in (b"", data[:-1], data[:-1] + bytes([data[-1] ^ 1]), signed):
        held.write_bytes(wrong)
        code, out, err = offline.verify(file)
        assert code == 3
        assert json.loads(out)["attestations"][0]["verdict"] == "STALE"
        assert f"{held.name} is passed over" in err
        assert "状态列表未采用" in err
    assert offline.fetch(file)[0] == 0  # it is replaced
    assert offline.verdicts(file) == (0, ["ACCEPTED"])


def test_a_list_that_another_node_had_newer_stays(offline, publish, written, exchange):
    from exchange import statuslist

    ((_, signed),) = publish()
    file = written(signed)
    offline.fetch(file)
    (held,) = offline.lists.glob("*.cwt")
    now = datetime.now(UTC)
    found = statuslist.verify(held.read_bytes(), exchange.trust(), now)
    key = PrivateKey.from_pem(
        (exchange.directory / SICHUAN / "attestation-key.pem").read_bytes(), None
    )
    newer = statuslist.sign(
        b"\xff" * len(found.bits),
        province=SICHUAN,
        number=found.number,
        issued_at=now + timedelta(minutes=2),
        ttl=found.ttl,
        signer=key,
    )
    held.write_bytes(newer)
    assert offline.fetch(file)[0] == 0
    assert held.read_bytes() == newer
    assert offline.verdicts(file) == (3, ["REVOKED"])


def test_neither_a_trust_list_nor_a_client_is_an_error(tongxing, written):
    code, _, err = tongxing("verify", written(b"\xd2\x84"), who=None)
    assert code == 1
    assert "--client" in err
    code, _, err = tongxing("verify", written(b"\xd2\x84"), "--root", "x", who=None)
    assert code == 1
    assert "--trust" in err


def test_verify_needs_no_node(exchange, offline, publish, written):
    """The last one: the node stops."""
    ((_, signed),) = publish()
    file = written(signed)
    offline.fetch(file)
    exchange.stop()
    assert offline.verdicts(file) == (0, ["ACCEPTED"])
    assert offline.fetch(file)[0] == 1


def test_errors_of_files_name_no_contents(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"510104199003070029")
    with pytest.raises(InvalidFieldError) as caught:
        read_ids(path)
    assert "5101" not in str(caught.value)
    assert not isinstance(caught.value, NotFoundError)
