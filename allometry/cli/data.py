"""The commands `data` and `cache`: list, prepare and show corpora; list and delete what can be made again."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from allometry.cli import Group
from allometry.cli.output import Form, print_table, say, table_options
from allometry.core.env import cache_root
from allometry.core.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from allometry.data.cache import Cached
    from allometry.data.tokens import Manifest


def command(name: str) -> click.Command:
    """Return the click command of that name."""
    return {"data": data, "cache": cache}[name]


@click.group(cls=Group)
def data() -> None:
    """List, prepare and show corpora and tokenizers.

    A corpus is sotu, stdlib, kjv, …, or files:PATH, hf:OWNER/NAME, webtext:PATH, synthetic:zipf; options
    follow after commas, as in files:notes,column=body. A tokenizer is bytes, gpt2, bpe:V (trained on the
    corpus), bpe:V@CORPUS (trained on another) or symbols (of a corpus with a closed vocabulary).
    """


_tokenizer_option = click.option(
    "--tokenizer",
    "-t",
    default="bytes",
    show_default=True,
    metavar="NAME",
    help="bytes, gpt2, bpe:V or bpe:V@CORPUS.",
)


@data.command("list")
@table_options
def list_corpora(form: Form | None) -> None:
    """List the corpora: how large, where, under which licence."""
    from allometry.data.corpora import kinds

    frame = _corpora()
    shown = frame if form else frame[["corpus", "size", "where", "licence", "what"]]
    print_table(shown, form, wrap=("what", "licence"), drop=("licence", "where"))
    if form is None:
        for kind in kinds().values():
            say(f"  {kind.usage}")
        say("  tokenizers: bytes (256 ids), bpe:V, bpe:V@CORPUS, gpt2 (50,257), symbols (closed)")


@data.command()
@click.argument("corpus")
@_tokenizer_option
@table_options
def prepare(corpus: str, tokenizer: str, form: Form | None) -> None:
    """Tokenize CORPUS into the cache; print the manifest."""
    from allometry.data.tokens import prepare as prepare_tokens

    tokens = prepare_tokens(corpus, tokenizer, progress=_say())
    _print_manifest(tokens.manifest, form)
    if form is None:
        click.echo(f"in {tokens.path}")


@data.command()
@click.argument("corpus")
@_tokenizer_option
@click.option("--windows", "-n", default=3, show_default=True, help="How many windows to show.")
@click.option("--length", default=64, show_default=True, help="Tokens a window.")
@click.option("--split", type=click.Choice(["train", "test"]), default="test", show_default=True)
@table_options
def show(corpus: str, tokenizer: str, windows: int, length: int, split: str, form: Form | None) -> None:
    """Show the manifest and a few windows of CORPUS."""
    from allometry.data import tokenizers
    from allometry.data.tokens import prepare as prepare_tokens
    from allometry.data.tokens import windows as spread

    tokens = prepare_tokens(corpus, tokenizer, progress=_say())
    _print_manifest(tokens.manifest, form)
    if form is None:
        coder = tokenizers.load(tokens.manifest.tokenizer)
        ids = tokens.train if split == "train" else tokens.test
        for number, row in enumerate(spread(ids, n_ctx=length, n_tokens=windows * length), start=1):
            click.echo(f"\n{split} window {number}: {' '.join(map(str, row[:12]))} …")
            click.echo("  | " + coder.decode(row).replace("\n", "\n  | "))


def _corpora() -> pd.DataFrame:
    """Return one row per corpus or kind of corpora."""
    import pandas as pd

    from allometry.data.corpora import corpora, kinds

    named = [
        {
            "corpus": spec.name,
            "what": spec.about,
            "size": spec.size,
            "licence": spec.licence,
            "where": _where(spec),
            "source": spec.source,
            "attribution": spec.attribution,
        }
        for spec in corpora().values()
    ]
    families = [
        {"corpus": kind.form, "what": kind.about, "licence": kind.licence, "where": kind.where}
        for kind in kinds().values()
    ]
    return pd.DataFrame([*named, *families]).fillna("")


def _where(spec: Any) -> str:
    """Return whether a named corpus is on this machine, or how much there is to download."""
    from allometry.data.packages import fetched

    if spec.package is None:
        return "installed"
    return "in the cache" if fetched(spec.package) else f"downloads {format_bytes(spec.package.size)}"


def _print_manifest(manifest: Manifest, form: Form | None) -> None:
    import pandas as pd

    if form == "json":
        click.echo(json.dumps(manifest.to_dict(), indent=1))
        return
    rows = [
        (key, value if isinstance(value, str) else json.dumps(value))
        for key, value in manifest.to_dict().items()
        if value not in (None, "")
    ]
    if form is None:
        rows = [
            (key, _shortened(value)) for key, value in rows if key not in ("hash", "format", "provenance")
        ]
    print_table(pd.DataFrame(rows, columns=["manifest", "value"]), form, wrap=["value"])


def _shortened(value: str) -> str:
    """Write large whole numbers with separators, so that they can be read."""
    return f"{int(value):,}" if value.isdigit() else value


def _say() -> Callable[[str], None]:
    """Return a function that prints a line on standard error for each thing that is done, with the time since
    the start.
    """
    start = time.monotonic()
    return lambda text: print(f"{time.monotonic() - start:6.1f} s  {text}", file=sys.stderr, flush=True)


@click.group()
def cache() -> None:
    """List and delete what is kept to be used again: tokens, packages, timings.

    It lies in ~/.cache/allometry, or where ALLOMETRY_CACHE says. Runs and reports are not in it.
    """


@cache.command("list")
@table_options
def list_cache(form: Form | None) -> None:
    """List the cache: what, how large, when written."""
    from allometry.data.cache import contents

    there = contents()
    print_table(_cache_table(there), form, formats={"size": format_bytes}, empty="the cache is empty")
    if form is None:
        click.echo(f"{format_bytes(sum(each.size for each in there))} in {cache_root()}")


@cache.command("clean")
@click.argument("what", nargs=-1, metavar="[KIND|NAME]...")
def clean_cache(what: tuple[str, ...]) -> None:
    """Delete the cache, or only the given kinds (tokens, packages, …) or names, as the list has them."""
    from allometry.data.cache import clean

    gone = clean(what)
    click.echo(f"{len(gone)} deleted, {format_bytes(sum(each.size for each in gone))} freed")


def _cache_table(there: Sequence[Cached]) -> pd.DataFrame:

    import pandas as pd

    rows = [
        {
            "name": each.name,
            "kind": each.kind,
            "size": each.size,
            "written": datetime.fromtimestamp(each.used, UTC).strftime("%Y-%m-%d"),
        }
        for each in there
    ]
    return pd.DataFrame(rows, columns=["name", "kind", "size", "written"])
