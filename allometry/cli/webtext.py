"""`allometry webtext`: from links to a data set, all at once or stage by stage.

The options come by stage: decorators add them, and functions read them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from allometry.cli.output import print_table, table_options
from allometry.core.errors import AllometryError
from allometry.core.units import parse_count, parse_duration

if TYPE_CHECKING:
    from allometry.data.webtext.build import BuildOptions
    from allometry.data.webtext.contamination import ContaminationOptions
    from allometry.data.webtext.dedup import DedupOptions
    from allometry.data.webtext.extract import ExtractOptions
    from allometry.data.webtext.fetch import FetchOptions
    from allometry.data.webtext.filter import FilterOptions
    from allometry.data.webtext.links import LinkOptions
    from allometry.data.webtext.workspace import Summary

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Values = dict[str, Any]


def _adding(*options: Callable[[Any], Any]) -> Callable[[Decorated], Decorated]:
    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


link_flags = _adding(
    click.option("--min-score", default=3.0, show_default=True, help="Minimum karma of a link."),
    click.option(
        "--karma",
        type=click.Choice(["submission", "sum"]),
        default="submission",
        show_default=True,
        help="Count each submission by itself (WebText) or sum over a URL's (OpenWebText2).",
    ),
    click.option("--no-score", is_flag=True, help="Take links that have no score."),
    click.option("--allow-self", is_flag=True, help="Take self posts too."),
    click.option("--allow-over-18", is_flag=True, help="Take submissions marked over 18 too."),
    click.option(
        "--allow-truncated", is_flag=True, help="Take what stands before the damage in a damaged file."
    ),
    click.option(
        "--exclude-domain", multiple=True, metavar="DOMAIN", help="Leave out a domain (again for more)."
    ),
    click.option(
        "--max-per-domain",
        type=click.IntRange(1),
        metavar="N",
        help="Keep at most N pages of a registered domain, chosen at random (default: all).",
    ),
    click.option("--local-hosts", is_flag=True, help="Take links to bare addresses and names without a dot."),
)

fetch_flags = _adding(
    click.option(
        "--contact",
        metavar="TEXT",
        help="An address or page for the User-Agent: whom to ask.",
    ),
    click.option("--delay", default="1s", show_default=True, help="Time between two requests to a host."),
    click.option("--per-host", default=1, show_default=True, help="Requests to one host at a time."),
    click.option("--window", default=256, show_default=True, help="Requests under way at a time."),
    click.option(
        "--autothrottle/--no-autothrottle", default=True, show_default=True, help="Slow down for slow hosts."
    ),
    click.option("--timeout", default="30s", show_default=True, help="Maximum time of a download in all."),
    click.option("--max-bytes", default="5M", show_default=True, help="Maximum bytes of a page, unpacked."),
    click.option("--max-redirects", default=5, show_default=True),
    click.option("--attempts", default=3, show_default=True, help="How often a link is tried in all."),
    click.option(
        "--backoff", default="5s", show_default=True, help="Wait before the second attempt; then it doubles."
    ),
    click.option(
        "--ignore-robots", is_flag=True, help="Do not ask for robots.txt. For your own servers only."
    ),
    click.option(
        "--verify-certificates",
        is_flag=True,
        help="Refuse pages whose TLS certificate is not valid. Without it they are kept, with a note.",
    ),
    click.option(
        "--allow-private",
        multiple=True,
        metavar="NETWORK",
        help="Visit these addresses although they are not public (tests on your own machine).",
    ),
    click.option("--retry-failed", is_flag=True, help="Try links again that failed for a passing reason."),
)

extract_flags = _adding(
    click.option(
        "--page-seconds",
        default="20s",
        show_default=True,
        help="Maximum processor time for one page.",
    ),
    click.option(
        "--mode",
        type=click.Choice(["fast", "default"]),
        default="fast",
        show_default=True,
        help="Trafilatura's mode: default finds a little more text at half the speed.",
    ),
)

opt_out_flags = _adding(
    click.option(
        "--ignore-opt-outs",
        is_flag=True,
        help="Take pages that reserve themselves from training (noai, TDM-Reservation) too.",
    ),
)

filter_flags = _adding(
    click.option(
        "--language",
        "languages",
        multiple=True,
        default=("en",),
        show_default=True,
        help="A language to keep; 'any' for all.",
    ),
    click.option(
        "--min-language-score", default=0.65, show_default=True, help="Minimum probability of the language."
    ),
    click.option("--min-tokens", default=128, show_default=True, help="Minimum number of GPT-2 tokens."),
    click.option(
        "--without",
        multiple=True,
        metavar="RULE",
        help="Do not apply a rule of removed/filter.jsonl, or quality, repetition, language, tokens.",
    ),
)

dedup_flags = _adding(
    click.option(
        "--threshold", default=0.5, show_default=True, help="Jaccard similarity from which a text is a copy."
    ),
    click.option("--permutations", default=128, show_default=True, help="Length of the MinHash signatures."),
    click.option("--rows", default=4, show_default=True, help="Rows in a band of the signatures."),
    click.option("--shingle", default=5, show_default=True, help="Words in a shingle."),
    click.option("--exact-only", is_flag=True, help="Leave out the near-duplicate search."),
)

contamination_flags = _adding(
    click.option("--ngram", default=13, show_default=True, help="Words of an n-gram."),
    click.option("--column", default="text", show_default=True, help="The evaluation set's column of text."),
    click.option("--remove", is_flag=True, help="Leave documents with overlap out of the data set."),
    click.option(
        "--min-ngrams", default=1, show_default=True, help="Shared n-grams from which a document counts."
    ),
)

build_flags = _adding(
    click.option("--test-share", default=0.05, show_default=True, help="The share of documents held out."),
    click.option("--split-seed", default=0, show_default=True, help="Chooses which documents are held out."),
)

machine_flags = _adding(
    click.option(
        "--on", default="local", show_default=True, metavar="WHERE", help="local, ray or ray://HOST:PORT."
    ),
    click.option("--workers", type=click.IntRange(1), help="Processes on this machine (default: its cores)."),
)


def link_options(values: Values) -> LinkOptions:
    """Return the options that link_flags set."""
    from allometry.data.webtext.links import LinkOptions

    return LinkOptions(
        min_score=values["min_score"],
        karma=values["karma"],
        no_score=values["no_score"],
        allow_self=values["allow_self"],
        allow_over_18=values["allow_over_18"],
        allow_truncated=values["allow_truncated"],
        local=values["local_hosts"],
        exclude_domains=frozenset(name.lower() for name in values["exclude_domain"]),
        max_per_domain=values["max_per_domain"],
    )


def fetch_options(values: Values) -> FetchOptions:
    """Return the options that fetch_flags set."""
    from allometry.data.webtext.fetch import FetchOptions

    return FetchOptions(
        contact=values["contact"],
        delay=parse_duration(values["delay"], "--delay"),
        per_host=values["per_host"],
        window=values["window"],
        autothrottle=values["autothrottle"],
        timeout=parse_duration(values["timeout"], "--timeout"),
        max_bytes=parse_count(values["max_bytes"], "--max-bytes"),
        max_redirects=values["max_redirects"],
        attempts=values["attempts"],
        backoff=parse_duration(values["backoff"], "--backoff"),
        obey_robots=not values["ignore_robots"],
        obey_opt_outs=not values["ignore_opt_outs"],
        verify_certificates=values["verify_certificates"],
        allow_addresses=tuple(values["allow_private"]),
        retry_failed=values["retry_failed"],
    )


def extract_options(values: Values) -> ExtractOptions:
    """Return the options that extract_flags set."""
    from allometry.data.webtext.extract import ExtractOptions

    return ExtractOptions(
        page_seconds=parse_duration(values["page_seconds"], "--page-seconds"),
        mode=values["mode"],
        obey_opt_outs=not values["ignore_opt_outs"],
    )


def filter_options(values: Values) -> FilterOptions:
    """Return the options that filter_flags set."""
    from allometry.data.webtext.filter import FilterOptions

    languages = () if "any" in values["languages"] else tuple(values["languages"])
    return FilterOptions(
        languages=languages,
        min_language_score=values["min_language_score"],
        min_tokens=values["min_tokens"],
        without=tuple(values["without"]),
    )


def dedup_options(values: Values) -> DedupOptions:
    """Return the options that dedup_flags set."""
    from allometry.data.webtext.dedup import DedupOptions
    from allometry.data.webtext.shingles import MinHash

    minhash = MinHash(words=values["shingle"], permutations=values["permutations"], rows=values["rows"])
    return DedupOptions(threshold=values["threshold"], exact_only=values["exact_only"], minhash=minhash)


def contamination_options(values: Values) -> ContaminationOptions:
    """Return the options that contamination_flags set."""
    from allometry.data.webtext.contamination import ContaminationOptions

    return ContaminationOptions(
        words=values["ngram"],
        column=values["column"],
        remove=values["remove"],
        min_ngrams=values["min_ngrams"],
    )


def build_options(values: Values) -> BuildOptions:
    """Return the options that build_flags set."""
    from allometry.data.webtext.build import BuildOptions

    return BuildOptions(test_share=values["test_share"], seed=values["split_seed"])


def paths(values: tuple[str, ...]) -> list[Path]:
    """Return file names as paths, in the order given."""
    return [Path(value) for value in values]


_FOLDER = click.argument("folder", metavar="DIR")
_LINKS = click.argument("links", nargs=-1, required=True, metavar="LINKS...")
_OUT = click.option("--out", required=True, metavar="DIR", help="The folder of the corpus.")
_PARTS = click.option(
    "--parts", type=click.IntRange(1, 99_999), help="Parts to divide the links into (default: 8)."
)
_AGAINST = click.option(
    "--against", multiple=True, metavar="FILE", help="An evaluation set (again for more)."
)


def command(name: str) -> click.Command:
    """Return the command of this module."""
    assert name == "webtext"
    return _group


@click.group("webtext")
def _group() -> None:
    """Build a WebText-like corpus from links: links, fetch, extract, filter, dedup, build.

    Every command continues where it was stopped. What a stage drops is listed, with the reason, in
    DIR/removed.
    """


@_group.command("run")
@_LINKS
@_OUT
@_PARTS
@_AGAINST
@link_flags
@fetch_flags
@extract_flags
@opt_out_flags
@filter_flags
@dedup_flags
@contamination_flags
@build_flags
@machine_flags
@table_options
def _run(
    links: tuple[str, ...], out: str, parts: int | None, against: tuple[str, ...], form: Any, **values: Any
) -> None:
    """Run all stages, from lists of links to the data set."""
    from allometry.data.webtext import pipeline
    from allometry.data.webtext.workspace import Workspace

    options = pipeline.PipelineOptions(
        links=link_options(values),
        fetch=fetch_options(values),
        extract=extract_options(values),
        filter=filter_options(values),
        dedup=dedup_options(values),
        contamination=contamination_options(values),
        build=build_options(values),
        against=tuple(paths(against)),
    )
    summaries = pipeline.run(
        Workspace(Path(out), parts=parts),
        paths(links),
        options,
        on=values["on"],
        workers=values["workers"],
        command=_command_line(),
        stream=sys.stderr,
    )
    _show(summaries, form)
    if form is None:
        click.echo(
            f"The data set is in {out}; train on it with: allometry run quickstart --data webtext:{out}"
        )


@_group.command("links")
@_LINKS
@_OUT
@_PARTS
@link_flags
@table_options
def _links(links: tuple[str, ...], out: str, parts: int | None, form: Any, **values: Any) -> None:
    """Choose the links worth fetching from dumps (.zst, .xz, .bz2, .gz, .jsonl), lists (.csv, .jsonl, .txt)
    or WARC files."""
    from allometry.data.webtext import links as stage
    from allometry.data.webtext.workspace import Workspace

    options = link_options(values)
    workspace = Workspace(Path(out), parts=parts)
    _show([stage.run(workspace, paths(links), options, stream=sys.stderr)], form)


@_group.command("fetch")
@_FOLDER
@fetch_flags
@opt_out_flags
@click.option(
    "--only", metavar="I/N", help="Fetch the I-th of N shares of the parts, such as 1/4; one share a machine."
)
@table_options
def _fetch(folder: str, only: str | None, form: Any, **values: Any) -> None:
    """Fetch the pages into WARC files, obeying robots.txt and sparing the hosts."""
    from allometry.data.webtext import fetch as stage
    from allometry.data.webtext.workspace import Workspace

    workspace = Workspace.existing(Path(folder))
    parts = None if only is None else _share(only, workspace.parts)
    _show([stage.run(workspace, fetch_options(values), parts=parts, stream=sys.stderr)], form)


@_group.command("extract")
@_FOLDER
@extract_flags
@opt_out_flags
@machine_flags
@table_options
def _extract(folder: str, on: str, workers: int | None, form: Any, **values: Any) -> None:
    """Extract the text of the pages."""
    from allometry.data.webtext import extract as stage
    from allometry.data.webtext.workspace import Workspace

    options = extract_options(values)
    _show(
        [stage.run(Workspace.existing(Path(folder)), options, on=on, workers=workers, stream=sys.stderr)],
        form,
    )


@_group.command("filter")
@_FOLDER
@filter_flags
@machine_flags
@table_options
def _filter(folder: str, on: str, workers: int | None, form: Any, **values: Any) -> None:
    """Keep documents of the language, of at least 128 tokens, that pass the rules on quality and
    repetition."""
    from allometry.data.webtext import filter as stage
    from allometry.data.webtext.workspace import Workspace

    options = filter_options(values)
    _show(
        [stage.run(Workspace.existing(Path(folder)), options, on=on, workers=workers, stream=sys.stderr)],
        form,
    )


@_group.command("dedup")
@_FOLDER
@dedup_flags
@machine_flags
@table_options
def _dedup(folder: str, on: str, workers: int | None, form: Any, **values: Any) -> None:
    """Find exact and near duplicates; the first seen stays."""
    from allometry.data.webtext import dedup as stage
    from allometry.data.webtext.workspace import Workspace

    options = dedup_options(values)
    _show(
        [stage.run(Workspace.existing(Path(folder)), options, on=on, workers=workers, stream=sys.stderr)],
        form,
    )


@_group.command("contamination")
@_FOLDER
@_AGAINST
@contamination_flags
@machine_flags
@table_options
def _contamination(
    folder: str, against: tuple[str, ...], on: str, workers: int | None, form: Any, **values: Any
) -> None:
    """Report, and with --remove leave out, what the corpus shares with an evaluation set."""
    from allometry.data.webtext import contamination as stage
    from allometry.data.webtext.workspace import Workspace

    workspace = Workspace.existing(Path(folder))
    options = contamination_options(values)
    summary = stage.run(workspace, paths(against), options, on=on, workers=workers, stream=sys.stderr)
    _show([summary], form)
    if form is None:
        click.echo(f"by document: {workspace.path('contamination') / 'report.json'}")
        if options.remove:
            click.echo(f"to leave them out: allometry webtext build {folder}")


@_group.command("build")
@_FOLDER
@build_flags
@table_options
def _build(folder: str, form: Any, **values: Any) -> None:
    """Write the Parquet shards and the card."""
    from allometry.data.webtext import build as stage
    from allometry.data.webtext.workspace import Workspace

    options = build_options(values)
    workspace = Workspace.existing(Path(folder))
    _show([stage.run(workspace, options, command=_command_line(), stream=sys.stderr)], form)


@_group.command("remove")
@_FOLDER
@click.argument("targets", nargs=-1, required=True, metavar="URL-OR-HOST...")
@table_options
def _remove(folder: str, targets: tuple[str, ...], form: Any) -> None:
    """Take pages or whole hosts out for good: of the data set, the archive and every stage, and of later
    runs."""
    from allometry.data.webtext import consent
    from allometry.data.webtext.workspace import Workspace

    _show([consent.run(Workspace.existing(Path(folder)), targets)], form)


@_group.command("status")
@_FOLDER
@table_options
def _status(folder: str, form: Any) -> None:
    """Show what each stage has done."""
    from allometry.data.webtext.workspace import STAGES, Workspace

    workspace = Workspace.existing(Path(folder))
    _show([summary for stage in STAGES if (summary := workspace.summary(stage)) is not None], form)


def _share(text: str, parts: int) -> list[int]:
    """Return the parts of share I of N: every N-th, from the I-th."""

    number, slash, of = text.partition("/")
    if not (slash and number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise AllometryError(f"--only {text!r} is no share", hint="write it like 1/4: the first of four")
    return list(range(int(number) - 1, parts, int(of)))


def _command_line() -> str:
    return shlex.join(["allometry", *sys.argv[1:]])


def _show(summaries: list[Summary], form: Any) -> None:
    """Print a row per stage for people; a row per count for programs."""
    import pandas as pd

    from allometry.data.webtext.workspace import duration

    if form is not None:
        rows = [
            {"stage": s.stage, "kind": kind, "name": name, "value": value}
            for s in summaries
            for kind, counted in (("count", s.counts), ("removed", s.removed))
            for name, value in counted.items()
        ]
        print_table(pd.DataFrame(rows, columns=["stage", "kind", "name", "value"]), form)
        return
    table = pd.DataFrame(
        [
            {
                "stage": summary.stage,
                "counts": ", ".join(f"{name} {n:,}" for name, n in summary.counts.items()),
                "dropped": ", ".join(f"{name} {n:,}" for name, n in summary.removed.most_common(5) if n),
                "time": duration(summary.seconds),
            }
            for summary in summaries
        ]
    )
    print_table(table, None)
    for summary in summaries:
        for note in summary.notes:
            click.echo(f"note: {note}")
