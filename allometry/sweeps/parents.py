"""Runs that start from other runs: what can be known to be wrong before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from allometry.errors import AllometryError
from allometry.runs.store import Store
from allometry.train.config import RunConfig
from allometry.train.inherit import mismatch


def check_parents(pending: Sequence[RunConfig], store: Store) -> None:
    """Refuse runs that start from a run that is neither among the `pending` ones nor in the store, or that
    has another shape.

    Whether that run ends well is not known yet: if it does not, training says so.
    """
    known = {run.id: run for run in pending}
    for run in pending:
        parent = run.train.init_from
        if parent is None:
            continue
        if parent in known:
            model = known[parent].model.model_dump(mode="json")
        elif store.status(parent) is not None:
            model = dict(store.get(parent).config.get("model", {}))
        else:
            raise AllometryError(
                f"{run.id} starts from {parent}, which is neither in the sweep nor in {store.path}",
                hint="add that run to the sweep, or train it first",
            )
        if reason := mismatch(run, model):
            raise AllometryError(
                f"{run.id} cannot start from {parent}: {reason}",
                hint="start from a run of the same shape, or leave init_from out",
            )
