"""A node's data folder: its name in the store, and what each of its processes has."""

from __future__ import annotations

import pytest

from exchange.errors import InvalidFieldError
from nodes.folders import folders, name
from nodes.worker import Worker


def test_a_node_has_the_same_name_after_a_restart_and_no_other_has_it(tmp_path):
    nodes = [tmp_path / "a", tmp_path / "b"]
    for each in nodes:
        each.mkdir()
    names = [name(each) for each in nodes]
    assert len(set(names)) == 2
    assert {len(each) for each in names} == {8}
    assert [name(each) for each in nodes] == names


def test_each_process_has_a_folder_and_who_hears_another(tmp_path):
    own = [Worker(number, 3).folder(tmp_path) for number in range(3)]
    hearing = [Worker(number, 2, hears=True).folder(tmp_path) for number in range(2)]
    for each in (*own, *hearing):
        each.mkdir(parents=True, exist_ok=True)
    assert folders(tmp_path) == dict(enumerate(own))
    assert not {*own} & {*hearing}
    assert len({*hearing}) == 2


def test_what_a_crash_left_of_a_name_is_none(tmp_path):
    (tmp_path / "name").write_bytes(b"")
    made = name(tmp_path)
    assert len(made) == 8
    assert name(tmp_path) == made


def test_a_folder_that_can_hold_no_name_is_refused(tmp_path):
    with pytest.raises(InvalidFieldError) as refused:
        name(tmp_path / "nowhere")
    assert refused.value.field == "data"
