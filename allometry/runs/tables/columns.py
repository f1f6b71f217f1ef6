"""Recognise the columns of a table: what their headings name, with units, and what numbers their cells are.

The names of parameters, tokens, compute, loss, … are one list for the command line and for Python. Where cells are
text, the decimal mark and the thousands separator are decided once a column, from all its cells and, where those
leave it open, from the other columns."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from allometry.core.units import Decimal, readings

BLANK = {
    "", "nan", "na", "n/a", "none", "null", "nil", "-", "--", "—", "–", "?", ".", "#n/a", "#na", "#value!",
    "#div/0!",
    "#ref!", "#name?", "#num!", "<na>", "nat",
}  # fmt: skip
"""Cells that mean a missing value, in lower case."""

_INFINITE = {"inf": np.inf, "+inf": np.inf, "infinity": np.inf, "+infinity": np.inf, "∞": np.inf,
             "-inf": -np.inf, "-infinity": -np.inf}  # fmt: skip


def is_blank(cell: Any) -> bool:
    """Return whether a cell holds no value."""
    if isinstance(cell, str):
        return cell.strip().strip("\"'").strip().lower() in BLANK
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and np.isnan(cell))


def is_text(column: pd.Series) -> bool:
    """Return whether a column holds anything but numbers and truth values."""
    return not pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_datetime64_any_dtype(column)


@dataclass(frozen=True, kw_only=True)
class Ambiguous:
    """A column whose cells are numbers with either decimal mark: an example, and both its values."""

    example: str
    point: float
    comma: float

    def __str__(self) -> str:
        return f"{self.example!r} may be {self.point:.10g} or {self.comma:.10g}"


@dataclass(kw_only=True)
class TextColumn:
    """The possible values of a column's cells.

    `cells` maps each distinct text to its readings (see `units.readings`), blank ones left out; `values`
    gives the number of a cell that is one already. `numbers` says whether most of the cells are numbers.
    """

    cells: dict[str, dict[Decimal, float]]
    numbers: bool
    firm: set[Decimal] = field(default_factory=set)
    weak: set[Decimal] = field(default_factory=set)

    @property
    def own(self) -> Decimal | None:
        """The decimal mark that the column's cells settle by themselves, if any."""
        return next(iter(self.firm)) if len(self.firm) == 1 else None

    @property
    def mixed(self) -> bool:
        """Whether some cells are numbers only with a point and others only with a comma."""
        return len(self.firm) > 1


def examine(column: pd.Series) -> TextColumn:
    """Return the possible values of a column of text."""
    cells: dict[str, dict[Decimal, float]] = {}
    good = total = 0
    for cell, count in _counted(column):
        text = cell.strip().strip("\"'").strip()
        if text.lower() in BLANK:
            continue
        infinite = _INFINITE.get(text.lower())
        found: dict[Decimal, float] = (
            {".": infinite, ",": infinite} if infinite is not None else readings(text)
        )
        cells[cell] = found
        total += count
        good += count if found else 0
    result = TextColumn(cells=cells, numbers=2 * good > total)
    for text, found in cells.items():
        if len(found) == 1:
            result.firm |= set(found)
        elif found and found["."] != found[","]:
            result.weak.add("," if "," in text else ".")
    return result


def _counted(column: pd.Series) -> Iterable[tuple[str, int]]:
    return Counter(cell for cell in column if isinstance(cell, str)).items()


def file_mark(columns: Iterable[TextColumn]) -> Decimal | None:
    """Return the decimal mark that all columns of numbers which settle one agree on; None otherwise."""
    marks = {mark for column in columns if column.numbers and not column.mixed for mark in column.firm}
    return next(iter(marks)) if len(marks) == 1 else None


def decide(column: TextColumn, whole: Decimal | None, wanted: Decimal | None) -> Decimal | Ambiguous:
    """Return the decimal mark of a column: the user's (`wanted`), its own, or that of the file (`whole`).

    `Ambiguous` where nothing settles it: each number with a comma then has two values.
    """
    mark = wanted or column.own or whole
    if mark is not None:
        return mark
    if "," not in column.weak:
        return "."
    text, found = next((t, f) for t, f in column.cells.items() if "," in t and len(f) == 2)
    return Ambiguous(example=text.strip(), point=found["."], comma=found[","])


_UNIT, _BARE = 1e5, 1e4


def partly_in_units(cells: TextColumn) -> tuple[str, str] | None:
    """Return a cell with a unit and one that seems to lack it ("10M" and "158"), if a column of counts has
    both.

    A count below 10,000 beside counts in thousands or millions is hardly a count.
    """
    values = {text: next(iter(found.values())) for text, found in cells.cells.items() if found}
    named = {t for t in values if re.search(r"[A-Za-z]", re.sub(r"[eE][+-]?\d|inf\w*", "", t))}
    large = next((t for t in values if t in named and np.isfinite(values[t]) and values[t] >= _UNIT), None)
    small = next((t for t in values if t not in named and 0 < values[t] < _BARE), None)
    return None if large is None or small is None else (large.strip(), small.strip())


def convert(column: pd.Series, cells: TextColumn, mark: Decimal) -> tuple[NDArray[np.float64], list[int]]:
    """Return a column's values, nan where they are missing or no numbers, and the positions of the latter."""
    known = {text: found.get(mark) for text, found in cells.cells.items()}
    values, bad = np.full(len(column), np.nan), []
    for i, cell in enumerate(column):
        if isinstance(cell, str):
            if cell in known:
                value = known[cell]
                if value is None:
                    bad.append(i)
                else:
                    values[i] = value
        elif not is_blank(cell):
            try:
                values[i] = float(cell)
            except (TypeError, ValueError, OverflowError):
                bad.append(i)
    return values, bad


NAMES: dict[str, tuple[str, ...]] = {
    "N": (
        "params", "parameters", "n_params", "num_params", "num_parameters", "n_parameters", "nparams",
        "numparams", "model_size", "model_params", "model_parameters", "param_count", "parameter_count",
        "params_count", "total_params", "total_parameters", "n_total_params", "num_total_params",
        "params_total", "trainable_params", "num_trainable_params", "n_no_embed", "n_no_emb",
        "n_non_embedding",
        "non_embedding_params", "non_emb_params", "nonemb_params", "params_non_emb", "params_non_embedding",
        "params_no_emb", "params_no_embed", "num_non_embedding_params", "n_non_embedding_params",
        "non_embedding_parameters", "n", "size",
    ),
    "D": (
        "tokens", "train_tokens", "training_tokens", "n_tokens", "num_tokens", "total_tokens",
        "tokens_total", "tokens_seen", "tokens_trained", "tokens_processed", "tokens_consumed",
        "n_tokens_seen", "num_tokens_seen", "train_tokens_seen", "total_tokens_seen", "num_input_tokens_seen",
        "input_tokens_seen", "consumed_tokens", "consumed_train_tokens", "trained_tokens", "n_train_tokens",
        "num_train_tokens", "num_training_tokens", "token_count", "dataset_tokens", "data_size", "ntokens", "d",
    ),
    "C": (
        "flops", "flop", "training_flop", "training_flops", "train_flops", "train_flop", "total_flops",
        "total_flop", "total_flos", "flos", "total_training_flops", "num_flops", "n_flops",
        "cumulative_flops",
        "compute", "training_compute", "train_compute", "total_compute", "compute_flops", "c",
    ),
    "B": ("batch_tokens", "batch_size_tokens", "batch_size_in_tokens", "tokens_per_batch",
          "tokens_per_step", "tokens_per_iter", "total_batch_size", "batch", "b"),
    "S": (
        "steps", "train_steps", "training_steps", "total_steps", "max_steps", "num_steps", "n_steps",
        "num_train_steps", "step", "global_step", "train_step", "iter", "iters", "iteration", "iterations",
        "updates", "num_updates", "s",
    ),
    "unique": ("unique_tokens", "unique_data", "n_unique_tokens", "num_unique_tokens", "u"),
    "lr": ("learning_rate", "peak_lr", "max_lr", "peak_learning_rate", "max_learning_rate", "learningrate"),
}  # fmt: skip
"""Symbol -> names in lower case with _ for punctuation, best first: a letter may be an index or a width."""

INPUTS: dict[str, tuple[str, ...]] = {
    "n_E": ("num_experts", "n_experts", "experts", "expert_count", "number_of_experts"),
    "P": ("parallel_size", "streams", "n_streams", "num_streams", "parallel_streams"),
    "N_nv": ("non_vocab_parameters", "non_vocab_params", "non_vocabulary_parameters", "params_non_vocab"),
    "N_v": ("vocab_parameters", "vocab_params", "vocabulary_parameters", "params_vocab"),
    "P_w": ("weight_bits", "w_bits", "bits_weights", "weight_precision"),
    "P_a": ("activation_bits", "a_bits", "bits_activations", "activation_precision"),
    "P_kv": ("kv_bits", "kv_cache_bits", "bits_kv"),
    "P_post": ("post_bits", "ptq_bits", "quantised_bits", "quantized_bits"),
    "r": ("recurrences", "num_recurrences", "n_recurrences", "loops", "n_loops", "num_loops"),
    "N_once": ("params_once", "once_params", "unshared_params"),
    "N_rec": ("params_rec", "recurrent_params", "shared_params", "looped_params"),
}  # fmt: skip
"""Inputs of laws of few tables -> their names: looked for only where a law asks for them."""

EVALUATION = tuple(
    name
    for kind in ("test", "val", "valid", "validation", "validate", "eval", "evaluation", "dev", "heldout", "held_out")
    for name in (
        f"{kind}_loss", f"final_{kind}_loss", f"best_{kind}_loss", f"{kind}_loss_final", f"{kind}_ce",
        f"{kind}_ce_loss", f"{kind}_cross_entropy", f"{kind}_cross_entropy_loss", f"{kind}_crossentropyloss",
        f"{kind}_nll", f"{kind}_nll_loss", f"{kind}_lm_loss",
    )
)  # fmt: skip
"""Names of a loss that was measured on text not trained on."""

LOSS = ("loss", "l", "loss_test", "loss_val", "loss_validation", "loss_valid", "loss_eval", "final_loss",
        "cross_entropy", "cross_entropy_loss", "crossentropyloss", "ce_loss", "ce", "nll", "nll_loss",
        "lm_loss")  # fmt: skip
"""Names of a loss that do not say where it was measured."""

TRAINING = ("train_loss", "training_loss", "loss_train", "loss_training", "train_ce", "train_ce_loss",
            "train_cross_entropy", "train_crossentropyloss", "final_train_loss", "train_loss_epoch",
            "train_loss_step", "train_lm_loss")  # fmt: skip
"""Names of a training loss."""

STEPS = ("step", "steps", "iter", "iteration", "global_step", "trainer_global_step", "current_step", "_step",
         "update", "train_step", "iters", "iterations")  # fmt: skip
"""Names of a counter that runs along one training run."""

_RUN_IDS = ("run_id", "run_name", "runid", "runname")
_RUN_LABELS = ("name", "id")
_PREFIXES = {"config", "cfg", "parameters", "summary", "summary_metrics", "hparams", "hyperparameters", "hyperparams",
             "args", "params", "metrics", "model", "data", "throughput", "optim", "perf",
             "history"}  # fmt: skip
_TRAINING_PREFIXES = {"train", "training", "trainer"}

COUNTS = ("N", "D", "C", "B", "unique")
"""Symbols that count parameters, tokens or FLOPs."""

_LARGEST = {"N": 3e12, "D": 3e14, "unique": 3e14}
"""Counts above which a heading's unit cannot be meant: those of the largest models are smaller."""
_LETTERS = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "bn": 1e9, "t": 1e12, "tn": 1e12, "mn": 1e6, "bt": 1e9}
_WORDS = {
    "thousand": 1e3, "thousands": 1e3, "million": 1e6, "millions": 1e6, "billion": 1e9, "billions": 1e9,
    "trillion": 1e12, "trillions": 1e12,
}  # fmt: skip
_FLOPS = {
    **{f"{p}flop{s}": 10.0 ** (3 * i) for i, p in enumerate("gtpezy", 3) for s in ("", "s")},
    **dict.fromkeys(("pf_days", "pf_day", "pflop_s_days", "pflop_s_day", "petaflop_s_days"), 8.64e19),
}
_NATS = ("nats", "nat", "nats_token", "nats_per_token")
_NOTHING = (*_NATS, "params", "parameters", "tokens", "flop", "flops", "last", "final", "latest")
"""Words after a heading that change neither what it names nor its scale."""


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column's name apart from its unit: `names` it may be looked up by, and the `scale` it states."""

    names: tuple[str, ...]
    scale: float = 1.0
    unit: str | None = None


def plain(name: object) -> str:
    """Return a name in lower case with _ for characters other than letters and digits, and between camelCase words."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", str(name)[:400])
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def is_named(name: object, pattern: str) -> bool:
    """Return whether a pattern fits all of a column's name, or of its last part after / . : or |, as `plain` has it."""
    return any(re.fullmatch(pattern, plain(part)) for part in (name, re.split(r"[/.:|]", str(name))[-1]))


@functools.lru_cache(maxsize=20_000)
def read_heading(name: object) -> Heading:
    """Return the names and the scale in a heading: "Params (M)" is params in 1e6, "tokens_in_billions" too.

    Prefixes of trackers are left out ("config/num_params" is num_params too); "train/loss" stays a training
    loss.
    """
    text = str(name)[:400].strip()
    base, scale, unit = _bracketed(text)
    names = _without_prefixes(base)
    if unit is None:
        words = plain(base).split("_")
        if len(words) > 1 and words[-1] in _WORDS:
            unit, scale = words[-1], _WORDS[words[-1]]
            words = words[: -2 if words[-2] == "in" else -1]
            names = ("_".join(words), *names)
        elif (
            len(words) > 1
            and words[-1] in _LETTERS
            and any(
                "_".join(words[:-1]) in NAMES[symbol] and (len(words) > 2 or len(words[0]) > 1)
                for symbol in ("N", "D", "unique")
            )
        ):
            unit, scale = words[-1], _LETTERS[words[-1]]
            names = ("_".join(words[:-1]), *names)
    return Heading(names=names, scale=scale, unit=unit)


def _bracketed(text: str) -> tuple[str, float, str | None]:
    """Return a heading without its unit in brackets or after a comma, the scale, and the unit as written."""
    match = re.fullmatch(r"([^()\[\],]*\S)\s*(?:[(\[]([^()\[\]]*)[)\]]|,\s*([^()\[\],]*))", text)
    if not match:
        return text, 1.0, None
    said = (match[2] if match[2] is not None else match[3]).strip()
    scale = _scale(said)
    if scale is None:
        return (match[1], 1.0, None) if plain(said) in _NOTHING else (text, 1.0, None)
    return match[1], scale, said


def _scale(unit: str) -> float | None:
    """Return the factor of a unit in a heading, such as "M", "in billions", "x1e6", "10^9", "PF-days"."""
    text = re.sub(r"\s+", "", unit.lower().removeprefix("in ").removeprefix("#"))
    text = re.sub(r"(?:of)?(?:param(?:eter)?s?|tok(?:en)?s?)$", "", text)
    for table in (_WORDS, _LETTERS, _FLOPS):
        found = table.get(text) or table.get(plain(unit))
        if found:
            return found
    power = re.fullmatch(r"[x×*]?(?:1e|10\^|10\*\*)\+?(\d{1,2})", text)
    return 10.0 ** int(power[1]) if power else None


def _without_prefixes(name: str) -> tuple[str, ...]:
    parts = [part for part in re.split(r"[/.:|]", name) if plain(part)]
    found = [plain(name)]
    while len(parts) > 1:
        head, parts = plain(parts[0]), parts[1:]
        rest = plain("/".join(parts))
        training = head in _TRAINING_PREFIXES and not re.search(r"loss|entropy|ce$|nll", rest)
        if not (head in _PREFIXES or training):
            break
        found.append(rest)
    return tuple(found)


def guess(columns: Iterable[object], known: Iterable[str] = ()) -> dict[str, list[str]]:
    """Return for each symbol the columns that go by one of its names, best first; not for those in `known`.

    A symbol that is itself a column needs no guess, except the loss: a column `loss` beside an evaluation's
    loss is usually the training loss, so the evaluation comes first.
    """
    names = [str(column) for column in columns]
    lookup: dict[str, list[str]] = {}
    for name in names:
        for alias in read_heading(name).names:
            lookup.setdefault(alias, []).append(name)
    skip, found = set(known), {}
    for symbol, aliases in NAMES.items():
        if symbol not in names and symbol not in skip:
            found[symbol] = _listed(lookup, aliases)
    if "loss" not in skip and "L" not in skip and "L" not in names:
        found["loss"] = _listed(lookup, (*EVALUATION, *LOSS, *TRAINING))
    return {symbol: names for symbol, names in found.items() if names and (names[0] != symbol or names[1:])}


def _listed(lookup: Mapping[str, list[str]], aliases: Iterable[str]) -> list[str]:
    """Return the columns of some names, in their order; a column spelt just so goes before "Loss" or "loss "."""
    found = (
        name for alias in aliases for name in sorted(lookup.get(alias, ()), key=lambda name: name != alias)
    )
    return list(dict.fromkeys(found))


def column_for(frame: pd.DataFrame, symbol: str) -> tuple[str | None, str | None]:
    """Return the column of a table that a symbol (N, D, C, L, U, …) is read from, and a sentence where
    there was
    a choice.

    A column of the symbol's own name comes first. In a table made by `read_table` the column `loss` is the
    one
    chosen there.
    """
    name = {"L": "loss", "U": "unique"}.get(symbol, symbol)
    if symbol in frame.columns:
        return symbol, None
    if name in frame.columns and (name != "loss" or "loss" in frame.attrs.get("symbols", ())):
        return name, None
    if name in INPUTS:
        plainly = {alias: str(c) for c in reversed(frame.columns) for alias in read_heading(c).names}
        return next((plainly[alias] for alias in INPUTS[name] if alias in plainly), None), None
    names = guess(frame.columns).get(name) or ([name] if name in frame.columns else [])
    if not names:
        return None, None
    if name == "loss" and is_training_loss(names[0]):
        return names[
            0
        ], f"{symbol} is read from {names[0]!r}, a training loss: the table has no loss on other text"
    others = [other for other in names[1:] if not frame[other].equals(frame[names[0]])]
    said = f"{symbol} is read from {names[0]!r} (not {', '.join(map(repr, others[:4]))})" if others else None
    return names[0], said


def is_training_loss(name: str) -> bool:
    """Return whether a column is called a training loss."""
    return any(alias in TRAINING for alias in read_heading(name).names)


def run_column(frame: pd.DataFrame) -> tuple[str | None, str | None]:
    """Return the column that identifies runs, if one plausibly does, and a sentence on one that does not.

    A run's id or name is one by its heading. A column `name` or `id` is one only if each row has its own, or
    if rows of one name go along a training run (one size, a growing counter of steps or tokens): elsewhere it
    may be a family, a size or a corpus.
    """
    if "run" in frame.columns:
        return "run", None
    by_name: dict[str, str] = {}
    for column in frame.columns:
        for alias in read_heading(column).names:
            by_name.setdefault(alias, str(column))
    for alias in _RUN_IDS:
        if alias in by_name:
            return by_name[alias], None
    for alias in _RUN_LABELS:
        name = by_name.get(alias)
        if name is None or isinstance(frame[name], pd.DataFrame):
            continue
        labels = frame[name].map(str)
        if labels.nunique() == len(labels) or _along_runs(frame, labels, by_name):
            return name, None
        count = labels.nunique()
        values = f"{count} different values" if count > 1 else "one value"
        return None, (
            f"the column {name!r} has {values} in {len(labels)} rows: it was not taken for the run; "
            "name it as the group if rows with one value belong together"
        )
    return None, None


def _along_runs(frame: pd.DataFrame, labels: pd.Series, by_name: Mapping[str, str]) -> bool:
    counter = next((by_name[alias] for alias in STEPS if alias in by_name), None)
    if counter is None or labels.nunique() < 2:
        return False
    steps = pd.to_numeric(frame[counter], errors="coerce")
    growing = steps.groupby(labels.to_numpy(), sort=False).apply(lambda s: s.is_monotonic_increasing)
    sizes = next((by_name[alias] for alias in NAMES["N"] if alias in by_name), None)
    one_size = sizes is None or bool((frame[sizes].map(str).groupby(labels.to_numpy()).nunique() == 1).all())
    return bool(growing.all()) and one_size


def scaled(name: object, values: Any, written: bool = False) -> tuple[Any, str | None]:
    """Return a column's values in ones, by the unit in its heading, and a sentence that says so.

    `written` says that the cells have units of their own (10M), which then count alone; values too large for
    the heading's unit are left as they are, and that is said.
    """
    heading = read_heading(name)
    if heading.scale == 1.0:
        return values, None
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if written:
        return (
            values,
            f"column {str(name)!r}: its cells have units, so the heading's ({heading.unit}) was not applied",
        )
    meant = [limit for symbol, limit in _LARGEST.items() if set(heading.names) & set(NAMES[symbol])]
    most = min(meant) if meant else 1e30 if heading.scale > 1e12 else 1e16
    if len(finite) and np.median(np.abs(finite)) * heading.scale > most:
        return values, (
            f"column {str(name)!r} is headed {heading.unit!r}, but its values reach {finite.max():.3g}: "
            "they were read as they are"
        )
    return (
        values * heading.scale,
        f"column {str(name)!r} is in {heading.unit}: multiplied by {heading.scale:.4g}",
    )


_SMALLEST = {"N": 1e3, "D": 1e4, "C": 1e9}
_USUAL = {"N": 1e6, "D": 1e8, "C": 1e15}
_COUNTED = {"N": "parameters", "D": "training tokens", "C": "FLOPs"}


def scale_notice(symbol: str, values: Any) -> str | None:
    """Return a sentence on numbers of parameters, tokens or FLOPs that are in a unit; see `wrong_scale`."""
    found = wrong_scale(symbol, values)
    if found is None:
        return None
    what, scale = found
    remedy = f" (map {symbol} to {symbol}*{scale})" if scale else ""
    return f"{what}{remedy}? Exponents do not depend on it; plans and predictions do"


def wrong_scale(symbol: str, values: Any) -> tuple[str, str] | None:
    """Return a question and a likely factor ("1e6") if counts are so small that they must be in a unit.

    Language models have more than 1,000 parameters, train on more than 10,000 tokens and cost more than 1e9
    FLOPs; a median below that is a table in millions, billions or PF-days whose headings do not say so. The
    factor is "" where no usual one makes counts of them.
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if symbol not in _SMALLEST or not len(finite) or np.median(finite) >= _SMALLEST[symbol]:
        return None
    enough = _USUAL[symbol] / max(float(np.median(finite)), 1e-30)
    word, scale = next(
        ((w, v) for w, v in _WORDS.items() if w.endswith("s") and v >= enough), ("a unit", 0.0)
    )
    what = f"{symbol} runs from {finite.min():.4g} to {finite.max():.4g}, too few to be {_COUNTED[symbol]}"
    return f"{what}: is it in {word}", f"{scale:.0e}".replace("e+0", "e").replace("e+", "e") if scale else ""


_LIKE = {
    "N": r"param|size|weights", "D": r"tok", "C": r"flop|compute|pf.?day", "S": r"step|iter|update",
    "L": r"loss|entropy|nll|(^|_)ce($|_)|ppl|perplex|bpb|bpc|bits", "U": r"uniq", "B": r"batch", "X": r"",
}  # fmt: skip


def similar(columns: Iterable[object], symbol: str) -> list[str]:
    """Return columns whose names resemble a symbol ("c4_loss" the loss), the most likely first, at most four."""
    pattern = _LIKE.get({"loss": "L", "unique": "U"}.get(symbol, symbol))
    if not pattern:
        return []
    found = [str(c) for c in columns if re.search(pattern, plain(c)) and not readings(str(c))]
    rank = {
        c: (symbol in ("L", "loss") and not re.search("loss", plain(c)), "train" in plain(c)) for c in found
    }
    return sorted(found, key=lambda c: rank[c])[:4]


def conversion(column: str) -> str:
    """Return the arithmetic that makes a loss in nats of a column: log of a perplexity, bits times log(2)."""
    name, quoted = plain(column), column if re.fullmatch(r"[^\W\d]\w*", column) else f"`{column}`"
    if re.search(r"(^|_)(ppl|perplexity|perplexities)($|_)", name):
        return f"log({quoted})"
    if re.search(r"(^|_)(bpb|bpc|bpt|bits)($|_)", name):
        return f"{quoted}*log(2)"
    return column
