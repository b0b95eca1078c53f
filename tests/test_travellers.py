from __future__ import annotations

import importlib.util
import subprocess
import sys
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from exchange.subjects import Document, DocumentType, check_credit_code

SCRIPT = Path(__file__).parents[1] / "scripts" / "travellers.py"
NOW = datetime(2020, 3, 1, 4, 0, tzinfo=UTC)
SEED = 20200301


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("travellers", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(script):
    return list(script.travellers(588, now=NOW, seed=SEED))


def run(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(out), "--seed", str(SEED), *more]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_same_seed_and_time_give_the_same_rows(script, rows):
    assert list(script.travellers(588, now=NOW, seed=SEED)) == rows


def test_another_seed_gives_other_travellers(script, rows):
    others = list(script.travellers(588, now=NOW, seed=SEED + 1))
    assert {row["holder_name"] for row in others} != {row["holder_name"] for row in rows}
    assert not {row["attestation_id"] for row in others} & {row["attestation_id"] for row in rows}


def test_another_time_gives_the_same_travellers(script, rows):
    later = list(script.travellers(588, now=NOW + timedelta(days=900), seed=SEED))
    assert [row["document_number"] for row in later] == [row["document_number"] for row in rows]
    assert not {row["attestation_id"] for row in later} & {row["attestation_id"] for row in rows}


def test_every_document_parses_and_none_comes_twice(rows):
    documents = {
        Document.parse(DocumentType(row["document_type"]), row["document_number"], today=NOW.date())
        for row in rows
    }
    assert len(documents) == len(rows) == 588


def test_types_and_kinds_are_mixed(rows):
    types = Counter(row["document_type"] for row in rows)
    assert set(types) == set(DocumentType) - {DocumentType.OTHER}
    assert types["RESIDENT_ID"] > 0.7 * len(rows)
    kinds = Counter(row["kind"] for row in rows)
    assert len(kinds) == 4
    assert kinds["MEDICAL_EXAMINATION"] + kinds["NUCLEIC_ACID_TEST"] > 0.7 * len(rows)


def test_every_fact_is_green_and_fresh(rows):
    limits = {
        "MEDICAL_EXAMINATION": timedelta(days=7),
        "NUCLEIC_ACID_TEST": timedelta(hours=24),
        "RECOVERY": timedelta(days=180),
        "HEALTH_CODE_STATUS": timedelta(hours=24),
    }
    good = {"result": "NEGATIVE", "conclusion": "FIT", "colour": "GREEN"}
    for row in rows:
        sampled = datetime.fromisoformat(row["sample_time"])
        assert timedelta() < NOW - sampled < limits[row["kind"]]
        assert not row["result_time"] or sampled < datetime.fromisoformat(row["result_time"]) < NOW
        assert all(row[column] in {"", value} for column, value in good.items())


def test_ids_are_uuidv7_of_the_sample_time(rows):
    ids = [uuid.UUID(row["attestation_id"]) for row in rows]
    assert len(set(ids)) == len(rows)
    for id_, row in zip(ids, rows, strict=True):
        assert (id_.version, id_.variant) == (7, uuid.RFC_4122)
        sampled = datetime.fromisoformat(row["sample_time"])
        assert id_.int >> 80 == int(sampled.timestamp() * 1000)


def test_the_issuer_is_one_and_its_credit_code_valid(script, rows):
    assert {row["issuer_credit_code"] for row in rows} == {script.ISSUER_CREDIT_CODE}
    assert {row["issuer_name"] for row in rows} == {script.ISSUER_NAME} == {"成都市示例医院"}
    assert check_credit_code(script.ISSUER_CREDIT_CODE) == script.ISSUER_CREDIT_CODE


def test_a_naive_time_is_refused(script, tmp_path):
    with pytest.raises(ValueError, match="aware"):
        next(script.travellers(1, now=datetime(2020, 3, 1), seed=1))  # noqa: DTZ001 - the point
    done = run(tmp_path / "out.csv", "--now", "2020-03-01T12:00:00")
    assert done.returncode == 2
    assert "offset" in done.stderr


def test_the_script_writes_the_same_file_twice(tmp_path):
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for file in files:
        done = run(file, "--count", "20", "--now", "2020-03-01T12:00:00+08:00")
        assert done.returncode == 0, done.stderr
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert first.count(b"\r\n") == 21
