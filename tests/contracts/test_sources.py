"""What every source of the atlas must say of itself, and what its reader makes of files in the source's layout.

The files here are small and written by the tests: the published ones are not part of the repository.
"""

import gzip
import json
import lzma
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.laws.verify import DERIVATIONS
from allometry.laws.zoo import all_laws
from allometry.sources import readers
from allometry.sources.fetch import LARGEST
from allometry.sources.source import SCHEMA, SOURCES, find

ALL = list(SOURCES.all().values())


@pytest.mark.parametrize("source", ALL, ids=lambda s: s.id)
def test_it_says_what_it_is_and_where_it_lies(source):
    assert re.fullmatch(r"[a-z]+(20\d\d)", source.id)
    assert source.id.endswith(str(source.year))
    for text in (source.title, source.authors, source.paper, source.licence, source.loss, source.loss_unit):
        assert text.strip()
    assert re.fullmatch(r"[0-9a-f]{40}", source.commit)
    assert source.base == f"https://raw.githubusercontent.com/{source.repository}/{source.commit}/"
    assert source.files
    assert len({file.path for file in source.files}) == len(source.files)
    for file in source.files:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert 0 < file.size <= LARGEST
        assert ".." not in file.path.split("/")
        assert not file.path.startswith("/")
        assert source.address(file).startswith(source.base)


@pytest.mark.parametrize("source", ALL, ids=lambda s: s.id)
def test_it_says_what_its_columns_count_and_how_to_fit_it(source):
    assert {"N", "D"} & set(source.counts)
    assert all(re.fullmatch(r"[a-z0-9-]+", part) for part in source.parts)
    words = source.fit.split()
    assert words[0] == "allometry"
    named, part = find(next(word for word in words if word.startswith("atlas:")))
    assert named is source
    assert part in source.parts
    if "--law" in words:
        assert words[words.index("--law") + 1] in all_laws()


@pytest.mark.parametrize("source", ALL, ids=lambda s: s.id)
def test_its_constants_have_a_place_a_part_and_a_derivation(source):
    assert (source.id in DERIVATIONS.all()) == bool(source.constants)
    assert len({(c.part, c.name) for c in source.constants}) == len(source.constants)
    for constant in source.constants:
        assert constant.part in source.parts
        assert math.isfinite(constant.number)
        assert constant.where
        assert (constant.low is None) == (constant.high is None)
        if constant.low is not None:
            assert constant.low < constant.number < constant.high


def test_there_are_as_many_sources_and_constants_as_the_documents_say():
    assert len(ALL) >= 14
    assert len([s for s in ALL if s.constants]) >= 12
    total = sum(len(s.constants) for s in ALL)
    assert total >= 40
    page = (Path(__file__).parents[2] / "docs" / "atlas.md").read_text(encoding="utf-8")
    assert f"\n{total} constants of {len([s for s in ALL if s.constants])} sources" in page
    for source in ALL:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{source.id}` |"))
        assert f"github.com/{source.repository})" in row
        assert row.endswith(f"| {len(source.constants) or '–'} |")


def csv(rows):
    return pd.DataFrame(rows).to_csv(index=False).encode()


def notebook():
    cell = """NAMES_TO_VAL_LOSSES = {
    "2b816b4b": 2.75, # a comment
    "7m100m100mc4seed2": 5.5,
    "2b816b16bdedup": 3.0,
    "2b84b4b": 0,
}
TOKENS_MAP = {"100m": 0.1, "4b": 4}
PARAMS_MAP = {"7m": 7.0e6, "2b8": 2.8e9}
"""
    return json.dumps({"cells": [{"source": [text]} for text in ("#", cell, "#", cell)]}).encode()


def pickled(**config):
    budgets = pd.DataFrame({"flops": [6e15], "orig_n": [pd.Series([1e6, 1e7])], "orig_t": [pd.Series([1e9, 1e8])],
                            "orig_loss": [pd.Series([4.0, 4.1])]})  # fmt: skip
    budgets.columns = budgets.columns.astype(object)
    rows = [
        dict(zip(("dataset", "hparams", "warmup", "decay", "param_count", "val"), part.split("-"), strict=True),
             data=budgets, **config)
        for part in SOURCES["porian2024"].parts
    ]  # fmt: skip
    frame = pd.DataFrame(rows).astype(object)
    frame.columns = frame.columns.astype(object)
    return lzma.compress(pickle.dumps(frame))


def gadre(dataset):
    how = {"model": "configs/d=96.json", "params": 10, "params_no_embed": 5, "tokens": 200, "global_bs": 2,
           "lr": 0.01, "chinchilla_multiplier": 1.0}  # fmt: skip
    results = [
        {"loss": 4.0, "val_data": ["x/c4_val/shard.tar"]},
        {"loss": 5.0, "val_data": ["x/openlm/shard.tar"]},
    ]
    return json.dumps(
        {"name": dataset, "dataset_name": dataset, "hyperparameters": how, "results": results}
    ).encode()


def olmo(**more):
    names = ("c4_en", "pile", "wikitext_103", "m2d2_s2orc", "dolma_books", "dolma_wiki")
    row = {f"eval/{name}-validation/CrossEntropyLoss": 3.0 for name in names}
    return csv([row | {"batch_size_in_tokens": 4.0, "learning_rate_peak": 0.1} | more])


MISFIT = {"loss": 3.0, "N": 10, "N_no_emb": 5, "D": 200, "C": 12000, "portion_steps_elapsed": 1.0, "model": "m",
          "total_steps": 5, "current_steps": 5, "peak_lr": 0.1, "sweep": "s"}  # fmt: skip
STEP = {"N": 10, "D": 200, "smooth loss": 3.0, "loss": 3.1, "bs": 2, "lr": 0.1, "ti": 9, "exp_name": "e", "Na": 4,
        "nume": 8, "topk": 1}  # fmt: skip
CLARK = {"hyper_id": 0, "step": 10, "loss_validation": 3.0, "router_type": "Dense", "dense_parameter_count": 10.0,
         "total_parameter_count": 10.0, "num_experts": 1, "k": 1, "routing_frequency": 0.5, "flop_increase": 1.0,
         "seed": 1}  # fmt: skip
GEMSTONE = {"run_name": "a", "params_active_precise": 10, "tokens": 200, "final_loss": 3.0, "width": 1, "depth": 2,
            "step": 3}  # fmt: skip
PLANTED = {
    "kaplan2020": lambda: {"loss_vs_model_and_param.csv": b'9.0,3.5,"""400K"""\n', "params_scale.csv": b"6.0,4.0\n"},
    "hoffmann2022": lambda: {
        "data/svg_extracted_data.csv": csv(
            {"Model Size": [1e7] * 7, "Training FLOP": [6e15] * 7, "loss": range(2, 9)}
        )
    },
    "porian2024": lambda: {"data/summary_df.pickle.xz": pickled()},
    "gadre2024": lambda: {f"exp_data/models/{d}.json": gadre(d) for d in ("c4_original", "rpj", "rw_original")},
    "muennighoff2023": lambda: {"utils/parametric_fit.ipynb": notebook()},
    "misfitting2025": lambda: {
        "data/scaling_results_last_ckpt_only.csv": csv([MISFIT]), "data/scaling_results.csv": csv([MISFIT])
    },
    "steplaw2025": lambda: {f"data/{name}_lr_bs_loss.csv": csv([STEP]) for name in ("dense", "moe")},
    "multipowerlaw2025": lambda: {
        f"loss_curve_repo/csv_{size}/{name}.csv": b"step,lr,loss\n3000,0.0003,3.5\n"
        for size in (25, 100, 400) for name in ("cosine_24000", "wsd_20000_24000")
    },
    "gemstones2025": lambda: {
        f"wandb_dfs/wandb_df_for_fitting_{name}.jsonl": json.dumps(GEMSTONE).encode() + b"\n"
        for name in ("hot", "hot_100b+", "cool_begin", "cool_end", "lr_ablation_hot")
    },
    "bhagia2024": lambda: {
        "x/190M-1xC.csv": olmo(**{"throughput/total_tokens": 200.0, "_step": 50}),
        "x/peteish13_eval_final.csv": olmo(_step=50),
    },
    "clark2022": lambda: {
        "data/curves.csv.gz": gzip.compress(
            csv([CLARK, CLARK | {"step": 20, "loss_validation": 2.9},
                 CLARK | {"hyper_id": 1, "router_type": "Hash", "num_experts": 8}])
        )
    },
    "caballero2022": lambda: {
        "fit.py": b"import numpy as np\nx = np.array([1, 2, 3])\ny = np.array([3.0, 2.5,\n 2.0])\n"
        b"if True:\n    split_point = 2\n    x = x[:split_point]\n"
    },
    "parscale2025": lambda: {
        "parametric_fit.py": b"if True:\n    params = [[1, 2]] * 0 or [[1, 2], [3, 4], [5, 6], [7, 8]]\n"
        .replace(b"[[1, 2]] * 0 or ", b"")
        + b"    stack_loss = [[2.0, 1.9], [1.9, 1.8], [1.8, 1.7], [1.7, 1.6]]\n"
        + b"    pile_loss = [[3.0, 2.9], [2.9, 2.8], [2.8, 2.7], [2.7, 2.6]]\n"
    },
}  # fmt: skip


def parquet(tmp_path, split):
    path = tmp_path / f"{split}.parquet"
    pd.DataFrame({"group": "all", "N": [1e8], "D": [2e9], "loss": [0.6]}).to_parquet(path)
    return path.read_bytes()


@pytest.fixture
def planted(tmp_path):
    farseer = {f"x/{split}-00000-of-00001.parquet": parquet(tmp_path, split) for split in ("train", "test")}
    return {name: make() for name, make in PLANTED.items()} | {"farseer2025": farseer}


@pytest.mark.parametrize("source", ALL, ids=lambda s: s.id)
def test_its_reader_returns_the_schema(source, planted):
    frame = readers.table(source, planted[source.id])
    assert list(frame.columns[: len(SCHEMA)]) == list(SCHEMA)
    assert set(frame["part"]) == set(source.parts)
    assert np.isfinite(frame["loss"].to_numpy(float)).all()
    assert (frame["loss_unit"] == source.loss_unit).all()
    assert list(frame.index) == list(range(len(frame)))


@pytest.mark.parametrize("source", ALL, ids=lambda s: s.id)
def test_files_of_another_layout_are_refused(source, planted):
    for files in (dict.fromkeys(planted[source.id], b"something else\n1\n"), {}):
        with pytest.raises(AllometryError, match=source.id):
            readers.table(source, files)


def only(source, planted, part):
    frame = readers.table(SOURCES[source], planted[source])
    return frame[frame["part"] == part].iloc[0]


def test_values_are_in_the_units_of_the_schema(planted):
    """One value of each reader that computes: logarithms, D = C/(6N), names of runs, batches, the end of a run."""
    row = only("kaplan2020", planted, "size-and-data")
    assert (row["N"], row["D"]) == (393_216, pytest.approx(1e9))
    assert only("hoffmann2022", planted, "figure-4")["D"] == pytest.approx(1e8)
    row = only("muennighoff2023", planted, "all")
    assert (row["N"], row["D"], row["unique"]) == (2.8e9, 16e9, 4e9)
    seeds = readers.table(SOURCES["muennighoff2023"], planted["muennighoff2023"])
    assert sorted(seeds["seed"].dropna()) == [2, 2]
    assert len(seeds) == 4  # a run of another corpus and an unfinished one are left out
    row = only("gadre2024", planted, "redpajama")
    assert (row["loss"], row["loss_openlm"], row["batch"]) == (4.0, 5.0, 4096)
    assert only("steplaw2025", planted, "moe")["N_active"] == 4
    row = only("clark2022", planted, "dense")
    assert (row["loss"], row["D"]) == (2.9, 20 * 256 * 2048)
    large = readers.table(SOURCES["bhagia2024"], planted["bhagia2024"]).set_index("split")
    assert large.loc["target", "D"] == 200
    assert large.loc["ladder", "N"] == 190_354_176
    assert list(readers.table(SOURCES["caballero2022"], planted["caballero2022"])["split"]) == [
        "fitted", "fitted", "predicted"
    ]  # fmt: skip
    row = only("porian2024", planted, "rw-tuned-short-const-standard-val")
    assert (row["N"], row["D"], row["C"]) == (1e6, 1e9, 6e15)


def test_a_pickle_that_names_a_function_is_refused_and_nothing_runs(planted, tmp_path):
    mark = tmp_path / "ran"
    harmful = f"cos\nsystem\n(Vtouch {mark}\ntR.".encode()
    with pytest.raises(AllometryError, match=r"os\.system|posix\.system"):
        readers.table(SOURCES["porian2024"], {"data/summary_df.pickle.xz": lzma.compress(harmful)})
    assert not mark.exists()


def test_a_file_that_unpacks_to_too_much_is_refused(monkeypatch, planted):
    monkeypatch.setattr(readers, "MOST_BYTES", 100)
    with pytest.raises(AllometryError, match="unpacks to more than 100"):
        readers.table(SOURCES["clark2022"], planted["clark2022"])
