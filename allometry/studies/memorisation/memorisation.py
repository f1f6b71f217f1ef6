"""Memorisation: what do models memorise, from how much, and what becomes of it?

Analysis: all measures in order, and the answer over all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.sections import chapter, section_or_reason, summary_of, usable_runs
from allometry.studies.core.study import Study, register
from allometry.studies.memorisation.capacity import capacity_section
from allometry.studies.memorisation.documents import counterfactual_section
from allometry.studies.memorisation.forgetting import forgetting_section
from allometry.studies.memorisation.novelty import NOVELTY_TITLE, novelty_section
from allometry.studies.memorisation.planted import exposure_section, extraction_section
from allometry.studies.memorisation.texts import TEXTS_TITLE, texts_section

if TYPE_CHECKING:
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData


@register
class Memorisation(Study):
    """Measures what is stored rather than understood, where the two can be told apart.

    Seven ways to ask it, most with something that was put there on purpose: random sequences that hold
    nothing to generalise, and sets of text beside a larger model that has not seen them (Morris et al. 2025);
    canaries and passages inserted a known number of times (Carlini et al. 2019, 2022); documents that half of
    many models have seen (Feldman and Zhang 2020, Zhang et al. 2021); a batch that is seen once (Tirumala et
    al. 2022); and what models write, looked up in what they were trained on (McCoy et al. 2021).
    """

    name: ClassVar[str] = "memorisation"
    question: ClassVar[str] = (
        "What is memorised, by models of which size, from how many repetitions, and for how long?"
    )
    expected: ClassVar[str] = (
        "Two to four bits per parameter of random data, limited by optimisation rather than by capacity at "
        "these budgets. Canaries seen once at chance, exposure rising with every doubling and with N; whole "
        "passages given back only after tens of repetitions. A batch seen once nearly forgotten, more slowly "
        "by larger models. Of text, bits memorised beyond a reference rise with the set until it holds more "
        "than the capacity, and fall; the test loss may descend twice near there, weakly if at all. What "
        "small models write by plain sampling holds fewer n-grams of their training text than people's text "
        "does, of every n, but where a set was repeated hundreds of times and is known by heart."
    )
    budget: ClassVar[str] = "15m"
    run_sets: ClassVar[dict[str, float]] = {
        "capacity": 0.34, "texts": 0.16, "planted": 0.25, "halves": 0.17, "injected": 0.08,
    }  # fmt: skip

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report capacity, memorised text, exposure, extraction, counterfactuals, forgetting and novelty."""
        usable, excluded = usable_runs(study_data)
        random = section_or_reason(
            "Capacity: bits per parameter", lambda: capacity_section(usable, study_data)
        )
        sections = {
            "capacity": random,
            "texts": section_or_reason(
                TEXTS_TITLE, lambda: texts_section(usable, study_data, random.fits.get("sizes"))
            ),
            "exposure": section_or_reason(
                "Exposure of canaries", lambda: exposure_section(usable, study_data)
            ),
            "extraction": section_or_reason(
                "Extraction from prompts", lambda: extraction_section(usable, study_data)
            ),
            "counterfactual": section_or_reason(
                "Counterfactual memorisation", lambda: counterfactual_section(usable, study_data)
            ),
            "forgetting": section_or_reason(
                "Forgetting of a batch", lambda: forgetting_section(usable, study_data)
            ),
            "novelty": section_or_reason(NOVELTY_TITLE, lambda: novelty_section(usable, study_data)),
        }
        missing = len(study_data.planned) - len(usable)
        warnings = (f"{missing} of {len(study_data.planned)} planned runs are missing.",) if missing else ()
        return chapter(
            self,
            study_data,
            sections,
            answer=summary_of(sections, "The runs do not show what is memorised."),
            next=_NEXT,
            excluded=excluded,
            warnings=warnings,
        )


_NEXT = (
    "Whether sets of text that are trained on until nothing more is gained, instead of for equal tokens, "
    "move the peak of what is memorised to the capacity."
)
