"""All stages in a row. A second run continues where the first stopped, and skips stages whose inputs and options
are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO

from allometry.data.webtext import build, contamination, dedup, extract, fetch, filter, links
from allometry.data.webtext.workspace import Summary, Workspace


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """The options of every stage; `against` names evaluation sets to check for (none: no check)."""

    links: links.LinkOptions = field(default_factory=links.LinkOptions)
    fetch: fetch.FetchOptions = field(default_factory=fetch.FetchOptions)
    extract: extract.ExtractOptions = field(default_factory=extract.ExtractOptions)
    filter: filter.FilterOptions = field(default_factory=filter.FilterOptions)
    dedup: dedup.DedupOptions = field(default_factory=dedup.DedupOptions)
    contamination: contamination.ContaminationOptions = field(
        default_factory=contamination.ContaminationOptions
    )
    build: build.BuildOptions = field(default_factory=build.BuildOptions)
    against: tuple[Path, ...] = ()


def run(
    workspace: Workspace,
    sources: Sequence[Path],
    options: PipelineOptions,
    *,
    on: str = "local",
    workers: int | None = None,
    command: str = "",
    stream: IO[str] | None = None,
) -> list[Summary]:
    """Run all stages from links to data set, and return their summaries, in order. Raises what the stages raise."""
    done = [
        links.run(workspace, sources, options.links, stream=stream),
        fetch.run(workspace, options.fetch, stream=stream),
        extract.run(workspace, options.extract, on=on, workers=workers, stream=stream),
        filter.run(workspace, options.filter, on=on, workers=workers, stream=stream),
        dedup.run(workspace, options.dedup, on=on, workers=workers, stream=stream),
    ]
    against, check = _contamination(workspace, options)
    if against:
        found = contamination.run(workspace, against, check, on=on, workers=workers, stream=stream)
        done.append(found)
    done.append(build.run(workspace, options.build, command=command, stream=stream))
    return done


def _contamination(
    workspace: Workspace, options: PipelineOptions
) -> tuple[Sequence[Path], contamination.ContaminationOptions]:
    """Return the evaluation sets to check for, and how: those given, else those of the corpus's last check.

    What was left out once does not come back because the check is not asked for again.
    """
    before = workspace.summary(contamination.STAGE)
    if options.against or before is None:
        return options.against, options.contamination
    names = {each.name for each in fields(contamination.ContaminationOptions)}
    kept = {name: value for name, value in before.options.items() if name in names}
    return [Path(name) for name in before.options["against"]], contamination.ContaminationOptions(**kept)
