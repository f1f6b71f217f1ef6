"""The experiments of Kaplan et al. 2020 and of two papers after it, at the scale of one's own machine."""

from __future__ import annotations

from typing import ClassVar

from allometry.studies.core.collection import Collection
from allometry.studies.core.study import register


@register
class Kaplan(Collection):
    """Every figure and table of *Scaling Laws for Neural Language Models* that does not need a cluster, from
    one set of runs: the rates that the others use; loss against size, data, both, compute and time; batch,
    shape, architecture, position, other texts, schedules; and then what Hoffmann et al. 2022 and Porian et
    al. 2024 made of it.
    """

    name: ClassVar[str] = "kaplan"
    question: ClassVar[str] = (
        "Which findings of Scaling Laws for Neural Language Models hold for models of a thousand to a "
        "million parameters?"
    )
    expected: ClassVar[str] = (
        "The forms of the laws hold, and their exponents are steeper than Kaplan's: small models on bytes "
        "are far from any floor. What needs long contexts or large batches shows weakly or not at all."
    )
    budget: ClassVar[str] = "2h"
    members: ClassVar[tuple[str, ...]] = (
        *("rates", "size", "data", "overfitting", "compute", "time", "batch", "shape", "architectures"),
        *("position", "transfer_test", "schedules", "chinchilla", "reconcile"),
    )
    shares: ClassVar[dict[str, float]] = {
        "grid": 0.44,
        "subsets": 0.14,
        "recurrent": 0.13,
        "batches": 0.09,
        "shapes": 0.06,
        "distributions": 0.05,
        "rates": 0.03,
        "schedules": 0.02,
        "contexts": 0.02,
        "ladders": 0.02,
    }
    headlines: ClassVar[tuple[str, ...]] = ("size", "data", "overfitting", "compute", "batch", "chinchilla")
