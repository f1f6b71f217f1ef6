"""A run belongs to the text that it was trained on: when a corpus changes, no old result is given for new."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from allometry.cli import main
from allometry.core.errors import AllometryError
from allometry.models.transformer import TransformerConfig
from allometry.runs import record
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.execute import execute
from allometry.sweeps.local import LocalPool
from allometry.sweeps.progress import Summary
from allometry.train.checkpoint import Position, position_problem
from allometry.train.config import DataConfig, RunConfig, TrainConfig
from allometry.train.loop import train
from allometry.train.texts import compare

OLD = ["law", "loss", "scale", "token", "step", "power", "curve", "batch"]
NEW = ["kilo", "mega", "giga", "tera", "peta", "exa", "zetta", "yotta"]


def prose(words: list[str], seed: int = 0) -> str:
    """Eight hundred sentences of random words, 40 kB."""
    import numpy as np

    random = np.random.default_rng(seed)
    return "\n\n".join(" ".join(random.choice(words, size=8)) + "." for _ in range(800))


def run_on(corpus: str, tokens: int = 1280, **settings: object) -> RunConfig:
    data = {key: settings.pop(key) for key in ("tokenizer", "eval_on") if key in settings}
    return RunConfig(
        model=TransformerConfig(n_layer=1, d_model=16, n_ctx=32, n_vocab=300),
        data=DataConfig(corpus=corpus, eval_tokens=512, **data),
        train=TrainConfig(tokens=tokens, batch_tokens=128, lr=0.01, warmup=2, **settings),
        engine="reference",
    )


@pytest.fixture(autouse=True)
def own_place(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOMETRY_CACHE", str(empty_cache))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def pool(empty_cache: Path):
    with LocalPool(1) as workers:
        yield workers


@pytest.fixture
def sweep_in(pool: LocalPool) -> Callable[..., Summary]:
    def sweep(store: Store, *runs: RunConfig, **options: object) -> Summary:
        return execute(Sweep("s", "?", runs), store, pool=pool, **options)

    return sweep


def loss(store: Store, run: RunConfig) -> float:
    return float(store.get(run.id).result["loss"])


def fresh(run: RunConfig, tmp_path: Path) -> float:
    """What the run's loss is on the text as it is now, in a store of its own."""
    return float(train(run, tmp_path / "fresh" / str(os.urandom(4).hex()) / run.id)["loss"])


def test_a_changed_file_is_trained_on_and_the_old_run_is_kept(sweep_in, tmp_path: Path) -> None:
    store, run, path = Store("runs", create=True), run_on("files:my.txt"), tmp_path / "my.txt"
    path.write_text(prose(OLD))
    sweep_in(store, run)
    old = loss(store, run)
    path.write_text(prose(NEW))
    said: list[str] = []
    assert sweep_in(store, run, on_event=lambda event: said.append(event.text)).done == (run.id,)
    assert loss(store, run) == fresh(run, tmp_path) != old
    assert "files:my.txt" in said[0]
    path.write_text(prose(OLD))
    assert sweep_in(store, run).skipped == (run.id,)
    assert loss(store, run) == old


def test_the_same_text_under_a_new_date_is_the_same_text(sweep_in, tmp_path: Path) -> None:
    store, run, path = Store("runs", create=True), run_on("files:my.txt"), tmp_path / "my.txt"
    path.write_text(prose(OLD))
    sweep_in(store, run)
    path.write_text(prose(OLD) + "\n")  # white space at the end is no text
    assert sweep_in(store, run).skipped == (run.id,)


def test_a_file_of_the_same_size_and_date_is_noticed(sweep_in, tmp_path: Path) -> None:
    store, run, path = Store("runs", create=True), run_on("files:my.txt"), tmp_path / "my.txt"
    path.write_text(prose(OLD))
    sweep_in(store, run)
    old, before = loss(store, run), path.stat()
    path.write_text(prose(OLD).replace("power", "tower"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    sweep_in(store, run)
    assert loss(store, run) == fresh(run, tmp_path) != old


def test_two_projects_share_a_store_and_not_their_runs(
    sweep_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run = Store(tmp_path / "runs", create=True), run_on("files:my.txt")
    found = {}
    for project, words in (("one", OLD), ("two", NEW)):
        (tmp_path / project).mkdir()
        (tmp_path / project / "my.txt").write_text(prose(words))
        monkeypatch.chdir(tmp_path / project)
        sweep_in(store, run)
        found[project] = loss(store, run)
    assert found["one"] != found["two"]
    for project in ("one", "two", "one"):
        monkeypatch.chdir(tmp_path / project)
        assert sweep_in(store, run).skipped == (run.id,)
        assert loss(store, run) == found[project]


def test_the_text_behind_a_tokenizer_and_behind_an_evaluation_counts(sweep_in, tmp_path: Path) -> None:
    store = Store("runs", create=True)
    (tmp_path / "my.txt").write_text(prose(OLD))
    (tmp_path / "other.txt").write_text(prose(OLD, seed=1))
    runs = (
        run_on("files:my.txt", tokenizer="bpe:270@files:other.txt"),
        run_on("files:my.txt", eval_on=("files:other.txt",)),
    )
    sweep_in(store, *runs)
    old = [loss(store, runs[0]), store.get(runs[1].id).result["loss_files:other.txt"]]
    (tmp_path / "other.txt").write_text(prose(NEW))
    assert set(sweep_in(store, *runs).done) == {run.id for run in runs}
    assert loss(store, runs[0]) == fresh(runs[0], tmp_path) != old[0]
    assert store.get(runs[1].id).result["loss_files:other.txt"] != old[1]


def test_what_starts_from_a_run_of_other_text_is_trained_again(sweep_in, tmp_path: Path) -> None:
    store = Store("runs", create=True)
    (tmp_path / "my.txt").write_text(prose(OLD))
    (tmp_path / "fixed.txt").write_text(prose(OLD, seed=1))
    parent = run_on("files:my.txt")
    child = run_on("files:fixed.txt", init_from=parent.id)
    sweep_in(store, parent, child)
    old = loss(store, child)
    (tmp_path / "my.txt").write_text(prose(NEW))
    assert set(sweep_in(store, child, parent).done) == {parent.id, child.id}
    assert loss(store, child) != old


def test_no_checkpoint_and_no_trunk_of_other_text_is_continued(
    sweep_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allometry.train.loop.PROGRESS_SECONDS", 0.0)  # a report after every step
    store, path = Store("runs", create=True), tmp_path / "my.txt"
    path.write_text(prose(OLD))
    long, short = run_on("files:my.txt", 12_800), run_on("files:my.txt", 6_400)

    def stop(progress) -> None:
        if progress.step >= 85:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(long, store.directory(long.id), branch_at=(short.train.decay_start,), on_progress=stop)
    assert list(store.directory(long.id).glob("checkpoints/*"))
    path.write_text(prose(NEW))
    with pytest.raises(AllometryError, match="has changed since"):
        train(long, store.directory(long.id))
    sweep_in(store, long, short)
    assert loss(store, short) == fresh(short, tmp_path)
    assert loss(store, long) == fresh(long, tmp_path)


def test_runs_that_record_no_text_are_named(sweep_in, tmp_path: Path) -> None:
    store, run = Store("runs", create=True), run_on("files:my.txt")
    (tmp_path / "my.txt").write_text(prose(OLD))
    sweep_in(store, run)
    (store.directory(run.id) / record.TEXT_FILE).unlink()
    said: list[str] = []
    assert sweep_in(store, run, on_event=lambda event: said.append(event.text)).skipped == (run.id,)
    assert "do not record their text" in said[0]
    assert compare([run], store.path).unknown == [run.id]
    (store.directory(run.id) / record.TEXT_FILE).write_text("{")
    found = compare([run], store.path)
    assert (found.unknown, found.damaged) == ([], [run.id])
    assert "1 run with a damaged text.json, taken to be of the present text" in found.sentences()[0]


def test_a_shared_store_with_runs_of_other_text_is_refused(sweep_in, tmp_path: Path) -> None:
    store, run = Store("runs", create=True), run_on("files:my.txt")
    (tmp_path / "my.txt").write_text(prose(OLD))
    sweep_in(store, run)
    old = loss(store, run)
    (tmp_path / "my.txt").write_text(prose(NEW))
    with pytest.raises(AllometryError, match=r"files:my\.txt") as caught:
        sweep_in(store, run, shared=True)
    assert "--store" in (caught.value.hint or "")
    assert loss(store, run) == old


def test_a_corpus_that_changes_during_a_sweep_changes_no_run_of_it(sweep_in, tmp_path: Path) -> None:
    store, path = Store("runs", create=True), tmp_path / "my.txt"
    path.write_text(prose(OLD))
    first, second = run_on("files:my.txt"), run_on("files:my.txt", seed=1)
    expected = fresh(second, tmp_path)

    def change(event) -> None:
        if event.kind == "done":
            path.write_text(prose(NEW))

    sweep_in(store, first, second, on_event=change, first=[first.id])
    assert loss(store, second) == expected


def test_the_command_train_gives_the_result_of_the_text_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_on("files:my.txt")
    (tmp_path / "run.json").write_text(json.dumps(run.model_dump(mode="json")))
    printed = []
    for words in (OLD, NEW, NEW, OLD):
        (tmp_path / "my.txt").write_text(prose(words))
        main_ok(["train", "run.json"])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[3] != printed[1] == printed[2]


def main_ok(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code in (0, None)


def test_a_checkpoint_that_names_its_text_is_sound() -> None:
    position = asdict(Position(step=3, engine="fast", started="2026-11-30T18:00:00+00:00", text="ab" * 32))
    assert position_problem(position) is None
    assert position_problem({**position, "text": None}) is None
    assert position_problem({**position, "text": 5}) == "'text' in its position is wrong"
