"""Where everything of one corpus lies, and how a stage knows what is already done.

    OUT/  README.md  train-*.parquet  test-*.parquet        the data set: what `datasets.load_dataset(OUT)`
    reads
          removed/<stage>.jsonl                             what each stage dropped, with the reason and the
          value webtext.json                                      the number of parts: fixed when OUT is made
          stages/<stage>/summary.json  part-00000*          the work of each stage, in parts

A part holds the links of a set of hosts (by hash), so parts can be worked on independently and a host is in
one only. A part of a stage is done when its `part-*.json` names the fingerprint of its inputs and options.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allometry.data.webtext.jsonl import join_files, read_json, write_json
from allometry.errors import AllometryError

STAGES = ("links", "fetch", "extract", "filter", "dedup", "contamination", "build")
"""The stages in order; contamination is optional."""


def digest(*values: Any) -> str:
    """A short name for JSON values that changes when they do."""
    return hashlib.blake2b(
        json.dumps(values, sort_keys=True, default=str).encode(), digest_size=8
    ).hexdigest()


@dataclass
class Summary:
    """What a stage did: how many came in, what became of them, in how long."""

    stage: str
    counts: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The summary as JSON; `counts` and `removed` in descending order of size within each."""
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
        """The inverse of `as_json`."""
        return cls(
            stage=value["stage"],
            counts=Counter(value["counts"]),
            removed=Counter(value["removed"]),
            seconds=value["seconds"],
            options=value["options"],
            notes=list(value["notes"]),
        )


class Workspace:
    """The folder of one corpus. `parts` is how many parts its links are divided into (fixed at the first
    use)."""

    def __init__(self, root: Path, *, parts: int | None = None) -> None:
        self.root = root
        marker = root / "webtext.json"
        known = read_json(marker)
        if known is None:
            if root.exists() and not root.is_dir():
                raise AllometryError(
                    f"{root} is not a folder", hint="give --out a folder, new or made by this command"
                )
            known = {"format": 1, "parts": parts or 8}
            write_json(marker, known)
        elif parts is not None and known["parts"] != parts:
            raise AllometryError(
                f"{root} was made with {known['parts']} parts, not {parts}",
                hint=f"leave --parts out, say --parts {known['parts']}, or start a new folder",
            )
        self.parts: int = known["parts"]

    @classmethod
    def existing(cls, root: Path) -> Workspace:
        """The workspace in a folder that must already be one. Raises AllometryError otherwise."""
        if not (root / "webtext.json").exists():
            raise AllometryError(
                f"{root} holds no webtext corpus",
                hint=f"begin with: allometry webtext links LINKS --out {root}",
            )
        return cls(root)

    def path(self, stage: str, part: int | None = None, suffix: str = ".jsonl") -> Path:
        """The folder of a stage, or the file of one of its parts."""
        folder = self.root / "stages" / stage
        return folder if part is None else folder / f"part-{part:05d}{suffix}"

    def removed(self, stage: str) -> Path:
        """The file that lists what a stage dropped."""
        return self.root / "removed" / f"{stage}.jsonl"

    def join_removed(self, stage: str) -> None:
        """Make `removed/<stage>.jsonl` from the lists of the parts."""
        parts = (self.path(stage, part, ".removed.jsonl") for part in range(self.parts))
        join_files(parts, self.removed(stage))

    def require(self, stage: str, before: str) -> None:
        """Raise AllometryError unless `stage` has run, which stage `before` needs."""
        if not (self.path(stage) / "summary.json").exists():
            raise AllometryError(
                f"{before}: the stage before it, {stage}, has not run in {self.root}",
                hint=f"run it first: allometry webtext {stage} {self.root}",
            )

    def part_is_done(self, stage: str, part: int, inputs: str) -> bool:
        """Whether a part was finished with these inputs and options."""
        record = self.part_record(stage, part)
        return record is not None and record["inputs"] == inputs

    def part_record(self, stage: str, part: int) -> dict[str, Any] | None:
        """What is known of a finished part: `inputs`, `fingerprint`, `counts`, `removed`. None:
        unfinished."""
        record: dict[str, Any] | None = read_json(self.path(stage, part, ".json"))
        return record

    def part_fingerprint(self, stage: str, part: int) -> str:
        """The fingerprint of a finished part, "" where there is none."""
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
    ) -> None:
        """Record that a part is done. Written after the part's files: its presence means that they are whole.

        `inputs` names what the part was made from (its options too), `fingerprint` what came out.
        """
        record = {
            "inputs": inputs,
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
        """The time that earlier runs of a stage took, if this one continues them: it has not all parts to
        do."""
        before = self.summary(stage)
        return before.seconds if before is not None and n_todo < self.parts else 0.0

    def write_summary(self, summary: Summary) -> None:
        """Write a stage's summary."""
        write_json(self.path(summary.stage) / "summary.json", summary.as_json())

    def summary(self, stage: str) -> Summary | None:
        """The summary of a stage that has run."""
        value = read_json(self.path(stage) / "summary.json")
        return None if value is None else Summary.from_json(value)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start
