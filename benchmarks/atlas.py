"""The printed numbers of every source of the atlas, and ours; and which law extrapolates best over all of them.

Sources are read from the cache: fetch them first (allometry atlas fetch). Of every table of runs the highest 15 and
35 % of C, N, D and D/N are held back, and each law, and their back-tested mixture, predict them from the rest, as in
benchmarks/backtest.py. DIR receives constants.csv, cases.csv (a row a predictor and hold-out), laws.csv, sources.csv
and README.md: derived numbers, no copies of tables.

Run: nice python benchmarks/atlas.py DIR [--only constants|laws|readme] [--quick]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from backtest import published, scored, splits

from allometry.core.env import package_version
from allometry.core.errors import AllometryError
from allometry.laws.verify import AGREEING, DIFFERS, OPEN, printed, verify
from allometry.sources.fetch import state
from allometry.sources.source import SOURCES

DIGITS = "{:.6g}"
BANDS = ((0, 1.5), (1.5, 3), (3, 10), (10, np.inf))
"""How far beyond the known compute the farthest run is, in bands."""


def constants() -> pd.DataFrame:
    """Return every constant of the sources that are here: printed, ours, verdict."""
    found = []
    for source in SOURCES.all().values():
        if source.constants and state(source).complete:
            found.append(verify(source).table)
            print(f"{source.id}: {len(source.constants)} constants", flush=True)
    return pd.concat(found, ignore_index=True)


def cases(quick: bool) -> pd.DataFrame:
    """Return one row a predictor and hold-out: error, coverage and interval score."""
    found = []
    for source, name, rows in published(quick):
        columns = rows[["N", "D", "loss"]].dropna().reset_index(drop=True)
        for direction, held in splits(columns):
            try:
                case = scored(source, direction, columns, held)
            except AllometryError as error:
                print(f"  left out: {source}, {name}, by {direction}: {error.message}", flush=True)
                continue
            about = {"source": source, "table": name, "direction": direction, "runs": len(columns)}
            about |= {"held": int(held.sum()), "share": case.share, "beyond": case.beyond}
            found += [about | {"predictor": law} | row.to_dict() for law, row in case.scores.iterrows()]
        print(f"{source}, {name}", flush=True)
    return pd.DataFrame(found)


def summary(table: pd.DataFrame, by: str = "predictor") -> pd.DataFrame:
    """Return, in per cent: mean error over hold-outs and over sources, the worst source against chinchilla, coverage,
    median width score, and how often a predictor is the best single law.
    """
    keys = ["source", "table", "direction", "held"]
    single = table[~table["predictor"].isin(["combined", "best in hindsight"])]
    best = single.loc[single.groupby(keys)["error"].idxmin(), "predictor"].value_counts(normalize=True)
    of_chinchilla = table[table["predictor"] == "chinchilla"].groupby("source")["error"].mean()
    rows = {}
    for name, part in table.groupby(by, sort=False):
        source = part.groupby("source")["error"].mean()
        rows[name] = {
            "error": 100 * part["error"].mean(), "by source": 100 * source.mean(),
            "worst source / chinchilla": (source / of_chinchilla).max(), "in 80 %": 100 * part["in 80"].mean(),
            "in 95 %": 100 * part["in 95"].mean(), "score": 100 * part["score"].median(),
            "best law": 100 * best.get(name, 0.0),
        }  # fmt: skip
    return pd.DataFrame(rows).T.sort_values("by source")


def by_hold_out(table: pd.DataFrame, column: str, value: str = "error") -> pd.DataFrame:
    """Return the mean of a score, per cent, of each predictor by a column of the hold-outs."""
    return 100 * table.pivot_table(
        index=column, columns="predictor", values=value, aggfunc="mean", sort=False
    )


def band(beyond: float) -> str:
    """Return in words how far the farthest run is beyond the known compute."""
    low, high = next(b for b in BANDS if b[0] < beyond <= b[1])
    if low == 0:
        return f"to {high:g} times"
    return f"{low:g} to {high:g} times" if np.isfinite(high) else f"over {low:g} times"


def markdown(table: pd.DataFrame, digits: int = 2) -> str:
    """Return a table with its index as Markdown."""
    head = [table.index.name or "", *map(str, table.columns)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, row in table.iterrows():
        cells = (v if isinstance(v, str) else "–" if not np.isfinite(v) else f"{v:.{digits}f}" for v in row)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sentence(scores: pd.DataFrame) -> str:
    """Return the answer in words: the mixture against the best single law and against chinchilla."""
    single = scores.drop(index=["combined", "best in hindsight"])
    mixture, best, usual = scores.loc["combined"], single.iloc[0], scores.loc["chinchilla"]
    worst = mixture["worst source / chinchilla"]
    return (
        f"With every source weighing the same, the back-tested mixture errs by {mixture['by source']:.2f} %; the best"
        f" single law is `{single.index[0]}` ({best['by source']:.2f} %), and always taking `chinchilla` costs"
        f" {usual['by source']:.2f} %. Its 80 and 95 % intervals hold {mixture['in 80 %']:.0f} and"
        f" {mixture['in 95 %']:.0f} % of the runs held back; those of `{single.index[0]}` hold"
        f" {best['in 80 %']:.0f} and {best['in 95 %']:.0f} %. On its worst source the mixture errs by {worst:.2f} times"
        " what `chinchilla` does."
    )


def readme(checked: pd.DataFrame, table: pd.DataFrame) -> str:
    """Return the page that says what came out."""
    here = [source for source in SOURCES.all().values() if state(source).complete]
    verdict = checked["verdict"]
    agree, differ, open_ = verdict.isin(AGREEING).sum(), (verdict == DIFFERS).sum(), (verdict == OPEN).sum()
    hold_outs = table[table["predictor"] == "combined"]
    order = ["combined", *(p for p in summary(table).index if p != "combined")]
    far = table.sort_values("beyond").assign(beyond=table["beyond"].map(band))
    shares = table.assign(share=np.where(table["share"] < 0.25, "15 % of the runs", "35 % of the runs"))
    scored_laws = [p for p in order if p != "best in hindsight"]
    counts = hold_outs.groupby("source").size()
    sources = by_hold_out(table, "source")[order].assign(holdouts=counts.astype(float))
    verdicts = checked.groupby(["source", "verdict"]).size().unstack(fill_value=0).astype(float)
    shown = printed(checked).drop(columns="source")
    shown.index = pd.Index(checked["source"], name="source")
    reasons = checked[checked["reason"] != ""].groupby("reason", sort=False)
    lines = [
        "# The atlas: printed numbers derived again, and which law extrapolates best",
        "",
        f"Made by `python benchmarks/atlas.py results/atlas` with Allometry {package_version('allometry')} from"
        f" {len(here)} public sources ([docs/atlas.md](../../docs/atlas.md)). Derived numbers only; the tables stay"
        " where their authors put them.",
        "",
        "## Printed constants",
        "",
        f"{len(checked)} constants from {checked['source'].nunique()} sources; {agree} agree, {differ} differ, and"
        f" {open_} are not determined by the table. `constants.csv` has all digits and where each is printed.",
        "",
        markdown(verdicts, 0),
        "",
        markdown(shown),
        "",
        "Why those that differ or are not determined do not agree:",
        "",
        *(f"* {', '.join(dict.fromkeys(r['source'] + ' ' + r['name'] for _, r in rows.iterrows()))}: {reason}"
          for reason, rows in reasons),
        "",
        "## Which law extrapolates best",
        "",
        f"{len(hold_outs)} hold-outs of {hold_outs.groupby(['source', 'table']).ngroups} tables of"
        f" {hold_outs['source'].nunique()} sources: the highest 15 and 35 % of C, of N, of D and of D/N are predicted"
        " from the rest. Per cent; *by source* gives every source equal weight; *worst source* is the largest error"
        " of a source over chinchilla's there; *score* is the median interval score of the 95 % interval (its width,"
        " and 40 times the distance of runs outside); *best law* is how often a law was the best of the single ones.",
        "",
        sentence(summary(table)),
        "",
        markdown(summary(table).loc[order].rename_axis("predictor")),
        "",
        "By direction of the hold-out, mean error in per cent:",
        "",
        markdown(by_hold_out(table, "direction")[order]),
        "",
        "By how far the most expensive run held back lies beyond the most expensive known one, in compute:",
        "",
        markdown(by_hold_out(far, "beyond")[order]),
        "",
        "How many of these runs the 95 % intervals hold, in per cent:",
        "",
        markdown(by_hold_out(far, "beyond", "in 95")[scored_laws], 1),
        "",
        "The mean interval score of the 95 % intervals, in per cent of the loss:",
        "",
        markdown(by_hold_out(far, "beyond", "score")[scored_laws], 1),
        "",
        "By the size of the hold-out, mean error in per cent:",
        "",
        markdown(by_hold_out(shares, "share")[order]),
        "",
        "By source:",
        "",
        markdown(sources),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=["constants", "laws", "readme"], help="make one part again")
    parser.add_argument("--quick", action="store_true", help="fewer tables")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, make in (("constants", constants), ("laws", lambda: cases(options.quick))):
        if options.only in (None, name):
            make().to_csv(
                options.folder / f"{'cases' if name == 'laws' else name}.csv",
                index=False,
                float_format="%.6g",
            )
    checked = pd.read_csv(options.folder / "constants.csv", keep_default_na=False, na_values=[""])
    checked["reason"] = checked["reason"].fillna("")
    table = pd.read_csv(options.folder / "cases.csv")
    summary(table).to_csv(options.folder / "laws.csv", index_label="predictor", float_format="%.4g")
    by_hold_out(table, "source").to_csv(options.folder / "sources.csv", float_format="%.4g")
    (options.folder / "README.md").write_text(readme(checked, table), encoding="utf-8")
    print((options.folder / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
