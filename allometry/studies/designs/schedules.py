"""One size under many schedules of the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allometry.studies.core.run_sets import register, too_little

if TYPE_CHECKING:
    from allometry.train.config import DataConfig, RunConfig

REFERENCE, N_AT_REFERENCE = 1.2e13, 25_000
"""FLOPs at which the model has N_AT_REFERENCE parameters; Kaplan et al. 2020 used one of 3 million."""

SMALLEST = 1536

PEAKS: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
"""Peak rates over the recipe's, of the cosine."""

FLOORS: tuple[float, ...] = (0.1, 0.5)
"""Final rates over the peak, of the cosine."""

SHORT, LONG = 0.0, 0.1
"""Warm-ups that differ from the recipe's: none, and a share of the horizon."""

SEEDS = 3
"""Seeds of the recipe's schedule and of the cosine: what losses differ by for no reason."""

ENOUGH = 1e12
"""FLOPs from which all schedules are affordable; less buys one of each shape."""

FEWEST_UPDATES = 150


@register
def schedules(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """One size, one horizon, and schedules that differ in shape, peak, floor and warm-up: loss against the
    summed learning rate (Kaplan et al. 2020, figure 22).
    """
    from allometry.studies.core.recipe import BATCH_TOKENS, learning_rate, small_model, small_run, vocabulary

    wanted = max(SMALLEST, round(N_AT_REFERENCE * (compute / REFERENCE) ** 0.5))
    model = small_model(wanted, n_vocab=vocabulary(data))
    count = len(_variants(compute, 1.0, 1)) + len(_repeats(compute))
    steps = round(compute / (count * model.counts().flops_per_token("attention")) / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "schedules of one size")
    rule = learning_rate(model)
    variants = [*_variants(compute, rule, steps), *_repeats(compute)]
    runs = [small_run(model, tokens=steps * BATCH_TOKENS, data=data, **changes) for changes in variants]
    return tuple({run.id: run for run in runs}.values())


def _repeats(compute: float) -> list[dict[str, Any]]:
    """Further seeds."""
    repeated = ("wsd", "cosine") if compute >= ENOUGH else ("wsd",)
    return [{"schedule": name, "seed": seed} for name in repeated for seed in range(1, SEEDS)]


def _variants(compute: float, rule: float, steps: int) -> list[dict[str, Any]]:
    """What each schedule changes in the recipe's run."""
    shapes: list[dict[str, Any]] = [{"schedule": name} for name in ("wsd", "cosine", "linear", "constant")]
    if compute < ENOUGH:
        return shapes
    long = round(LONG * steps)
    return [
        *shapes,
        *({"schedule": "cosine", "lr": peak * rule} for peak in PEAKS if peak != 1),
        *({"schedule": "cosine", "final_lr": floor} for floor in FLOORS),
        *({"schedule": "wsd", "lr": peak * rule} for peak in (0.25, 0.5, 2.0)),
        *({"schedule": "constant", "lr": peak * rule} for peak in (0.25, 0.5)),
        {"schedule": "wsd", "decay": 0.4},
        {"schedule": "wsd", "decay": 0.05},
        {"schedule": "cosine", "warmup": round(SHORT)},
        {"schedule": "wsd", "warmup": round(SHORT)},
        {"schedule": "cosine", "warmup": long},
    ]
