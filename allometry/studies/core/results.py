"""The results of a study as a small folder of plain files, from which its report is made again: no store, no
corpus, no torch.

    study.json         question, command, budget, machine, and which runs belong to which study
    runs.csv           one row a run (`Store.frame()`)
    curves.parquet     test and training losses along every run (`Store.curves()`)
    positions.parquet  test losses by position in the context (`Store.positions()`)
    probes.parquet     losses of single sequences along every run (`Store.probes()`), if any were recorded
    novelty.parquet    n-grams of generated text that occur in training (`Store.novelty()`), if recorded
    prediction.json    what was predicted before it was trained, if anything was
    ledger.csv         every registered prediction, scored, if there are any
    report.html        the report
    README.md          what all this is, with the constants
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.files import read_json, write_text, writing
from allometry.runs.record import check_format
from allometry.studies.core.collection import dated
from allometry.studies.core.study import Study, StudyData, study

if TYPE_CHECKING:
    from allometry.report.content import Analysis

FORMAT = 1
STUDY, RUNS, CURVES, POSITIONS = "study.json", "runs.csv", "curves.parquet", "positions.parquet"
PROBES, NOVELTY = "probes.parquet", "novelty.parquet"
PREDICTION, LEDGER, REPORT, README = "prediction.json", "ledger.csv", "report.html", "README.md"

_NUMBER = re.compile(r"u?int(8|16|32|64)|float(16|32|64)")
"""Names of the types of columns that hold numbers."""

_DIGITS, _PROBE_DIGITS = 5, 6
"""Significant digits of losses by position and of single sequences, as they are recorded."""


def save(name: str, study_data: StudyData, folder: Path) -> tuple[Analysis, Path]:
    """Write the results of the study `name` into `folder` and the report that is made from them.

    Raises AllometryError where the folder holds something else or cannot be written.
    """
    _make(folder)
    about = {
        "format": FORMAT,
        "study": name,
        "question": study(name).question,
        "command": study_data.command,
        "environment": study_data.environment,
        "planned": list(study_data.planned),
        "parts": {part: list(ids) for part, ids in study_data.parts.items()},
        "types": {RUNS: _types(study_data.runs), LEDGER: _types(study_data.ledger)},
    }
    _write_json(folder / STUDY, about)
    with writing(folder):
        study_data.runs.to_csv(folder / RUNS, index=False)
        study_data.curves.to_parquet(folder / CURVES, index=False, compression="zstd")
        _narrow(study_data.positions).to_parquet(folder / POSITIONS, index=False, compression="zstd")
        _write_or_remove(folder / LEDGER, study_data.ledger)
        (folder / PROBES).unlink(missing_ok=True)
        if study_data.probes is not None and len(study_data.probes):
            narrow = study_data.probes.astype({"step": "int32", "loss": "float32"})
            narrow.to_parquet(folder / PROBES, index=False, compression="zstd")
        (folder / NOVELTY).unlink(missing_ok=True)
        if study_data.novelty is not None and len(study_data.novelty):
            study_data.novelty.to_parquet(folder / NOVELTY, index=False, compression="zstd")
    (folder / PREDICTION).unlink(missing_ok=True)
    if study_data.prediction is not None:
        _write_json(folder / PREDICTION, study_data.prediction)
    analysis, path = rebuild(folder)
    write_text(folder / README, readme(analysis, study_data, folder))
    return analysis, path


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
    """Return the analysis and the report of saved results; the report goes to `output`, or into the
    folder.
    """
    from allometry.report.build import write

    asked, evidence = load(folder)
    analysis = dated(asked.analyse(evidence), evidence.runs)
    return analysis, write(analysis, output or folder / REPORT)


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
    check_format(about, folder / STUDY)
    if problem := _problem(about):
        raise AllometryError(f"{folder / STUDY} is damaged: {problem}", hint="restore it, or save again")
    evidence = StudyData(
        runs=_read(folder / RUNS, about["types"][RUNS]),
        curves=_parquet(folder / CURVES),
        positions=_widened(_parquet(folder / POSITIONS), _DIGITS),
        probes=_widened(_parquet(folder / PROBES), _PROBE_DIGITS) if (folder / PROBES).exists() else None,
        novelty=_parquet(folder / NOVELTY) if (folder / NOVELTY).exists() else None,
        planned=tuple(about["planned"]),
        prediction=read_json(folder / PREDICTION),
        command=about["command"],
        environment=about["environment"],
        ledger=_read(folder / LEDGER, about["types"].get(LEDGER, {})) if (folder / LEDGER).exists() else None,
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
    for name in (RUNS, LEDGER):
        types = about["types"].get(name, {} if name == LEDGER else None)
        if not isinstance(types, dict) or not all(_is_type(kind) for kind in types.values()):
            return f"the types of {name} are missing or wrong"
    return None


def _is_type(kind: Any) -> bool:
    return isinstance(kind, str) and (kind in ("bool", "str", "object") or bool(_NUMBER.fullmatch(kind)))


def _write_or_remove(path: Path, frame: pd.DataFrame | None) -> None:
    if frame is None or frame.empty:
        path.unlink(missing_ok=True)
    else:
        frame.to_csv(path, index=False)


def _types(frame: pd.DataFrame | None) -> dict[str, str]:
    """Return what each column holds, which a CSV does not say."""
    return {} if frame is None else {str(name): str(kind) for name, kind in frame.dtypes.items()}


def _read(path: Path, types: dict[str, str]) -> pd.DataFrame:
    """Return a CSV with the types that its columns had and every digit of its numbers."""
    try:
        text = pd.read_csv(path, dtype="str", keep_default_na=False)
        return pd.DataFrame({name: _column(text[name], types.get(str(name), "str")) for name in text})
    except (OSError, ValueError, OverflowError) as error:
        raise AllometryError(f"cannot read {path}: {error}", hint="restore it, or save again") from error


def _column(text: pd.Series, kind: str) -> pd.Series:
    """Return a column from its texts; the empty ones are missing. Numbers go through Python, which rounds to
    the nearest.
    """
    if kind == "bool":
        return text == "True"
    if kind in ("str", "object"):
        held = text.astype(object).where(text != "", None)
        return held if kind == "object" else held.astype("str")
    if kind.startswith("int"):
        return pd.Series([int(cell) for cell in text], text.index, dtype=np.dtype(kind))
    return pd.Series([float(cell or "nan") for cell in text], text.index, dtype=np.dtype(kind))


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise AllometryError(f"cannot read {path}: {error}", hint="restore it, or save again") from error


def _narrow(positions: pd.DataFrame | None) -> pd.DataFrame:
    """Return the losses in single precision, which holds all of their digits in half the space."""
    if positions is None or positions.empty:
        return pd.DataFrame({"run": [], "step": [], "position": [], "loss": []})
    return positions.astype({"step": "int32", "loss": "float32"})


def _widened(positions: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Return the losses as they were recorded: rounding to the recorded digits undoes the single
    precision.
    """
    if positions.empty:
        return positions
    loss = positions["loss"].astype(float)
    places = digits - 1 - np.floor(np.log10(loss.abs().where(loss != 0, 1.0)))
    scale = 10.0**places
    return positions.astype({"step": "int64"}).assign(loss=(loss * scale).round() / scale)


def readme(analysis: Analysis, study_data: StudyData, folder: Path) -> str:
    """Return what the folder holds, for a reader who found it: the answer, the constants, how to make it
    again.
    """
    from allometry.report import format as fmt

    place = folder.name if folder.is_absolute() else folder.as_posix()
    machine = study_data.environment
    parts = [
        f"# Results: {analysis.study}",
        analysis.question,
        analysis.answer,
        f"Made by Allometry {machine.get('allometry')} with `{analysis.command}` on {machine.get('cores')} "
        f"cores of {machine.get('cpu')}; {len(study_data.runs)} runs, the last finished on "
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
| `curves.parquet` | losses along every run |
| `positions.parquet` | losses by position in the context |
| `probes.parquet` | losses of single sequences along every run, where they were recorded |
| `novelty.parquet` | n-grams of generated and of held-out text that occur in training, where recorded |
| `prediction.json`, `ledger.csv` | what was predicted before it was trained, and how it came out |
| `study.json` | question, command, machine, and which runs belong to which study |"""


def _constants(analysis: Analysis) -> str:
    from allometry.report import format as fmt

    rows = [(entry.study, c) for entry in (analysis, *analysis.chapters) for c in entry.constants]
    if not rows:
        return ""
    lines = ["## Comparison with published values", "", "| study | quantity | published | ours | verdict |"]
    lines.append("|---|---|---|---|---|")
    for owner, c in rows:
        published = ", ".join(f"{fmt.short(value)} ({paper})" for paper, value in c.published.items()) or "–"
        ours = fmt.interval(c.ours, c.low, c.high)
        cells = (owner, f"{c.name} ({c.symbol})", published, ours, c.verdict)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
