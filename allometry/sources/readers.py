"""One reader for each source: from the bytes of its files, by path, to the rows of its tables.

A reader returns what it finds in the columns of `source.SCHEMA`, and columns of its own; `table` adds the rest.
It reads the files as they are at the pinned commit and raises for anything else.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import io
import json
import lzma
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.sources.source import SCHEMA, Source

Files = Mapping[str, bytes]

MOST_BYTES = 200_000_000
"""Bytes that a packed file may unpack to."""

_TEXT = ("part", "run", "family", "loss_unit", "schedule", "split")


def table(source: Source, files: Files) -> pd.DataFrame:
    """Return all tables of a source as one, with the columns of the schema first.

    Raises AllometryError where the files are not laid out as the reader expects.
    """
    try:
        found = source.read(files)
        missing = set(source.parts) - set(found["part"])
        if missing:
            raise ValueError(f"no rows for {', '.join(sorted(missing))}")
        if not np.isfinite(found["loss"].to_numpy(float)).all():
            raise ValueError("a loss is missing")
    except (
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        EOFError,
        OSError,
        SyntaxError,
        AttributeError,
    ) as error:
        raise AllometryError(
            f"the files of {source.id} are not laid out as its reader expects: {type(error).__name__}: {error}",
            hint=f"allometry atlas fetch {source.id} takes the files that it was written for",
        ) from error
    except (pickle.UnpicklingError, lzma.LZMAError) as error:
        raise AllometryError(
            f"a file of {source.id} cannot be read: {error}", hint=f"allometry atlas fetch {source.id}"
        ) from error
    found = found.assign(loss_unit=found.get("loss_unit", source.loss_unit))
    for name in SCHEMA:
        if name not in found:
            found[name] = "" if name in _TEXT else np.nan
    own = [name for name in found.columns if name not in SCHEMA]
    return found[[*SCHEMA, *own]].reset_index(drop=True)


def _csv(data: bytes, **options: Any) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(data), **options)


def _named(files: Files, ending: str) -> bytes:
    """Return the one file whose path ends so."""
    (found,) = (data for path, data in files.items() if path.endswith(ending))
    return found


def _unpack(opener: Callable[..., Any], data: bytes) -> bytes:
    """Return a packed file's content; ValueError beyond MOST_BYTES."""
    with opener(io.BytesIO(data)) as stream:
        out: bytes = stream.read(MOST_BYTES + 1)
    if len(out) > MOST_BYTES:
        raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
    return out


_KAPLAN_SIZES = {
    "400K": 393_216, "3M": 3_145_728, "25M": 25_165_824, "85M": 84_934_656, "302M": 301_989_888, "708M": 707_788_800,
}  # fmt: skip
"""12 n_layer d_model^2 of the shapes that the labels round."""


def kaplan2020(files: Files) -> pd.DataFrame:
    """Return the points of figures 4 and 1, digitised: log10 of D or N, and the loss."""
    both = _csv(_named(files, "loss_vs_model_and_param.csv"), header=None, names=["D", "loss", "label"])
    label = both["label"].str.strip('" ')
    both = pd.DataFrame(
        {"part": "size-and-data", "family": label, "N": label.map(_KAPLAN_SIZES), "D": 10 ** both["D"],
         "loss": both["loss"]}
    )  # fmt: skip
    if both["N"].isna().any():
        raise ValueError("a size label is not known")
    size = _csv(_named(files, "params_scale.csv"), header=None, names=["N", "loss"])
    size = pd.DataFrame({"part": "size", "N": 10 ** size["N"], "loss": size["loss"]})
    return pd.concat([both, size], ignore_index=True)


def hoffmann2022(files: Files) -> pd.DataFrame:
    """Return the points of figure 4 as they were read off its SVG; D = C/(6N)."""
    rows = _csv(_named(files, "svg_extracted_data.csv"))
    size, flops, loss = rows["Model Size"], rows["Training FLOP"], rows["loss"]
    left_out = loss.rank(ascending=False, method="first") <= 5
    return pd.DataFrame(
        {"part": "figure-4", "N": size, "D": flops / (6 * size), "C": flops, "loss": loss,
         "split": np.where(left_out, "left out by the refit", "fitted")}
    )  # fmt: skip


def _allowed(module: str, name: str) -> Any:
    """Return a class or function that the pickled tables of pandas are made of; UnpicklingError for all else."""
    from numpy._core import multiarray, numeric
    from pandas._libs.internals import _unpickle_block
    from pandas.core.indexes.base import _new_Index  # type: ignore[attr-defined]
    from pandas.core.internals.managers import BlockManager, SingleBlockManager

    known: dict[tuple[str, str], Any] = {
        **{("pandas", each.__name__): each for each in (pd.DataFrame, pd.Series, pd.Index, pd.RangeIndex)},
        ("pandas.core.frame", "DataFrame"): pd.DataFrame,
        ("pandas.core.series", "Series"): pd.Series,
        ("pandas.core.internals.managers", "BlockManager"): BlockManager,
        ("pandas.core.internals.managers", "SingleBlockManager"): SingleBlockManager,
        ("pandas._libs.internals", "_unpickle_block"): _unpickle_block,
        ("pandas.core.indexes.base", "_new_Index"): _new_Index,
        ("pandas.core.indexes.base", "Index"): pd.Index,
        ("pandas.core.indexes.range", "RangeIndex"): pd.RangeIndex,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
        ("numpy.core.multiarray", "scalar"): multiarray.scalar,
        ("numpy.core.numeric", "_frombuffer"): numeric._frombuffer,  # type: ignore[attr-defined]
        ("builtins", "slice"): slice,
    }
    found = known.get((module.replace("numpy._core", "numpy.core"), name))
    if found is None:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no table needs")
    return found


class _Tables(pickle.Unpickler):
    """Reads pickled pandas tables, and nothing else: a pickle may name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        return _allowed(module, name)


def porian2024(files: Files) -> pd.DataFrame:
    """Return the points of the isoFLOP analysis: of each configuration, sizes and losses at each budget."""
    rows = []
    for path in sorted(files):
        summary = _Tables(io.BytesIO(_unpack(lzma.open, files[path]))).load()
        for _, each in summary.iterrows():
            config = [each[name] for name in ("dataset", "hparams", "warmup", "decay", "param_count", "val")]
            for _, budget in each["data"].iterrows():
                size, tokens, loss = (
                    np.atleast_1d(budget[f"orig_{x}"]).astype(float) for x in ("n", "t", "loss")
                )
                rows.append(
                    pd.DataFrame(
                        {"part": "-".join(config), "N": size, "D": tokens, "C": float(budget["flops"]), "loss": loss,
                         "schedule": each["decay"], "family": each["hparams"]}
                    )
                )  # fmt: skip
    found = pd.concat(rows, ignore_index=True)
    return found[np.isfinite(found["loss"])].reset_index(drop=True)


_GADRE_SETS = {"c4_original": "c4", "rpj": "redpajama", "rw_original": "refinedweb"}
_GADRE_LOSSES = {
    "c4_val": "loss", "/openlm/": "loss_openlm", "paloma_c4_en": "loss_paloma_c4_en",
    "paloma_falcon-refinedweb": "loss_paloma_refinedweb", "paloma_redpajama": "loss_paloma_redpajama",
    "paloma_ptb": "loss_paloma_ptb", "paloma_dolma_100_programing_languages": "loss_paloma_code",
}  # fmt: skip


def gadre2024(files: Files) -> pd.DataFrame:
    """Return one row a model: its sizes, tokens and losses on several evaluation sets."""
    rows = []
    for path in sorted(files):
        model = json.loads(files[path])
        how = model["hyperparameters"]
        row = {
            "part": _GADRE_SETS[model["dataset_name"]], "run": model["name"],
            "family": PurePosixPath(how["model"]).stem, "N": how["params"], "N_no_embed": how["params_no_embed"],
            "D": how["tokens"], "schedule": "cosine", "batch": how["global_bs"] * 2048, "rate": how["lr"],
            "multiplier": how["chinchilla_multiplier"],
        }  # fmt: skip
        for result in model["results"]:
            where = " ".join(result["val_data"])
            row |= {name: result["loss"] for key, name in _GADRE_LOSSES.items() if key in where}
        rows.append(row)
    return pd.DataFrame(rows)


def _assigned(code: str, *names: str) -> dict[str, Any]:
    """Return the values that a script assigns to names, where they are written out; nothing is run.

    `np.array([...])` and `[...] * 6` count as written out.
    """
    found = {}
    for node in ast.walk(ast.parse(code)):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in names
        ):
            value = node.value
            if isinstance(value, ast.Call) and len(value.args) == 1:
                value = value.args[0]
            with contextlib.suppress(ValueError):  # computed from others: not written out
                found[node.targets[0].id] = ast.literal_eval(value)
    return found


def _in_billions(text: str, known: Mapping[str, float]) -> float:
    return 1e9 * (known[text] if text in known else float(text.replace("b", ".").strip(".")))


_MUENNIGHOFF_MARK = re.compile(r"seed\d|opt\d?|op2|c4|v2")
"""What a run's name holds besides size, tokens and unique tokens."""


def muennighoff2023(files: Files) -> pd.DataFrame:
    """Return the runs that the notebook lists: names such as 2b816b4b (2.8B parameters, 16B of 4B tokens).

    The first list holds all runs, the list before the printed fit those that it used.
    """
    notebook = json.loads(_named(files, "parametric_fit.ipynb"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"]]
    lists = [_assigned(cell, "NAMES_TO_VAL_LOSSES", "TOKENS_MAP", "PARAMS_MAP")
             for cell in cells if "NAMES_TO_VAL_LOSSES = " in cell]  # fmt: skip
    parts = (("fitted", lists[1]), ("all", lists[0]))
    return pd.DataFrame([row for part, known in parts for row in _muennighoff_rows(part, known)])


def _muennighoff_rows(part: str, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    tokens, sizes = known["TOKENS_MAP"], known["PARAMS_MAP"]
    rows = []
    for name, loss in known["NAMES_TO_VAL_LOSSES"].items():
        if loss == 0 or name.endswith("dedup"):  # unfinished, and another corpus, as the notebook has it
            continue
        short, seed = _MUENNIGHOFF_MARK.sub("", name), re.search(r"seed(\d)", name)
        end = next(i for i in range(2, len(short)) if short[:i] in sizes)
        start = -3 if short[-1] not in "bm" and short[-2] in "bm" else -4
        while short[start:].count("b") > 1 or short[start:].count("m") > 1:
            start += 1
        row = {
            "part": part, "run": name, "N": sizes[short[:end]], "D": _in_billions(short[end:start], tokens),
            "unique": _in_billions(short[start:], tokens), "loss": loss, "schedule": "cosine",
            "seed": int(seed[1]) if seed else np.nan,
        }  # fmt: skip
        if row["unique"] > row["D"]:
            raise ValueError(f"{name}: more different tokens than tokens")
        rows.append(row)
    return rows


def misfitting2025(files: Files) -> pd.DataFrame:
    """Return the runs (last checkpoints), and all checkpoints of them."""
    parts = []
    for part, name in (
        ("final", "scaling_results_last_ckpt_only.csv"),
        ("checkpoints", "scaling_results.csv"),
    ):
        rows = _csv(_named(files, "/" + name))
        run = (
            rows["sweep"]
            + " "
            + rows["model"]
            + " "
            + rows["peak_lr"].map(str)
            + " "
            + rows["total_steps"].map(str)
        )
        parts.append(
            pd.DataFrame(
                {"part": part, "run": run, "family": rows["model"], "N": rows["N"], "N_no_embed": rows["N_no_emb"],
                 "D": rows["D"], "C": rows["C"], "loss": rows["loss"], "schedule": "cosine", "rate": rows["peak_lr"],
                 "steps": rows["current_steps"], "portion": rows["portion_steps_elapsed"]}
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def steplaw2025(files: Files) -> pd.DataFrame:
    """Return the grids of learning rate and batch: dense models, and mixtures of experts."""
    parts = []
    for part, name in (("dense", "dense_lr_bs_loss.csv"), ("moe", "moe_lr_bs_loss.csv")):
        rows = _csv(_named(files, name))
        found = pd.DataFrame(
            {"part": part, "run": rows["exp_name"], "N": rows["N"], "D": rows["D"], "loss": rows["smooth loss"],
             "loss_last": rows["loss"], "schedule": "cosine", "batch": rows["bs"] * 2048, "rate": rows["lr"],
             "steps": rows["ti"]}
        )  # fmt: skip
        if part == "moe":
            found = found.assign(N_active=rows["Na"], experts=rows["nume"], experts_used=rows["topk"])
        parts.append(found[np.isfinite(found["loss"])])
    return pd.concat(parts, ignore_index=True)


def multipowerlaw2025(files: Files) -> pd.DataFrame:
    """Return the loss curves of three sizes under nine schedules: one row a step that was logged."""
    parts = []
    for path in sorted(files):
        rows, place = _csv(files[path]), PurePosixPath(path)
        size = int(place.parent.name.removeprefix("csv_"))
        split = "fitted" if place.stem in ("cosine_24000", "constant_24000", "wsdcon_9") else "predicted"
        parts.append(
            pd.DataFrame(
                {"part": f"{size}m", "run": f"{size}m {place.stem}", "N": size * 1e6, "loss": rows["loss"],
                 "schedule": place.stem, "split": split, "step": rows["step"], "lr": rows["lr"]}
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


_GEMSTONE_PARTS = {
    "hot": "to-100b", "hot_100b+": "all", "cool_begin": "cooldown-begin", "cool_end": "cooldown-end",
    "lr_ablation_hot": "half-rate",
}  # fmt: skip


def gemstones2025(files: Files) -> pd.DataFrame:
    """Return checkpoints of the constant-rate runs, and of their cooldowns."""
    parts = []
    for path in sorted(files):
        name = PurePosixPath(path).stem.removeprefix("wandb_df_for_fitting_")
        rows = pd.DataFrame([json.loads(line) for line in files[path].decode().splitlines() if line.strip()])
        parts.append(
            pd.DataFrame(
                {"part": _GEMSTONE_PARTS[name], "run": rows["run_name"], "N": rows["params_active_precise"],
                 "D": rows["tokens"], "loss": rows["final_loss"],
                 "schedule": "cooldown" if name.startswith("cool") else "constant", "width": rows["width"],
                 "depth": rows["depth"], "step": rows["step"]}
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


_OLMO_SIZES = {
    "190M": 190_354_176, "370M": 371_262_464, "760M": 758_220_288, "1B": 1_279_395_840, "3B": 3_169_537_280,
    "peteish7": 6_887_575_552, "peteish13": 13_202_396_160,
}  # fmt: skip
"""Parameters, as the repository's ladder.py and final.json give them."""


def bhagia2024(files: Files) -> pd.DataFrame:
    """Return the last evaluation of each run of the ladder, and of the two large models that it predicts."""
    rows = []
    for path in sorted(files):
        name = PurePosixPath(path).stem
        last = _csv(files[path]).iloc[-1]
        size, _, length = name.partition("-")
        ladder = bool(length)
        size = size if ladder else name.partition("_")[0]
        batch = float(last["batch_size_in_tokens"])
        tokens = last.get("throughput/total_tokens", np.nan)
        tokens = float(tokens) if np.isfinite(tokens) else float(last["_step"]) * batch
        row = {
            "part": "final", "run": name, "family": size, "N": _OLMO_SIZES[size], "D": tokens, "batch": batch,
            "rate": last["learning_rate_peak"], "loss": last["eval/c4_en-validation/CrossEntropyLoss"],
            "schedule": "cosine" if ladder else "annealed", "split": "ladder" if ladder else "target",
        }  # fmt: skip
        for each in ("pile", "wikitext_103", "m2d2_s2orc", "dolma_books", "dolma_wiki"):
            row[f"loss_{each}"] = last[f"eval/{each}-validation/CrossEntropyLoss"]
        rows.append(row)
    return pd.DataFrame(rows)


def clark2022(files: Files) -> pd.DataFrame:
    """Return the validation losses of dense and routed models at the end of training, and every 10,000 steps."""
    rows = _csv(_unpack(gzip.open, _named(files, "curves.csv.gz")))
    rows = rows[(rows["step"] > 0) & np.isfinite(rows["loss_validation"])]
    dense = rows["router_type"] == "Dense"
    every = pd.DataFrame(
        {"part": "curves", "run": "hyper " + rows["hyper_id"].map(str), "family": rows["router_type"],
         "N": rows["dense_parameter_count"], "D": rows["step"] * 256.0 * 2048, "loss": rows["loss_validation"],
         "schedule": "constant horizon", "batch": 256.0 * 2048, "seed": rows["seed"], "step": rows["step"],
         "N_total": rows["total_parameter_count"], "experts": rows["num_experts"], "experts_used": rows["k"],
         "routed_share": rows["routing_frequency"], "flop_increase": rows["flop_increase"]}
    )  # fmt: skip
    last = every.loc[every.groupby("run")["step"].idxmax()]
    is_dense = dense.loc[last.index]
    parts = [last[is_dense].assign(part="dense"), last[~is_dense].assign(part="routed"), every]
    return pd.concat(parts, ignore_index=True)


def caballero2022(files: Files) -> pd.DataFrame:
    """Return the points of figure 4: test loss of 4-digit addition against examples."""
    code = _named(files, ".py").decode()
    found = _assigned(code, "x", "y", "split_point")
    split = np.where(np.arange(len(found["x"])) < found["split_point"], "fitted", "predicted")
    return pd.DataFrame(
        {"part": "addition", "X": found["x"], "D": found["x"], "loss": found["y"], "split": split}
    )


def parscale2025(files: Files) -> pd.DataFrame:
    """Return losses of six sizes with one to eight parallel streams, on code and on the Pile."""
    found = _assigned(_named(files, "parametric_fit.py").decode(), "params", "stack_loss", "pile_loss")
    parts = []
    for part, losses in (("stack", found["stack_loss"]), ("pile", found["pile_loss"])):
        for streams, size, loss in zip((1, 2, 4, 8), found["params"], losses, strict=True):
            parts.append(pd.DataFrame({"part": part, "N": size, "P": float(streams), "loss": loss}))
    return pd.concat(parts, ignore_index=True)


def farseer2025(files: Files) -> pd.DataFrame:
    """Return the grid of sizes and tokens, and the larger runs that are held out."""
    parts = [
        pd.read_parquet(io.BytesIO(_named(files, f"{name}-00000-of-00001.parquet"))).assign(split=split)
        for name, split in (("train", "fitted"), ("test", "predicted"))
    ]
    return pd.concat(parts, ignore_index=True)[["N", "D", "loss", "split"]].assign(part="all")
