"""The laboratory of generalisation: memorising and understanding, and whether there are laws of either."""

from __future__ import annotations

from typing import ClassVar

from allometry.studies.core.collection import Collection
from allometry.studies.core.study import register


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
