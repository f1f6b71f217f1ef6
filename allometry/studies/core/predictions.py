"""Predictions registered before the fact: written once, never rewritten, scored when the runs are done.

A prediction that could have been adjusted after the measurement proves nothing. So the file is created
exclusively, it names the runs that it was made from with a digest of their losses, and runs whose loss was
already known are marked and not scored.

The predictions of a plan's held-back runs, each by the study that holds it back.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.files import create, read_json
from allometry.runs.record import check_format, is_number
from allometry.studies.core.plan import held_back
from allometry.studies.core.texts import of_other_text
from allometry.sweeps.cost import plan_frame

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from allometry.studies.core.plan import StudyPlan
    from allometry.studies.core.study import Study

FILE = "prediction.json"


def digest(runs: pd.DataFrame) -> str:
    """Return the SHA-256 of the ids and losses that a prediction was made from, in the order of the ids."""
    rows = sorted((str(r), float(l).hex()) for r, l in zip(runs["run"], runs["loss"], strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def registered(folder: Path) -> dict[str, Any] | None:
    """Return the prediction registered in a study's folder, or None."""
    path = folder / FILE
    hint = "restore the file from a copy, or start the study afresh in another --store"
    try:
        found = read_json(path)
    except AllometryError as error:
        raise AllometryError(f"{error.message}; a prediction is never rewritten", hint=hint) from error
    if found is not None:
        check_format(found, path)
    if found is not None and (problem := _problem(found)):
        raise AllometryError(f"{path} is damaged: {problem}; a prediction is never rewritten", hint=hint)
    return found


def _problem(prediction: dict[str, Any]) -> str | None:
    """Return what is wrong with a registered prediction, or None."""
    rows = prediction.get("predictions")
    if not isinstance(prediction.get("registered"), str):
        return "it does not say when it was made"
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return "it has no list of predictions"
    for row in rows:
        if not isinstance(row.get("run"), str) or not isinstance(row.get("already_known"), bool):
            return "a prediction names no run"
        for key in ("N", "D", "loss", "low", "high"):
            if row.get(key) is not None and not is_number(row[key]):
                return f"{key!r} of a prediction is no number"
        if row.get("what") is not None and not isinstance(row["what"], str):
            return "'what' of a prediction is no text"
    return None


def register_prediction(
    folder: Path,
    runs: pd.DataFrame,
    predicted: pd.DataFrame,
    known: set[str],
    publish: Callable[[Path, str], bool] = create,
) -> dict[str, Any]:
    """Write down the predicted losses of runs that are not trained yet; what is already registered is
    returned unchanged.

    `runs` are those that the prediction was made from; `predicted` has columns run, N, D, loss, low, high,
    level, method and study (which predicted it), and where something else than the loss is predicted, `what`:
    its column in the run table; `known` are ids of predicted runs whose loss was in the
    store before (they are marked, and never scored). `publish` writes a file that must not exist yet, or
    says False (`Store.publish`): of several drivers that predict at once, one registers.
    """
    existing = registered(folder)
    if existing is not None:
        return existing
    columns = ["run", "N", "D", "seed", "loss", "low", "high", "level", "method", "study", "what"]
    rows = json.loads(predicted.reindex(columns=columns).to_json(orient="records", double_precision=15))
    content = {
        "registered": datetime.now(UTC).isoformat(timespec="seconds"),
        "made_from": sorted(runs["run"]),
        "digest": digest(runs),
        "predictions": [{**row, "already_known": row["run"] in known} for row in rows],
    }
    publish(folder / FILE, json.dumps(content, indent=1))
    return registered(folder) or content


def score(prediction: dict[str, Any], runs: pd.DataFrame, quantity: str = "loss") -> pd.DataFrame:
    """Return one row a predicted run that has been trained: predicted, low, high, measured, error (relative),
    inside, scored. `quantity` is the column of the run table whose predictions are meant; runs that have no
    value there are left out.
    """
    table = pd.DataFrame(prediction["predictions"])
    needed = ["run", "loss", "low", "high", "already_known"]
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *needed])))
    table = table.rename(columns={"loss": "predicted"})
    what = table["what"].fillna("loss") if "what" in table else pd.Series("loss", index=table.index)
    table = table.assign(what=what)[(what == quantity) & table["run"].map(lambda run: isinstance(run, str))]
    table = table.astype({"run": runs["run"].dtype, "predicted": float, "low": float, "high": float})
    done = runs.loc[runs["status"] == "done", ["run", quantity]].rename(columns={quantity: "measured"})
    table = table.merge(done.dropna(), on="run", how="inner")
    table["error"] = table["measured"] / table["predicted"] - 1
    table["inside"] = table["measured"].between(table["low"], table["high"])
    table["scored"] = ~table["already_known"].astype(bool)
    return table


def ledger(studies_folder: Path, runs: pd.DataFrame, notes: list[str] | None = None) -> pd.DataFrame:
    """Return every registered prediction of a store with its score, oldest first, hits and misses alike.

    Runs that are now of other text than the study that predicted them are left out. So are damaged
    predictions; `notes`, if given, gets a sentence on each.
    """
    tables = []
    for path in sorted(studies_folder.glob(f"*/{FILE}")):
        try:
            prediction = registered(path.parent)
        except AllometryError as error:
            if notes is not None:
                notes.append(f"{error.message}: it is left out")
            continue
        if prediction is None:
            continue
        foreign = of_other_text(studies_folder.parent, path.parent, runs["run"])
        table = score(prediction, runs[~runs["run"].isin(foreign)]).drop(columns="study", errors="ignore")
        table.insert(0, "study", path.parent.name)
        table.insert(1, "registered", prediction["registered"])
        tables.append(table)
    return pd.concat(tables).sort_values("registered", ignore_index=True) if tables else pd.DataFrame()


def predict_held_back(
    question: Study, plan: StudyPlan, finished: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the held-back runs predicted, each by the first study that holds it back, from that study's own
    finished runs; and the studies that could not, with the reason: their runs are trained all the same.
    """
    wanted = _planned(plan)
    tables: list[pd.DataFrame] = []
    failures: dict[str, str] = {}
    taken: set[str] = set()
    for name, ids in plan.parts.items():
        member = question.member(name)
        own = [run for run in held_back(member, plan.part(name)) if run not in taken]
        if not own:
            continue
        mine = finished[finished["run"].isin(ids)].reset_index(drop=True)
        try:
            table = member.predict(mine, wanted.loc[own].reset_index(drop=True))
        except AllometryError as error:
            failures[name] = error.message
            continue
        tables.append(table.assign(study=name))
        taken |= set(own)
    return (pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()), failures


def _planned(plan: StudyPlan) -> pd.DataFrame:
    """Return the plan's runs by id, with the settings that tell runs of one size apart, as in the run
    table.
    """
    settings = [
        {
            "run": run.id, "corpus": run.data.corpus, "tokenizer": run.data.tokenizer,
            "limit": run.data.limit, "B": run.train.batch_tokens, "weight_decay": run.train.weight_decay,
            "d_model": getattr(run.model, "d_model", None), "dropout": getattr(run.model, "dropout", None),
        }
        for run in plan.sweep
    ]  # fmt: skip
    return plan_frame(plan.sweep).merge(pd.DataFrame(settings), on="run").set_index("run", drop=False)
