"""The study of memorisation: its readings in order, and the answer over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allometry.studies.core.chapter import chapter
from allometry.studies.core.sections import attempt
from allometry.studies.core.usable import usable_runs
from allometry.studies.readings import (
    capacity,
    counterfactual,
    exposure,
    extraction,
    forgetting,
    novelty,
    texts,
)

if TYPE_CHECKING:
    from allometry.report.content import Analysis
    from allometry.studies.core.study import Evidence, Study

_NEXT = (
    "Whether sets of text that are trained on until nothing more is gained, instead of for equal tokens, "
    "move the peak of what is memorised to the capacity."
)


def analyse(study: Study, evidence: Evidence) -> Analysis:
    """The report's content from the finished runs; what they cannot answer says why."""
    usable, excluded = usable_runs(evidence)
    random = attempt("Capacity: bits per parameter", lambda: capacity.reading(usable, evidence))
    readings = {
        "capacity": random,
        "texts": attempt(texts.TITLE, lambda: texts.reading(usable, evidence, random.fits.get("sizes"))),
        "exposure": attempt("Exposure of canaries", lambda: exposure.reading(usable, evidence)),
        "extraction": attempt("Extraction from prompts", lambda: extraction.reading(usable, evidence)),
        "counterfactual": attempt(
            "Counterfactual memorisation", lambda: counterfactual.reading(usable, evidence)
        ),
        "forgetting": attempt("Forgetting of a batch", lambda: forgetting.reading(usable, evidence)),
        "novelty": attempt(novelty.TITLE, lambda: novelty.reading(usable, evidence)),
    }
    found = [str(reading.fits["summary"]) for reading in readings.values() if "summary" in reading.fits]
    missing = len(evidence.planned) - len(usable)
    warnings = (f"{missing} of {len(evidence.planned)} planned runs are missing.",) if missing else ()
    return chapter(
        study,
        evidence,
        readings,
        answer=" ".join(found) or "The runs do not show what is memorised.",
        next=_NEXT,
        excluded=excluded,
        warnings=warnings,
    )
