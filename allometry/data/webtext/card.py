"""The data set's card: its contents, its origin, what was dropped at each stage, and its limitations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from allometry.data.webtext.jsonl import whole_file
from allometry.data.webtext.progress import duration
from allometry.data.webtext.workspace import STAGES, Summary, Workspace
from allometry.version import __version__

_FLOW = (
    ("links", "read", "kept", "links worth fetching"),
    ("fetch", "links", "fetched", "pages fetched"),
    ("extract", "pages", "documents", "pages with text"),
    ("filter", "documents", "kept", "documents that pass the filters"),
    ("dedup", "documents", "kept", "documents that are not copies"),
    ("build", "documents", "documents", "documents in the data set"),
)

_HEAD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train-*.parquet
  - split: test
    path: test-*.parquet
license: other
task_categories:
- text-generation
---

# A WebText-like corpus

Text of web pages that people linked to, made with [Allometry](https://github.com/allometry-lab/allometry)
{version} after the recipe of WebText (Radford et al. 2019) and its open reproductions.

    datasets.load_dataset("{name}")            # splits "train" and "test", column "text"
    allometry run quickstart --data webtext:{name}

Made by: `{command}`

## Licence and care

**The texts belong to their authors.** That a page can be fetched and that its robots.txt allows it says
nothing about a right to copy, publish or train on it; which law applies depends on where you are and on what
you do. Do not publish this data set without having settled that. The pages may hold personal data, insults
and errors. Each document carries its URL, so that pages can be removed on request, permanently, from the data
set and from everything that it was made of: `allometry webtext remove {name} URL-OR-HOST`.
"""


def write_card(workspace: Workspace, build: Summary, domains: Counter[str], command: str, path: Path) -> None:
    """Write the card of the data set to `path`."""
    name = plain(workspace.root.resolve().name)
    sections = [
        _HEAD.format(version=__version__, name=name, command=plain(command) or "allometry webtext"),
        _contents(build),
        _yields(workspace, build),
        _removed(workspace),
        _languages(workspace),
        _table("## Domains with the most documents", ("domain", "documents"), domains.most_common(20)),
        _contamination(workspace),
        _options(workspace, build),
    ]
    with whole_file(path) as file:
        file.write("\n".join(section for section in sections if section).encode("utf-8", "replace"))


def plain(text: str) -> str:
    """Return text from outside, made harmless in Markdown and HTML: one line, no markup, no table cells."""
    return re.sub(r"[<>|`\[\]*_&\\]", "·", " ".join(text.split()))[:300]


def _contents(build: Summary) -> str:
    rows = [
        (split, f"{build.counts[f'{split}_documents']:,}", f"{build.counts[f'{split}_tokens']:,}")
        for split in ("train", "test")
    ]
    return _table("## Contents", ("split", "documents", "GPT-2 tokens"), rows)


def _yields(workspace: Workspace, build: Summary) -> str:
    rows = []
    for stage, before, after, meaning in _FLOW:
        summary = build if stage == "build" else workspace.summary(stage)
        if summary is not None:
            came, left = summary.counts[before], summary.counts[after]
            share = f"{100 * left / came:.1f}%" if came else "-"
            rows.append((stage, meaning, f"{came:,}", f"{left:,}", share, duration(summary.seconds)))
    return _table("## From links to documents", ("stage", "", "came", "left", "yield", "time"), rows)


def _removed(workspace: Workspace) -> str:
    rows = []
    for stage in STAGES:
        summary = workspace.summary(stage)
        if summary is not None:
            rows += [(stage, reason, f"{n:,}") for reason, n in summary.removed.most_common() if n]
    return _table("## What was dropped (each case is in removed/)", ("stage", "reason", "cases"), rows)


def _languages(workspace: Workspace) -> str:
    summary = workspace.summary("filter")
    counts = summary.counts if summary is not None else Counter[str]()
    found = Counter({k.removeprefix("language_"): n for k, n in counts.items() if k.startswith("language_")})
    return _table("## Languages (before de-duplication)", ("language", "documents"), found.most_common(20))


def _contamination(workspace: Workspace) -> str:
    summary = workspace.summary("contamination")
    if summary is None:
        return "## Contamination\n\nNot checked against any evaluation set.\n"
    names = ", ".join(plain(name.rpartition("/")[2]) for name in summary.options.get("against", ()))
    done = "were left out" if summary.options.get("remove") else "are still in"
    return (
        f"## Contamination\n\nAgainst {names}: {summary.counts['contaminated']:,} "
        f"of {summary.counts['documents']:,} documents share a run of "
        f"{summary.options.get('words')} words; they {done}.\n"
    )


def _options(workspace: Workspace, build: Summary) -> str:
    """Return a table of every option of every stage, whether it was given or is the default."""
    rows = []
    for stage in STAGES:
        summary = build if stage == "build" else workspace.summary(stage)
        if summary is not None:
            rows += [(stage, plain(name), plain(value)) for name, value in _flat(summary.options)]
    return _table("## Options", ("stage", "option", "value"), rows)


def _flat(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in options.items():
        if name == "identity":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", shown) for inner, shown in _flat(value))
        elif name == "against":
            yield name, ", ".join(str(path).rpartition("/")[2] for path in value)
        elif isinstance(value, list | tuple | set | frozenset):
            yield name, ", ".join(map(str, value)) or "none"
        else:
            yield name, str(value)


def _table(title: str, head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [" | ".join(("", *map(str, row), "")).strip() for row in rows]
    if not lines:
        return ""
    return "\n".join([title, "", " | ".join(("", *head, "")).strip(), "|" + "---|" * len(head), *lines, ""])
