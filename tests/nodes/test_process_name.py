"""The name by which a store tells one process from another."""

from __future__ import annotations

import pytest

from exchange.errors import InvalidFieldError
from nodes.worker import Worker, folders, name


def test_a_process_has_the_same_name_after_a_restart_and_no_other_has_it(tmp_path):
    own = [Worker(number, 3).folder(tmp_path) for number in range(3)]
    for each in own:
        each.mkdir(parents=True, exist_ok=True)
    names = [name(each) for each in own]
    assert len(set(names)) == 3
    assert {len(each) for each in names} == {8}
    assert [name(each) for each in own] == names
    assert folders(tmp_path) == dict(enumerate(own))


def test_what_a_crash_left_of_a_name_is_none(tmp_path):
    (tmp_path / "name").write_bytes(b"")
    made = name(tmp_path)
    assert len(made) == 8
    assert name(tmp_path) == made


def test_a_folder_that_can_hold_no_name_is_refused(tmp_path):
    with pytest.raises(InvalidFieldError) as refused:
        name(tmp_path / "nowhere")
    assert refused.value.field == "data"
