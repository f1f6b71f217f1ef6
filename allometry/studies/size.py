"""L(N): how the loss falls with the number of parameters, once data are plenty."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from allometry.studies.core.study import Study, register

if TYPE_CHECKING:
    import pandas as pd

    from allometry.report.content import Analysis
    from allometry.studies.core.sections import Reading
    from allometry.studies.core.study import Evidence
    from allometry.sweeps.sweep import Sweep
    from allometry.train.config import RunConfig


@register
class Size(Study):
    """Eight sizes over two orders of magnitude, each to several horizons (Kaplan et al. 2020, section 3.2;
    figures 1, 6 and 23).

    Three forms are weighed against each other by what they foretell of larger models and not only by how they
    fit; N is counted with and without embeddings; and because no model of this scale converges, the exponent
    is read at every horizon and extrapolated to D → ∞ through L(N, D). The two largest sizes are predicted
    before they are trained.
    """

    name: ClassVar[str] = "size"
    question: ClassVar[str] = (
        "How does the loss fall with the number of parameters: as a power law, a logarithm, or a power law "
        "above a floor, and does the law of small models foretell larger ones?"
    )
    expected: ClassVar[str] = (
        "A slope near 0.08 at one horizon, but losses that bend by 2 to 3 % over two orders of magnitude: a "
        "floor, with an exponent near 0.4, should fit to half a percent and foretell best. The slope should "
        "grow with the horizon, because the largest models are furthest from convergence. Leaving out widths "
        "below 32 should straighten the line somewhat."
    )
    designs: ClassVar[dict[str, float]] = {"grid": 1.0}

    def held_back(self, run: RunConfig, sweep: Sweep) -> bool:
        """The two largest sizes, at every horizon."""
        from allometry.studies.designs.grid import largest_sizes

        return largest_sizes(run, sweep.runs)

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        """Forecast of the laws, weighted by their back-test on the smaller sizes."""
        from allometry.studies.readings.prediction import forecast

        return forecast(runs, held_back)

    def analyse(self, evidence: Evidence) -> Analysis:
        """Forms, counts, range and horizon of L(N), and how the registered prediction fared."""
        from allometry.studies.core.chapter import chapter
        from allometry.studies.core.sections import attempt
        from allometry.studies.core.usable import scope, seed_noise, usable_runs
        from allometry.studies.readings.horizons import horizons
        from allometry.studies.readings.prediction import prediction
        from allometry.studies.readings.sizes import embeddings, forms, ranges
        from allometry.studies.readings.trunks import recipe_runs

        usable, excluded = usable_runs(evidence)
        readings = {
            "ranges": attempt("Which sizes make a straight line", lambda: ranges(recipe_runs(usable))),
            "forms": attempt("Which form", lambda: forms(recipe_runs(usable))),
            "embeddings": attempt("With and without embeddings", lambda: embeddings(recipe_runs(usable))),
            "horizons": attempt("At which horizon", lambda: horizons(recipe_runs(usable))),
        }
        registered = evidence.prediction
        if registered is not None:
            readings["prediction"] = attempt(
                "The prediction, and what came",
                lambda: prediction(evidence.runs, registered, evidence.ledger),
            )
        readings["noise"] = seed_noise(usable)[1]
        return chapter(
            self, evidence, readings, answer=answer(readings), next=following(readings), excluded=excluded,
            warnings=scope(usable, evidence),
        )  # fmt: skip


def answer(readings: dict[str, Reading]) -> str:
    """The exponents with their intervals, and which form foretells best."""
    from allometry.studies.core.sections import percent

    parts = []
    straight = readings["ranges"].fits.get("wide sizes")
    if straight is not None:
        low, high = straight.interval("alpha_N")
        parts.append(
            f"At one horizon L ∝ N^-{straight.parameters['alpha_N']:.3f} (95 % interval {low:.3f} to "
            f"{high:.3f}; "
            f"Kaplan: 0.076), to within {percent(straight.rms)}."
        )
    rows = readings["forms"].fits.get("rows")
    if rows is not None:
        fits = ", ".join(f"{row['form']} {percent(row['residual'])}" for _, row in rows.iterrows())
        parts.append(f"Over all sizes the forms leave residuals of: {fits}.")
        if rows["held-out error"].notna().any():
            best = rows.sort_values("held-out error").iloc[0]
            parts.append(
                f"The {best['form']} foretells the largest sizes best ({percent(best['held-out error'])} "
                "off)."
            )
    table = readings["horizons"].fits.get("horizons")
    if table is not None:
        limit = readings["horizons"].fits["Kaplan"]
        low, high = limit.interval("alpha_N")
        parts.append(
            f"The slope moves from {table['α_N'].iloc[0]:.3f} to {table['α_N'].iloc[-1]:.3f} with the "
            "horizon; as "
            f"D → ∞, Kaplan's L(N, D) gives {limit.parameters['alpha_N']:.3f} [{low:.3f}, {high:.3f}]."
        )
    return " ".join(parts) or "These runs are too few for L(N): see the sections."


def following(readings: dict[str, Reading]) -> str:
    """What to ask next, by what was seen."""
    rows = readings["forms"].fits.get("rows")
    if rows is None:
        return "Allow more time: with five sizes at one horizon the forms can be told apart."
    residual = dict(zip(rows["form"], rows["residual"], strict=True))
    if residual["power law above a floor"] < 0.5 * residual["power law"]:
        return (
            "Is the floor the text's, the context's, or a sign of too short a horizon? Train the same sizes "
            "with a "
            "context of 256 and ten times the tokens, on a corpus that is long enough."
        )
    return "Extend the ladder upwards: a floor that is not seen here would show in larger models first."
