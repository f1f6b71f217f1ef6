"""The options of `allometry webtext`, by stage: decorators that add them, and functions that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from allometry.core.units import parse_count, parse_duration

if TYPE_CHECKING:
    from allometry.data.webtext.build import BuildOptions
    from allometry.data.webtext.contamination import ContaminationOptions
    from allometry.data.webtext.dedup import DedupOptions
    from allometry.data.webtext.extract import ExtractOptions
    from allometry.data.webtext.fetch import FetchOptions
    from allometry.data.webtext.filter import FilterOptions
    from allometry.data.webtext.links import LinkOptions

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
