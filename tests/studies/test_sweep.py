"""Sweeps: a grid of the user's, its runs, and what the standard analyses make of runs that follow a planted law."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import allometry
from allometry.cli import main
from allometry.core import plugins
from allometry.core.errors import AllometryError
from allometry.models.base import FAMILIES
from allometry.runs.store import Store
from allometry.studies.core import plan as planning
from allometry.studies.core.results import folder_of
from allometry.studies.core.study import studies, study
from allometry.studies.sweep.grid import TEMPLATE, Grid, read_grid
from allometry.studies.sweep.start import earlier_plugins, sweep_request
from allometry.studies.sweep.sweep import GridStudy, axis_effects, paired
from allometry.train.config import DataConfig

from quickstart_store import write_planted  # isort: skip

DATA = DataConfig()


def test_every_combination_has_every_size_horizon_and_seed() -> None:
    grid = Grid(
        family="transformer,lstm",
        n="1e4:1e5:3",
        tokens="200k,400k",
        seeds=2,
        set={"train.weight_decay": "0,0.1,1"},
    )
    arms = grid.runs(0, DATA)
    assert list(arms)[:2] == [f"family=transformer, train.weight_decay={value}" for value in ("0", "0.1")]
    assert len(arms) == 6
    for label, runs in arms.items():
        assert len({run.id for run in runs}) == 3 * 2 * 2
        assert {f"weight_decay={run.train.weight_decay:g}" for run in runs} == {label.split("train.")[1]}
        assert {run.train.seed for run in runs} == {0, 1}
        assert {run.train.tokens for run in runs} == {200_192, 399_872}
    assert len({run.trunk for runs in arms.values() for run in runs}) == 6 * 3 * 2


def test_a_run_of_the_rule_is_the_run_of_a_study() -> None:
    from allometry.studies.core.study import small_model, small_run

    (run,) = Grid(n="20000", tokens=[512_000]).runs(0, DATA)["sweep"]
    assert run.id == small_run(small_model(20_000, n_vocab=256), tokens=512_000, data=DATA).id


def test_compute_sets_the_horizons_where_none_are_given() -> None:
    grid = Grid(n="1e4,1e5", seeds=2)
    one, two = (grid.runs(compute, DATA)["sweep"] for compute in (1e13, 2e13))
    assert len(one) == len(two) == 2 * 4 * 2
    assert max(r.train.tokens for r in two) == pytest.approx(2 * max(r.train.tokens for r in one), rel=0.01)
    longest = max(run.train.tokens for run in one)
    trunks = sum(
        r.model.counts().flops_per_token("attention") * longest for r in one if r.train.tokens == longest
    )
    assert 0.6e13 < trunks < 1e13
    with pytest.raises(AllometryError, match="too few"):
        grid.runs(1e9, DATA)


def test_fields_and_rates_are_axes_and_shapes_are_exact() -> None:
    grid = Grid(
        shapes="2x32,3x48",
        tokens=[512_000],
        rate="rule,0.002",
        set={"n_head": [2], "data.limit": [1_000_000]},
    )
    arms = grid.runs(0, DATA)
    assert list(arms) == ["rate=rule", "rate=0.002"]
    for runs in arms.values():
        assert [(r.model.n_layer, r.model.d_model, r.model.n_head) for r in runs] == [(2, 32, 2), (3, 48, 2)]
        assert {run.data.limit for run in runs} == {1_000_000}
    assert {run.train.lr for run in arms["rate=0.002"]} == {0.002}


def test_passes_are_of_the_training_text() -> None:
    from allometry.data.tokens import manifest_of

    (run,) = Grid(n="1e4", passes="2").runs(0, DATA)["sweep"]
    assert run.train.tokens == pytest.approx(2 * manifest_of("sotu", "bytes").train_tokens, abs=512)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"n": ""}, "no size: it is empty"),
        ({"n": "1e5:1e4:3"}, "is empty: write LOW:HIGH:COUNT"),
        ({"tokens": ""}, "no horizon: it is empty"),
        ({"set": {"train.weight_decay": ""}}, "'train.weight_decay' has no value"),
        ({"family": "lstm", "set": {"model.n_head": "2"}}, "family 'lstm' has no 'model.n_head'"),
        ({"set": {"train.weight_decy": "2"}}, "'train' has no 'train.weight_decy'"),
        ({"set": {"train.lr": "0.1,1"}}, "train.lr has an option of its own"),
        ({"rate": "tuned"}, "rate 'tuned' is not there yet"),
        ({"n": "1e4", "shapes": "2x32"}, "given twice"),
        ({"tokens": "1M", "passes": "2"}, "given twice"),
        ({"shapes": "wide"}, "'wide' is no shape"),
        ({"family": "lstn"}, "unknown model family 'lstn'"),
        ({"seeds": 9999, "tokens": "1M,2M,3M,4M,5M"}, "runs, more than 20,000"),
        ({"famly": "lstm"}, "unknown field 'famly'"),
        ({"set": {"train.clip": "-1"}}, "clip"),
    ],
)
def test_what_a_grid_cannot_be_is_said(fields: dict[str, object], said: str) -> None:
    with pytest.raises(AllometryError, match=said):
        Grid(**{"tokens": "512k", **fields} if "passes" not in fields else fields).runs(0, DATA)


def test_the_file_that_init_writes_is_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "--init"])
    assert not ended.value.code
    assert Path("sweep.toml").read_text() == TEMPLATE
    entries = read_grid(Path("sweep.toml"))
    assert (entries.pop("data"), entries.pop("tokenizer")) == ("sotu", "bytes")
    assert Grid(**entries).digest() == Grid().digest()
    with pytest.raises(SystemExit) as ended:  # nothing of the user's is written over
        main(["sweep", "--init"])
    assert ended.value.code == 1


def test_another_grid_is_another_sweep_and_another_name_is_not_another_grid() -> None:
    assert Grid(name="a", question="?").digest("sotu") == Grid(name="b").digest("sotu")
    assert Grid(seeds=2).digest("sotu") != Grid().digest("sotu") != Grid().digest("stdlib")


def test_sweep_is_no_study_that_can_be_run_without_a_grid(capsys: pytest.CaptureFixture[str]) -> None:
    assert "sweep" not in studies()
    assert isinstance(study("sweep"), GridStudy)
    with pytest.raises(SystemExit) as ended:
        main(["run", "sweep"])
    assert ended.value.code == 1
    assert "allometry sweep" in capsys.readouterr().err


def effect_table(true: dict[str, float], noise: float = 0.002) -> dict[str, pd.DataFrame]:
    """Arms whose losses differ by known factors, three sizes, two horizons and four seeds each."""
    rng, arms = np.random.default_rng(0), {}
    for label, factor in true.items():
        rows = [
            {"run": f"{label} {n} {d} {seed}", "N": n, "D": d, "seed": seed}
            for n in (1e4, 3e4, 1e5) for d in (1e6, 2e6) for seed in range(4)
        ]  # fmt: skip
        table = pd.DataFrame(rows)
        trunk = {key: noise * rng.standard_normal() for key in table.groupby(["N", "seed"]).groups}
        luck = [trunk[n, seed] for n, seed in zip(table["N"], table["seed"], strict=True)]
        loss = (1e4 / table["N"]) ** 0.1 * (1e6 / table["D"]) ** 0.2 * factor * np.exp(luck)
        arms[label] = table.assign(loss=loss)
    return arms


def test_effects_are_of_pairs_that_differ_in_one_axis() -> None:
    arms = effect_table({"a=0, b=x": 1.0, "a=0, b=y": 0.95, "a=1, b=x": 1.02, "a=1, b=y": 0.969})
    found = axis_effects(paired(arms), ["a", "b"]).set_index("axis")
    assert list(found["pairs"]) == [2 * 3 * 4, 2 * 3 * 4]  # trunks: horizons of one count once
    assert found.loc["a", "effect"] == pytest.approx(0.02, abs=0.002)
    assert found.loc["b", "effect"] == pytest.approx(-0.05, abs=0.002)
    assert list(found["loss"]) == ["higher", "lower"]
    assert found.loc["b", "low"] < -0.05 < found.loc["b", "high"]
    width = found.loc["a", "high"] - found.loc["a", "low"]
    assert width == pytest.approx(2 * 2.07 * 0.002 * np.sqrt(2 / 24), rel=0.35)


def test_an_axis_without_effect_cannot_be_told_from_nothing() -> None:
    arms = effect_table({"a=0": 1.0, "a=1": 1.0}, noise=0.01)
    (row,) = axis_effects(paired(arms), ["a"]).to_dict("records")
    assert row["loss"] == "cannot tell"
    assert row["low"] < 0 < row["high"]


def planted_sweep(path: Path, tokens: str) -> Store:
    """Write a store of a sweep with two arms, planned and done, the second 3 % above the first."""
    store = Store(path, create=True)
    grid = Grid(
        name="wd", question="Does it help?", n="1e4:2e5:5", tokens=tokens, seeds=2,
        set={"train.weight_decay": "1,0.1"},
    )  # fmt: skip
    asked = GridStudy(grid)
    plan = planning.keep(planning.of_compute(asked, 0.0, DATA), store, folder_of(store, "wd-1"))
    store.enroll("wd-1", plan.sweep.ids, question=asked.question, command="allometry sweep")
    rng = np.random.default_rng(0)
    for run in plan.sweep:
        worse = 0.03 * (run.train.weight_decay == 0.1)
        write_planted(store, run, worse + 0.003 * float(rng.standard_normal()))
    return store


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two horizons: enough for L(N) and effects, and read in a second."""
    return planted_sweep(tmp_path_factory.mktemp("sweep") / "runs", "1M,2M")


def test_a_sweep_is_read_from_its_store_alone(planted: Store) -> None:
    found = allometry.load(planted)
    assert found.key == "wd-1"
    assert found.question == "Does it help?"
    effect = found.constants.iloc[0]
    assert effect["name"] == "train.weight_decay=0.1 against 1"  # the grid's first value, not the alphabet's
    assert effect["low"] < 0.03 < effect["high"]
    assert effect["verdict"] == "differs"
    assert set(found.runs["arm"]) == {"train.weight_decay=1", "train.weight_decay=0.1"}
    names = " ".join(found.constants["name"])
    assert "train.weight_decay=1: loss against size" in names
    assert {"arms", "train-weight-decay-1-loss-against-size"} <= set(found.figures)
    assert "3 % higher" in found.answer or "3.1 % higher" in found.answer or "2.9 % higher" in found.answer
    assert "Does it help?" in found._repr_html_()
    assert "40 runs" in planted._repr_html_()


@pytest.mark.slow
def test_its_report_with_all_laws_is_made_again_and_saved_without_the_grid(tmp_path: Path) -> None:
    store = planted_sweep(tmp_path / "runs", "1M,2M,4M,8M")
    names = " ".join(allometry.load(store).constants["name"])
    assert "train.weight_decay=0.1: Chinchilla's form, tokens" in names
    saved = tmp_path / "saved"
    for line in (
        ["report", "wd", "--store", str(store.path), "-o", str(tmp_path / "a.html"), "--save", str(saved)],
        ["report", "--from", str(saved), "-o", str(tmp_path / "b.html")],
    ):
        with pytest.raises(SystemExit) as ended:
            main(line)
        assert not ended.value.code
    assert "What each axis does" in (tmp_path / "b.html").read_text()


def test_the_largest_size_of_each_arm_is_predicted_first() -> None:
    asked = GridStudy(Grid(n="1e4:2e5:5", tokens="1M,2M", set={"train.weight_decay": "1,0.1"}))
    plan = planning.of_compute(asked, 0.0, DATA)
    held = [run for run in plan.sweep if run.id in plan.held_back]
    largest = max(run.model.counts().N for run in plan.sweep)
    assert len(held) == 2 * 2
    assert {run.model.counts().N for run in held} == {largest}
    few = GridStudy(Grid(n="1e4:2e5:3", tokens="1M"))
    assert planning.of_compute(few, 0.0, DATA).held_back == ()


def test_a_budget_is_a_limit_where_the_horizons_are_given() -> None:
    how = {"store": Path("runs"), "command": "allometry sweep"}
    given = sweep_request(Grid(tokens="1M"), DATA, budget=60.0, compute=None, **how)
    assert (given.budget, given.compute) == (60.0, None)
    free = sweep_request(Grid(tokens="1M"), DATA, budget=None, compute=None, **how)
    assert free.compute == 0.0
    assert free.key == given.key  # what is trained is the same
    with pytest.raises(AllometryError, match="--compute sets horizons"):
        sweep_request(Grid(tokens="1M"), DATA, budget=None, compute=1e12, **how)


def test_a_family_of_this_process_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FAMILIES["lstm"], "__module__", "__main__")
    with pytest.raises(AllometryError, match="known to this process only"):
        sweep_request(
            Grid(family="lstm"),
            DATA,
            budget=60.0,
            compute=None,
            store=Path("runs"),
            command="allometry sweep",
        )


OWN = """
import allometry
from torch import nn

@allometry.family("own", size="wide", rate=0.01)
class Own(nn.Module):
    def __init__(self, n_vocab: int, wide: int):
        super().__init__()
        self.embed, self.mix = nn.Embedding(n_vocab, wide), nn.Linear(wide, wide, bias=False)
    def forward(self, tokens):
        return self.mix(self.embed(tokens)) @ self.embed.weight.T
"""


def test_a_sweep_of_a_plugin_is_read_without_it_and_named_by_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs, report and names stay when the plugin is gone or edited; an edited one is another sweep."""
    monkeypatch.setenv(plugins.VARIABLE, "")
    file = tmp_path / "own_things.py"
    grid = Grid(family="own", n="1e4:2e5:4", tokens="1M")
    how = {"budget": None, "compute": None, "store": tmp_path / "runs", "command": "allometry sweep"}
    store = Store(tmp_path / "runs", create=True)
    keys = []
    with FAMILIES.temporary():
        for text in (OWN, OWN.replace("nn.Linear(wide, wide,", "nn.Linear(wide, wide, ")):
            file.write_text(text)
            allometry.load_plugins(file)
            request = sweep_request(grid, DATA, **how)
            assert len(earlier_plugins(request)) == len(keys)  # the second says that the file has changed
            assert request.asked is not None
            plan = planning.of_compute(request.asked, 0.0, DATA)
            planning.keep(plan, store, folder_of(store, request.key))
            store.enroll(request.key, plan.sweep.ids, question="?", command="allometry sweep")
            for run in plan.sweep:
                write_planted(store, run, 0.0)
            keys.append((request.key, plan.sweep.ids))
    monkeypatch.delitem(plugins._loaded, "own_things.py")
    assert "own" not in FAMILIES
    (first, before), (second, after) = keys
    assert first.split("-")[:2] == second.split("-")[:2]
    assert not set(before) & set(after)
    for key, ids in keys:
        found = allometry.load(store, key)
        assert set(found.runs["run"]) == set(ids)
        assert found.constants["low"].gt(0).any()


@pytest.mark.parametrize(("option", "other"), [("--family", "--family"), ("--sizes", "--n")])
def test_run_sends_options_of_a_grid_to_sweep(
    option: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "quickstart", option, "lstm"])
    assert ended.value.code == 1
    assert f"allometry sweep, with {other} lstm" in capsys.readouterr().err
