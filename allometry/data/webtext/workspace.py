"""The folder of one corpus, and how a stage knows what is already done.

    OUT/  README.md  train-*.parquet  test-*.parquet        the data set: what `datasets.load_dataset(OUT)`
    reads
          removed/<stage>.jsonl                             what each stage dropped, with reason and value
          webtext.json                                      the number of parts: fixed when OUT is made
          stages/<stage>/summary.json  part-00000*          the work of each stage, in parts

A part holds the links of a set of hosts (by hash), so parts can be worked on independently and a host is in
one only. A part of a stage is done when its `part-*.json` names the fingerprint of its inputs and options;
it is stale when the stage before has other output by now, and no later stage then takes it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec

from allometry.core.errors import AllometryError
from allometry.core.locks import hold
from allometry.data.webtext.jsonl import join_files, read_json, write_json

P = ParamSpec("P")

STAGES = ("links", "fetch", "extract", "filter", "dedup", "contamination", "build")
"""The stages in order; contamination is optional."""

FORMAT = 1
DEFAULT_PARTS = 8
MAX_PARTS = 99_999

_SOURCE = {
    "fetch": "links",
    "extract": "fetch",
    "filter": "extract",
    "dedup": "filter",
    "contamination": "dedup",
}
_OVER_ALL_PARTS = ("dedup", "contamination")


def digest(*values: Any) -> str:
    """Return a short name for JSON values that changes when they do."""
    return hashlib.blake2b(
        json.dumps(values, sort_keys=True, default=str).encode(), digest_size=8
    ).hexdigest()


@dataclass
class Summary:
    """The summary of a stage: how many items came in, their outcomes, and the time."""

    stage: str
    counts: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the summary as JSON; `counts` and `removed` in descending order of size within each."""
        return {
            "stage": self.stage,
            "counts": dict(self.counts),
            "removed": dict(self.removed.most_common()),
            "seconds": round(self.seconds, 3),
            "options": dict(self.options),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Summary:
        """Return the summary that `as_json` wrote."""
        return cls(
            stage=value["stage"],
            counts=Counter(value["counts"]),
            removed=Counter(value["removed"]),
            seconds=value["seconds"],
            options=value["options"],
            notes=list(value["notes"]),
        )


class Workspace:
    """The folder of one corpus. `parts` is the number of parts that its links are divided into: chosen at the
    first use, fixed afterwards.

    Nothing is written before `create`. Raises AllometryError for a folder that holds other people's files.
    """

    def __init__(self, root: Path, *, parts: int | None = None) -> None:
        self.root = root
        self._marker = root / "webtext.json"
        if self._marker.exists():
            self.parts = _known_parts(self._marker)
            if parts is not None and self.parts != parts:
                raise AllometryError(
                    f"{root} was made with {self.parts} parts, not {parts}",
                    hint=f"leave --parts out, say --parts {self.parts}, or start a new folder",
                )
        else:
            _refuse_other_files(root)
            self.parts = parts or DEFAULT_PARTS

    @classmethod
    def existing(cls, root: Path) -> Workspace:
        """Return the workspace in a folder that must already be one. Raises AllometryError otherwise."""
        if not (root / "webtext.json").exists():
            raise AllometryError(
                f"{root} holds no webtext corpus",
                hint=f"begin with: allometry webtext links LINKS --out {root}",
            )
        return cls(root)

    def create(self) -> None:
        """Write the file that marks the folder as a corpus, unless it is there."""
        if not self._marker.exists():
            write_json(self._marker, {"format": FORMAT, "parts": self.parts})

    def alone(self, stage: str, *, seconds: float = 10.0) -> AbstractContextManager[None]:
        """Hold the whole folder for a stage; raises AllometryError while another process has it."""
        return hold(self.root / ".webtext.lock", f"{stage}: {self.root}", seconds=seconds)

    def hold_part(self, part: int) -> AbstractContextManager[None]:
        """Hold a part for fetching, which several processes do at a time, each with parts of its own."""
        return hold(self.path("fetch", part, ".lock"), f"fetch: part {part} of {self.root}")

    def require_no_fetch(self) -> None:
        """Raise AllometryError while a process is fetching any part (call it while holding the folder)."""
        for part in range(self.parts):
            if self.path("fetch", part, ".lock").exists():
                with self.hold_part(part):
                    pass

    def path(self, stage: str, part: int | None = None, suffix: str = ".jsonl") -> Path:
        """Return the folder of a stage, or the file of one of its parts."""
        folder = self.root / "stages" / stage
        return folder if part is None else folder / f"part-{part:05d}{suffix}"

    def removed(self, stage: str) -> Path:
        """Return the file that lists what a stage dropped."""
        return self.root / "removed" / f"{stage}.jsonl"

    def join_removed(self, stage: str) -> None:
        """Write `removed/<stage>.jsonl` from the lists of the parts."""
        parts = (self.path(stage, part, ".removed.jsonl") for part in range(self.parts))
        join_files(parts, self.removed(stage))

    def require(self, stage: str, before: str) -> None:
        """Raise AllometryError unless `stage` and all stages before it are complete and made from each
        other's present output, which stage `before` needs."""
        for each in STAGES[: STAGES.index(stage) + 1]:
            if each == "contamination" and stage != each:
                continue
            if not (self.path(each) / "summary.json").exists():
                raise AllometryError(
                    f"{before}: the stage before it, {each}, has not run in {self.root}",
                    hint=f"run it first: {self._command(each)}",
                )
            if stale := self.stale_parts(each):
                raise AllometryError(
                    f"{before}: {each} is unfinished or older than what it is made from "
                    f"({len(stale)} of {self.parts} parts)",
                    hint=f"run it again, with the options that you want: {self._command(each)}",
                )

    def _command(self, stage: str) -> str:
        folder = shlex.quote(str(self.root))
        arguments = {"links": f"LINKS --out {folder}", "contamination": f"{folder} --against FILE"}
        return f"allometry webtext {stage} {arguments.get(stage, folder)}"

    def stale_parts(self, stage: str) -> list[int]:
        """Return the parts of a stage that are unfinished, or made from inputs that have changed."""
        whole = self.made_from(stage, 0) if stage in _OVER_ALL_PARTS else None
        return [part for part in range(self.parts) if not self._is_fresh(stage, part, whole)]

    def _is_fresh(self, stage: str, part: int, made_from: str | None) -> bool:
        record = self.part_record(stage, part)
        if record is None:
            return False
        wanted = self.made_from(stage, part) if made_from is None else made_from
        return record.get("made_from") == wanted

    def made_from(self, stage: str, part: int) -> str:
        """Return the fingerprint of the present input of a part of a stage ("" for links)."""
        if stage == "links":
            return ""
        if stage in _OVER_ALL_PARTS:
            return digest([self.part_fingerprint(_SOURCE[stage], each) for each in range(self.parts)])
        return self.part_fingerprint(_SOURCE[stage], part)

    def part_is_done(self, stage: str, part: int, inputs: str) -> bool:
        """Return whether a part was finished with these inputs and options."""
        record = self.part_record(stage, part)
        return record is not None and record["inputs"] == inputs and self._is_fresh(stage, part, None)

    def forget_part(self, stage: str, part: int) -> None:
        """Mark a part as unfinished: its files are about to change."""
        self.path(stage, part, ".json").unlink(missing_ok=True)

    def part_record(self, stage: str, part: int) -> dict[str, Any] | None:
        """Return the record of a finished part: `inputs`, `fingerprint`, `counts`, `removed`. None: unfinished."""
        record: dict[str, Any] | None = read_json(self.path(stage, part, ".json"))
        return record

    def part_fingerprint(self, stage: str, part: int) -> str:
        """Return the fingerprint of a finished part, "" where there is none."""
        return (self.part_record(stage, part) or {}).get("fingerprint", "")

    def finish_part(
        self,
        stage: str,
        part: int,
        *,
        inputs: str,
        fingerprint: str,
        counts: Mapping[str, int],
        removed: Mapping[str, int],
        made_from: str | None = None,
    ) -> None:
        """Record that a part is done. The record is written after the part's files: its presence means that they
        are complete.

        `inputs` names what the part was made from (its options too), `fingerprint` what came out; `made_from`
        is that of the stage before, looked up if it is not given.
        """
        record = {
            "inputs": inputs,
            "made_from": self.made_from(stage, part) if made_from is None else made_from,
            "fingerprint": fingerprint,
            "counts": dict(counts),
            "removed": dict(removed),
        }
        write_json(self.path(stage, part, ".json"), record)

    def finish_stage(self, summary: Summary) -> Summary:
        """Add up the parts' counts, keep the time of earlier runs, write the summary, join the removed
        lists."""
        for part in range(self.parts):
            record = self.part_record(summary.stage, part) or {"counts": {}, "removed": {}}
            summary.counts.update(record["counts"])
            summary.removed.update(record["removed"])
        self.join_removed(summary.stage)
        self.write_summary(summary)
        return summary

    def seconds_so_far(self, stage: str, n_todo: int) -> float:
        """Return the seconds that earlier runs of a stage took, if this run continues them: not all parts are
        left to do.
        """
        before = self.summary(stage)
        return before.seconds if before is not None and n_todo < self.parts else 0.0

    def write_summary(self, summary: Summary) -> None:
        """Write a stage's summary."""
        write_json(self.path(summary.stage) / "summary.json", summary.as_json())

    def summary(self, stage: str) -> Summary | None:
        """Return the summary of a stage that has run, else None."""
        value = read_json(self.path(stage) / "summary.json")
        return None if value is None else Summary.from_json(value)


def _known_parts(marker: Path) -> int:
    """Read the number of parts from `webtext.json`, which may be damaged or somebody else's."""
    known = read_json(marker)
    parts = known.get("parts") if isinstance(known, dict) else None
    if isinstance(parts, bool) or not isinstance(parts, int) or not 1 <= parts <= MAX_PARTS:
        raise AllometryError(
            f"{marker} is damaged: it names no number of parts",
            hint=f'write {{"format": {FORMAT}, "parts": N}} into it, '
            "N as many as there are files stages/links/part-*.jsonl",
        )
    if known.get("format") != FORMAT:
        raise AllometryError(
            f"{marker} has format {str(known.get('format'))[:40]!r}, which this version cannot read",
            hint="use the version of allometry that made the folder, or start a new folder",
        )
    return parts


def _refuse_other_files(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise AllometryError(
            f"{root} is not a folder", hint="give --out a folder, new or made by this command"
        )
    others = (
        sorted(path.name for path in root.iterdir() if not path.name.startswith(".webtext."))
        if root.is_dir()
        else []
    )
    if others:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise AllometryError(
            f"{root} holds other files ({shown}) and is no webtext corpus",
            hint=f"give --out a new or an empty folder, such as {root / 'corpus'}",
        )


def exclusive(
    stage: str,
) -> Callable[[Callable[Concatenate[Workspace, P], Summary]], Callable[Concatenate[Workspace, P], Summary]]:
    """Make a stage's `run` hold the workspace while it runs, so that no second process runs a stage there."""

    def decorate(
        run: Callable[Concatenate[Workspace, P], Summary],
    ) -> Callable[Concatenate[Workspace, P], Summary]:
        @wraps(run)
        def alone(workspace: Workspace, *args: P.args, **kwargs: P.kwargs) -> Summary:
            with workspace.alone(stage):
                return run(workspace, *args, **kwargs)

        return alone

    return decorate


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start


QUIET_SECONDS = 15.0
LIVE_SECONDS = 0.2


class Progress:
    """Counts towards `total` items of a stage and says so on `stream`; `total` 0 means unknown.

    The rate is that of this run alone: `already` items that an earlier run did are in the count and not in
    the rate.
    """

    def __init__(
        self, stage: str, total: int, *, unit: str, already: int = 0, stream: IO[str] | None = None
    ) -> None:
        self._stage, self._unit, self._stream = stage, unit, stream
        self._start = self._last = time.monotonic()
        self.total, self._already, self.done = total, already, already
        self._live = bool(stream) and stream is not None and stream.isatty()

    def to(self, done: int, detail: str = "") -> None:
        """Set the number of items done, and report it if a report is due."""
        self.done = done
        now = time.monotonic()
        if self._stream is not None and now - self._last >= (LIVE_SECONDS if self._live else QUIET_SECONDS):
            self._last = now
            self._write(self._line(now, detail), end="" if self._live else "\n")

    def add(self, items: int = 1, detail: str = "") -> None:
        """Add to the number of items done."""
        self.to(self.done + items, detail)

    def finish(self, detail: str = "") -> None:
        """Write the last report."""
        if self._stream is not None:
            seconds = time.monotonic() - self._start
            text = f"{self._stage}: {self.done:,} {self._unit} in {duration(seconds)}"
            self._write(text + (f" ({detail})" if detail else ""), end="\n")

    def _line(self, now: float, detail: str) -> str:
        seconds = max(now - self._start, 1e-9)
        rate = (self.done - self._already) / seconds
        text = f"{self._stage}: {self.done:,}"
        if self.total:
            text += f"/{self.total:,} {self._unit} ({100 * self.done / self.total:.0f}%)"
        else:
            text += f" {self._unit}"
        text += f", {rate:,.1f}/s"
        if self.total and rate > 0:
            text += f", about {duration((self.total - self.done) / rate)} left"
        return text + (f", {detail}" if detail else "")

    def _write(self, text: str, end: str) -> None:
        assert self._stream is not None
        if self._live:
            text = f"\r\033[2K{text[:150]}"
        print(text, end=end, file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """Format a time as people say it: "42 s", "3 min", "2.5 h", "1.6 days"."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size * (2 if unit == "min" else 1.5):
            return f"{seconds / size:.1f} {unit}" if seconds / size < 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
