"""Two recipes on paired ladders: how much more compute or data one needs to reach the loss of the other.

All recipes share one surface of the loss, that of the recipe they are compared with, and each has an efficiency:
its loss at (N, D) is that of the other recipe at m times the compute (both N and D grow by √m) or m times the
data (D grows by m). log m is a line in log C, whose slope says whether an advantage grows with scale. Runs of one
size and horizon are a pair, whose common deviation cancels; runs that continue one another are not independent.
Both are random effects, with variances by restricted maximum likelihood (Patterson and Thompson 1971).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq, least_squares, minimize, nnls
from scipy.stats import f as f_distribution
from scipy.stats import t as student

from allometry.core.errors import AllometryError, unknown
from allometry.core.units import counted
from allometry.laws.grouping import numbered
from allometry.laws.observations import read_runs, with_unique_labels
from allometry.laws.result import FitWarning
from allometry.laws.slices import best_of_settings, cells, settings
from allometry.laws.uncertainty import Array, plain, said
from allometry.runs.tables.columns import is_named

Kind = Literal["compute", "data"]
Span = tuple[float, float, float]
"""A value and its interval: (value, low, high)."""

LEVEL = 0.95

MARGIN = 0.05
"""Default margin of equivalence: a multiplier within 1/1.05 … 1.05 is no difference that matters."""

NEAR = 1.1
"""Runs are a pair if their N and D differ by less than this factor: recipes seldom have the same N to the digit. The
law accounts for the rest.
"""

_WEIGHTS: dict[Kind, tuple[float, float]] = {"compute": (0.5, 0.5), "data": (0.0, 1.0)}
"""How far log N and log D move for log m."""

_FAR = np.log(1e4)
"""Largest log multiplier that is looked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """One recipe against the baseline.

    Intervals are (value, low, high) at 95 %; those that `verdict` rests on are wider where several recipes are
    compared (Bonferroni). `loss` is the relative difference of the loss at equal N and D, `compute` and `data`
    the multipliers at the largest common scale `C` (what the baseline needs over what the recipe needs: above 1
    the recipe is better), `growth` the factor by which the compute multiplier changes with ten times the compute,
    `forecasts` the compute multipliers of a new pair at 10 and 100 times `C`. `time` is the compute multiplier
    divided by the ratio of the seconds that a FLOP takes, where the table has seconds. What the table cannot
    give is None.
    """

    recipe: str
    baseline: str
    pairs: int
    C: float
    loss: Span | None
    compute: Span | None
    data: Span | None
    growth: Span | None
    forecasts: Mapping[float, Span]
    time: Span | None
    verdict: str
    why: str
    scales: pd.DataFrame
    dof: float

    def at(self, level: float) -> tuple[float, float]:
        """Return the interval of the compute multiplier at another level."""
        assert self.compute is not None
        return _rescaled(self.compute, level, self.dof)

    def growth_at(self, level: float) -> tuple[float, float]:
        """Return the interval of the growth at another level; (nan, nan) where it is not known."""
        return (float("nan"),) * 2 if self.growth is None else _rescaled(self.growth, level, self.dof)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        spans = {name: _plain(getattr(self, name)) for name in ("loss", "compute", "data", "growth", "time")}
        return {
            "recipe": self.recipe, "baseline": self.baseline, "pairs": self.pairs, "C": self.C, **spans,
            "forecasts": {f"{factor:g}": _plain(span) for factor, span in self.forecasts.items()},
            "verdict": self.verdict, "why": self.why,
            "scales": [{k: plain(v) for k, v in row.items()} for row in self.scales.to_dict("records")],
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Versus:
    """What a table says of its recipes, the best first. `notes` say how it was read, `warnings` what limits it."""

    by: str
    baseline: str
    comparisons: tuple[Comparison, ...]
    noise: float
    law: str
    margin: float
    excluded: pd.DataFrame
    notes: tuple[str, ...]
    warnings: tuple[FitWarning, ...]

    def __repr__(self) -> str:
        return f"<Versus {self.baseline}: {'; '.join(f'{c.recipe} {c.verdict}' for c in self.comparisons)}>"

    @property
    def table(self) -> pd.DataFrame:
        """One row a recipe: verdict, difference of the loss, multipliers and growth with their intervals."""
        rows = []
        for each in self.comparisons:
            row: dict[str, Any] = {
                "recipe": each.recipe,
                "verdict": each.verdict,
                "pairs": each.pairs,
                "C": each.C,
            }
            for name in ("loss", "compute", "data", "growth", "time"):
                value = getattr(each, name) or (np.nan,) * 3
                row |= {name: value[0], f"{name}_low": value[1], f"{name}_high": value[2]}
            rows.append(row)
        return pd.DataFrame(rows)

    def report(self) -> str:
        """Return every comparison, what it rests on, and the warnings as text."""
        lines = [f"recipes in {self.by!r}, each against {self.baseline}; law of the loss: {self.law}"]
        for each in self.comparisons:
            lines += ["", f"{each.recipe}: {each.verdict}", f"  {each.why}", *_numbers(each)]
        lines += [
            "",
            f"noise of one run against its pair: {100 * self.noise:.2g} % of the loss; intervals 95 %",
        ]
        if len(self.comparisons) > 1:
            lines.append(
                f"verdicts at {100 * (1 - 0.05 / len(self.comparisons)):.3g} %, for so many comparisons"
            )
        if len(self.excluded):
            lines.append(f"excluded: {counted(len(self.excluded), 'row')}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *(f"warning: {line}" for line in said(self.warnings))])

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON."""
        return {
            "by": self.by, "baseline": self.baseline, "law": self.law, "noise": plain(self.noise),
            "margin": self.margin, "comparisons": [each.to_dict() for each in self.comparisons],
            "excluded": len(self.excluded), "notes": list(self.notes), "warnings": said(self.warnings),
        }  # fmt: skip


def _rescaled(span: Span, level: float, dof: float) -> tuple[float, float]:
    value, low, high = np.log(span)
    factor = float(student.ppf(0.5 + level / 2, dof) / student.ppf(0.5 + LEVEL / 2, dof))
    return float(np.exp(value - factor * (value - low))), float(np.exp(value + factor * (high - value)))


def _plain(span: Span | None) -> list[float | None] | None:
    return None if span is None else [plain(value) for value in span]


def _text(span: Span, digits: int = 3) -> str:
    return f"{span[0]:.{digits}g} [{span[1]:.{digits}g}, {span[2]:.{digits}g}]"


def _numbers(c: Comparison) -> list[str]:
    out = [f"  pairs of equal size and tokens: {c.pairs}"]
    if c.loss is not None:
        value, low, high = (100 * x for x in c.loss)
        out.append(f"  loss at equal N and D: {value:+.2g} % [{low:+.2g}, {high:+.2g}]")
    if c.compute is not None:
        out.append(f"  compute multiplier at {c.C:.2g} FLOPs: {_text(c.compute)}")
    if c.growth is not None:
        out.append(f"  its factor with 10 x the compute: {_text(c.growth)}")
    out += [f"  a new pair at {factor:g} x: {_text(span)}" for factor, span in c.forecasts.items()]
    if c.data is not None:
        out.append(f"  data multiplier at {c.C:.2g} FLOPs: {_text(c.data)}")
    if c.time is not None:
        out.append(f"  multiplier of wall-clock time: {_text(c.time)}")
    return out


def versus(
    frame: pd.DataFrame,
    *,
    by: str,
    against: str | None = None,
    columns: Mapping[str, str] | None = None,
    margin: float = MARGIN,
    exclude: Mapping[Any, str] | None = None,
) -> Versus:
    """Compare recipes that were trained on the same sizes and horizons.

    Parameters
    ----------
    frame
        One row a run, with N, D (or C), a loss and a column that names the recipe.
    by
        The column of recipes.
    against
        The recipe that the others are compared with; the first one in the table unless given.
    columns
        N, D, C, loss -> columns of `frame`, or arithmetic of them, where the names do not say it.
    margin
        Margin of equivalence: multipliers from 1/(1 + margin) to 1 + margin make no difference that matters.
    exclude
        Labels of rows to leave out -> reason.

    Returns
    -------
    Versus
        A verdict a recipe, with the difference in loss, multipliers of compute and data, and their growth.

    Raises
    ------
    AllometryError
        For a column that is not there, fewer than two recipes, recipes of different tokenizers or corpora whose
        losses are not per byte, and tables that share no size and horizon between recipes and have too few
        runs for a law of each.

    Examples
    --------
    >>> import allometry, pandas as pd
    >>> runs = pd.read_csv("examples/runs.csv")
    >>> same = pd.concat([runs.assign(recipe="a"), runs.assign(recipe="b")], ignore_index=True)
    >>> allometry.versus(same, by="recipe").comparisons[0].verdict
    'no difference larger than 5 %'
    """
    frame, left_out = with_unique_labels(frame, exclude)
    table, excluded, notes = _read(frame, by, columns, dict(left_out or {}))
    names = list(dict.fromkeys(table["recipe"]))
    if len(names) < 2:
        raise AllometryError(
            f"column {by!r} names one recipe only ({names[0] if names else 'none'})",
            hint='versus(runs, by="recipe")',
            cli_hint="allometry versus runs.csv --by COLUMN",
        )
    baseline = names[0] if against is None else against
    if baseline not in names:
        raise unknown("recipe", baseline, names)
    _require_comparable(frame.loc[table.index], table["recipe"], columns or {})
    units, more = _units(frame, table, by, baseline)
    data = _Data.of(units, baseline, [name for name in names if name != baseline])
    cautions: list[FitWarning] = []
    fits: dict[Kind, _Fit] = {"compute": _fit(data, "compute")}
    if len(data.terms) == 2:
        fits["data"] = _fit(data, "data")
    cautions += _doubts(data, fits["compute"])
    bends = any(w.name == "multiplier bends" for w in cautions)
    made = [_compare(data, fits, name, margin, bends) for name in data.recipes]
    unpaired = [c.recipe for c in made if not c.pairs]
    if unpaired:
        meaning = (
            f"{' and '.join(unpaired)}: no size and horizon in common with {baseline}, so that the comparison rests on"
            " the law alone"
        )
        cautions.append(FitWarning(name="no pairs", meaning=meaning))
    order = sorted(made, key=lambda c: -(c.compute[0] if c.compute else 1.0))
    return Versus(
        by=by, baseline=baseline, comparisons=tuple(order), noise=float(np.sqrt(fits["compute"].within)),
        law=data.law, margin=margin, excluded=excluded, notes=(*notes, *more, *data.notes),
        warnings=tuple(cautions),
    )  # fmt: skip


def _read(
    frame: pd.DataFrame, by: str, columns: Mapping[str, str] | None, exclude: Mapping[Any, str]
) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    if by not in frame.columns:
        raise unknown("column", by, [str(name) for name in frame.columns])
    named = frame[by].notna() & ~frame.index.isin(list(exclude))
    seen = read_runs(frame[named], columns)
    table = seen.table.assign(recipe=frame.loc[seen.table.index, by].astype(str))
    left = frame[~named]
    reasons = [exclude.get(label, f"no {by}") for label in left.index]
    return table, pd.concat([seen.excluded, left.assign(reason=reasons)]), seen.notes


def _require_comparable(frame: pd.DataFrame, recipe: pd.Series, columns: Mapping[str, str]) -> None:
    """Refuse losses per token of recipes that differ in tokenizer or corpus."""
    said_loss = columns.get("loss", columns.get("L", ""))
    if "byte" in said_loss.lower():
        return
    for name in frame.columns:
        if not is_named(name, "tokeni[sz]er|corpus|dataset|vocab(ulary)?(size)?"):
            continue
        values = frame[name].astype(str).groupby(recipe.to_numpy()).agg(lambda x: " ".join(sorted(set(x))))
        if values.nunique() > 1:
            raise AllometryError(
                f"recipes differ in {name!r}: losses per token are not comparable",
                hint='give the loss per byte: columns={"loss": "nats_per_byte"}',
                cli_hint="give the loss per byte, as --let loss=nats_per_byte",
            )


def _units(
    frame: pd.DataFrame, table: pd.DataFrame, by: str, baseline: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return one row a recipe, size and horizon: means over seeds of the best setting; pairs share a `cell`."""
    notes, kept = [], np.zeros(len(table), dtype=bool)
    for name in dict.fromkeys(table["recipe"]):
        at = np.flatnonzero((table["recipe"] == name).to_numpy())
        part = table.iloc[at]
        setting, differing = settings(frame.loc[part.index].drop(columns=by))
        best = best_of_settings(part, setting)
        kept[at[best]] = True
        if not best.all():
            notes.append(
                f"{name}: the best {' and '.join(differing)} of each size and horizon counts"
                f" ({counted(int((~best).sum()), 'run')} with a higher loss left out)"
            )
    table = table[kept].assign(cell=cells(table[kept]))
    trunk = frame["trunk"] if "trunk" in frame.columns else table["run"]
    table = table.assign(
        trunk=numbered(trunk.loc[table.index]), log_loss=np.log(table["loss"]), pace=_log_pace(frame, table)
    )
    continued = table.groupby(["recipe", "trunk"])["cell"].nunique().max() > 1
    units = table.groupby(["recipe", "cell"], sort=False).agg(
        N=("N", "mean"), D=("D", "mean"), C=("C", "mean"), y=("log_loss", "mean"), trunk=("trunk", "first"),
        pace=("pace", "mean"),
    ).reset_index()  # fmt: skip
    if not continued:
        units["trunk"] = np.arange(len(units))
    else:
        notes.append("horizons of one size continue one run: they are not counted as independent")
    return units.assign(cell=_paired(units, baseline)), tuple(notes)


def _paired(units: pd.DataFrame, baseline: str) -> NDArray[np.int_]:
    """Return the number of each unit's pair, (n,): that of the nearest unit of the baseline, if its N and D are
    within `NEAR`. Of several units of one recipe the nearest is its pair; the others stand alone.
    """
    at = np.log(units[["N", "D"]].to_numpy(float))
    base = np.flatnonzero((units["recipe"] == baseline).to_numpy())
    cell = np.arange(len(units))
    for name in dict.fromkeys(units["recipe"]):
        if name == baseline:
            continue
        mine = np.flatnonzero((units["recipe"] == name).to_numpy())
        away = np.abs(at[mine][:, None] - at[base]).max(-1)
        for i in np.argsort(away.min(1), kind="stable"):
            j = int(np.argmin(away[i]))
            if away[i, j] <= np.log(NEAR):
                cell[mine[i]] = base[j]
                away[:, j] = np.inf
    return cell


def _log_pace(frame: pd.DataFrame, table: pd.DataFrame) -> Array:
    """Return the log of the seconds that a FLOP took, (n,); nan without a column of seconds."""
    names = [
        n for n in frame.columns if is_named(n, "(train_?)?seconds|(wall|run)_?(clock|time)(_s(econds)?)?")
    ]
    if not names:
        return np.full(len(table), np.nan)
    seconds = pd.to_numeric(frame.loc[table.index, names[0]], errors="coerce").to_numpy(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(seconds > 0, np.log(seconds / table["C"]), np.nan))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Data:
    """Units (n,) with their coordinates: `terms` are (log N, log D), or (log C,) where D/N is the same for all."""

    units: pd.DataFrame
    y: Array
    x: Array
    recipe: NDArray[np.int_]
    recipes: tuple[str, ...]
    baseline: str
    terms: tuple[Array, ...]
    floor: bool
    growing: tuple[bool, ...]
    centre: float
    law: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, units: pd.DataFrame, baseline: str, recipes: Sequence[str]) -> _Data:
        number = {baseline: -1, **{name: i for i, name in enumerate(recipes)}}
        log = {name: np.log(units[name].to_numpy(float)) for name in ("N", "D", "C")}
        ratio = log["D"] - log["N"]
        horizons = units.assign(h=np.round(ratio, 1)).groupby(np.round(log["N"], 2))["h"].nunique()
        surface = int((horizons > 1).sum()) >= 2 and units["cell"].nunique() >= 7
        names = ("N", "D") if surface else ("C",)
        scales = len(np.unique(np.round(log["C"], 1)))
        floor = scales >= 4 and units["cell"].nunique() >= 4
        centre = float(log["C"].mean())
        growing = []
        for name in recipes:
            shared = units[units["recipe"] == name]
            spread = np.ptp(np.log(shared["C"])) if len(shared) else 0.0
            growing.append(len(shared) >= 3 and float(spread) > np.log(2))
        notes = [] if surface else ["sizes and tokens grow together, or are few: the law is one of C alone"]
        if not floor:
            notes.append(
                "fewer than four scales: no irreducible loss is fitted, multipliers hold between them"
            )
        law = "E + A/N^α + B/D^β" if surface else "E + K/C^γ"
        return cls(
            units=units, y=units["y"].to_numpy(float), x=log["C"] - centre, recipes=tuple(recipes),
            recipe=np.array([number[name] for name in units["recipe"]], dtype=int), baseline=baseline, centre=centre,
            terms=tuple(log[name] - log[name].mean() for name in names), floor=floor, growing=tuple(growing),
            law=law if floor else law.removeprefix("E + "), notes=tuple(notes),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fit:
    """Parameters, covariance, variances (of a run within its pair, and of a trunk), degrees of freedom."""

    theta: Array
    covariance: Array
    within: float
    trunk: float
    dof: float
    sse: float
    free: int
    model: _Model
    ratios: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class _Model:
    """log L = log(E + Σ exp(k_j - γ_j (u_j + w_j t))), t = μ_r + s_r x: values and gradients of the parameters
    (E, k_j, γ_j, …, μ_r, s_r, …), in logarithms where they are positive.
    """

    data: _Data
    weights: tuple[float, ...]
    bent: bool = False
    own_exponents: bool = False

    @property
    def surface(self) -> int:
        return 1 + 2 * len(self.weights)

    def names(self) -> list[str]:
        out = ["E"]
        for j in range(len(self.weights)):
            out += [f"k{j}", f"g{j}"]
        for r, grows in enumerate(self.data.growing):
            out += [f"mu{r}"] + ([f"s{r}"] if grows else []) + ([f"q{r}"] if self.bent and grows else [])
            out += [f"e{r}.{j}" for j in range(len(self.weights))] if self.own_exponents else []
        return out

    def shift(self, theta: Array, r: int, x: Array | float) -> Any:
        """Return log m of recipe `r` at x."""
        p = dict(zip(self.names(), theta, strict=True))
        return p[f"mu{r}"] + p.get(f"s{r}", 0.0) * x + p.get(f"q{r}", 0.0) * np.square(x)

    def at(self, theta: Array, terms: Sequence[Array], t: Array) -> tuple[Array, list[Array], Array]:
        """Return log L of the baseline's surface moved by t, its terms over L, and E over L."""
        parts = [
            np.exp(theta[1 + 2 * j] - np.exp(theta[2 + 2 * j]) * (u + w * t))
            for j, (u, w) in enumerate(zip(terms, self.weights, strict=True))
        ]
        floor = np.exp(theta[0]) if self.data.floor else 0.0
        total = floor + sum(parts)
        return np.log(total), [part / total for part in parts], floor / total

    def evaluate(self, theta: Array) -> tuple[Array, Array]:
        """Return log L (n,) and its gradient (n, parameters)."""
        data, names = self.data, self.names()
        index = {name: i for i, name in enumerate(names)}
        t, slope = np.zeros(len(data.y)), np.zeros((len(data.y), len(names)))
        moved = []
        for r in range(len(data.recipes)):
            mine = data.recipe == r
            t[mine] = self.shift(theta, r, data.x[mine])
        for j, (u, w) in enumerate(zip(data.terms, self.weights, strict=True)):
            factor = np.ones(len(data.y))
            if self.own_exponents:
                for r in range(len(data.recipes)):
                    factor[data.recipe == r] = np.exp(theta[index[f"e{r}.{j}"]])
            moved.append((u + w * t, factor))
        parts = [
            np.exp(theta[1 + 2 * j] - np.exp(theta[2 + 2 * j]) * f * at) for j, (at, f) in enumerate(moved)
        ]
        floor = np.exp(theta[0]) if data.floor else 0.0
        total = floor + sum(parts)
        by_t = np.zeros(len(data.y))
        if data.floor:
            slope[:, 0] = floor / total
        for j, (at, f) in enumerate(moved):
            exponent, share = np.exp(theta[2 + 2 * j]) * f, parts[j] / total
            slope[:, 1 + 2 * j] = share
            slope[:, 2 + 2 * j] = -share * exponent * at
            by_t -= share * exponent * self.weights[j]
            if self.own_exponents:
                for r in range(len(data.recipes)):
                    slope[:, index[f"e{r}.{j}"]] = np.where(data.recipe == r, -share * exponent * at, 0.0)
        for r in range(len(data.recipes)):
            mine = np.where(data.recipe == r, by_t, 0.0)
            for name, power in ((f"mu{r}", 0), (f"s{r}", 1), (f"q{r}", 2)):
                if name in index:
                    slope[:, index[name]] = mine * data.x**power
        return np.log(total), slope

    def bounds(self) -> tuple[Array, Array]:
        low, high = np.full(len(self.names()), -np.inf), np.full(len(self.names()), np.inf)
        least = float(self.data.y.min())
        low[0], high[0] = least - np.log(1e3), least - 1e-3
        for j in range(len(self.weights)):
            low[2 + 2 * j], high[2 + 2 * j] = np.log(0.02), np.log(2.0)
        for i, name in enumerate(self.names()):
            if name.startswith("mu"):
                low[i], high[i] = -_FAR, _FAR
        return low, high

    def starts(self) -> list[Array]:
        out = []
        loss = np.exp(self.data.y)
        exponents = [(0.3, 0.4), (0.6, 0.5), (0.2, 0.8)] if len(self.weights) == 2 else [(0.1,), (0.25,)]
        for share in (0.3, 0.7, 0.93) if self.data.floor else (0.0,):
            for gammas in exponents:
                basis = np.stack(
                    [np.exp(-g * u) for g, u in zip(gammas, self.data.terms, strict=True)], axis=1
                )
                scale, _ = nnls(basis, loss - share * loss.min())
                theta = np.zeros(len(self.names()))
                theta[0] = np.log(share * loss.min()) if share else float(self.data.y.min()) - 1
                for j, gamma in enumerate(gammas):
                    theta[1 + 2 * j] = np.log(max(scale[j], 1e-3 * loss.min()))
                    theta[2 + 2 * j] = np.log(gamma)
                out.append(theta)
        return out


def _fit(data: _Data, kind: Kind, known: _Fit | None = None, **more: Any) -> _Fit:
    """Fit by generalised least squares; variances by restricted maximum likelihood at the current gradients, or
    those of a `known` fit with fewer parameters.
    """
    weights = _WEIGHTS[kind] if len(data.terms) == 2 else (1.0,)
    model = _Model(data=data, weights=weights, **more)
    low, high = model.bounds()
    cell, trunk = numbered(data.units["cell"]), _trunks(data)
    block = np.asarray(np.unique(np.round(np.log(data.units["N"]), 2), return_inverse=True)[1], dtype=int)
    ratios = np.array([1.0, 0.0 if trunk is None else 0.5]) if known is None else known.ratios
    starts = model.starts()
    if known is not None:
        value_of = dict(zip(known.model.names(), known.theta, strict=True))
        starts = [np.array([value_of.get(name, 0.0) for name in model.names()])]
    for _ in range(4 if known is None else 0):
        theta = _minimise(model, starts, _whitener(block, cell, trunk, ratios), low, high)
        value, slope = model.evaluate(theta)
        use = _used(model, theta, low, high, slope)
        ratios, starts = _variances(data.y - value, slope[:, use], block, cell, trunk, ratios), [theta]
    white = _whitener(block, cell, trunk, ratios)
    theta = _minimise(model, starts, white, low, high)
    value, slope = model.evaluate(theta)
    use = _used(model, theta, low, high, slope)
    gradient, residual = white(slope[:, use]), white((data.y - value)[:, None])[:, 0]
    dof = max(_dof(data, cell, trunk), 0.0)
    sse = float(residual @ residual)
    left = len(residual) - int(use.sum())
    if left < 1 or dof < 1:
        raise AllometryError(
            f"{counted(len(residual), 'mean')} of sizes and horizons leave nothing to judge the noise by",
            hint="train each recipe at three sizes or more",
        )
    within = sse / left
    covariance = np.zeros((len(theta), len(theta)))
    covariance[np.ix_(use, use)] = within * np.linalg.pinv(gradient.T @ gradient)
    return _Fit(
        theta=theta, covariance=covariance, within=within, trunk=within * float(ratios[1]), dof=dof, sse=sse,
        free=int(use.sum()), model=model, ratios=ratios,
    )  # fmt: skip


def _trunks(data: _Data) -> NDArray[np.int_] | None:
    """Return the trunk of every unit, or None where each unit is a run of its own."""
    keys = data.units.groupby(["recipe", "trunk"], sort=False).ngroup().to_numpy()
    return np.asarray(keys, dtype=int) if len(np.unique(keys)) < len(keys) else None


def _dof(data: _Data, cell: NDArray[np.int_], trunk: NDArray[np.int_] | None) -> float:
    """Return what is left to judge recipes by: differences within pairs (of trunks, where these are the units),
    less what is estimated of each recipe.
    """
    spent = len(data.recipes) + sum(data.growing)
    paired = pd.Series(cell).groupby(cell).transform("size").to_numpy() > 1
    if not paired.any():
        return float(len(cell) - spent - 1 - 2 * len(data.terms))
    groups = (
        cell if trunk is None else np.unique(np.round(np.log(data.units["N"]), 2), return_inverse=True)[1]
    )
    seen = pd.DataFrame({"group": groups, "recipe": data.recipe})[paired].drop_duplicates()
    return float((seen.groupby("group").size() - 1).sum() - spent)


def _used(model: _Model, theta: Array, low: Array, high: Array, slope: Array) -> NDArray[np.bool_]:
    inside = (theta > low + 1e-6) & (theta < high - 1e-6)
    inside[0] &= model.data.floor
    return np.asarray(inside & (np.abs(slope).max(0) > 0), dtype=bool)


def _minimise(
    model: _Model, starts: Sequence[Array], white: Callable[[Array], Array], low: Array, high: Array
) -> Array:
    def residuals(theta: Array) -> Array:
        return white((model.data.y - model.evaluate(theta)[0])[:, None])[:, 0]

    def gradient(theta: Array) -> Array:
        return -white(model.evaluate(theta)[1])

    best, value = None, np.inf
    for start in starts:
        found = least_squares(
            residuals, np.clip(start, low + 1e-9, high - 1e-9), jac=gradient, bounds=(low, high), x_scale="jac",
            max_nfev=200,
        )  # fmt: skip
        if found.cost < value:
            best, value = found.x, found.cost
    assert best is not None
    return np.asarray(best, dtype=float)


def _covariances(
    block: NDArray[np.int_], cell: NDArray[np.int_], trunk: NDArray[np.int_] | None, ratios: Array
) -> list[tuple[NDArray[np.int_], Array]]:
    """Return rows and covariance (in units of the variance within a pair) of every block."""
    out = []
    for number in np.unique(block):
        rows = np.flatnonzero(block == number)
        v = np.eye(len(rows)) + ratios[0] * (cell[rows][:, None] == cell[rows])
        if trunk is not None:
            v = v + ratios[1] * (trunk[rows][:, None] == trunk[rows])
        out.append((rows, v))
    return out


def _whitener(
    block: NDArray[np.int_], cell: NDArray[np.int_], trunk: NDArray[np.int_] | None, ratios: Array
) -> Callable[[Array], Array]:
    inverses = [
        (rows, np.linalg.inv(np.linalg.cholesky(v))) for rows, v in _covariances(block, cell, trunk, ratios)
    ]

    def white(values: Array) -> Array:
        out = np.empty_like(values)
        for rows, inverse in inverses:
            out[rows] = inverse @ values[rows]
        return out

    return white


def _variances(
    residual: Array, slope: Array, block: NDArray[np.int_], cell: NDArray[np.int_],
    trunk: NDArray[np.int_] | None, start: Array,
) -> Array:  # fmt: skip
    """Return the variances of pairs and trunks over that within a pair, by restricted maximum likelihood."""
    most = np.log(1e4)

    def minus(log_ratios: Array) -> float:
        ratios = np.array([*np.exp(log_ratios), 0.0][:2])
        log_det, xx = 0.0, np.zeros((slope.shape[1],) * 2)
        xr, rr = np.zeros(slope.shape[1]), 0.0
        for rows, v in _covariances(block, cell, trunk, ratios):
            log_det += float(np.linalg.slogdet(v)[1])
            inverse = np.linalg.inv(v)
            vx, vr = inverse @ slope[rows], inverse @ residual[rows]
            xx, xr, rr = xx + slope[rows].T @ vx, xr + slope[rows].T @ vr, rr + float(residual[rows] @ vr)
        sign, det = np.linalg.slogdet(xx)
        left = rr - float(xr @ np.linalg.lstsq(xx, xr, rcond=None)[0])
        free = len(residual) - slope.shape[1]
        if free < 1 or sign <= 0:
            return 0.0
        return 0.5 * (log_det + float(det) + free * np.log(max(left, 1e-300)))

    begin = np.log(np.clip(start[: 1 if trunk is None else 2], 1e-3, 1e3))
    found = minimize(minus, begin, method="L-BFGS-B", bounds=[(-7.0, most)] * len(begin))
    return np.array([*np.exp(found.x), 0.0])[:2]


def _doubts(data: _Data, fit: _Fit) -> list[FitWarning]:
    """Warn where multipliers bend in log C, where exponents differ between recipes, and of far runs."""
    out = []
    for name, more, meaning in (
        ("multiplier bends", {"bent": True}, "log m is no line in log C: its growth and forecasts are not given"),
        ("shapes differ", {"own_exponents": True}, "recipes have exponents of their own, so that one multiplier"
         " for N and D does not describe them"),
    ):  # fmt: skip
        try:
            wider = _fit(data, "compute", fit, **more)
        except (AllometryError, np.linalg.LinAlgError):
            continue
        spent, left = wider.free - fit.free, fit.dof - (wider.free - fit.free)
        if spent < 1 or left < 2:
            continue
        ratio = max(fit.sse - wider.sse, 0.0) / spent / max(wider.within, 1e-300)
        p = float(f_distribution.sf(ratio, spent, left))
        if p < 0.01:
            out.append(FitWarning(name=name, meaning=f"{meaning} (p = {p:.1g})"))
    residual = data.y - fit.model.evaluate(fit.theta)[0]
    scale = 1.4826 * float(np.median(np.abs(residual - np.median(residual)))) or float(np.std(residual))
    far = np.flatnonzero(np.abs(residual) > 8 * max(scale, 1e-12))
    if 0 < len(far) < 0.2 * len(residual):
        which = [f"{data.units['recipe'].iloc[i]} at N {data.units['N'].iloc[i]:.3g}, D {data.units['D'].iloc[i]:.3g}"
                 for i in far[:3]]  # fmt: skip
        out.append(FitWarning(name="far runs", meaning=f"off the law of the others: {'; '.join(which)}"))
    return out


def _compare(data: _Data, fits: Mapping[Kind, _Fit], name: str, margin: float, bends: bool) -> Comparison:
    r = data.recipes.index(name)
    units = data.units
    fit = fits["compute"]
    on_surface = fit.model.at(fit.theta, data.terms, np.zeros(len(units)))[0]
    units = units.assign(off=data.y - on_surface, at=np.arange(len(units)))
    mine, theirs = units[units["recipe"] == name], units[units["recipe"] == data.baseline]
    pairs = mine.merge(theirs, on="cell", suffixes=("", "_base"))
    top = float((pairs if len(pairs) else mine)["C"].max())
    x = float(np.log(top) - data.centre)
    verdict_level = 1 - (1 - LEVEL) / len(data.recipes)
    compute = _multiplier(fit, r, x, LEVEL)
    data_span = _multiplier(fits["data"], r, x, LEVEL) if "data" in fits else None
    growth = None if bends else _growth(fit, r, LEVEL)
    strict, strict_growth = _multiplier(fit, r, x, verdict_level), _growth(fit, r, verdict_level)
    forecasts = {}
    if growth is not None:
        forecasts = {factor: _new_pair(data, fit, r, top, factor) for factor in (10.0, 100.0)}
    verdict, why = _judge(strict, None if bends else strict_growth, margin, top, len(pairs), pairs)
    return Comparison(
        recipe=name, baseline=data.baseline, pairs=len(pairs), C=top, loss=_difference(pairs), compute=compute,
        data=data_span, growth=growth, forecasts=forecasts, time=_in_time(compute, pairs, fit.dof),
        verdict=verdict, why=why,
        scales=_scales(data, fit, r, pairs if len(pairs) else mine), dof=fit.dof,
    )  # fmt: skip


def _gradient(model: _Model, r: int, x: float) -> Array:
    out = np.zeros(len(model.names()))
    for i, name in enumerate(model.names()):
        if name in (f"mu{r}", f"s{r}", f"q{r}"):
            out[i] = x ** ("mu", "s", "q").index(name.rstrip("0123456789"))
    return out


def _multiplier(fit: _Fit, r: int, x: float, level: float, extra: float = 0.0) -> Span:
    """Return m at x with its interval; `extra` is a variance of log m that is added."""
    g = _gradient(fit.model, r, x)
    value = float(fit.model.shift(fit.theta, r, x))
    half = float(student.ppf(0.5 + level / 2, fit.dof) * np.sqrt(g @ fit.covariance @ g + extra))
    return float(np.exp(value)), float(np.exp(value - half)), float(np.exp(value + half))


def _growth(fit: _Fit, r: int, level: float) -> Span | None:
    """Return the factor of m with ten times the compute."""
    if not fit.model.data.growing[r]:
        return None
    i = fit.model.names().index(f"s{r}")
    half = float(student.ppf(0.5 + level / 2, fit.dof) * np.sqrt(fit.covariance[i, i]))
    value, decade = float(fit.theta[i]), np.log(10)
    return tuple(float(np.exp(decade * (value + side * half))) for side in (0, -1, 1))  # type: ignore[return-value]


def _in_time(compute: Span, pairs: pd.DataFrame, dof: float) -> Span | None:
    """Return the compute multiplier over the ratio of the seconds that a FLOP takes, or None without seconds."""
    slower = (pairs["pace"] - pairs["pace_base"]).dropna() if len(pairs) else pd.Series(dtype=float)
    if len(slower) < 2:
        return None
    factor = float(student.ppf(0.5 + LEVEL / 2, dof))
    value, low, high = np.log(compute)
    half = np.hypot((high - low) / 2, factor * slower.std(ddof=1) / np.sqrt(len(slower)))
    middle = value - float(slower.mean())
    return float(np.exp(middle)), float(np.exp(middle - half)), float(np.exp(middle + half))


def _steepness(data: _Data, fit: _Fit, terms: Sequence[Array]) -> Array:
    """Return -d log L / d log m of the baseline's surface at points."""
    _, shares, _ = fit.model.at(fit.theta, terms, np.zeros(np.shape(terms[0])))
    gammas = np.exp(fit.theta[2 : 2 + 2 * len(terms) : 2])
    return np.asarray(sum(g * w * s for g, w, s in zip(gammas, fit.model.weights, shares, strict=True)))


def _new_pair(data: _Data, fit: _Fit, r: int, top: float, factor: float) -> Span:
    """Return the multiplier that a new pair of runs at `factor` times the compute would show."""
    at = int(np.argmin(np.abs(data.x + data.centre - np.log(top))))
    step = [np.log(factor) * (1.0 if len(data.terms) == 1 else 0.5)] * len(data.terms)
    terms = [np.array([u[at] + s]) for u, s in zip(data.terms, step, strict=True)]
    steep = float(_steepness(data, fit, terms)[0])
    extra = 2 * (fit.within + fit.trunk) / max(steep, 1e-9) ** 2
    return _multiplier(fit, r, float(np.log(top * factor) - data.centre), LEVEL, extra)


def _difference(pairs: pd.DataFrame) -> Span | None:
    """Return the mean relative difference of the loss over pairs; sizes are the units where several horizons
    belong to one.
    """
    if not len(pairs):
        return None
    shared = pairs["trunk"].nunique() < len(pairs)
    d = pairs["off"] - pairs["off_base"]
    values = d.groupby(pairs["trunk"]).mean() if shared else d
    if len(values) < 2:
        return None
    half = float(student.ppf(0.5 + LEVEL / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return float(np.expm1(mean)), float(np.expm1(mean - half)), float(np.expm1(mean + half))


def _scales(data: _Data, fit: _Fit, r: int, rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a pair: N, D, C, the multiplier that it measures, and the fitted one with its interval."""
    away = (
        (rows["off"] - rows["off_base"]).to_numpy(float) if "off_base" in rows else np.full(len(rows), np.nan)
    )
    at, log_c = rows["at"].to_numpy(int), np.log(rows["C"].to_numpy(float))
    measured = [_measured(fit, [u[[i]] for u in data.terms], d) for i, d in zip(at, away, strict=True)]
    fitted = np.array([_multiplier(fit, r, float(c - data.centre), LEVEL) for c in log_c])
    value, low, high = fitted.T
    table = rows[["N", "D", "C"]].assign(measured=measured, multiplier=value, low=low, high=high)
    return table.sort_values(["C", "N"], ignore_index=True)


def _measured(fit: _Fit, terms: Sequence[Array], difference: float) -> float:
    """Return the multiplier at which the baseline's surface changes by a difference of log losses."""
    here = float(fit.model.at(fit.theta, terms, np.zeros(1))[0][0])

    def off(t: float) -> float:
        return float(fit.model.at(fit.theta, terms, np.array([t]))[0][0]) - here - difference

    if not off(-_FAR) * off(_FAR) <= 0:
        return float("nan")
    return float(np.exp(brentq(off, -_FAR, _FAR)))


def _judge(
    compute: Span, growth: Span | None, margin: float, top: float, cells_: int, pairs: pd.DataFrame
) -> tuple[str, str]:
    """Return the verdict and the sentence that says what it rests on."""
    value, low, high = compute
    at = f"at {top:.2g} FLOPs the baseline needs {value:.3g} [{low:.3g}, {high:.3g}] times the compute"
    most = max(high, 1 / low) - 1
    if most <= margin:
        return f"no difference larger than {100 * margin:.2g} %", at
    if low > 1 or high < 1:
        word, away = ("helps", 1) if low > 1 else ("hurts", -1)
        if growth is None:
            return word, f"{at}; nothing is known of larger scales"
        less = growth[2] < 1 if away > 0 else growth[1] > 1
        more = growth[1] > 1 if away > 0 else growth[2] < 1
        if less:
            gone = top * 10 ** (np.log(value) / -np.log(growth[0]))
            return f"{word}, but less with scale", f"{at}; at this rate it is gone at {gone:.1g} FLOPs"
        if more:
            return f"{word}, and more with scale", at
        return word, f"{at}; whether that changes with scale cannot be told"
    needed = int(
        np.ceil((max(np.log(high / value), np.log(value / low)) / np.log1p(margin)) ** 2 * max(cells_, 2))
    )
    cost = f", {needed * float(pairs['C'].mean()) * 2:.1g} FLOPs" if len(pairs) else ""
    return "cannot tell", f"{at}; about {needed} pairs like these would decide it{cost}"
