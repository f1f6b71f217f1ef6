"""Write tables to files that other tools read: CSV, Parquet, JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from allometry.core.errors import require, unknown
from allometry.runs.files import replacing


def _csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False)


def _json(frame: pd.DataFrame, path: Path) -> None:
    frame.to_json(path, orient="records", indent=1, double_precision=15)


def _parquet(frame: pd.DataFrame, path: Path) -> None:
    require("pyarrow", purpose="to write Parquet")
    frame.to_parquet(path, index=False)


FORMATS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    ".csv": _csv,
    ".json": _json,
    ".parquet": _parquet,
}
"""File endings, and the function that writes each."""


def export(frame: pd.DataFrame, path: Path) -> None:
    """Write a table in the format of the file's ending: .csv, .json or .parquet; the file appears whole or
    not at all.

    Raises AllometryError for another ending, or if the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise unknown("file ending", path.suffix or path.name, FORMATS)
    with replacing(path) as aside:
        FORMATS[path.suffix](frame, aside)
