"""Train a sweep: whatever is missing in the store, on all workers, longest first, through failures and
kills.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext

from allometry.runs.claims import LEASE
from allometry.runs.lock import exclusive
from allometry.runs.store import Store
from allometry.sweeps.cost import CostModel
from allometry.sweeps.events import Event, EventKind, OnEvent, Summary
from allometry.sweeps.execution import DEATHS_ALLOWED, Execution
from allometry.sweeps.orders import Settings
from allometry.sweeps.pool import Pool, open_pool
from allometry.sweeps.survey import tidy
from allometry.sweeps.sweep import Sweep
from allometry.train.texts import refuse_changed, settle

__all__ = ["DEATHS_ALLOWED", "Event", "EventKind", "OnEvent", "Summary", "execute"]


def execute(
    sweep: Sweep,
    store: Store,
    *,
    workers: int | None = None,
    pool: Pool | None = None,
    cost: CostModel | None = None,
    on_event: OnEvent | None = None,
    fail_fast: bool = False,
    later: float = 0.0,
    checkpoint_every: float = 15.0,
    shared: bool = False,
    first: Collection[str] = (),
    lease: float = LEASE,
) -> Summary:
    """Train the runs of a sweep that have no result in `store` yet; the same call continues after any
    interruption.

    A `pool` given stays open for the next call, else one of this machine's cores with `workers` processes is
    opened for this one. Runs that share a constant-rate trunk branch off the longest of them. A run that
    fails keeps its reason in error.txt and the others go on, unless `fail_fast`; the next call tries it
    again. `cost` orders the runs and predicts the end (default: by FLOPs), to which `later` seconds of
    further stages are added. A kill costs at most `checkpoint_every` seconds of each run.

    Where the store is at a URL, the pool is a cluster, or the caller says that it is `shared`, each run is
    claimed before it is trained, for `lease` seconds at a time: other drivers may work on the same store, and
    what they train is waited for. `first` are ids of the runs to begin with.

    Finished runs of a text that has changed since are put aside and trained again (`runs.texts`); in a shared
    store they are refused.

    Raises AllometryError if another process writes to the store without claims, the disk is full or, with
    `fail_fast`, a run failed; KeyboardInterrupt after the workers have stopped.
    """
    shared = shared or store.remote or (pool is not None and pool.shared)
    settings = Settings(
        checkpoint_every=checkpoint_every,
        fail_fast=fail_fast,
        later=later,
        lease=lease if shared else None,
        first=frozenset(first),
    )
    with nullcontext() if store.remote else exclusive(store.path, shared=shared):
        if shared:
            said = refuse_changed(sweep.runs, store.path, where=store.place.location)
        else:
            said = settle(sweep.runs, store.path)[1]
        state = Execution(sweep, store, cost or CostModel(), on_event or (lambda event: None), settings)
        state.notes += said
        if state.finished:
            state.announce()
            return state.summary()
        own = pool is None
        pool = pool or open_pool(None, workers)
        try:
            state.run(pool)
        except BaseException:
            pool.stop()
            raise
        if own:
            pool.close()
        store.pull()
        if not state.elsewhere:  # else the others may still need what lies there
            tidy(sweep.runs, store)
        return state.summary()
