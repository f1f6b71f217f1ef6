"""The grid of a sweep: families, sizes, horizons, seeds, rates, and any field of the configuration as an axis.

An axis with several values divides the runs into arms: every arm has all sizes, horizons and seeds. What the arms are
called says what sets them apart ("family=lstm, train.weight_decay=0.1").
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from allometry.core.errors import AllometryError, unknown
from allometry.core.units import parse_count, parse_number
from allometry.data.tokens import manifest_of
from allometry.models.base import FAMILIES, ModelConfig, StrictModel
from allometry.models.base import family as config_class
from allometry.studies.core.study import BATCH_TOKENS, CONTEXT, small_model, small_run, too_little, vocabulary
from allometry.studies.shared.grid import FEWEST_UPDATES
from allometry.train.config import DataConfig, RunConfig, TrainConfig

SIZES = "1e4:3e5:6"
"""Sizes of a grid that names none."""

HORIZONS, RATIO = 4, math.sqrt(2)
"""Horizons of a grid that names none, and how many times each is the one before."""

MOST = 20_000
"""Runs from which a grid is taken for a slip of the pen."""

_OWN_OPTION = {
    "train.tokens": "--tokens", "train.seed": "--seeds", "train.lr": "--rate", "train.batch_tokens": "--batch",
    "model.family": "--family", "model.n_ctx": "--context", "model.n_vocab": "--tokenizer",
    "data.corpus": "--data", "data.tokenizer": "--tokenizer",
}  # fmt: skip


def parse_counts(value: Any) -> Any:
    """Return counts written "1e4:1e6:8" (in equal steps of the logarithm), "2M,4M" or as a list."""
    if isinstance(value, str) and ":" in value:
        parts = value.split(":")
        if len(parts) != 3:
            raise ValueError(f"{value!r} is no range: write LOW:HIGH:COUNT, such as 1e4:1e6:8")
        low, high = (parse_count(part, "size") for part in parts[:2])
        count = parse_count(parts[2], "number of sizes")
        if not 0 < low < high or count < 2:
            raise ValueError(
                f"{value!r} is empty: write LOW:HIGH:COUNT with LOW < HIGH and COUNT of 2 or more"
            )
        return tuple(dict.fromkeys(round(n) for n in np.geomspace(low, high, count)))
    return tuple(parse_count(each, "count") for each in parse_list(value))


def parse_list(value: Any) -> tuple[Any, ...]:
    """Return values written "a,b", as one value or as a list."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _counts(value: Any) -> Any:
    try:
        return parse_counts(value)
    except AllometryError as error:
        raise ValueError(f"{error.message} ({error.hint})") from error


def _rates(value: Any) -> Any:
    if value == "tuned":
        raise ValueError(
            "rate 'tuned' is not there yet: give several rates (0.001,0.003,0.01), which become an axis, or rule"
        )
    values = parse_list(value)
    try:
        return tuple(each if each == "rule" else parse_number(each, "rate") for each in values)
    except AllometryError as error:
        raise ValueError(f"{error.message} ({error.hint})") from error


def _values(value: Any) -> Any:
    """Return each axis with its values; text is read as JSON where it is JSON (0.1, true, null)."""
    if not isinstance(value, Mapping):
        raise ValueError("set is a table: field = [values]")
    return {str(name): tuple(_plain(each) for each in parse_list(values)) for name, values in value.items()}


def _plain(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


Counts = Annotated[tuple[int, ...], BeforeValidator(_counts)]
Words = Annotated[tuple[str, ...], BeforeValidator(parse_list)]


class Grid(StrictModel):
    """What a sweep trains: every combination of the axes, at every size, horizon and seed.

    `n` are parameters (Kaplan's N), `shapes` depth x width in their place ("2x64"); `tokens` the horizons, or
    `passes` over the training text; without either they follow from the budget. `rate` is "rule" or rates; a
    rate other than the rule's is the same at all sizes. `set` maps a field of the configuration
    ("train.weight_decay", "model.d_ff", "data.limit") to values.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,39}$")] = "sweep"
    question: str = ""
    family: Words = ("transformer",)
    n: Counts | None = None
    shapes: Words | None = None
    tokens: Counts | None = None
    passes: Annotated[tuple[float, ...], BeforeValidator(parse_list)] | None = None
    seeds: Annotated[int, Field(ge=1)] = 1
    rate: Annotated[tuple[float | str, ...], BeforeValidator(_rates)] = ("rule",)
    context: Annotated[int, Field(ge=1)] = CONTEXT
    batch: Annotated[int, Field(ge=1)] | None = None
    set: Annotated[dict[str, tuple[Any, ...]], BeforeValidator(_values), Field(default_factory=dict)]

    def digest(self, *more: str) -> str:
        """Return 8 hexadecimal digits that tell grids apart: of everything but the name and the question."""
        plain = self.model_dump(mode="json", exclude={"name", "question"})
        plain["n"] = self.sizes
        return hashlib.sha256(json.dumps([plain, *more], sort_keys=True).encode()).hexdigest()[:8]

    @property
    def fixed(self) -> bool:
        """Whether horizons are given, so that no budget changes what is trained."""
        return self.tokens is not None or self.passes is not None

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Return each axis with its values, those with one value included."""
        return {"family": self.family, "rate": self.rate, **{_full(name): v for name, v in self.set.items()}}

    def arms(self) -> dict[str, dict[str, Any]]:
        """Return the combinations of the axes by what sets them apart; one arm is called by the grid's name."""
        axes = self.axes()
        empty = [name for name, values in axes.items() if not values]
        if empty:
            raise AllometryError(
                f"the axis {empty[0]!r} has no value: the grid is empty", hint=f"{empty[0]}=VALUE,…"
            )
        several = [name for name, values in axes.items() if len(values) > 1]
        found = {}
        for values in itertools.product(*axes.values()):
            arm = dict(zip(axes, values, strict=True))
            label = ", ".join(f"{name}={_written(arm[name])}" for name in several) or self.name
            found[label] = arm
        return found

    def runs(self, compute: float, data: DataConfig) -> dict[str, tuple[RunConfig, ...]]:
        """Return the runs by arm. `compute` (FLOPs, everything counted) sets the horizons where none are given.

        AllometryError for an axis that a family does not have, and where `compute` is too little.
        """
        n_vocab = vocabulary(data)
        arms = self.arms()
        models = {label: self.models(arm, n_vocab) for label, arm in arms.items()}
        count = (
            sum(map(len, models.values())) * self.seeds * len(self.tokens or self.passes or range(HORIZONS))
        )
        if count > MOST:
            raise AllometryError(
                f"the grid has {count:,} runs, more than {MOST:,}",
                hint="leave out values of an axis, or divide it",
            )
        horizons = self._horizons(compute, data, models)
        return {
            label: tuple(
                self._run(arm, model, tokens, data, seed)
                for model in models[label]
                for tokens in horizons
                for seed in range(self.seeds)
            )
            for label, arm in arms.items()
        }

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the parameters that are asked for; none where shapes are given."""
        if self.n is not None:
            return self.n
        return tuple(parse_counts(SIZES)) if self.shapes is None else ()

    @property
    def batch_tokens(self) -> int:
        """Return the batch in tokens: what is given, or the recipe's as far as it holds whole windows."""
        return self.batch or max(1, round(BATCH_TOKENS / self.context)) * self.context

    def models(self, arm: Mapping[str, Any], n_vocab: int) -> list[ModelConfig]:
        """Return an arm's models by size, each once."""
        family, fixed = str(arm["family"]), {"n_ctx": self.context}
        own = {name.removeprefix("model."): v for name, v in arm.items() if name.startswith("model.")}
        for name in own:
            if name not in config_class(family).model_fields:
                raise _unknown_axis(f"model.{name}", f"family {family!r}", config_class(family), "model.")
        if self.shapes is not None:
            if self.n is not None:
                raise AllometryError(
                    "sizes are given twice, as n and as shapes", hint="leave one of them out"
                )
            found = [self._shaped(shape, family, n_vocab, fixed | own) for shape in self.shapes]
        else:
            found = [small_model(n, n_vocab=n_vocab, family=family, **fixed, **own) for n in self.sizes]
        if not found:
            raise AllometryError(
                "the grid has no size: it is empty", hint="--n 1e4:1e6:8, or --shapes 2x32,2x64"
            )
        return list(dict.fromkeys(found))

    def _shaped(self, shape: str, family: str, n_vocab: int, fixed: Mapping[str, Any]) -> ModelConfig:
        depth, by, width = shape.partition("x")
        if not (by and depth.isdigit() and width.isdigit()):
            raise AllometryError(f"{shape!r} is no shape", hint="--shapes 2x32,2x64: layers x width")
        return small_model(1, n_vocab=n_vocab, family=family, n_layer=int(depth), d_model=int(width), **fixed)

    def _horizons(
        self, compute: float, data: DataConfig, models: Mapping[str, Sequence[ModelConfig]]
    ) -> tuple[int, ...]:
        """Return the horizons in tokens, whole batches: those given, or those that the compute pays for."""
        if self.tokens is not None and self.passes is not None:
            raise AllometryError(
                "horizons are given twice, as tokens and as passes", hint="leave one of them out"
            )
        batch = self.batch_tokens
        wanted: Sequence[float]
        if self.tokens is not None:
            wanted = self.tokens
        elif self.passes is not None:
            text = manifest_of(data.corpus, data.tokenizer).train_tokens
            wanted = [float(each) * text for each in self.passes]
        else:
            steps = [RATIO**i for i in range(HORIZONS)]
            decay = float(TrainConfig.model_fields["decay"].default)
            flops = sum(m.counts().flops_per_token("attention") for each in models.values() for m in each)
            shortest = compute / (self.seeds * flops * (steps[-1] + decay * sum(steps[:-1])))
            if shortest < FEWEST_UPDATES * batch:
                raise too_little(compute, "grid")
            wanted = [shortest * step for step in steps]
        found = tuple(dict.fromkeys(batch * max(1, round(tokens / batch)) for tokens in sorted(wanted)))
        if not found:
            raise AllometryError(
                "the grid has no horizon: it is empty", hint="--tokens 2M,4M or --passes 1,2"
            )
        return found

    def _run(
        self, arm: Mapping[str, Any], model: ModelConfig, tokens: int, data: DataConfig, seed: int
    ) -> RunConfig:
        own = {name.removeprefix("train."): v for name, v in arm.items() if name.startswith("train.")}
        rate = {} if arm["rate"] == "rule" else {"lr": arm["rate"]}
        run = small_run(
            model, tokens=tokens, data=data, seed=seed, batch_tokens=self.batch_tokens, **rate, **own
        )  # fmt: skip
        about = {name.removeprefix("data."): v for name, v in arm.items() if name.startswith("data.")}
        return run.replace(data=run.data.replace(**about)) if about else run


def _full(name: str) -> str:
    """Return the field that an axis names, with its part: "weight_decay" is train.weight_decay.

    AllometryError for a field that no configuration has, or that has an option of its own.
    """
    part, dot, field = name.partition(".")
    fields = {"train": TrainConfig.model_fields, "data": DataConfig.model_fields}
    if not dot:
        known = [p for p, own in fields.items() if name in own]
        full = f"{known[0]}.{name}" if known else f"model.{name}"
    elif part == "model":
        full = name
    elif part in fields:
        if field not in fields[part]:
            raise _unknown_axis(name, f"the configuration's {part!r}", fields[part], f"{part}.")
        full = name
    else:
        raise unknown("axis", name, ["model.FIELD", "train.FIELD", "data.FIELD"])
    if full in _OWN_OPTION:
        raise AllometryError(
            f"{full} has an option of its own", hint=f"{_OWN_OPTION[full]} in place of --set"
        )
    return full


def _unknown_axis(name: str, owner: str, fields: Any, prefix: str) -> AllometryError:
    known = getattr(fields, "model_fields", fields)
    error = unknown("axis", name, [f"{prefix}{field}" for field in known if field != "family"])
    return AllometryError(f"{owner} has no {name!r}", hint=error.hint)


def _written(value: Any) -> str:
    """Return a value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value)


def arm_of(label: str) -> dict[str, str]:
    """Return the axes that an arm's name says, "a=1, b=2"; none for a grid of one arm."""
    parts = [part.partition("=") for part in label.split(", ")]
    return {name: value for name, equals, value in parts if equals}


def plugins_of(grid: Grid, data: DataConfig) -> list[str]:
    """Return the plugins that a grid's families, corpus and tokenizer come from, with the hash of their source."""
    from allometry.data.spec import plugins_of_data

    found = [*(FAMILIES.plugin(name) for name in grid.family), *plugins_of_data(data.corpus, data.tokenizer)]
    return sorted({plugin.tag for plugin in found if plugin is not None})


def read_grid(path: Path) -> dict[str, Any]:
    """Return the entries of a grid's TOML file, data and tokenizer among them."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AllometryError(
            f"there is no file {path}", hint="allometry sweep --init, which writes one"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise AllometryError(f"cannot read {path}: {error}", hint="name a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise AllometryError(
            f"{path} is not TOML: {error}", hint="allometry sweep --init, which shows the form"
        ) from error


TEMPLATE = """\
# A sweep: allometry sweep sweep.toml --dry-run shows the runs and what they cost; without --dry-run they are trained.
# Every line is optional. Axes with several values are combined: each combination has all sizes, horizons and seeds.

name = "sweep"                    # names the report
question = "Does it help?"        # stands above the report

family = ["transformer"]          # transformer, lstm, universal, or one of your plugin: --plugin my_things.py
n = "1e4:3e5:6"                   # parameters without embeddings: LOW:HIGH:COUNT or a list
# shapes = ["2x32", "2x64"]       # in place of n: layers x width
# tokens = ["1M", "2M", "4M"]     # horizons; or passes = [1, 2, 4] over the text; without either: what --budget allows
seeds = 1                         # runs that differ in their seed only; 2 or more give effects an interval
rate = "rule"                     # the recipe's rule by width, or rates: [0.003, 0.01], each the same at all sizes
context = 64                      # tokens that a model sees
data = "sotu"                     # allometry data list; your text: files:my-texts/
tokenizer = "bytes"               # bytes, bpe:512, gpt2

[set]                             # any other field as an axis: model.FIELD, train.FIELD, data.FIELD
# "train.weight_decay" = [0.0, 0.1, 1.0]
"""
