"""The results of a study as a small folder of plain files, from which its report is made again: no store, no
corpus, no torch.

    study.json         question, command, budget, machine, and which runs belong to which study
    runs.csv           one row a run (`Store.frame()`)
    curves.csv.xz      test and training losses along every run (`Store.curves()`)
    positions.csv.xz   test losses by position in the context (`Store.positions()`), if any were recorded
    probes.csv.xz      losses of single sequences along every run (`Store.probes()`), if any were recorded
    novelty.csv.xz     n-grams of generated text that occur in training (`Store.novelty()`), if recorded
    prediction.json    what was predicted before it was trained, if anything was
    score.json         how sharp and how honest those predictions were, beside a naive competitor's
    ledger.csv         every registered prediction, scored, if there are any
    report.html        the report
    README.md          what all this is, with the constants

Results of version 0.1 have Parquet files (`curves.parquet`) in place of compressed CSV; they are read too.
"""

from __future__ import annotations

import json
import lzma
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.core.env import snapshot
from allometry.core.errors import AllometryError, printable, require, unknown
from allometry.core.files import read_json, refuse_links, write_text, writing
from allometry.core.units import counted, format_duration
from allometry.report import page as fmt
from allometry.report.build import write
from allometry.runs.record import check_format
from allometry.runs.store import Store
from allometry.studies.core import plan as planning
from allometry.studies.core.collection import dated
from allometry.studies.core.predictions import ledger, registered, score
from allometry.studies.core.scoring import compared
from allometry.studies.core.study import Study, StudyData, study
from allometry.studies.core.texts import changed_since, require_own_text

if TYPE_CHECKING:
    from allometry.report.build import Analysis
    from allometry.studies.core.plan import StudyPlan


FORMAT = 2
"""1 had Parquet files, 2 has compressed CSV."""

STUDY, RUNS = "study.json", "runs.csv"
CURVES, POSITIONS, PROBES, NOVELTY = COMPRESSED = tuple(
    f"{name}.csv.xz" for name in ("curves", "positions", "probes", "novelty")
)
PREDICTION, LEDGER, REPORT, README = "prediction.json", "ledger.csv", "report.html", "README.md"
SCORE = "score.json"

_NUMBER = re.compile(r"u?int(8|16|32|64)|float(16|32|64)")
"""Names of the types of columns that hold numbers."""

_DIGITS = {POSITIONS: 5, PROBES: 6}
"""Significant digits of losses by position and of single sequences, as they are recorded: format 1 kept them in
single precision."""

_MOST_BYTES = 1 << 29
"""Bytes of a compressed table after which it is no table of results but a trap."""


def save(name: str, study_data: StudyData, folder: Path, changed: str | None = None) -> tuple[Analysis, Path]:
    """Write the results of the study `name` into `folder` and the report that is made from them.

    `changed` says that the corpus has been written since the study was planned: the report warns of it.
    Raises AllometryError where the folder holds something else or cannot be written.
    """
    _make(folder)
    tables = {
        RUNS: study_data.runs,
        CURVES: study_data.curves,
        POSITIONS: study_data.positions,
        PROBES: study_data.probes,
        NOVELTY: study_data.novelty,
        LEDGER: study_data.ledger,
    }
    about = {
        "format": FORMAT,
        "study": name,
        "question": study(name).question,
        "command": study_data.command,
        "environment": study_data.environment,
        "planned": list(study_data.planned),
        "parts": {part: list(ids) for part, ids in study_data.parts.items()},
        "types": {file: _types(frame) for file, frame in tables.items()},
    }
    _write_json(folder / STUDY, about | ({"changed": changed} if changed else {}))
    with writing(folder):
        for file, frame in tables.items():
            _former(folder / file).unlink(missing_ok=True)
            _write_or_remove(folder / file, frame, always=file in (RUNS, CURVES, POSITIONS))
    (folder / PREDICTION).unlink(missing_ok=True)
    if study_data.prediction is not None:
        _write_json(folder / PREDICTION, study_data.prediction)
    return rebuild(folder)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON without sorting its keys: columns of tables that are made from it keep their order."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _make(folder: Path) -> None:
    """Make the folder: new, empty, or with results that this study may write over."""
    if folder.exists() and not folder.is_dir():
        raise AllometryError(f"{folder} is a file", hint="name a folder with --save")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / STUDY).exists():
        raise AllometryError(
            f"{folder} holds something else than results",
            hint="name a new or empty folder with --save, so that nothing of yours is touched",
        )


def rebuild(folder: Path, output: Path | None = None) -> tuple[Analysis, Path]:
    """Return the analysis and the report of saved results; the report goes to `output`, or with a new README
    into the folder.
    """
    asked, evidence = load(folder)
    analysis = dated(asked.analyse(evidence), evidence.runs)
    changed = (read_json(folder / STUDY) or {}).get("changed")
    if isinstance(changed, str):
        analysis = replace(analysis, warnings=(printable(changed), *analysis.warnings))
    if output is None:
        with writing(folder):
            _write_score(folder, evidence)
            write_text(folder / README, readme(analysis, evidence, folder))
    return analysis, write(analysis, output or folder / REPORT)


def _write_score(folder: Path, evidence: StudyData) -> None:
    """Write the scores of the registered losses and of the naive competitor, nothing where none was measured."""
    (folder / SCORE).unlink(missing_ok=True)
    if evidence.prediction is None or "status" not in evidence.runs:
        return
    table = score(evidence.prediction, evidence.runs)
    scored = table[table["scored"]]
    if len(scored):
        ours, naive = compared(scored, evidence.runs, evidence.prediction["made_from"])
        _write_json(
            folder / SCORE, {"ours": ours.to_dict(), "naive": naive.to_dict() if naive is not None else None}
        )


def load(folder: Path) -> tuple[Study, StudyData]:
    """Return the study and the evidence of saved results.

    Raises AllometryError where the folder holds none, or those of a newer release.
    """
    about = read_json(folder / STUDY) if folder.is_dir() else None
    if about is None:
        raise AllometryError(
            f"{folder} holds no results: there is no {STUDY}",
            hint=f"allometry report kaplan --store runs --save {folder}",
        )
    check_format(about, folder / STUDY, reads=FORMAT)
    if problem := _problem(about):
        raise AllometryError(f"{folder / STUDY} is damaged: {problem}", hint="restore it, or save again")
    evidence = StudyData(
        runs=_table(folder / RUNS, about),
        curves=_table(folder / CURVES, about),
        positions=_table(folder / POSITIONS, about),
        probes=_optional(folder / PROBES, about),
        novelty=_optional(folder / NOVELTY, about),
        planned=tuple(about["planned"]),
        prediction=read_json(folder / PREDICTION),
        command=about["command"],
        environment=about["environment"],
        ledger=_optional(folder / LEDGER, about),
        parts={name: tuple(ids) for name, ids in about["parts"].items()},
    )
    return study(about["study"]), evidence


def _problem(about: dict[str, Any]) -> str | None:
    """Return what is wrong with what study.json says, or None."""
    kinds = {"study": str, "command": str, "environment": dict, "planned": list, "parts": dict, "types": dict}
    for key, kind in kinds.items():
        if not isinstance(about.get(key), kind):
            return f"{key!r} is missing or wrong"
    lists = [about["planned"], *about["parts"].values()]
    if not all(isinstance(ids, list) and all(isinstance(run, str) for run in ids) for ids in lists):
        return "a list of runs holds something else"
    for name in (RUNS, LEDGER, *COMPRESSED):
        types = about["types"].get(name, None if name == RUNS else {})
        if not isinstance(types, dict) or not all(_is_type(kind) for kind in types.values()):
            return f"the types of {name} are missing or wrong"
    return None


def _is_type(kind: Any) -> bool:
    return isinstance(kind, str) and (kind in ("bool", "str", "object") or bool(_NUMBER.fullmatch(kind)))


def _former(path: Path) -> Path:
    """Return the Parquet file that format 1 had in place of a compressed table."""
    return path.with_name(path.name.replace(".csv.xz", ".parquet"))


def _write_or_remove(path: Path, frame: pd.DataFrame | None, *, always: bool) -> None:
    """Write a table, compressed if its name ends in .xz; an empty one only `always`."""
    if frame is not None and (always or not frame.empty):
        frame.to_csv(
            path, index=False, compression={"method": "xz", "preset": 1} if path.suffix == ".xz" else None
        )
    elif always:
        path.write_bytes(lzma.compress(b"\n"))
    else:
        path.unlink(missing_ok=True)


def _types(frame: pd.DataFrame | None) -> dict[str, str]:
    """Return what each column holds, which a CSV does not say."""
    return {} if frame is None else {str(name): str(kind) for name, kind in frame.dtypes.items()}


def _table(path: Path, about: dict[str, Any]) -> pd.DataFrame:
    """Return a table of results of either format."""
    former = _former(path)
    if former != path and former.exists() and not path.exists():
        return _parquet(former, _DIGITS.get(path.name))
    return _read(path, about["types"].get(path.name, {}))


def _optional(path: Path, about: dict[str, Any]) -> pd.DataFrame | None:
    """Return a table of results that not every study has, or None."""
    return _table(path, about) if path.exists() or _former(path).exists() else None


def _read(path: Path, types: dict[str, str]) -> pd.DataFrame:
    """Return a CSV with the types that its columns had and every digit of its numbers."""
    try:
        source: Path | BytesIO = path
        if path.suffix == ".xz":
            with lzma.open(path) as file:
                data = file.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise ValueError(f"it holds more than {_MOST_BYTES:,} bytes")
            if not data.strip():
                return pd.DataFrame()
            source = BytesIO(data)
        text = pd.read_csv(source, dtype="str", keep_default_na=False)
        return pd.DataFrame({name: _column(text[name], types.get(str(name), "str")) for name in text})
    except (OSError, ValueError, OverflowError, EOFError, lzma.LZMAError) as error:
        raise AllometryError(f"cannot read {path}: {error}", hint="restore it, or save again") from error


def _column(text: pd.Series, kind: str) -> pd.Series:
    """Return a column from its texts; the empty ones are missing. Numbers go through Python, which rounds to
    the nearest.
    """
    if kind == "bool":
        return text == "True"
    cells = text.to_numpy(object)
    if kind in ("str", "object"):
        held = pd.Series(cells, text.index, dtype=object).where(cells != "", None)
        return held if kind == "object" else held.astype("str")
    if not kind.startswith("int"):
        cells = np.where(cells == "", "nan", cells)
    return pd.Series(cells.astype(np.dtype(kind)), text.index)


def _parquet(path: Path, digits: int | None) -> pd.DataFrame:
    """Return a table of format 1. Losses with so many digits were recorded, and kept in single precision:
    rounding to those digits undoes it.
    """
    require("pyarrow", purpose=f"{path}, a Parquet file,")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise AllometryError(f"cannot read {path}: {error}", hint="restore it, or save again") from error
    if frame.empty or digits is None:
        return frame
    loss = frame["loss"].astype(float)
    places = digits - 1 - np.floor(np.log10(loss.abs().where(loss != 0, 1.0)))
    scale = 10.0**places
    return frame.astype({"step": "int64"}).assign(loss=(loss * scale).round() / scale)


def readme(analysis: Analysis, study_data: StudyData, folder: Path) -> str:
    """Return what the folder holds, for a reader who found it: the answer, the constants, how to make it
    again.
    """
    place = folder.name if folder.is_absolute() else folder.as_posix()
    machine = study_data.environment
    parts = [
        f"# Results: {analysis.study}",
        analysis.question,
        analysis.answer,
        f"Made by Allometry {machine.get('allometry')} with `{analysis.command}` on {machine.get('cores')} "
        f"cores of {machine.get('cpu')}; {counted(len(study_data.runs), 'run')}, the last finished on "
        f"{fmt.date(analysis.date)}.",
        "Open `report.html` for figures, tables and what limits all of it. It is made again from the "
        "files here, without training, a corpus or torch, by",
        f"```sh\nallometry report --from {place}\n```",
        _constants(analysis),
        _FILES,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_FILES = """## Files

| file | what |
|---|---|
| `runs.csv` | one row a run: shape, counts, horizon, rate, loss (nats per token), seconds |
| `curves.csv.xz` | losses along every run (`pandas.read_csv` reads it as it is) |
| `positions.csv.xz` | losses by position in the context |
| `probes.csv.xz` | losses of single sequences along every run, where they were recorded |
| `novelty.csv.xz` | n-grams of generated and of held-out text that occur in training, where recorded |
| `prediction.json`, `ledger.csv` | what was predicted before it was trained, and how it came out |
| `score.json` | how sharp and how honest the predictions of the loss were, beside a naive competitor's |
| `study.json` | question, command, machine, and which runs belong to which study |"""


def _constants(analysis: Analysis) -> str:
    rows = [(entry.study, c) for entry in (analysis, *analysis.chapters) for c in entry.constants]
    if not rows:
        return ""
    lines = [
        "## Comparison with published values",
        "",
        "| study | quantity | published | ours | parts of the design | verdict |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for owner, c in rows:
        published = ", ".join(f"{fmt.short(value)} ({paper})" for paper, value in c.published.items()) or "–"
        ours = fmt.interval(c.ours, c.low, c.high)
        cells = (owner, f"{c.name} ({c.symbol})", published, ours, c.design or "–", c.verdict)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


STUDIES = "studies"


def folder_of(store: Store, key: str) -> Path:
    """Return the folder of a study in a store, which may not be there yet. AllometryError if it is a link."""
    folder = store.path / STUDIES / key
    refuse_links(folder, store.path)
    return folder


def runs_of(store: Store, ids: list[str]) -> pd.DataFrame:
    """Return the rows of the run table of these runs."""
    frame = store.frame()
    return frame[frame["run"].isin(ids)].reset_index(drop=True)


def read(
    question: Study, plan: StudyPlan, store: Store, key: str, command: str, prediction: dict[str, Any] | None
) -> Analysis:
    """Report the analysis of a study's runs as they stand in the store; needs no torch and trains nothing."""
    evidence = evidence_of(plan, store, key, command, prediction)
    return dated(question.analyse(evidence), evidence.runs)


def _with_changes(analysis: Analysis, folder: Path) -> Analysis:
    """Return the analysis, with a first warning if the corpus has been written since the study was planned."""
    changed = changed_since(folder)
    return analysis if changed is None else replace(analysis, warnings=(changed, *analysis.warnings))


def evidence_of(
    plan: StudyPlan, store: Store, key: str, command: str, prediction: dict[str, Any] | None = None
) -> StudyData:
    """Return what a study reads of its store. AllometryError if none of its runs is finished."""
    ids = list(plan.sweep.ids)
    require_own_text(store, folder_of(store, key), ids, command)
    runs = runs_of(store, ids)
    if not (runs["status"] == "done").any():
        raise AllometryError(
            f"the study {key!r} has no finished run in {store.path}", hint=f"train it first: {command}"
        )
    begun = [run for run in ids if run in set(runs["run"])]
    environment = {
        **snapshot(),
        "budget": format_duration(plan.budget),
        "planned seconds": round(plan.seconds),
    }
    return StudyData(
        runs=runs,
        curves=store.curves(begun),
        positions=store.positions(begun),
        probes=store.probes(begun),
        novelty=store.novelty(begun),
        parts=plan.parts,
        planned=tuple(ids),
        prediction=prediction or registered(folder_of(store, key)),
        command=command,
        environment=environment,
        ledger=ledger(store.path / STUDIES, store.frame()),
    )


def report(
    store_path: Path, name: str | None, output: Path | None, save_to: Path | None = None
) -> tuple[Analysis, Path]:
    """Write the report of a study in the store again, from its runs alone; with `save_to`, its results too.

    `name` is the study's name in the store or the beginning of it; without it, the study that was planned
    last. See the top of this file for what is saved.
    """
    store = Store(store_path)
    key = find(store, name)
    folder = folder_of(store, key)
    plan = planning.load(folder)
    if plan is None:
        raise AllometryError(f"{folder} holds no plan", hint="allometry run quickstart")
    member = store.studies().get(key)
    evidence = evidence_of(plan, store, key, member.command if member else "")
    if save_to is not None:
        analysis, path = save(plan.study, evidence, save_to, changed_since(folder))
        return analysis, write_report(analysis, folder, output) if output else path
    analysis = _with_changes(dated(study(plan.study).analyse(evidence), evidence.runs), folder)
    return analysis, write_report(analysis, folder, output)


def find(store: Store, name: str | None) -> str:
    """Return the key of a study in the store: the given name or beginning, else the newest."""
    plans = sorted(store.path.glob(f"{STUDIES}/*/{planning.FILE}"), key=lambda p: p.stat().st_mtime)
    keys = [path.parent.name for path in plans]
    if not keys:
        raise AllometryError(f"{store.path} holds no study", hint="allometry run quickstart")
    if name is None:
        return keys[-1]
    found = [key for key in keys if key == name] or [key for key in keys if key.startswith(name)]
    if not found:
        raise unknown("study in this store", name, keys)
    return found[-1]


def write_report(analysis: Analysis, folder: Path, output: Path | None = None) -> Path:
    """Return the report as one HTML file, and the registered numbers beside it as JSON."""
    return write(analysis, output or folder / REPORT)
