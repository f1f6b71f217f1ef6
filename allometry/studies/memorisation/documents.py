"""Many models of one size, each on a random half of the documents (Feldman and Zhang 2020).

Analysis: what a document costs models that never saw it, less what it costs
others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from allometry.data.tokens import manifest_of
from allometry.figures.several import several
from allometry.figures.theme import Figure
from allometry.report.build import Section, Table
from allometry.studies.core.sections import StudySection, TooFewRuns
from allometry.studies.core.study import BATCH_TOKENS, run_set, small_model, small_run, too_little, vocabulary
from allometry.studies.memorisation.probed import LEVEL, at_end, of_kind

if TYPE_CHECKING:
    from allometry.studies.core.study import StudyData
    from allometry.train.config import DataConfig, RunConfig

REFERENCE = 2e13
"""FLOPs at which there are MODELS_AT_REFERENCE models of N_AT_REFERENCE parameters."""

MODELS_AT_REFERENCE, N_AT_REFERENCE = 40, 3e4

FEWEST_MODELS, MOST_MODELS = 12, 120

BLOCK, BLOCKS = 512, 128
"""Tokens of a document and how many documents there are: blocks from all over the corpus, so few that a small
model sees each of them tens of times."""

FEWEST_UPDATES = 40


@run_set
def halves(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Return models that differ in their half of the documents, and in their seed."""
    share = compute / REFERENCE
    count = min(MOST_MODELS, max(FEWEST_MODELS, 2 * round(MODELS_AT_REFERENCE / 2 * share**0.25)))
    model = small_model(max(1, round(N_AT_REFERENCE * share**0.25)), n_vocab=vocabulary(data))
    steps = math.floor(compute / count / model.counts().flops_per_token("attention") / BATCH_TOKENS)
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "models of random halves")
    limited = data.replace(limit=BLOCK * _blocks(data), spread=BLOCK, probe="documents")
    return tuple(
        small_run(model, tokens=steps * BATCH_TOKENS, data=limited.replace(half=seed), seed=seed)
        for seed in range(count)
    )


def _blocks(data: DataConfig) -> int:
    """Return as many blocks as the training text holds, up to BLOCKS."""
    return max(1, min(BLOCKS, manifest_of(data.corpus, data.tokenizer).train_tokens // BLOCK))


FEWEST = 8
"""Models below which a document is in or out of too few for a standard error in both halves."""

SPLITS = 200
"""Random divisions of the models over which the split-half correlation is averaged."""

SHUFFLES = 50
"""Shuffles of the memberships, for the influence that chance alone would find."""

WANTED = 0.6
"""Split-half correlation from which scores of single documents are worth reading."""

SHOWN = 10

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Losses (models, documents) in nats per token at the end of training, whether a model was trained on a
    document, the documents' names and texts, and the losses (models, others) on held-out documents.
    """

    losses: Matrix
    inside: npt.NDArray[np.bool_]
    names: list[str]
    texts: list[str]
    others: Matrix
    other_texts: list[str]


def counterfactual_section(runs: pd.DataFrame, study_data: StudyData) -> StudySection:
    """Report scores by document with standard errors, how far they can be trusted, and influence."""
    found = end_losses(runs, study_data.probes)
    scores = memorisation(found)
    agreement = split_half(found)
    influences, chance = influence(found)
    return StudySection(
        section=Section(
            title="Counterfactual memorisation",
            text=_text(found, scores, agreement, influences, chance),
            evidence=(_figure(scores), _halves_figure(found), _most(scores), _pairs(influences)),
        ),
        fits={
            "scores": scores, "agreement": agreement, "influence": influences, "chance": chance,
            "summary": _summary(found, scores, agreement),
        },
        warnings=() if agreement[0] >= WANTED else (
            f"Counterfactual memorisation: the split-half correlation is {agreement[0]:.2f}, below {WANTED}: "
            "single documents' scores are mostly noise. A larger --budget trains more models.",
        ),
    )  # fmt: skip


def end_losses(runs: pd.DataFrame, probes: pd.DataFrame | None) -> Halves:
    """Return the end of training of every model of a half. AllometryError where there are too few of them."""
    end = at_end(of_kind(probes, runs, "document", "held out"))
    end = end.assign(value=end["loss"] / end["tokens"])
    own = end[end["kind"] == "document"]
    values = own.pivot(index="run", columns="probe", values="value")
    inside = own.pivot(index="run", columns="probe", values="repeats") > 0
    both = inside.any() & ~inside.all()
    if len(values) < FEWEST or both.sum() < FEWEST:
        raise TooFewRuns(f"{len(values)} models of random halves are too few for memorisation by document")
    other = end[end["kind"] == "held out"].pivot(index="run", columns="probe", values="value")
    text = end.drop_duplicates("probe").set_index("probe")["text"].fillna("")
    names = [str(name) for name in values.columns[both]]
    return Halves(
        losses=values[names].to_numpy(float),
        inside=inside[names].to_numpy(bool),
        names=names,
        texts=[str(text[name]) for name in names],
        others=other.reindex(values.index).to_numpy(float),
        other_texts=[str(text[name]) for name in other.columns],
    )


def _contrast(losses: Matrix, inside: npt.NDArray[np.bool_]) -> tuple[Matrix, Matrix]:
    """Return the mean loss over models without a document less that over models with it, and its standard
    error.
    """
    level = losses - losses.mean(axis=1, keepdims=True)  # models differ in how good they are at everything
    parts = []
    for mask in (~inside, inside):
        count = mask.sum(axis=0)
        mean = np.where(mask, level, 0).sum(axis=0) / np.maximum(count, 1)
        square = (np.where(mask, level - mean, 0) ** 2).sum(axis=0) / np.maximum(count - 1, 1)
        parts.append((np.where(count > 0, mean, np.nan), square / np.maximum(count, 1)))
    (out, out_error), (seen, seen_error) = parts
    return out - seen, np.sqrt(out_error + seen_error)


def memorisation(found: Halves) -> pd.DataFrame:
    """Return one row a document: its `score` in nats per token with `error` and interval, most memorised
    first.
    """
    score, error = _contrast(found.losses, found.inside)
    reach = 1.645  # LEVEL of a normal: there are tens of models
    table = pd.DataFrame({"document": found.names, "score": score, "error": error})
    without = np.where(~found.inside, found.losses, np.nan)
    table = table.assign(
        low=score - reach * error, high=score + reach * error,
        unseen=np.nanmean(without, axis=0), text=found.texts,
    )  # fmt: skip
    return table.sort_values("score", ascending=False, ignore_index=True)


def split_half(found: Halves) -> tuple[float, float, float]:
    """Return the correlation of the scores from two disjoint halves of the models: the median over random
    divisions, and the range of the central LEVEL of them.
    """
    generator = np.random.default_rng(0)
    seen = []
    for _ in range(SPLITS):
        first, second = _two(found, generator)
        kept = np.isfinite(first) & np.isfinite(second)
        if kept.sum() > 2:
            seen.append(np.corrcoef(first[kept], second[kept])[0, 1])
    if not seen:
        raise TooFewRuns("too few models to divide them")
    middle, low, high = np.quantile(seen, [0.5, 0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(middle), float(low), float(high)


def _two(found: Halves, generator: np.random.Generator) -> tuple[Matrix, Matrix]:
    order = generator.permutation(len(found.losses))
    parts = np.array_split(order, 2)
    first, second = (_contrast(found.losses[part], found.inside[part])[0] for part in parts)
    return first, second


def influence(found: Halves) -> tuple[pd.DataFrame, float]:
    """Return the held-out documents that a training document helped most: `influence` (nats per token less
    with it) and `z`; and the largest z that chance finds among so many pairs (95 % of shuffled memberships
    stay below).
    """
    generator = np.random.default_rng(1)
    effect, z = _effects(found.others, found.inside)
    largest = [_effects(found.others, generator.permutation(found.inside))[1].max() for _ in range(SHUFFLES)]
    order = np.argsort(-z, axis=None)[:SHOWN]
    rows = []
    for place in order.tolist():
        i, j = divmod(place, z.shape[1])
        rows.append(
            {
                "influence": effect[i, j], "z": z[i, j], "training document": found.texts[i],
                "held-out document": found.other_texts[j],
            }
        )  # fmt: skip
    return pd.DataFrame(rows), float(np.quantile(largest, 0.95))


def _effects(others: Matrix, inside: npt.NDArray[np.bool_]) -> tuple[Matrix, Matrix]:
    """Return the influence (documents, others) of each training document, and the same over its standard
    error.
    """
    level = others - others.mean(axis=1, keepdims=True)
    level = level - level.mean(axis=0)
    member = inside.astype(float)
    count = member.sum(axis=0)[:, None]
    n = len(inside)
    with_it = member.T @ level / count
    without = (1 - member).T @ level / (n - count)
    spread = level.std(axis=0, ddof=1) * np.sqrt(1 / count + 1 / (n - count))
    effect = without - with_it
    return effect, effect / np.maximum(spread, 1e-12)


def _figure(scores: pd.DataFrame) -> Figure:

    points = scores.assign(series="documents", text=[text[:60] for text in scores["text"]])
    zero = pd.DataFrame(
        {"series": "not memorised", "unseen": [points["unseen"].min(), points["unseen"].max()], "score": 0.0}
    )
    return several(
        points[["series", "unseen", "score", "error", "low", "high", "text"]], zero, x="unseen", y="score",
        y_scale="plain", x_title="Loss of models that never saw it (nats per token)",
        y_title="Memorisation (nats per token)",
        name="counterfactual", title="Memorisation of each document against how hard it is",
        caption=(
            "Mean loss of the models without the document less that of the models with it; bars are "
            f"{LEVEL:.0%} intervals from the spread between models."
        ),
    )  # fmt: skip


def _halves_figure(found: Halves) -> Figure:

    first, second = _two(found, np.random.default_rng(0))
    kept = np.isfinite(first) & np.isfinite(second) & (first > 0)
    points = pd.DataFrame({"series": "documents", "first": first[kept], "second": second[kept]})
    ends = [float(points["first"].min()), float(points["first"].max())] if len(points) else []
    line = pd.DataFrame({"series": "equal scores", "first": ends, "second": ends})
    return several(
        points, line, x="first", y="second", y_scale="plain",
        x_title="Score from one half of the models", y_title="Score from the other half",
        name="counterfactual-halves", title="The same scores from two disjoint sets of models",
        caption="One random division of the models. Documents with a negative first score are left out.",
    )  # fmt: skip


def _most(scores: pd.DataFrame) -> Table:
    frame = pd.concat([scores.head(SHOWN), scores.tail(3)])[["score", "error", "unseen", "text"]]
    caption = "The ten most memorised and the three least, by their beginning; nats per token."
    return Table(name="memorised", title="Most memorised documents", caption=caption, frame=frame)


def _pairs(influences: pd.DataFrame) -> Table:
    caption = "Which training document lowered the loss of which held-out one; z: over its standard error."
    return Table(name="influence", title="Strongest influences", caption=caption, frame=influences)


def _summary(found: Halves, scores: pd.DataFrame, agreement: tuple[float, float, float]) -> str:
    return (
        f"Over {len(found.losses)} models on random halves a document costs {scores['score'].mean():.3f} "
        f"nats per token less to those that saw it (from {scores['score'].min():.3f} to "
        f"{scores['score'].max():.3f}); scores from disjoint models correlate with {agreement[0]:.2f} "
        f"[{agreement[1]:.2f}, {agreement[2]:.2f}]."
    )


def _text(
    found: Halves,
    scores: pd.DataFrame,
    agreement: tuple[float, float, float],
    influences: pd.DataFrame,
    chance: float,
) -> str:
    clear = int((scores["low"] > 0).sum())
    beyond = int((influences["z"] > chance).sum())
    return (
        f"Each of {len(found.losses)} models was trained on a random half of {len(found.names)} documents "
        "(Feldman and Zhang 2020; Zhang et al. 2021, with the loss per token in place of accuracy, which "
        f"varies less). {clear} of {len(scores)} scores lie above zero by more than their interval; the "
        f"standard error is {scores['error'].median():.3f} nats per token. "
        f"The correlation between disjoint halves of the models is {agreement[0]:.2f}: "
        f"{'the scores say something of single documents' if agreement[0] >= WANTED else 'mostly noise'}. "
        f"Influence on held-out documents: {beyond} of the strongest {len(influences)} pairs pass what "
        f"chance finds among so many (z = {chance:.1f})."
    )
