import pytest

from allometry.core.errors import AllometryError
from allometry.runs.store import Store
from allometry.sweeps import Sweep
from allometry.sweeps.cost import PLAN_COLUMNS, CostModel, plan_frame


def test_a_sweep_is_a_set(make_run):
    a, b, c = (make_run(steps) for steps in (10, 20, 30))
    left, right = Sweep("left", "?", (a, b, a)), Sweep("right", "!", (b, c))
    assert left.ids == (a.id, b.id)
    assert (left + right).ids == (left | right).ids == (a.id, b.id, c.id)
    assert (left - right).ids == (a.id,)
    assert (left | right).name == "left"
    assert a in left
    assert c not in left


def test_the_plan_says_what_each_run_is(make_run, store: Store):
    sweep = Sweep("plan", "?", (make_run(10), make_run(20, d_model=32)))
    table = plan_frame(sweep, store, CostModel())
    assert tuple(table.columns) == PLAN_COLUMNS
    assert list(table["state"]) == ["new", "new"]
    assert list(table["N"]) == [12 * 2 * 16**2, 12 * 2 * 32**2]
    assert (table["C"] == 6.0 * table["N"] * table["D"]).all()
    assert (table["seconds"] > 0).all()
    assert plan_frame(sweep)["seconds"].isna().all()


def test_a_sweep_needs_a_name():
    with pytest.raises(AllometryError, match="name"):
        Sweep("", "?", ())
