"""The command `check`: what a plugin registers, and what its models get wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allometry.cli.output import PIPED, say
from allometry.core import plugins
from allometry.core.errors import AllometryError, require
from allometry.core.units import counted, format_count, format_flops

if TYPE_CHECKING:
    from allometry.core.plugins import Plugin
    from allometry.core.registry import Registry
    from allometry.models.base import ModelConfig


def command(name: str) -> click.Command:
    """Return the click command of that name."""
    return {"check": check}[name]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check the plugin FILE: load it, list what it registers, and ask of every model family what a scaling law
    needs: that it does not see its target, counts its own parameters, is made again by its seed, and learns.

    Exit status 1 if anything fails."""
    (plugin,) = plugins.use([file])
    found = [(registry, names) for registry in registries() if (names := registered(registry, plugin))]
    if not found:
        raise AllometryError(
            f"{plugin.name} registers nothing",
            hint="@allometry.family('NAME') above a module, or allometry.register(...)",
        )
    failed = 0
    for registry, names in found:
        for name in names:
            click.echo(f"{registry.kind} {name}")
            if registry.kind == "model family":
                require("torch", purpose="checking a model")
                import torch

                torch.set_num_threads(1)  # threads that wait for each other make small models slow
                failed += _check_family(name, registry[name])
            elif registry.kind in ("corpus", "tokenizer", "study"):
                failed += _check_other(registry.kind, name)
    if failed:
        click.echo(f"\n{counted(failed, 'check')} of {plugin.name} failed")
        sys.exit(1)
    click.echo(f"\n{plugin.name} passes; use it with --plugin {file}")


def registries() -> tuple[Registry[Any], ...]:
    """Return every registry that a plugin can add to."""
    from allometry.api import registries as known

    return known()


def registered(registry: Registry[Any], plugin: Plugin) -> list[str]:
    """Return the names that a plugin has registered in a registry."""
    return [name for name in registry.all() if registry.plugin(name) == plugin]


def _check_family(name: str, config: type[ModelConfig]) -> int:
    """Print what the checks of a family find; return how many failed."""
    from allometry.models.check import N_CTX, N_VOCAB, PARAMETERS, check_family

    failed = 0
    for finding in check_family(config):
        if finding.ok:
            click.echo(f"  ok    {finding.asked}")
            continue
        failed += _failed(finding.asked, finding.wrong or "", finding.remedy)
    if not failed:
        small = config.from_n_params(PARAMETERS, n_ctx=N_CTX, n_vocab=N_VOCAB)
        counts = small.counts()
        say(
            f"  {small.shape}: N {format_count(counts.N)} in blocks, {format_count(counts.embedding)} in "
            f"embeddings, {format_count(counts.position)} in positions, {format_count(counts.head)} in the head, "
            f"{format_count(counts.other)} in gains and biases; forward FLOPs a token: "
            f"{format_flops(counts.flops_blocks)} in blocks, {format_flops(counts.flops_head)} in the head, "
            f"{format_flops(counts.flops_attention)} between activations",
            piped=PIPED,
            hang=2,
        )
    return failed


def _check_other(kind: str, name: str) -> int:
    """Print what is wrong with a corpus, tokenizer or study; return how many checks failed."""
    from allometry.studies.core.check import check_corpus, check_study, check_tokenizer

    asked, checked = {
        "corpus": ("its documents are the same twice, and no two readings differ", check_corpus),
        "tokenizer": ("what it encodes it decodes again", check_tokenizer),
        "study": ("it plans its smallest set of runs, and more compute asks for no less", check_study),
    }[kind]
    try:
        checked(name)
    except AllometryError as error:
        return _failed(asked, error.message, error.hint)
    except Exception as error:  # of the plugin's own code
        return _failed(asked, f"{type(error).__name__}: {error}", None)
    click.echo(f"  ok    {asked}")
    return 0


def _failed(asked: str, wrong: str, remedy: str | None) -> int:
    """Print a check that failed; return 1."""
    say(f"  FAIL  {asked}: {wrong}", piped=PIPED, hang=8)
    if remedy:
        say(f"        remedy: {remedy}", piped=PIPED, hang=8)
    return 1
