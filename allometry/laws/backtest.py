"""Back-tests: fit on the cheapest runs, predict the most expensive, rank laws by how wrong they were, and weigh them
into one forecast.

In-sample fit says little about extrapolation, so held-out error decides and AIC comes second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from allometry.core.errors import AllometryError
from allometry.core.units import counted
from allometry.laws.fit import fit
from allometry.laws.fit_report import excluded_rows
from allometry.laws.law import Law
from allometry.laws.observations import observe, read_runs, with_unique_labels
from allometry.laws.result import FitResult
from allometry.laws.uncertainty import Array, plain
from allometry.laws.zoo import get


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast:
    """Combined prediction, its interval and each law's own prediction, one row a point."""

    value: Array
    low: Array
    high: Array
    level: float
    by_law: pd.DataFrame
    weights: dict[str, float]


PRIOR = {"chinchilla-tied": 2.0, "gadre": 2.0, "kaplan": 0.5}
"""What a law weighs before any hold-out, where it is not 1: the simple law of one exponent more, the law without a
floor less (`benchmarks/backtest.py` measures it)."""

_FEW = 10
"""Held-out runs at which errors count half of what they count in the end."""


def weigh(
    predictions: pd.DataFrame, sharpness: float = 4.0, prior: Mapping[str, float] = PRIOR
) -> dict[str, float]:
    """Return the weight of each law, summing to 1: its prior times its held-out error to the power -s.

    The error is that of the ranking: the mean over cuts of the mean absolute log error, and 0.1 %, below which errors
    are luck or seed noise. s grows with the number n of held-out runs, `sharpness` n/(n + 10): few hold-outs leave the
    weights near the prior. Only laws that survived every cut take part (all, where none did). Laws that
    predict the same, being one function written twice, share one weight.
    """
    cuts = predictions.groupby("law")["cut"].nunique()
    able = cuts[cuts == cuts.max()].index
    table = predictions[predictions["law"].isin(able)]
    log_error = (np.log(table["predicted"]) - np.log(table["measured"])).abs()
    error = log_error.groupby([table["law"], table["cut"]]).mean().groupby("law").mean()
    held = table["row"].nunique()
    raw = (error + 1e-3) ** (-sharpness * held / (held + _FEW))
    raw *= np.array([prior.get(str(law), 1.0) for law in raw.index]) / _copies(table).reindex(raw.index)
    return {str(name): float(w) for name, w in (raw / raw.sum()).items()}


def _copies(table: pd.DataFrame) -> pd.Series:
    """Return how many laws, itself among them, predict every held-out run as a law does (to 1e-4)."""
    wide = table.pivot_table(index=["cut", "row"], columns="law", values="predicted").apply(np.log)
    return pd.Series({law: ((wide.sub(wide[law], axis=0)).abs().max() < 1e-4).sum() for law in wide.columns})


def combine(
    fits: Mapping[str, FitResult],
    weights: Mapping[str, float],
    predictions: pd.DataFrame,
    points: pd.DataFrame | Mapping[str, Any],
    level: float,
) -> Forecast:
    """Return the weighted geometric mean of the laws' predictions at `points`.

    The variance of the log forecast is that of a mixture: each law's own prediction interval plus the laws'
    disagreement. It is widened to the size of the combination's held-out errors, where those were larger.
    """
    used = {name: w for name, w in weights.items() if w > 1e-4}
    total = sum(used.values())
    used = {name: w / total for name, w in used.items()}
    table = pd.DataFrame(as_lists(points) if isinstance(points, Mapping) else points)
    centre = pd.DataFrame({name: np.log(fits[name].predict(table)) for name in used})
    own = {name: _half_width(fits[name], table) for name in used}
    w = np.array(list(used.values()))
    mean = centre.to_numpy() @ w
    variance = ((np.column_stack(list(own.values())) ** 2) + (centre.to_numpy() - mean[:, None]) ** 2) @ w
    sigma = np.sqrt(np.maximum(variance, held_out_square(predictions, used)))
    reach = NormalDist().inv_cdf((1 + level) / 2) * sigma
    return Forecast(
        value=np.exp(mean), low=np.exp(mean - reach), high=np.exp(mean + reach), level=level,
        by_law=centre.apply(np.exp), weights=used,
    )  # fmt: skip


def as_lists(at: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return lists of one length from values and lists: one value goes for all."""
    lists = {k: [v] if np.ndim(v) == 0 else list(v) for k, v in at.items()}
    size = max((len(v) for v in lists.values()), default=0)
    return {k: v * size if len(v) == 1 else v for k, v in lists.items()}


def _half_width(result: FitResult, table: pd.DataFrame) -> Array:
    """Return the standard deviation of the log prediction of a new run, from its 68 % interval; the residuals' without
    draws. The model error of a law that fails its own test is left out: the combination has the hold-outs' errors.
    """
    if not len(result.samples):
        return np.full(len(table), result.rms)
    low, high = replace(result, selftest=None).prediction_interval(table, 0.6827)
    return np.asarray(np.log(high / low) / 2)


def held_out_square(predictions: pd.DataFrame, weights: Mapping[str, float]) -> float:
    """Return the mean square log error that the combination would have made on the held-out runs."""
    table = predictions[predictions["law"].isin(list(weights))]
    log_error = (np.log(table["predicted"]) - np.log(table["measured"])) * table["law"].map(dict(weights))
    summed = log_error.groupby([table["cut"], table["row"]]).sum()
    return float((summed**2).mean())


DEFAULT_LAWS = ("chinchilla", "chinchilla-tied", "kaplan", "skaling")
_OF_PARAMETERS = {
    *("correlation", "ill-conditioned", "scale-not-identified", "flat-profile", "floor-not-identified"),
    "bound-hit-in-resamples",
}
DEFAULT_CUTS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True, eq=False)
class Backtest:
    """What each law predicted of runs that it had not seen.

    `scores`: one row a law, best first: mean_error, worst_error and bias (relative, of the held-out output;
    the mean over cuts of the mean in each), coverage80 and coverage95 (share of held-out runs inside the
    prediction intervals), delta_aic (all rows, in-sample), weight (in the combined forecast), cuts
    (survived) and failures (reasons). `predictions`: one row a law, cut and held-out run. `fits`: every law
    fitted to all rows.
    """

    by: str
    cuts: tuple[float, ...]
    scores: pd.DataFrame
    predictions: pd.DataFrame
    fits: dict[str, FitResult]
    failures: tuple[str, ...]

    def __repr__(self) -> str:
        errors = (f"{row['law']} {100 * row['mean_error']:.3g} %" for _, row in self.scores.iterrows())
        return f"<Backtest by {self.by}: mean errors {', '.join(errors)}>"

    @property
    def best(self) -> str:
        """Name of the law that extrapolates best."""
        return str(self.scores["law"].iloc[0])

    def forecast(self, points: pd.DataFrame | Mapping[str, Any], level: float = 0.95) -> Forecast:
        """Return the laws' predictions at new points, combined by their errors in this back-test (`combine`).

        `points` holds the laws' inputs: columns of a table, lists, or single numbers. The interval covers the laws'
        own uncertainty, their disagreement, and how far off such forecasts were in this back-test.
        """
        weights = dict(zip(self.scores["law"], self.scores["weight"], strict=True))
        return combine(self.fits, weights, self.predictions, points, level)

    def report(self) -> str:
        """Return the ranking as text."""
        cuts = ", ".join(f"{c:.3g}" for c in self.cuts)
        lines = [f"back-test by {self.by}: fitted up to {cuts}, predicted the rest", _HEAD]
        for _, row in self.scores.iterrows():
            lines.append(
                f"  {row['law']:16s}{100 * row['mean_error']:7.2f} %{100 * row['worst_error']:9.2f} %"
                f"{100 * row['bias']:+7.2f} %"
                f"{_percent(row['coverage80']):>8s}{_percent(row['coverage95']):>8s}"
                f"{row['delta_aic']:8.1f}{row['weight']:8.2f}"
            )
        lines.append("  errors: relative, of held-out runs; coverage: of 80 % and 95 % prediction intervals")
        lines += [f"  failed: {failure}" for failure in self.failures]
        first = next(iter(self.fits.values()))
        if len(first.excluded):
            lines.append(excluded_rows(first))
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {name} ({', '.join(laws)}): {what}" for name, what, laws in self.warnings]
        return "\n".join(lines)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the fits to all rows note of the table, each once."""
        return tuple(dict.fromkeys(note for fit in self.fits.values() for note in fit.notes))

    @property
    def warnings(self) -> list[tuple[str, str, list[str]]]:
        """What the fits to all rows warn of: name, meaning (that of the first law), and the laws.

        Warnings of parameters that are not separately known are left to `fit`: predictions do not need them.
        """
        found: dict[str, tuple[str, list[str]]] = {}
        for law, result in self.fits.items():
            for warning in result.warnings:
                if warning.name not in _OF_PARAMETERS:
                    laws = found.setdefault(warning.name, (warning.meaning, []))[1]
                    laws += [law] if law not in laws else []
        return [(name, meaning, laws) for name, (meaning, laws) in found.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return scores, cuts and failures as plain JSON."""
        rows = [
            {k: plain(v) if isinstance(v, float) else v for k, v in row.items()}
            for row in self.scores.to_dict("records")
        ]
        left_out = next(iter(self.fits.values())).excluded
        return {
            "by": self.by, "cuts": list(self.cuts), "scores": rows, "failures": list(self.failures),
            "excluded": left_out["reason"].value_counts().to_dict() if len(left_out) else {},
            "notes": list(self.notes),
            "warnings": [{"name": n, "meaning": what, "laws": laws} for n, what, laws in self.warnings],
        }  # fmt: skip

    def _repr_html_(self) -> str:
        return self.scores.to_html(index=False, float_format="{:.4g}".format)


_HEAD = "  law              mean err  worst err     bias  in 80%  in 95%    ΔAIC  weight"


def backtest(
    frame: pd.DataFrame,
    *,
    laws: Sequence[str | Law] = DEFAULT_LAWS,
    columns: Mapping[str, str] | None = None,
    by: str = "C",
    cuts: Sequence[float] = DEFAULT_CUTS,
    objective: str = "huber-log",
    group: str | None = None,
    exclude: Mapping[Any, str] | Sequence[Any] | None = None,
    bootstrap: int = 100,
    seed: int = 0,
) -> Backtest:
    """Fit each law to the rows with the lowest `by` and predict the others, at several cuts.

    Parameters
    ----------
    frame, columns, objective, group, exclude
        As in `fit`.
    laws
        Names of laws, or laws, that predict the same thing.
    by
        Column or symbol that orders the rows (C is 6ND where it is missing).
    cuts
        Where to cut: below 1 the share of rows to fit, cheapest first; from 1 on a value of `by`, up to which
        (inclusive) rows are fitted.
    bootstrap, seed
        Resamples of each fit; with 0 there are no intervals and no coverage.

    Returns
    -------
    Backtest
        Scores (best law first), every prediction, and the fits to all rows.

    Raises
    ------
    AllometryError
        Where no cut leaves rows to fit and rows to predict, or no law can be fitted.

    Examples
    --------
    >>> import allometry, pandas as pd
    >>> runs = pd.read_csv("examples/runs.csv")
    >>> tested = allometry.backtest(runs, laws=["kaplan", "chinchilla"], columns={"L": "loss"}, by="N", bootstrap=0)
    >>> tested.best
    'kaplan'
    >>> tested.scores[["law", "mean_error"]].round(3)
              law  mean_error
    0      kaplan       0.031
    1  chinchilla       0.037
    """
    frame, exclude = with_unique_labels(frame, exclude)
    chosen = [get(law) if isinstance(law, str) else law for law in laws]
    if len({law.output for law in chosen}) > 1:
        raise AllometryError(
            "the laws predict different things", hint="compare laws of the same output, such as L"
        )
    whole = {}
    for law in chosen:
        whole[law.name] = fit(
            frame, law=law, columns=columns, objective=objective, group=group, exclude=exclude,
            bootstrap=bootstrap, seed=seed,
        )  # fmt: skip
    order = _order(frame, columns, by, chosen[0].output)
    used = pd.concat([full.data for full in whole.values()]).index
    thresholds = _thresholds(order[order.index.isin(used)], cuts)
    rows, failures = [], []
    for name, full in whole.items():
        for threshold in thresholds:
            table = full.data.assign(run=full.group)
            cost = order.reindex(table.index).to_numpy(float)
            try:
                rows.append(_held_out(full, table, cost, threshold, bootstrap, seed))
            except AllometryError as error:
                failures.append(f"{name} up to {by} = {threshold:.3g}: {error.message}")
    if not rows:
        raise AllometryError(
            f"no law could be fitted at any cut: {failures[0]}", hint="add runs, or cut later"
        )
    predictions = pd.concat(rows, ignore_index=True)
    return Backtest(
        by=by, cuts=tuple(thresholds), scores=_scores(predictions, whole, len(thresholds)),
        predictions=predictions, fits=whole, failures=tuple(failures),
    )  # fmt: skip


def _order(frame: pd.DataFrame, columns: Mapping[str, str] | None, by: str, output: str) -> pd.Series:
    """Return the values of `by` with the index of the table, of rows that hold what the laws predict."""
    if by == "C":
        return read_runs(frame, columns).table["C"]
    probe = Law(
        name="order", title="order", expression=by, inputs={by: by}, parameters=(), output=output, source=""
    )
    return observe(frame, probe, columns=columns).frame[by]


def _thresholds(order: pd.Series, cuts: Sequence[float]) -> list[float]:
    """Return the values of `by`, ascending, each leaving rows on both sides."""
    values = np.sort(order.to_numpy(float))
    found = {float(np.quantile(values, c, method="lower")) if 0 < c < 1 else float(c) for c in cuts}
    usable = sorted(t for t in found if values[0] <= t < values[-1])
    if not usable:
        raise AllometryError(
            f"no cut of {order.name} leaves rows to fit and rows to predict (it spans {values[0]:.3g} to"
            f" {values[-1]:.3g})",
            hint="cuts below 1 are shares of the rows, such as 0.7; others are values of the column",
        )
    return usable


def _held_out(
    full: FitResult, table: pd.DataFrame, cost: Array, threshold: float, bootstrap: int, seed: int
) -> pd.DataFrame:
    """Predict the held-out runs of one cut from one law fitted to the others: a row per run."""
    train, test = table[cost <= threshold], table[cost > threshold]
    if not len(test):
        raise AllometryError("no usable row lies beyond the cut")
    spare = len(train) - len(full.law.parameters)
    if spare < 2:
        raise AllometryError(
            f"{counted(len(train), 'row')} for {counted(len(full.law.parameters), 'parameter')}: too few"
        )
    enough = train["run"].nunique() > len(full.free)
    part = fit(
        train, law=full.law, objective=full.objective, group="run", bootstrap=bootstrap if enough else 0,
        seed=seed, test=False,
    )  # fmt: skip
    measured, predicted = test[full.law.output].to_numpy(float), part.predict(test)
    if part.status == "failed" or not np.isfinite(predicted).all():
        raise AllometryError("; ".join(part.reasons) or "its predictions are not finite")
    out = pd.DataFrame({"law": full.law.name, "cut": threshold, "row": test.index})
    out = out.assign(beyond=cost[cost > threshold] / threshold, measured=measured, predicted=predicted)
    out["error"] = predicted / measured - 1
    for level in (0.8, 0.95):
        low, high = part.prediction_interval(test, level) if bootstrap and enough else (np.nan, np.nan)
        out[f"low{round(100 * level)}"], out[f"high{round(100 * level)}"] = low, high
    return out


def _scores(predictions: pd.DataFrame, fits: dict[str, FitResult], cuts: int) -> pd.DataFrame:
    """Return one row per law; a law that failed at a cut ranks behind those that did not."""
    weights = weigh(predictions)
    aic = {name: _aic(result) for name, result in fits.items()}
    lowest = min(aic.values())
    rows = []
    for name, part in predictions.groupby("law", sort=False):
        mean = part.groupby("cut")["error"].agg(lambda e: e.abs().mean())
        row = {
            "law": name,
            "mean_error": mean.mean(),
            "worst_error": part["error"].abs().max(),
            "bias": part.groupby("cut")["error"].mean().mean(),
            **{f"coverage{lv}": _coverage(part, lv) for lv in (80, 95)},
            "delta_aic": aic[str(name)] - lowest,
            "weight": weights.get(str(name), 0.0),
            "cuts": len(mean),
            "status": fits[str(name)].status,
        }
        rows.append(row)
    table = pd.DataFrame(rows).assign(missed=lambda t: cuts - t["cuts"])
    order = ["missed", "mean_error", "delta_aic"]
    return table.sort_values(order, ignore_index=True).drop(columns="missed")


def _coverage(part: pd.DataFrame, level: int) -> float:
    inside = (part["measured"] >= part[f"low{level}"]) & (part["measured"] <= part[f"high{level}"])
    return float(inside.mean()) if part[f"low{level}"].notna().all() else float("nan")


def _aic(result: FitResult) -> float:
    """Return Akaike's criterion of Gaussian residuals with the small-sample term (AICc)."""
    n, k = len(result.residuals), len(result.free) + 1
    return float(2 * n * np.log(max(result.rms, 1e-12)) + 2 * k + 2 * k * (k + 1) / max(n - k - 1, 1))


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.0f} %"
