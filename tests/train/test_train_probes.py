"""Halves of documents, canaries, passages and probes: what runs train on, and what they record of it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from allometry.core.errors import AllometryError
from allometry.data.tokens import prepare
from allometry.models.transformer import TransformerConfig
from allometry.runs.store import Store
from allometry.train.config import DataConfig, RunConfig, TrainConfig, evaluation_steps
from allometry.train.inputs import load_inputs
from allometry.train.loop import train
from allometry.train.plant import CANARY, Plant

Make = Callable[..., RunConfig]
PLANT = {
    "repeats": (0, 1, 30), "canaries": 1, "passages": 2, "slots": 4, "length": 30, "suffix": 8,
    "prompts": (8, 22), "references": 20,
}  # fmt: skip
DATA = {"plant": PLANT, "probe": "planted"}


def test_new_settings_leave_the_identity_of_other_runs_alone(make_run: Make) -> None:
    assert not {"plant", "half", "probe"} & set(make_run().identity()["data"])
    assert make_run(data={"half": 3}).id != make_run().id
    again = RunConfig.model_validate(json.loads(make_run(data=DATA).model_dump_json()))
    assert again.id == make_run(data=DATA).id
    assert again.trunk is None


def test_canaries_and_passages_begin_windows_as_often_as_they_should(make_run: Make) -> None:
    longer = {"tokens": 60 * 256, "batch_tokens": 256}
    config = make_run(data=DATA, **longer)
    inputs, plain = load_inputs(config), load_inputs(make_run(**longer))
    batches = [inputs.order.batch(step) for step in range(1, config.train.steps + 1)]
    starts = [bytes(row[:24].astype(np.uint8)) for batch in batches for row in batch]
    assert inputs.probes is not None
    changed = sum(
        int((batch != plain.order.batch(step)).any(axis=1).sum()) for step, batch in enumerate(batches, 1)
    )
    assert changed == 31 * 3
    for row in inputs.probes.rows:
        if row["kind"] in ("canary", "passage"):
            assert starts.count(row["text"].encode()[:24]) == row["repeats"] == len(row["steps"])
    canaries = [row["text"] for row in inputs.probes.rows if row["kind"] == "canary"]
    assert all(text.startswith(CANARY) and text[len(CANARY) :].isdigit() for text in canaries)
    assert np.array_equal(load_inputs(config).order.batch(7), batches[6])


def test_passages_are_never_evaluated_nor_ordinary_training_text(make_run: Make) -> None:
    inputs = load_inputs(make_run(data=DATA, tokens=100 * 128))
    assert inputs.probes is not None
    evaluated = bytes(inputs.tests["loss"].astype(np.uint8).ravel())
    passages = [row["text"].encode() for row in inputs.probes.rows if row["kind"] == "passage"]
    assert len(passages) == 6
    assert not any(text in evaluated for text in passages)
    other = load_inputs(make_run(data={**DATA, "plant": {**PLANT, "seed": 5}}, tokens=100 * 128))
    assert other.probes is not None
    names = [
        {row["probe"]: row["repeats"] for row in each.rows if row["kind"] == "passage"}
        for each in (inputs.probes, other.probes)
    ]
    assert set(names[0]) == set(names[1])
    assert names[0] != names[1]


def test_what_was_often_seen_is_known_best(make_run: Make, tmp_path: Path) -> None:
    config = make_run(data=DATA, tokens=400 * 128, engine="auto")
    store = Store(tmp_path / "runs", create=True)
    train(config, store.directory(config.id))
    probes = store.probes([config.id])
    last = probes[probes["step"] == probes["step"].max()]
    mean = last[last["kind"] == "passage"].groupby("repeats")["loss"].mean()
    assert mean[30] < 0.9 * mean[0]
    canaries = last[last["kind"] == "canary"].set_index("repeats")["loss"]
    assert canaries[30] < canaries[0]
    assert (last["kind"].value_counts()["reference"], last["tokens"].max()) == (20, 29)
    assert last.loc[last["kind"] == "extract", "hits"].between(0, 8).all()
    first = probes[probes["step"] == probes["step"].min()]
    assert (first["seen"] <= last["seen"].to_numpy()).all()
    assert (last["seen"] == last["repeats"]).all()


def test_a_half_is_a_half_of_the_documents(make_run: Make) -> None:
    config = make_run(data={"half": 1, "probe": "documents"})
    inputs, whole = load_inputs(config), load_inputs(make_run())
    assert inputs.probes is not None
    inside = [row["repeats"] for row in inputs.probes.rows if row["kind"] == "document"]
    assert sum(inside) == len(inside) // 2
    assert 0.4 < inputs.unique / whole.unique < 0.6
    trained = bytes(np.asarray(inputs.order.tokens, np.uint8))
    for row in inputs.probes.rows:
        assert (row["text"].encode() in trained) == bool(row["repeats"])
    blocks = load_inputs(make_run(data={"half": 1, "limit": 3200, "spread": 100, "probe": "documents"}))
    assert blocks.unique == 1600
    assert blocks.probes is not None
    assert sum(row["kind"] == "document" for row in blocks.probes.rows) == 32


def test_windows_are_the_same_in_a_set_and_in_what_skips_it(make_run: Make) -> None:
    def rows(**data: int) -> tuple[list[bool], list[str]]:
        config = make_run(data={"probe": "windows", "spread": 100, **data})
        inputs = load_inputs(config)
        assert inputs.probes is not None
        (group,) = inputs.probes.groups
        trained = bytes(np.asarray(inputs.order.tokens, np.uint8))
        there = [bytes(window.astype(np.uint8)) in trained for window in group.windows]
        assert there == [bool(row["repeats"]) for row in inputs.probes.rows]
        assert inputs.probes.rows[0]["tokens"] == config.model.n_ctx
        return there, [row["probe"] for row in inputs.probes.rows]

    small, names = rows(limit=800)
    rest, same = rows(skip=800)
    assert names == same
    assert [not inside for inside in small] == rest
    assert {name for name, inside in zip(names, small, strict=True) if inside} == {
        name for name in names if int(name.split()[1].split(".")[0]) < 8
    }
    with pytest.raises(AllometryError, match="after 900000"):
        rows(skip=900_000)
    with pytest.raises(AllometryError, match="needs blocks"):
        rows(spread=8)


def test_uniform_sequences_are_memorised_window_by_window(tmp_path: Path) -> None:
    corpus = "synthetic:uniform,symbols=16,length=9,sequences=100,seed=1"
    config = RunConfig(
        model=TransformerConfig(n_layer=1, d_model=32, n_ctx=8, n_vocab=17),
        data=DataConfig(corpus=corpus, tokenizer="symbols", eval_tokens=512, probe="trained"),
        train=TrainConfig(tokens=150 * 400, batch_tokens=400, lr=0.02, warmup=5, weight_decay=0.0),
        engine="fast",
    )
    tokens = prepare(corpus, "symbols")
    rows = {tuple(row) for row in np.reshape(tokens.train, (100, 10))[:, :9].tolist()}
    order = load_inputs(config).order
    epoch = np.concatenate([order.batch(3), order.batch(4)])
    assert {tuple(row) for row in epoch.tolist()} == rows
    store = Store(tmp_path / "runs", create=True)
    result = train(config, store.directory(config.id))
    probes = store.probes([config.id])
    last = probes[probes["step"] == config.train.steps]
    assert last["tokens"].sum() == 100 * 8
    assert last["entropy"].sum() == pytest.approx(800 * np.log(16))
    assert last["loss"].sum() < 0.9 * last["entropy"].sum()
    assert result["loss"] > np.log(16)


def test_an_injection_is_measured_before_and_after_it(make_run: Make) -> None:
    plant = {**PLANT, "repeats": (1,), "at": 40}
    config = make_run(tokens=100 * 128, data={"plant": plant, "probe": "planted"})
    assert {39, 40, 41, 42, 44, 48, 56, 72, 100} <= set(evaluation_steps(config))
    inputs = load_inputs(config)
    assert inputs.probes is not None
    steps = [row["steps"] for row in inputs.probes.rows if row["kind"] == "passage"]
    assert steps == [[40], [40]]


def test_probes_stopped_and_continued_are_bitwise_the_same(
    make_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allometry.train.loop.PROGRESS_SECONDS", 0.0)
    reports = iter(range(45))

    def stop(progress: object) -> None:
        if next(reports, None) is None:
            raise KeyboardInterrupt

    config = make_run(data=DATA, engine="fast", tokens=100 * 128)
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", on_progress=stop)
    with (tmp_path / "parts/probes.jsonl").open("a") as file:
        file.write(
            '{"step":90,"loss":[]}\n{"step":'
        )  # what was recorded after the checkpoint, and half a line
    train(config, tmp_path / "parts")
    for name in ("probes.json", "probes.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"plant": {**PLANT, "length": 40}}, "would be cut"),
        ({"plant": {**PLANT, "slots": 15}}, "would be cut"),
        ({"plant": {**PLANT, "repeats": (100,)}}, "fill more than"),
        ({"plant": {**PLANT, "passages": 500}}, "held-out text"),
        ({"plant": {**PLANT, "at": 59, "repeats": (9,)}}, "insert earlier"),
        ({"half": 0, "limit": 4000, "spread": 400}, "too few for random halves"),
    ],
)
def test_what_does_not_fit_is_said(make_run: Make, data: dict[str, object], said: str) -> None:
    with pytest.raises(AllometryError, match=said):
        load_inputs(make_run(data=data))


def test_impossible_settings_are_refused_when_made(make_run: Make) -> None:
    with pytest.raises(AllometryError, match="needs a plant"):
        make_run(data={"probe": "planted"})
    with pytest.raises(AllometryError, match="longer than a passage"):
        Plant(length=20)
    with pytest.raises(AllometryError, match="inserts nothing"):
        Plant(canaries=0, passages=0)
    with pytest.raises(AllometryError, match="too few for a data set"):
        prepare("synthetic:uniform,sequences=3", "symbols")
    with pytest.raises(AllometryError, match="exponent"):
        prepare("synthetic:uniform,exponent=3", "symbols")
