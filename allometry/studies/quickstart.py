"""The first study: do small transformers on real text obey a scaling law, and does it predict the largest of
them?

Analysis: every basic law on one grid, and the answer in words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.report.build import Analysis
from allometry.studies.core.predictions import score
from allometry.studies.core.sections import (
    StudySection,
    chapter,
    percent,
    scope,
    section_or_reason,
    seed_noise,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.basic_laws import (
    by_data,
    by_size,
    forecast,
    frontier,
    in_scores,
    joint,
    prediction,
    verdict,
)
from allometry.studies.shared.grid import largest_sizes

if TYPE_CHECKING:
    import pandas as pd

    from allometry.studies.core.study import StudyData
    from allometry.sweeps import Sweep
    from allometry.train.config import RunConfig


@register
class Quickstart(Study):
    """Trains a ladder of sizes to several horizons, fits every basic law to it, and predicts its largest
    models first.

    One grid answers several questions, as in Kaplan et al. 2020 and Hoffmann et al. 2022: L(N) at a common
    horizon, L(D) for the largest models, L(N, D) over all, L(C) and N_opt(C) along the compute-efficient
    frontier. The two largest sizes are trained last, after their losses have been predicted from the others
    and written down.
    """

    name: ClassVar[str] = "quickstart"
    question: ClassVar[str] = (
        "Does the test loss of small transformers on real text follow power laws in parameters, data and "
        "compute, and do the laws of the smaller ones predict the largest?"
    )
    expected: ClassVar[str] = (
        "Straight lines in log-log over two orders of magnitude of N, with exponents near Kaplan's, and the "
        "two largest sizes within 2 % of what the smaller ones predict."
    )
    run_sets: ClassVar[dict[str, float]] = {"bare_grid": 1.0}

    def held_back(self, run: RunConfig, sweep: Sweep) -> bool:
        """Return the two largest sizes, at every horizon."""
        return largest_sizes(run, sweep.runs)

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        """Return the forecast of the laws, weighted by their back-test on the smaller sizes."""
        return forecast(runs, held_back)

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report fits, intervals, figures and verdicts."""
        usable, excluded = usable_runs(study_data)
        noise, noise_table = seed_noise(usable)
        sections = {
            "size": section_or_reason("L(N): loss against size", lambda: by_size(usable)),
            "data": section_or_reason("L(D): loss against tokens", lambda: by_data(usable)),
            "joint": section_or_reason("L(N, D): both at once", lambda: joint(usable, noise)),
            "frontier": section_or_reason(
                "L(C) and N_opt(C): what compute buys", lambda: frontier(usable, study_data.curves)
            ),
            "noise": noise_table,
        }
        registered = study_data.prediction
        if registered is not None:
            made = registered
            sections["prediction"] = section_or_reason(
                "Predicted and measured losses", lambda: prediction(study_data.runs, made, study_data.ledger)
            )
        order = ("frontier", "size", "data", "joint", "prediction", "noise")
        return chapter(
            self,
            study_data,
            {name: sections[name] for name in order if name in sections},
            answer=answer(study_data, usable, sections, noise),
            next=_NEXT,
            excluded=excluded,
            warnings=scope(usable, study_data),
        )


_NEXT = (
    "Whether the same laws hold on another text (`--data`), and how far they reach: the same study with an "
    "hour predicts models of several times the size."
)


def answer(
    study_data: StudyData, runs: pd.DataFrame, sections: dict[str, StudySection], noise: float | None
) -> str:
    """Return the whole report in a few sentences."""
    sizes, span = runs["N"].nunique(), runs["N"].max() / runs["N"].min()
    parts = [f"{len(runs)} runs of {sizes} sizes, a factor of {span:.0f} apart in N."]
    line = sections["size"].fits.get("L(N)")
    bent = sections["size"].fits.get("L(N) with a floor")
    if line is not None and bent is not None:
        low, high = line.interval("alpha_N")
        parts.append(
            f"At one horizon the loss falls as N^-{line.parameters['alpha_N']:.3f} (95 % interval "
            f"{low:.3f} to {high:.3f}; "
            f"Kaplan et al.: 0.076), to within {percent(line.rms)}, or {percent(bent.rms)} with a floor."
        )
    joint_fits = sections["joint"].fits
    if joint_fits:
        noisy = f" ({percent(noise)} between seeds)" if noise else ""
        within = " and ".join(f"{label} to within {percent(fit.rms)}" for label, fit in joint_fits.items())
        parts.append(f"One law of N and D describes all runs: {within}{noisy}.")
    slices = sections["frontier"].fits.get("N_opt(C)")
    if slices is not None:
        low, high = slices.a.interval()
        parts.append(
            f"The best size at a given compute grows as C^{slices.a.value:.2f} ({low:.2f} to {high:.2f})."
        )
    if study_data.prediction is not None:
        scored = score(study_data.prediction, study_data.runs)
        parts.append(
            "The two largest models were predicted before they were trained. "
            + verdict(scored[scored["scored"]])
            + in_scores(scored[scored["scored"]], study_data.runs, study_data.prediction)
        )
    return " ".join(parts)
