"""What will a run measure? The output of a law, or of a back-tested mixture of laws, at new points, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.errors import AllometryError, unknown
from allometry.core.units import counted, format_count, parse_number
from allometry.laws.backtest import DEFAULT_LAWS, Backtest, as_lists, backtest
from allometry.laws.fit import fit
from allometry.laws.law import Law, Published
from allometry.laws.result import FitResult
from allometry.laws.selftest import directions
from allometry.laws.uncertainty import plain
from allometry.laws.zoo import all_laws, get

Array = NDArray[np.float64]

LEVELS = (0.80, 0.95)
_SPARE = 4
"""Rows more than parameters that a law of the mixture needs."""
_FAR = 10.0
"""Factor beyond the data from which on a note says so."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Predictions of new runs.

    `table` has one row a point: the inputs as they were given, `predicted`, low80, high80, low95, high95 (nan where the
    source has no uncertainty), and `beyond`, how many times the point lies beyond the data in its farthest direction (1
    within, nan where the data are not known). `output` is the symbol of what is predicted; `source` says by what;
    `weights` and `by_law` (a column a law) are those of a mixture, empty for one law.
    """

    table: pd.DataFrame
    output: str
    source: str
    weights: Mapping[str, float] = field(default_factory=dict)
    by_law: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: tuple[str, ...] = ()

    def report(self) -> str:
        """Return the predictions as text."""
        lines = [f"{self.output} predicted by {self.source}"]
        symbols = [c for c in self.table.columns if c not in _COLUMNS]
        names = [
            ", ".join(f"{s} {format_count(row[s])}" for s in symbols) for _, row in self.table.iterrows()
        ]
        margin = max(map(len, names))
        lines.append(f"  {'':{margin}s} {self.output:>9s}   {'80 % interval':^20s}   {'95 % interval':^20s}")
        for name, (_, row) in zip(names, self.table.iterrows(), strict=True):
            spans = "   ".join(_span(row[f"low{level}"], row[f"high{level}"]) for level in (80, 95))
            lines.append(f"  {name:{margin}s} {row['predicted']:9.4g}   {spans}".rstrip())
        if self.weights:
            shown = sorted(self.weights.items(), key=lambda item: -item[1])
            lines.append("weights: " + ", ".join(f"{law} {weight:.2f}" for law, weight in shown))
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return the predictions as plain JSON."""
        by_law = self.by_law.to_dict("records") if len(self.by_law) else [{}] * len(self.table)
        points = [
            {str(k): plain(float(v)) for k, v in row.items()} | ({"by_law": each} if each else {})
            for row, each in zip(self.table.to_dict("records"), by_law, strict=True)
        ]
        return {
            "output": self.output,
            "source": self.source,
            "predictions": points,
            "weights": dict(self.weights),
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False, float_format="{:.4g}".format)


_COLUMNS = ("predicted", "low80", "high80", "low95", "high95", "beyond")


def _span(low: float, high: float) -> str:
    return f"[{low:8.4g}, {high:8.4g}]" if np.isfinite([low, high]).all() else f"{'-':^20s}"


Points = Mapping[str, Any] | Sequence[Mapping[str, Any]] | pd.DataFrame


def predict(
    source: pd.DataFrame | FitResult | Backtest | str,
    at: Points,
    *,
    law: str | Law | None = None,
    columns: Mapping[str, str] | None = None,
    objective: str = "huber-log",
    group: str | None = None,
    exclude: Mapping[Any, str] | Sequence[Any] | None = None,
    bootstrap: int = 100,
    seed: int = 0,
) -> Prediction:
    """Predict the loss of new runs, or what else a law gives, with 80 and 95 % intervals.

    Parameters
    ----------
    source
        A table of runs, a fit, a back-test, or the name of printed constants: that of a law (its first set), of a set
        ("besiroglu2024"), or of both ("chinchilla-besiroglu2024").
    at
        Where to predict: inputs and values, such as {"N": "1.5B", "D": 3e10}; lists of values, several such mappings,
        or a table. Of N, D and C two suffice (C = 6ND).
    law
        From a table: the law to fit alone. Without it, several laws are back-tested and combined by how well each
        predicted the most expensive runs from the cheapest (`backtest`).
    columns, objective, group, exclude, bootstrap, seed
        From a table: as in `fit`.

    Returns
    -------
    Prediction
        A table of the predictions, and what they rest on.

    Raises
    ------
    AllometryError
        For inputs that are missing, unknown or not positive, unknown names, and tables too small for a back-test.

    Examples
    --------
    >>> import allometry, pandas as pd
    >>> print(allometry.predict("hoffmann2022", {"N": "70B", "D": "1.4T"}).table[["N", "D", "predicted"]].round(3))
                  N             D  predicted
    0  7.000000e+10  1.400000e+12      1.937
    >>> runs = pd.read_csv("examples/runs.csv")
    >>> ahead = allometry.predict(runs, {"N": [1e6, 2e6], "D": "20M"}, columns={"L": "loss"}, bootstrap=20)
    >>> ahead.table["predicted"].round(1).tolist()
    [1.1, 1.1]
    """
    if isinstance(source, FitResult | Backtest | str):
        _refuse_options(law, columns, exclude)
        made: FitResult | Backtest | tuple[Law, Published]
        made = _printed(source) if isinstance(source, str) else source
    elif law is not None:
        made = fit(
            source, law=law, columns=columns, objective=objective, group=group, exclude=exclude,
            bootstrap=bootstrap, seed=seed,
        )  # fmt: skip
    else:
        made = tested(
            source,
            columns=columns,
            objective=objective,
            group=group,
            exclude=exclude,
            bootstrap=bootstrap,
            seed=seed,
        )
    if isinstance(made, Backtest):
        return _by_mixture(made, at)
    return _by_fit(made, at) if isinstance(made, FitResult) else _by_constants(*made, at)


def _refuse_options(law: Any, columns: Any, exclude: Any) -> None:
    given = {"law": law, "columns": columns, "exclude": exclude}
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise AllometryError(
            f"{named[0]} says how a table is fitted, and the source is no table", hint=f"leave out {named[0]}"
        )


def tested(frame: pd.DataFrame, **options: Any) -> Backtest:
    """Test, as `backtest` does with its options, the default laws that the table has rows for."""
    laws = [law for law in DEFAULT_LAWS if len(get(law).parameters) + _SPARE <= len(frame)] or DEFAULT_LAWS[
        :2
    ]
    try:
        return backtest(frame, laws=laws, **options)
    except AllometryError as error:
        if not any(
            part in error.message for part in ("no law could be fitted", "no cut of", "cannot determine")
        ):
            raise
        raise AllometryError(
            f"the laws cannot be compared on this table: {error.message}",
            hint="add runs, or name a law to fit alone: law='chinchilla-tied'",
            cli_hint="add runs, or name a law to fit alone: --law chinchilla-tied",
        ) from error


def _printed(name: str) -> tuple[Law, Published]:
    """Return the printed constants that a name stands for, and their law."""
    sets = [(law, constants) for law in all_laws().values() for constants in law.published.values()]
    by_law = [pair for pair in sets if pair[0].name == name]
    by_both = [pair for pair in sets if f"{pair[0].name}-{pair[1].name}" == name]
    by_set = [pair for pair in sets if pair[1].name == name]
    if not by_law and not by_both and len(by_set) > 1:
        raise AllometryError(
            f"{name!r} are constants of several laws",
            hint="name the law too: " + ", ".join(f"{law.name}-{name}" for law, _ in by_set),
        )
    for found in (by_both, by_law, by_set):
        if found:
            return found[0]
    if name in all_laws():
        able = ", ".join(dict.fromkeys(law.name for law, _ in sets))
        raise AllometryError(
            f"no paper's constants are kept for the law {name!r}", hint=f"fit it to runs, or use {able}"
        )
    raise unknown("law or set of constants", name, [*all_laws(), *dict.fromkeys(c.name for _, c in sets)])


def _by_mixture(tested: Backtest, at: Points) -> Prediction:
    laws = [result.law for result in tested.fits.values()]
    needed = list(dict.fromkeys(symbol for law in laws for symbol in law.inputs))
    linear = frozenset[str]().union(*(law.linear for law in laws))
    points, given = _points(at, needed, "the laws of the back-test", linear)
    forecasts = [tested.forecast(points, level) for level in LEVELS]
    data = pd.concat([result.data for result in tested.fits.values()])
    beyond = _beyond(data, points, linear)
    failing = [
        f"{name} ({result.selftest.direction})"
        for name, result in tested.fits.items()
        if result.selftest is not None and result.selftest.failed
    ]
    notes = (
        [f"alone these would not extrapolate, by their own tests (along): {', '.join(failing)}"]
        if failing
        else []
    )
    first = forecasts[0]
    runs = max(len(result.residuals) for result in tested.fits.values())
    return Prediction(
        table=_table(given, first.value, [(f.low, f.high) for f in forecasts], beyond),
        output=laws[0].output,
        source=f"{counted(len(first.weights), 'law')}, weighted by a back-test on {counted(runs, 'run')}",
        weights=first.weights,
        by_law=first.by_law,
        notes=(
            *_far(beyond),
            *notes,
            *(f"{name} ({', '.join(to)}): {what}" for name, what, to in tested.warnings),
        ),
    )


def _by_fit(result: FitResult, at: Points) -> Prediction:
    if result.status == "failed":
        raise AllometryError("a failed fit predicts nothing", hint="; ".join(result.reasons) or None)
    points, given = _points(at, list(result.law.inputs), f"the law {result.law.name!r}", result.law.linear)
    inputs = {name: points[name].to_numpy(float) for name in result.law.inputs}
    ends = [(np.full(len(points), np.nan),) * 2] * len(LEVELS)
    if len(result.samples):
        ends = [result.prediction_interval(inputs, level) for level in LEVELS]
    beyond = _beyond(result.data, points, result.law.linear)
    notes = [] if result.status == "converged" else [f"{result.status}: {'; '.join(result.reasons)}"]
    names = ", ".join(dict.fromkeys(w.name for w in result.warnings))
    notes += [f"the fit warns of: {names}"] if names else []
    return Prediction(
        table=_table(given, result.predict(**inputs), ends, beyond),
        output=result.law.output,
        source=f"{result.law.title}, fitted to {counted(len(result.residuals), 'run')}",
        notes=(*_far(beyond), *notes),
    )


def _by_constants(law: Law, constants: Published, at: Points) -> Prediction:
    points, given = _points(at, list(law.inputs), f"the law {law.name!r}", law.linear)
    value = law.predict(dict(constants.values), **{name: points[name].to_numpy(float) for name in law.inputs})
    known = pd.DataFrame(dict(constants.ranges)) if constants.ranges else pd.DataFrame()
    beyond = _beyond(known, points, law.linear)
    units = ", ".join(f"{k} in {v}" for k, v in constants.units.items())
    notes = [
        f"constants as printed, without uncertainty: {constants.source}",
        f"units: {units}" if units else "",
    ]
    nothing = (np.full(len(points), np.nan),) * 2
    return Prediction(
        table=_table(given, value, [nothing] * len(LEVELS), beyond),
        output=law.output,
        source=f"{law.title}, constants {constants.name}",
        notes=(*_far(beyond), *(n for n in (*notes, constants.note) if n)),
    )


def _points(
    at: Points, needed: list[str], whose: str, linear: frozenset[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the points with every input that is needed, and as they were given; values may have units.

    Inputs other than `linear` ones must be positive.
    """
    try:
        given = pd.DataFrame(as_lists(at) if isinstance(at, Mapping) else at)
    except ValueError as error:
        raise AllometryError(
            f"the points cannot be read: {error}", hint="give each input as many values"
        ) from error
    given = pd.DataFrame(
        {str(c): [parse_number(_number(v), str(c)) for v in given[c]] for c in given.columns}
    )
    if not len(given):
        raise AllometryError(
            "no point to predict at", hint="at={'N': 1e9, 'D': 2e10}", cli_hint="--at N=1B,D=20B"
        )
    for name in given.columns:
        if name not in {*needed, "N", "D", "C", "M"}:
            laws = ", ".join(law.name for law in all_laws().values() if name in law.inputs)
            hint = f"it is an input of {laws}" if laws else f"the inputs are {', '.join(needed)}"
            raise AllometryError(f"{name} is no input of {whose}", hint=hint)
        values = given[name].to_numpy()
        if not np.isfinite(values).all() or (name not in linear and (values <= 0).any()):
            raise AllometryError(
                f"{name} = {values.min():g}: a point needs positive numbers", hint=f"{name}=1B"
            )
    points = _completed(given)
    missing = [name for name in needed if name not in points]
    if missing:
        like = ",".join(f"{n}=…" for n in needed)
        raise AllometryError(
            f"{whose} needs {' and '.join(missing)} too",
            hint=f"give {', '.join(needed)}",
            cli_hint=f"--at {like}",
        )
    return points, given


def _number(value: Any) -> str | float:
    return value if isinstance(value, str) else float(value)


def _completed(given: pd.DataFrame) -> pd.DataFrame:
    """Return the points with what follows of N, D, C = 6ND and M = D/N. Raises AllometryError for a contradiction."""
    points = given.copy()
    if {"N", "M"} <= set(points) and "D" not in points:
        points["D"] = points["N"] * points["M"]
    for name, others in (("D", ("N", "C")), ("N", ("D", "C"))):
        if name not in points and set(others) <= set(points):
            points[name] = points["C"] / (6 * points[others[0]])
    if {"N", "D"} <= set(points):
        for name, value in (("C", 6 * points["N"] * points["D"]), ("M", points["D"] / points["N"])):
            if name not in points:
                points[name] = value
            elif not np.allclose(points[name], value, rtol=0.05):
                raise AllometryError(
                    f"{name} = {points[name].iloc[0]:.4g} does not follow from N and D, which give {value.iloc[0]:.4g}",
                    hint=f"leave out {name}",
                )
    return points


def _table(given: pd.DataFrame, value: Array, ends: list[tuple[Array, Array]], beyond: Array) -> pd.DataFrame:
    table = given.assign(predicted=value)
    for level, (low, high) in zip(LEVELS, ends, strict=True):
        table[f"low{round(100 * level)}"], table[f"high{round(100 * level)}"] = low, high
    return table.assign(beyond=beyond)


def _beyond(data: pd.DataFrame, points: pd.DataFrame, linear: frozenset[str]) -> Array:
    """Return how many times each point lies beyond the data, 1 within, in its farthest direction; nan if unknown."""
    names = [c for c in data.columns if c in points.columns and c not in linear and c not in ("C", "M", "L")]
    if not names:
        return np.full(len(points), np.nan)
    known, new = (directions({n: t[n].to_numpy(float) for n in names}, linear) for t in (data, points))
    far = [np.maximum(new[n] - known[n].max(), known[n].min() - new[n]) for n in known if n != "D/N"]
    return np.asarray(np.exp(np.maximum(np.max(far, axis=0), 0.0)))


def _far(beyond: Array) -> list[str]:
    far = beyond[np.isfinite(beyond) & (beyond > _FAR)]
    return [f"{counted(len(far), 'point')} up to {far.max():.3g} times beyond the data"] if len(far) else []
