import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.models.transformer import TransformerConfig
from allometry.sweeps.schedule import Job, jobs, makespan, urgency
from allometry.train.config import RunConfig, TrainConfig


def a_run(steps: int, seed: int = 0, schedule: str = "wsd", **more: object) -> RunConfig:
    recipe = {"tokens": steps * 32, "batch_tokens": 32, "lr": 0.01, "seed": seed, "schedule": schedule}
    return RunConfig(
        model=TransformerConfig(n_layer=2, d_model=16, n_ctx=32, n_vocab=256),
        train=TrainConfig(**recipe, **more),
    )


def unit(config: RunConfig, start: int, stop: int) -> float:
    return float(stop - start)


def test_the_longest_run_trains_the_trunk_of_the_others():
    long, middle, short, other = a_run(100), a_run(50), a_run(20), a_run(20, seed=1)
    found = {job.id: job for job in jobs([short, long, other, middle], {}, {})}
    assert found[long.id] == Job(config=long, branch_at=(16, 40))
    assert found[middle.id] == Job(config=middle, start=40, source=(long.id, 40))
    assert found[short.id] == Job(config=short, start=16, source=(long.id, 16))
    assert found[other.id] == Job(config=other)


def test_only_runs_with_a_constant_rate_share():
    runs = [a_run(steps, schedule="cosine") for steps in (20, 50, 100)]
    assert all(job.source is None and job.start == 0 for job in jobs(runs, {}, {}))


def test_a_run_with_a_checkpoint_continues_by_itself():
    long, short = a_run(100), a_run(50)
    found = {job.id: job for job in jobs([long, short], {short.id: 7}, {})}
    assert found[short.id] == Job(config=short, start=7)
    assert found[long.id].branch_at == ()


def test_a_trunk_that_is_past_a_branch_point_is_of_no_use():
    long, middle, short = a_run(100), a_run(50), a_run(20)
    found = {job.id: job for job in jobs([long, middle, short], {long.id: 30}, {})}
    assert found[middle.id].source == (long.id, 40)
    assert found[short.id] == Job(config=short)


def test_a_branch_point_on_disk_is_used_even_if_its_run_is_finished():
    short = a_run(20)
    (job,) = jobs([short], {}, {short.trunk: {16: "finished-run"}})
    assert job == Job(config=short, start=16, source=("finished-run", 16))


def test_urgency_counts_what_waits_behind_a_trunk():
    long, middle = a_run(100), a_run(90)
    todo = jobs([long, middle], {}, {})
    slow_end = lambda config, start, stop: float(stop - start) * (9 if config is middle else 1)  # noqa: E731
    assert urgency(todo, slow_end)[long.id] == 72 + 9 * 18


def test_a_run_that_starts_from_another_awaits_its_end():
    parent = a_run(100)
    child = a_run(30, init_from=parent.id)
    grandchild = a_run(20, init_from=child.id)
    todo = jobs([grandchild, child, parent, a_run(120, seed=1)], {}, {})
    assert urgency(todo, unit) == {
        parent.id: 150,
        child.id: 50,
        grandchild.id: 20,
        a_run(120, seed=1).id: 120,
    }
    assert makespan(todo, unit, 2) == 150
    begun = jobs([child, parent], {child.id: 10}, {})
    assert {job.id: job.awaits for job in begun} == {child.id: None, parent.id: None}
    assert makespan(begun, unit, 2) == 100


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(5, 400), st.integers(0, 2)), min_size=1, max_size=12, unique=True),
    workers=st.integers(1, 4),
)
def test_makespan_lies_between_its_bounds(steps: list[tuple[int, int]], workers: int):
    runs = [a_run(count, seed) for count, seed in steps]
    todo = jobs(runs, {}, {})
    work = sum(job.config.train.steps - job.start for job in todo)
    alone = sum(run.train.steps for run in runs)
    span = makespan(todo, unit, workers)
    assert max(work / workers, max(urgency(todo, unit).values())) <= span <= work
    assert work <= alone
    for _, group in itertools.groupby(
        sorted(todo, key=lambda job: str(job.config.trunk)), lambda job: job.config.trunk
    ):
        assert sum(job.source is None for job in group) == 1


def test_running_jobs_are_not_put_off():
    short, long = a_run(10, seed=1), a_run(100)
    todo = [Job(config=short), Job(config=long)]
    assert makespan(todo, unit, 1) == 110
    assert makespan(todo, unit, 2, running=[{short.id}]) == 100
    assert makespan([], unit, 2) == 0
