"""The collections: Kaplan et al. 2020 and two papers after it, and the laboratory of generalisation."""

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


@register
class Generalisation(Collection):
    """Five questions about small models and little data, answered in order from one set of runs: what is
    memorised, how few data are enough, what makes a model generalise sooner, whether its gap and its time
    follow laws, and what becomes of it on other texts.
    """

    name: ClassVar[str] = "generalisation"
    question: ClassVar[str] = (
        "When does a model generalise and when does it memorise, what decides between the two, and are there "
        "laws of it?"
    )
    expected: ClassVar[str] = (
        "Models memorise a few bits per parameter and generalise where the data hold more than that. Repeats "
        "are nearly as good as fresh text a few times over; weight decay matters more than any other "
        "dial; the "
        "gap follows a power of repeats and of parameters per token, and losses elsewhere follow the "
        "loss here."
    )
    budget: ClassVar[str] = "1h"
    members: ClassVar[tuple[str, ...]] = ("memorisation", "least_data", "sooner", "gap_laws", "elsewhere")
    shares: ClassVar[dict[str, float]] = {
        "capacity": 0.13,
        "texts": 0.08,
        "planted": 0.09,
        "halves": 0.06,
        "injected": 0.04,
        "epochs": 0.18,
        "grokking": 0.11,
        "grokking_factors": 0.06,
        "text_factors": 0.06,
        "distributions": 0.06,
        "transfers": 0.13,
    }
    headlines: ClassVar[tuple[str, ...]] = ("memorisation", "least_data", "gap_laws", "elsewhere")
