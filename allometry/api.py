"""What the command line does with studies and sets of runs, as two calls: `allometry.run` and `allometry.sweep`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from allometry.core.errors import require
from allometry.core.units import parse_duration, parse_number

if TYPE_CHECKING:
    import pandas as pd

    from allometry.runs.store import Store
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
    runs: Iterable[RunConfig],
    *,
    store: Store | Path | str = "runs",
    workers: int | None = None,
    quiet: bool = False,
) -> pd.DataFrame:
    """Train a set of runs; those that the store holds already are not trained again.

    Parameters
    ----------
    runs
        Configurations of the runs. Runs that share a constant-rate trunk are trained as one with branches.
    store
        A `Store`, or the folder or URL of one, which is created if there is none.
    workers
        Number of worker processes (default: the cores).
    quiet
        Show failures only.

    Returns
    -------
    DataFrame
        One row a run, in the order of `runs`, with the columns of `Store.frame`; a run that failed has the
        status "failed", and the next call tries it again.

    Raises
    ------
    AllometryError
        If another process writes to the store, the disk is full, or the extra `allometry[train]` is missing.

    Examples
    --------
    >>> import allometry
    >>> model = {"family": "transformer", "n_layer": 2, "d_model": 32, "n_ctx": 64}
    >>> runs = [
    ...     allometry.RunConfig(model=model, train={"tokens": tokens, "lr": 0.01})
    ...     for tokens in ("1M", "2M")
    ... ]
    >>> table = allometry.sweep(runs, store="my-runs")  # doctest: +SKIP
    """
    from allometry.runs.store import Store
    from allometry.sweeps import Sweep

    require("torch", "safetensors", purpose="a sweep, which trains,")
    from allometry.sweeps.execute import execute
    from allometry.sweeps.progress import Display

    asked = Sweep("sweep", "", tuple(runs))
    at = store if isinstance(store, Store) else Store(store, create=True)
    with Display(quiet=quiet) as progress:
        execute(asked, at, workers=workers, on_event=progress)
    table = at.frame()
    return table.set_index("run", drop=False).reindex(asked.ids).reset_index(drop=True)
