"""Runs of other text that lie aside in a store which somebody else made: nothing leaves the store."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from allometry.core.errors import AllometryError
from allometry.runs.record import (
    ASIDE,
    TEXT_FILE,
    Text,
    exchange_text,
    is_text_damaged,
    record_text,
    recorded_text,
)
from allometry.runs.store import Store

RUN = "transformer-1x16-sotu-1k-s0-abc"
OLD = Text({"sotu | bytes": {"tokens": "old", "identity": "x"}})
NEW = Text({"sotu | bytes": {"tokens": "new", "identity": "x"}})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "runs", create=True)
    directory = made.path / RUN
    directory.mkdir()
    (directory / "weights").write_text("of old")
    record_text(directory, OLD)
    return made


def test_a_run_goes_aside_and_comes_back(store: Store) -> None:
    assert not exchange_text(store.path, RUN, OLD.digest, NEW.digest)
    assert not (store.path / RUN).exists()
    assert exchange_text(store.path, RUN, NEW.digest, OLD.digest)
    assert (store.path / RUN / "weights").read_text() == "of old"


@pytest.mark.parametrize("link", ["", OLD.digest, f"{NEW.digest}", f"{NEW.digest}/{RUN}"])
def test_no_link_is_followed(link: str, store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / NEW.digest / RUN).mkdir(parents=True)
    (victim / "mine").write_text("mine")
    place = store.path / ASIDE / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim)
    with pytest.raises(AllometryError, match="is a link"):
        exchange_text(store.path, RUN, OLD.digest, NEW.digest)
    assert recorded_text(store.path / RUN) == OLD
    with suppress(AllometryError):  # the link itself may go
        store.purge()
    assert (victim / "mine").read_text() == "mine"
    assert (victim / NEW.digest / RUN).is_dir()


def test_links_among_what_was_removed_are_not_deleted_through(store: Store, tmp_path: Path) -> None:
    (tmp_path / "victim" / "run").mkdir(parents=True)
    (store.path / ".removed").mkdir()
    (store.path / ".removed" / "1").symlink_to(tmp_path / "victim")
    with pytest.raises(AllometryError, match="is a link"):
        store.purge()
    assert (tmp_path / "victim" / "run").is_dir()


@pytest.mark.parametrize("name", ["../victim", "/etc", "..", "studies/../../victim", ""])
def test_no_name_leads_out(name: str, store: Store, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    with pytest.raises(AllometryError):
        exchange_text(store.path, name, OLD.digest, NEW.digest)
    assert (tmp_path / "victim").is_dir()
    assert (store.path / RUN).is_dir()


@pytest.mark.parametrize(
    "written", ["", "{", "[]", '{"sets": 3}', '{"sets": {"a | b": {"tokens": 1}}}', None]
)
def test_what_lies_aside_damaged_or_under_a_false_digest_stays_there(
    written: str | None, store: Store
) -> None:
    aside = store.path / ASIDE / NEW.digest / RUN
    aside.mkdir(parents=True)
    if written is None:
        record_text(aside, OLD)
    else:
        (aside / TEXT_FILE).write_text(written)
        assert is_text_damaged(aside)
    assert not exchange_text(store.path, RUN, OLD.digest, NEW.digest)
    assert aside.is_dir()
    assert not (store.path / RUN).exists()


def test_a_digest_is_no_path_whatever_a_record_says(store: Store) -> None:
    hostile = {"../../x\ud800 | bytes": {"tokens": "../../../etc", "identity": "/"}}
    (store.path / RUN / TEXT_FILE).write_text(json.dumps({"sets": hostile, "parent": "../.."}))
    found = recorded_text(store.path / RUN)
    assert found is not None
    assert len(found.digest) == 12
    assert set(found.digest) <= set("0123456789abcdef")
