"""The run store: a directory of run directories, and the questions that are asked of it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from allometry.core.errors import AllometryError, printable, unknown
from allometry.core.files import read_json, refuse_links, size_of, write_json, writing
from allometry.core.locks import exclusive
from allometry.runs.index import read_index, run_directories
from allometry.runs.measurements import (
    NOVELTY_COLUMNS,
    POSITION_COLUMNS,
    PROBE_COLUMNS,
    read_novelty,
    read_positions,
    read_probes,
)
from allometry.runs.mirror import Mirror
from allometry.runs.place import place, url_of
from allometry.runs.query import select
from allometry.runs.record import (
    ASIDE,
    COLUMNS,
    CURVE_COLUMNS,
    FORMAT,
    TEXT_COLUMNS,
    RunRecord,
    Status,
    check_format,
    holds_run,
    is_run_name,
    read_run,
)

_MARKER = "store.json"
_STUDIES = "studies"
_REMOVED = ".removed"
_STUDY = re.compile(r"[A-Za-z0-9][\w.-]*")
"""Allowed names of a study."""


@dataclass(frozen=True, kw_only=True)
class Membership:
    """The runs that a study uses, its question, and how it was started. Runs may be shared between studies."""

    study: str
    runs: tuple[str, ...]
    question: str = ""
    command: str = ""


class Store:
    """Runs in a folder, or at a URL. Opening one reads only its marker; every method reads the files as they are now.

    `path` is the folder. A store at a URL (`remote`) is mirrored there: opening it, `pull` and `refresh`
    fetch what has changed, `push` sends what was written into the folder (`allometry.runs.mirror`). `place`
    reaches the files where they really are.
    """

    def __init__(self, path: Path | str = "runs", *, create: bool = False) -> None:
        """Open the store at `path`; with `create`, make it if there is none.

        Raises AllometryError for a directory that holds something else, one that cannot be written (with
        `create`), or a store of a newer release.
        """
        self.place = place(path)
        self._mirror = None if url_of(path) is None else Mirror(self.place)
        self.path = Path(path) if self._mirror is None else self._mirror.path
        self.notes: tuple[str, ...] = ()
        self._left_out: frozenset[str] = frozenset()
        self.pull()
        if create:
            _create(self.path)
            self.push("store.json")
        else:
            _check(self.path, name=str(path) if self._mirror is None else self.place.location)

    def __repr__(self) -> str:
        return f"Store({str(self.path) if self._mirror is None else self.place.location!r})"

    @property
    def remote(self) -> bool:
        """Whether the store is at a URL."""
        return self._mirror is not None

    def pull(self) -> None:
        """Fetch what has changed at the URL; a store in a folder has nothing to fetch."""
        if self._mirror is not None:
            self._mirror.pull()

    def refresh(self, run: str) -> None:
        """Fetch the changes of one run."""
        if self._mirror is not None:
            self._mirror.pull(run)

    def push(self, folder: str = "") -> None:
        """Send what was written into the folder (or a folder in it) to the URL."""
        if self._mirror is not None:
            self._mirror.push(folder)

    def publish(self, path: Path, text: str) -> bool:
        """Write a file that must be written only once, such as a plan or a prediction; False, and nothing
        written, if it is there already. Many processes may try: one succeeds, and all read its text from
        `path`.
        """
        name = path.relative_to(self.path).as_posix()
        if self._mirror is not None:
            return self._mirror.create(name, text.encode())
        return self.place.create(name, text.encode())

    def checkpoints(self, run: str) -> list[str]:
        """Return the names of the files in a run's folder of checkpoints, read from the place itself."""
        return [name.rpartition("/")[2] for name in self.place.names(f"{run}/checkpoints")]

    def directory(self, run: str) -> Path:
        """Return the directory of the run of that id, whether it exists or not."""
        return self.path / run

    def status(self, run: str) -> Status | None:
        """Return the status of the run of that id; None if it was never started."""
        directory = self.directory(run)
        if run in self._left_out or not holds_run(directory):
            return None
        return read_run(directory).status

    def leave_out(self, runs: Iterable[str]) -> None:
        """Report these runs as never started when a plan asks for their status."""
        self._left_out |= frozenset(runs)

    def frame(self, where: str = "") -> pd.DataFrame:
        """Return the run table: one row a run with the columns COLUMNS, `loss_<corpus>` and `study`, filtered by
        `where`.

        What could not be read is left out, and `notes` says so.
        """
        index = read_index(self.path)
        table = run_table(index.rows.values())
        used = _used_by(self.studies().values())
        mirrored = self._mirror.notes if self._mirror is not None else ()
        self.notes = (*mirrored, *index.notes, *self.notes)
        table["study"] = pd.Series([", ".join(used.get(run, ())) for run in table["run"]], dtype="str")
        return select(table, where).reset_index(drop=True)

    def _repr_html_(self) -> str:
        """Return the run table, its first rows and main columns, for a notebook."""
        table = self.frame()
        shown = table[["run", "status", "N", "D", "C", "lr", "loss", "study"]].head(20)
        rest = f", the first {len(shown)} of them" if len(table) > len(shown) else ""
        return f"<p>{escape(self.place.location)}: {len(table)} runs{rest}</p>{shown.to_html(index=False)}"

    def records(self, where: str = "") -> list[RunRecord]:
        """Return the runs that satisfy `where`, with their configurations and curves; `notes` says what was left
        out.
        """
        if where:
            return [read_run(self.directory(run)) for run in self.frame(where)["run"]]
        records, notes = [], []
        for directory in run_directories(self.path):
            try:
                records.append(read_run(directory))
            except AllometryError as error:
                notes.append(f"{error.message}: the run is left out")
        self.notes = tuple(notes)
        return records

    def curves(self, runs: Iterable[str] | None = None) -> pd.DataFrame:
        """Return the curves of the named runs (default: all), concatenated, with the columns CURVE_COLUMNS and
        further losses.
        """
        records = self.records() if runs is None else [self.get(run) for run in runs]
        curves = [record.curve for record in records]
        damaged = self.notes if runs is None else ()
        self.notes = (*damaged, *(f"{curve.run}: {note}" for curve in curves for note in curve.notes))
        frames = [curve.frame for curve in curves if len(curve)]
        if not frames:
            return pd.DataFrame(columns=list(CURVE_COLUMNS))
        return pd.concat([frame.dropna(axis=1, how="all") for frame in frames], ignore_index=True).reindex(
            columns=list(
                dict.fromkeys([*CURVE_COLUMNS, *(name for frame in frames for name in frame.columns)])
            )
        )

    def positions(self, runs: Iterable[str] | None = None) -> pd.DataFrame:
        """Return the test loss by position in the context of the named runs (default: all): `run`, `step`,
        `position`, `loss`.

        Positions count from 1; where several share a number, the geometric middle stands for them.
        """
        return self._together(read_positions, POSITION_COLUMNS, runs)

    def probes(self, runs: Iterable[str] | None = None) -> pd.DataFrame:
        """Return losses of single sequences (canaries, passages, documents, …) along the named runs (default:
        all): `runs.measurements.PROBE_COLUMNS`.
        """
        return self._together(read_probes, PROBE_COLUMNS, runs)

    def novelty(self, runs: Iterable[str] | None = None) -> pd.DataFrame:
        """Return how often n-grams of the text that the named runs (default: all) generate occur in their
        training data: `runs.measurements.NOVELTY_COLUMNS`.
        """
        return self._together(read_novelty, NOVELTY_COLUMNS, runs)

    def _together(
        self,
        read: Callable[[RunRecord], pd.DataFrame],
        columns: Sequence[str],
        runs: Iterable[str] | None,
    ) -> pd.DataFrame:
        """Return what `read` makes of each run, under each other; `notes` says what was left out."""
        records = self.records() if runs is None else [self.get(run) for run in runs]
        frames, notes = [], list(self.notes if runs is None else ())
        for record in records:
            try:
                frames.append(read(record))
            except AllometryError as error:
                notes.append(f"{error.message}: it is left out")
        self.notes = tuple(notes)
        frames = [frame for frame in frames if len(frame)]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(columns))

    def get(self, name: str) -> RunRecord:
        """Return the run of that id, or the only run whose id starts or ends with `name`; AllometryError otherwise."""
        if is_run_name(name) and holds_run(self.directory(name)) and not self.directory(name).is_symlink():
            return read_run(self.directory(name))
        ids = [directory.name for directory in run_directories(self.path)]
        found = [run for run in ids if name and (run.startswith(name) or run.endswith(name))]
        if len(found) == 1:
            return read_run(self.directory(found[0]))
        if found:
            shown = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
            raise AllometryError(f"{name!r} fits {len(found)} runs: {shown}", hint="give more of the id")
        if len(ids) <= 20:
            raise unknown("run", name, ids)
        raise AllometryError(f"no run is called {name!r}", hint=f"allometry runs list --store {self.path}")

    def studies(self) -> dict[str, Membership]:
        """Return the runs that each study uses, by its name. A damaged file is left out, and `notes` says so."""
        found, notes = {}, []
        for path in sorted((self.path / _STUDIES).glob("*.json")):
            try:
                stored = read_json(path) or {}
                check_format(stored, path)
                if not _STUDY.fullmatch(path.stem):
                    raise AllometryError(f"{path.name!r} cannot name a study")
                if problem := _study_problem(stored):
                    raise AllometryError(f"{path} is damaged: {problem}")
            except AllometryError as error:
                notes.append(f"{error.message}: the study is left out")
                continue
            found[path.stem] = Membership(
                study=path.stem,
                runs=tuple(stored.get("runs", ())),
                question=printable(stored.get("question", ""), lines=True),
                command=printable(stored.get("command", "")),
            )
        self.notes = tuple(notes)
        return found

    def enroll(self, study: str, runs: Iterable[str], *, question: str = "", command: str = "") -> Membership:
        """Record which runs a study uses, and replace what was recorded before. Runs need not exist yet."""
        if not _STUDY.fullmatch(study):
            raise AllometryError(f"{study!r} cannot name a study", hint="use letters, digits, - _ and .")
        member = Membership(study=study, runs=tuple(dict.fromkeys(runs)), question=question, command=command)
        folder = self.path / _STUDIES
        refuse_links(folder / study, self.path)
        with writing(folder):
            folder.mkdir(exist_ok=True)
        fields = {"runs": list(member.runs), "question": question, "command": command}
        write_json(folder / f"{study}.json", {"format": FORMAT, "study": study, **fields})
        self.push(_STUDIES)
        return member

    def remove(self, runs: Iterable[str]) -> list[str]:
        """Move runs out of the store into its undo folder; return their ids."""
        ids = [self.get(run).id for run in runs]
        if not ids:
            return []
        self._require_folder()
        refuse_links(self.path / _REMOVED, self.path)
        batch = self.path / _REMOVED / str(time.time_ns())
        with exclusive(self.path), writing(batch):
            batch.mkdir(parents=True)
            for run in ids:
                self.directory(run).rename(batch / run)
        return ids

    def undo(self) -> list[str]:
        """Restore what the last `remove` took away; return the ids. AllometryError if there is nothing."""
        self._require_folder()
        refuse_links(self.path / _REMOVED, self.path)
        batches = sorted(path for path in (self.path / _REMOVED).glob("[0-9]*") if _is_batch(path))
        if not batches:
            raise AllometryError(f"nothing was removed from {self.path}", hint="allometry runs list")
        with exclusive(self.path), writing(self.path):
            ids = sorted(directory.name for directory in batches[-1].iterdir())
            taken = [run for run in ids if self.directory(run).exists()]
            if taken:
                raise AllometryError(
                    f"{taken[0]} exists again: it would be overwritten", hint=f"allometry runs rm {taken[0]}"
                )
            for run in ids:
                (batches[-1] / run).rename(self.directory(run))
            shutil.rmtree(batches[-1])
        return ids

    def purge(self, runs: Iterable[str] | None = None) -> int:
        """Delete removed runs permanently: the given runs, or all, and then also the runs of other texts
        (`runs.record`). Return how many bytes that frees. AllometryError, and nothing deleted, if a folder among
        them is a link.
        """
        self._require_folder()
        wanted = None if runs is None else set(runs)
        with exclusive(self.path), writing(self.path):
            gone = [run for run in (self.path / _REMOVED).glob("*/*") if wanted is None or run.name in wanted]
            gone += list((self.path / ASIDE).glob("*")) if wanted is None else []
            for path in gone:
                refuse_links(path, self.path)
            freed = sum(map(size_of, gone))
            for path in gone:
                shutil.rmtree(path)
            for batch in (self.path / _REMOVED).glob("*"):
                if _is_empty(batch):
                    batch.rmdir()
        return freed

    def sizes(self) -> dict[str, int]:
        """Return bytes on this disk: of runs by status, of reports, of removed runs, and of runs of other texts."""
        found: dict[str, int] = {}
        for directory in run_directories(self.path):
            status = read_run(directory).status
            found[f"runs {status}"] = found.get(f"runs {status}", 0) + size_of(directory)
        for name, folder in (
            ("studies and reports", _STUDIES),
            ("removed (runs undo)", _REMOVED),
            ("of other texts", ASIDE),
        ):
            if (self.path / folder).is_dir():
                found[name] = size_of(self.path / folder)
        return found

    def _require_folder(self) -> None:
        """Raise AllometryError for a store at a URL: an undo folder there would cost as much as the runs."""
        if self._mirror is not None:
            raise AllometryError(
                f"runs are not removed from a store at a URL ({self.place.location})",
                hint="remove their folders with the tools of the object store",
            )


def store_exists(location: Path | str) -> bool:
    """Return whether there is anything at the path or URL of a store."""
    if url_of(location) is None:
        return Path(location).exists()
    return place(location).read(_MARKER) is not None


def require_room(location: Path | str) -> None:
    """Raise AllometryError if a store cannot be made at a path, before anything is done for it; makes nothing."""
    if url_of(location) is not None:
        return
    path = Path(location).absolute()
    above = next(folder for folder in path.parents if folder.exists())
    with writing(path):
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{above} is a file")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def run_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of `RunRecord.row` as the run table: COLUMNS, then those that some runs have, by name.

    Columns have their types also where no run fills them.
    """
    table = pd.DataFrame(list(rows))
    table = table.reindex(columns=[*COLUMNS, *sorted(set(table.columns) - set(COLUMNS))])
    if table.empty:
        return table.astype({name: "str" if name in TEXT_COLUMNS else float for name in table.columns})
    table["finished"] = table["finished"].astype(object).where(table["finished"].notna(), None)
    return table


def _study_problem(stored: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the file of a study, or None."""
    runs = stored.get("runs", [])
    if not (isinstance(runs, list) and all(isinstance(run, str) for run in runs)):
        return "its runs are no list of ids"
    for key in ("question", "command"):
        if not isinstance(stored.get(key, ""), str):
            return f"{key!r} is no text"
    return None


def _is_batch(path: Path) -> bool:
    """Return whether a folder holds runs that `Store.remove` put there, and nothing else."""
    return (
        path.name.isdecimal()
        and not path.is_symlink()
        and all(is_run_name(each.name) and each.is_dir() and not each.is_symlink() for each in path.iterdir())
    )


def _used_by(studies: Iterable[Membership]) -> Mapping[str, list[str]]:
    used: dict[str, list[str]] = {}
    for member in studies:
        for run in member.runs:
            used.setdefault(run, []).append(member.study)
    return used


def _create(path: Path) -> None:
    if path.exists():
        _check(path, empty_is_fine=True)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    if not (path / _MARKER).exists():
        write_json(path / _MARKER, {"format": FORMAT, "kind": "allometry run store"})


def _check(path: Path, *, empty_is_fine: bool = False, name: str | None = None) -> None:
    """Refuse a folder that is not a store of this release, or of an older one."""
    if not path.exists() or (name is not None and "://" in name and not (path / _MARKER).exists()):
        raise AllometryError(
            f"there is no run store at {name or path}",
            hint="allometry run quickstart makes one; or name yours with --store PATH",
        )
    if not path.is_dir():
        raise AllometryError(f"{path} is a file, not a run store", hint="name a folder with --store PATH")
    marker = read_json(path / _MARKER)
    if marker is not None:
        check_format(marker, path / _MARKER)
    elif not (empty_is_fine and _is_empty(path)) and not _holds_runs(path):
        raise AllometryError(
            f"{path} is not a run store: it has no {_MARKER}",
            hint="name a new or empty folder with --store PATH, so that nothing of yours is touched",
        )


def _is_empty(path: Path) -> bool:
    return next(path.iterdir(), None) is None


def _holds_runs(path: Path) -> bool:
    """Return whether runs were trained into a directory without a store around them: it can serve as one."""
    for run in run_directories(path):
        with contextlib.suppress(AllometryError):  # another one may be intact
            stored = read_json(run / "config.json")
            if stored is not None and "format" in stored:
                return True
    return False
