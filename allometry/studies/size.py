"""L(N): how the loss falls with the number of parameters, once data are plenty.

Analysis: the forms that might describe it, the range in which they do, the horizon it is
read at.

Kaplan et al. 2020, section 3.2 and D.7 (figures 1, 6, 23).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from allometry.figures.fits import power_law
from allometry.figures.several import several
from allometry.laws.backtest import backtest
from allometry.report.build import Section, Table
from allometry.studies.core.sections import (
    CHINCHILLA,
    EPOCH,
    KAPLAN,
    TOKENS,
    StudySection,
    TooFewRuns,
    caveats,
    chapter,
    constant,
    design_of,
    estimate,
    one_law,
    percent,
    scope,
    section_or_reason,
    seed_noise,
    usable_runs,
)
from allometry.studies.core.study import Study, register
from allometry.studies.shared.basic_laws import (
    common_horizon,
    forecast,
    horizons,
    local_slopes,
    local_table,
    prediction,
)
from allometry.studies.shared.grid import largest_sizes, recipe_runs

if TYPE_CHECKING:
    from allometry.laws.backtest import Backtest
    from allometry.laws.result import FitResult
    from allometry.report.build import Analysis
    from allometry.studies.core.study import StudyData
    from allometry.sweeps import Sweep
    from allometry.train.config import RunConfig


@register
class Size(Study):
    """Eight sizes over two orders of magnitude, each to several horizons (Kaplan et al. 2020, section 3.2;
    figures 1, 6 and 23).

    Three forms are weighed against each other by what they predict of larger models and not only by how they
    fit; N is counted with and without embeddings; and because no model of this scale converges, the exponent
    is read at every horizon and extrapolated to D → ∞ through L(N, D). The two largest sizes are predicted
    before they are trained.
    """

    name: ClassVar[str] = "size"
    question: ClassVar[str] = (
        "How does the loss fall with the number of parameters: as a power law, a logarithm, or a power law "
        "above a floor, and does the law of small models predict larger ones?"
    )
    expected: ClassVar[str] = (
        "A slope near 0.08 at one horizon, but losses that bend by 2 to 3 % over two orders of magnitude: a "
        "floor, with an exponent near 0.4, should fit to half a percent and predict best. The slope should "
        "grow with the horizon, because the largest models are furthest from convergence. Leaving out widths "
        "below 32 should straighten the line somewhat."
    )
    run_sets: ClassVar[dict[str, float]] = {"grid": 1.0}

    def held_back(self, run: RunConfig, sweep: Sweep) -> bool:
        """Return the two largest sizes, at every horizon."""
        return largest_sizes(run, sweep.runs)

    def predict(self, runs: pd.DataFrame, held_back: pd.DataFrame) -> pd.DataFrame:
        """Return the forecast of the laws, weighted by their back-test on the smaller sizes."""
        return forecast(runs, held_back)

    def analyse(self, study_data: StudyData) -> Analysis:
        """Report forms, counts, range and horizon of L(N), and how the registered prediction fared."""
        usable, excluded = usable_runs(study_data)
        sections = {
            "ranges": section_or_reason(
                "Which sizes make a straight line", lambda: ranges(recipe_runs(usable))
            ),
            "forms": section_or_reason("Which form", lambda: forms(recipe_runs(usable))),
            "embeddings": section_or_reason(
                "With and without embeddings", lambda: embeddings(recipe_runs(usable))
            ),
            "horizons": section_or_reason("At which horizon", lambda: horizons(recipe_runs(usable))),
        }
        registered = study_data.prediction
        if registered is not None:
            sections["prediction"] = section_or_reason(
                "Predicted and measured losses",
                lambda: prediction(study_data.runs, registered, study_data.ledger),
            )
        sections["noise"] = seed_noise(usable)[1]
        return chapter(
            self, study_data, sections, answer=answer(sections), next=following(sections), excluded=excluded,
            warnings=scope(usable, study_data),
        )  # fmt: skip


def answer(sections: dict[str, StudySection]) -> str:
    """Return the exponents with their intervals, and which form predicts best."""
    parts = []
    straight = sections["ranges"].fits.get("wide sizes")
    if straight is not None:
        low, high = straight.interval("alpha_N")
        parts.append(
            f"At one horizon L ∝ N^-{straight.parameters['alpha_N']:.3f} (95 % interval {low:.3f} to "
            f"{high:.3f}; "
            f"Kaplan: 0.076), to within {percent(straight.rms)}."
        )
    rows = sections["forms"].fits.get("rows")
    if rows is not None:
        fits = ", ".join(f"{row['form']} {percent(row['residual'])}" for _, row in rows.iterrows())
        parts.append(f"Over all sizes the forms leave residuals of: {fits}.")
        if rows["held-out error"].notna().any():
            best = rows.sort_values("held-out error").iloc[0]
            parts.append(
                f"The {best['form']} predicts the largest sizes best ({percent(best['held-out error'])} off)."
            )
    table = sections["horizons"].fits.get("horizons")
    if table is not None:
        limit = sections["horizons"].fits["Kaplan"]
        low, high = limit.interval("alpha_N")
        parts.append(
            f"The slope moves from {table['α_N'].iloc[0]:.3f} to {table['α_N'].iloc[-1]:.3f} with the "
            "horizon; as "
            f"D → ∞, Kaplan's L(N, D) gives {limit.parameters['alpha_N']:.3f} [{low:.3f}, {high:.3f}]."
        )
    return " ".join(parts) or "These runs are too few for L(N): see the sections."


def following(sections: dict[str, StudySection]) -> str:
    """Return what to ask next, by what was seen."""
    rows = sections["forms"].fits.get("rows")
    if rows is None:
        return "Which form holds? Five sizes at one horizon can tell them apart: see what trains them above."
    residual = dict(zip(rows["form"], rows["residual"], strict=True))
    if residual["power law above a floor"] < 0.5 * residual["power law"]:
        return (
            "Is the floor the text's, the context's, or a sign of too short a horizon? Train the same sizes "
            "with a "
            "context of 256 and ten times the tokens, on a corpus that is long enough."
        )
    return "Extend the ladder upwards: a floor that is not seen here would show in larger models first."


NARROWEST = 32
"""d_model from which a size enters the restricted fit. The rule was written down before any exponent was
seen: below it the recipe caps the learning rate or comes close to it, heads are fewer than four, and the
output matrix has rank 16 or 24 against 256 bytes. It stands where Kaplan et al. leave out one layer."""

FORMS = {"power law": "kaplan-n", "logarithm": "kaplan-n-log", "power law above a floor": "power-offset"}
"""What each form is called, and its law in the zoo."""

FEWEST = 5
"""Sizes below which no form can be told from another."""


def forms(runs: pd.DataFrame) -> StudySection:
    """Report power law, logarithm and power law above a floor, by how they fit and by how they predict the
    largest sizes (figure 23 of Kaplan et al. 2020).
    """
    table = at_common_horizon(runs)
    fits = {name: one_law(table, law, "N") for name, law in FORMS.items()}
    tested = _tested(table)
    rows = pd.DataFrame([_row(name, fits[name], tested) for name in FORMS])
    figure = several(
        means(table).assign(series="measured"), _lines(fits, table), x="N", name="forms-of-loss-against-size",
        title="Three forms of L(N)",
        caption=f"{len(table)} runs at D = {table['D'].iloc[0]:,.0f} tokens; bars: one standard deviation "
        "between seeds. Lines go 30 times beyond the largest size, where the forms part.",
    )  # fmt: skip
    return StudySection(
        section=Section(
            title="Which form: power law, logarithm, or a power law above a floor",
            text=_forms_text(rows),
            evidence=(figure, Table(name="forms", title="Forms of L(N)", frame=rows, caption=_FORMS_NOTE)),
        ),
        constants=(
            constant("L(N) above a floor", "α", {CHINCHILLA: 0.339, EPOCH: 0.348},
                     estimate(fits["power law above a floor"], "alpha"), _WHY_FLOOR,
                     design=design_of(fits["power law above a floor"], "alpha")),
        ),
        fits={**fits, "back-test": tested, "rows": rows},
        warnings=caveats(fits["power law above a floor"], "L(N) above a floor"),
    )  # fmt: skip


_FORMS_NOTE = (
    "Root mean square residual in log loss, and the error of predicting the larger sizes from the smaller "
    "ones "
    "(mean over cuts of the mean absolute relative error)."
)
_WHY_FLOOR = (
    "Chinchilla's exponent counts all parameters, at larger N; 64 bytes of context put a floor under every "
    "one "
    "of our models"
)


def at_common_horizon(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs at the longest horizon that every size shares; AllometryError for fewer than FEWEST
    sizes.
    """
    table = runs[runs["D"] == common_horizon(runs)]
    if table["N"].nunique() < FEWEST:
        raise TooFewRuns(f"{table['N'].nunique()} sizes share a horizon: too few for the form of L(N)")
    return table


def _tested(table: pd.DataFrame) -> Backtest:
    """Back-test by size: fitted to all but the largest two, or three, sizes."""
    sizes = np.sort(table["N"].unique())
    cuts = [float(n) for n in sizes[FEWEST - 1 : -1]]
    return backtest(
        table.assign(X=table["N"]), laws=list(FORMS.values()), columns={"L": "loss"}, by="N", cuts=cuts,
        objective="lsq-log", bootstrap=0,
    )  # fmt: skip


def _row(name: str, result: FitResult, tested: Backtest) -> dict[str, Any]:
    scores = tested.scores.set_index("law")
    exponent = {"kaplan-n": "alpha_N", "kaplan-n-log": "a", "power-offset": "alpha"}[FORMS[name]]
    value, low, high = estimate(result, exponent)
    known = FORMS[name] in scores.index
    return {
        "form": name,
        "residual": result.rms,
        "held-out error": float(scores["mean_error"][FORMS[name]]) if known else np.nan,
        "exponent or slope": value,
        "low (95 %)": low,
        "high (95 %)": high,
    }


def _lines(fits: dict[str, FitResult], table: pd.DataFrame) -> pd.DataFrame:
    grid = np.geomspace(table["N"].min() / 1.2, table["N"].max() * 30, 100)
    named = [
        pd.DataFrame({"series": name, "N": grid, "loss": f.predict(pd.DataFrame({"N": grid}))})
        for name, f in fits.items()
    ]
    kaplan = through(table, "N", -0.076, grid).assign(series="slope of Kaplan et al. 2020: −0.076")
    return pd.concat([*named, kaplan], ignore_index=True)


def through(table: pd.DataFrame, x: str, slope: float, grid: Any) -> pd.DataFrame:
    """Return a straight log-log line of a given slope through the centre of the data: columns x and loss."""
    centre, level = np.log(table[x]).mean(), np.log(table["loss"]).mean()
    return pd.DataFrame({x: grid, "loss": np.exp(level + slope * (np.log(grid) - centre))})


def means(table: pd.DataFrame, x: str = "N") -> pd.DataFrame:
    """Return the mean loss over seeds at each x, with bars of one standard deviation: columns x, loss, low, high,
    n.
    """
    grouped = table.groupby(x)["loss"]
    frame = grouped.agg(loss="mean", sd="std", n="size").reset_index()
    return frame.assign(low=frame["loss"] - frame["sd"], high=frame["loss"] + frame["sd"]).drop(columns="sd")


def _forms_text(rows: pd.DataFrame) -> str:
    by_fit = rows.sort_values("residual").iloc[0]
    parts = [
        "Residuals: "
        + ", ".join(f"{row['form']} {percent(row['residual'])}" for _, row in rows.iterrows())
        + "."
    ]
    known = rows.dropna(subset=["held-out error"])
    if len(known):
        best = known.sort_values("held-out error").iloc[0]
        errors = ", ".join(f"{row['form']} {percent(row['held-out error'])}" for _, row in known.iterrows())
        agree = "and the same" if best["form"] == by_fit["form"] else f"though the {best['form']}"
        parts.append(
            f"Predicting the largest sizes from the smaller ones, they err by: {errors}. "
            f"The {by_fit['form']} fits best, {agree} predicts best."
        )
    parts.append(
        "Kaplan et al. find the power law better than the logarithm −0.25 log(N/7.1e12) on models of 10³ to "
        "10⁹ parameters near convergence; they did not try a floor."
    )
    return " ".join(parts)


def embeddings(runs: pd.DataFrame) -> StudySection:
    """Report L(N) with and without embeddings, side by side (figure 6 of Kaplan et al. 2020)."""
    table = at_common_horizon(runs)
    counts = {"without embeddings": "N", "with embeddings": "N_total"}
    fits = {name: one_law(table, "kaplan-n", column) for name, column in counts.items()}
    points, lines = [], []
    for name, column in counts.items():
        points.append(means(table, column).rename(columns={column: "N"}).assign(series=name))
        grid = np.geomspace(table[column].min(), table[column].max(), 40)
        fitted = fits[name].predict(pd.DataFrame({column: grid}))
        lines.append(pd.DataFrame({"series": name, "N": grid, "loss": fitted}))
    figure = several(
        pd.concat(points), pd.concat(lines), x="N", x_title="Parameters", name="embeddings",
        title="Parameters with and without embeddings",
        caption=f"{len(table)} runs of two layers at one horizon, each drawn at both of its counts, with a "
        "straight "
        "line through each count.",
    )  # fmt: skip
    share = table["N_total"] / table["N"] - 1
    text = (
        "Kaplan et al. find that models of different depth fall on one line only if embeddings are left out. "
        "Our "
        "ladder has one depth, so what the count does to it is to move small models: embeddings, positions "
        "and "
        f"norms add {percent(float(share.max()))} to the smallest and {percent(float(share.min()))} to the "
        f"largest. The slope goes from {fits['without embeddings'].parameters['alpha_N']:.3f} without to "
        f"{fits['with embeddings'].parameters['alpha_N']:.3f} with them, the residual from "
        f"{percent(fits['without embeddings'].rms)} to {percent(fits['with embeddings'].rms)}."
    )
    return StudySection(
        section=Section(title="With and without embeddings", text=text, evidence=(figure,)), fits=fits
    )


def ranges(runs: pd.DataFrame) -> StudySection:
    """Report the power law over all sizes and over those of the rule NARROWEST, at one horizon."""
    table = at_common_horizon(runs)
    wide = table[table["d_model"] >= NARROWEST]
    if wide["N"].nunique() < 4:
        raise TooFewRuns(f"only {wide['N'].nunique()} sizes have d_model of {NARROWEST} or more")
    every, kept = one_law(table, "kaplan-n", "N"), one_law(wide, "kaplan-n", "N")
    title = f"L(N) for d_model of {NARROWEST} and more"
    figure = power_law(
        wide, kept, x="N", slopes={"Kaplan et al. 2020": -0.076}, name="loss-against-size-wide", title=title
    )
    return StudySection(
        section=Section(title="Which sizes make a straight line", text=_range_text(table, wide, every, kept),
                        evidence=(figure, local_table(table))),
        constants=(_exponent(kept),),
        fits={"all sizes": every, "wide sizes": kept},
        warnings=caveats(kept, title),
    )  # fmt: skip


def _exponent(kept: FitResult) -> Any:
    why = (
        "at one short horizon the larger models are further from convergence than the small ones, while "
        f"Kaplan's were trained to convergence; {TOKENS}"
    )
    name = f"loss against size, d_model of {NARROWEST} and more"
    return constant(
        name, "α_N", {KAPLAN: 0.076}, estimate(kept, "alpha_N"), why, design=design_of(kept, "alpha_N")
    )


def _range_text(every_table: pd.DataFrame, wide: pd.DataFrame, every: FitResult, kept: FitResult) -> str:
    whole, part = estimate(every, "alpha_N"), estimate(kept, "alpha_N")
    low, high = kept.interval("alpha_N", 0.9)
    width = (high - low) / 2 / part[0]
    slopes = ", ".join(f"{slope:.3f}" for slope in local_slopes(every_table)["slope"])
    return (
        f"From each size to the next the slope is {slopes}. "
        f"Over all {every_table['N'].nunique()} sizes the straight line has α_N = {whole[0]:.3f} "
        f"[{whole[1]:.3f}, "
        f"{whole[2]:.3f}] and runs lie {percent(every.rms)} from it. The rule, set before looking: Kaplan et "
        "al. "
        "leave out one-layer models and the largest that had not converged; ours leaves out widths below "
        f"{NARROWEST}, where heads and the rank of the output matrix limit a model and not its size. That "
        f"leaves {wide['N'].nunique()} sizes over a factor of {wide['N'].max() / wide['N'].min():.0f}: α_N = "
        f"{part[0]:.3f} [{part[1]:.3f}, {part[2]:.3f}], {percent(kept.rms)} from the line; the 90 % interval "
        "is "
        f"± {percent(width)} of the value (the aim was ± 15 % and a residual under 1 %)."
    )
