"""The resolved configuration of a run: everything that decides its numbers, and the schedules that follow from it.
Its hash is the run's identity.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import cached_property
from html import escape
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from allometry.core.errors import AllometryError
from allometry.core.units import format_count, parse_count
from allometry.data.spec import plugins_of_data
from allometry.models.base import FAMILIES, AbsentModel, ModelConfig, StrictModel, families, family
from allometry.train.plant import Plant

FORMAT = 1
"""Version of the run format on disk; a store written by a newer one is refused, not guessed at."""

ADDED = {
    "train": ("noise_batches", "init_from", "stop_accuracy"),
    "data": ("loss_on", "spread", "skip", "plant", "half", "probe", "novelty"),
}
"""Settings that were added after runs had been trained. They are left out of a run's identity where they have
their default, so that earlier runs keep their ids."""


Schedule = Literal["wsd", "cosine", "linear", "constant"]


def _counted(value: Any, info: ValidationInfo) -> Any:
    """Parse a count as people write it ("5M") into a number."""
    if not isinstance(value, str):
        return value
    try:
        return parse_count(value, info.field_name or "count")
    except AllometryError as error:
        raise ValueError(f"{error.message} ({error.hint})") from error


Tokens = Annotated[int, BeforeValidator(_counted)]
"""A number of tokens, which may be written 5M."""

EngineName = Literal["auto", "reference", "fast", "native", "native-bf16"]


class DataConfig(StrictModel):
    """The training data and the evaluation data of a run.

    `corpus` and `tokenizer` are registry names ("sotu", "files:PATH", "synthetic:..."; "bytes", "bpe:1024",
    "gpt2", "symbols"). `limit` keeps only the first tokens of the training split, so that smaller sets are
    contained in larger ones; with `spread`, the first in an order of blocks of that many tokens that is drawn
    once, so that small sets have the whole corpus's mixture. `skip` leaves that many tokens out before the
    limit counts: what another run's `limit` keeps. `eval_on` names further corpora whose test split
    is evaluated beside the corpus's own ("test"). `loss_on`: "all" tokens or, for a corpus of questions, only
    the "answer"; each window then is one question, and accuracies are recorded beside the loss.

    `plant` inserts canaries and passages into training. `half` is a seed that chooses a random half of the
    training documents (with `spread`, of its blocks). `probe` names sequences whose own losses are recorded
    at evaluations: what is "planted", the "documents" in and out of the half, the "trained" windows, or
    "windows" of the first blocks of `spread`, trained on or not, which are the same in all runs. `novelty`:
    at its end a run continues that many held-out texts, and records what of that is copied (`runs.measurements`).
    """

    corpus: str = "sotu"
    tokenizer: str = "bytes"
    limit: Annotated[Tokens, Field(ge=1)] | None = None
    spread: Annotated[Tokens, Field(ge=0)] = 0
    skip: Annotated[Tokens, Field(ge=0)] = 0
    eval_on: tuple[str, ...] = ()
    eval_tokens: Annotated[Tokens, Field(ge=1)] = 131_072
    loss_on: Literal["all", "answer"] = "all"
    plant: Plant | None = None
    half: Annotated[int, Field(ge=0)] | None = None
    probe: Literal["planted", "documents", "trained", "windows"] | None = None
    novelty: Annotated[int, Field(ge=0)] = 0


class TrainConfig(StrictModel):
    """How a run is trained. Batch and horizon are in tokens, the warm-up in steps, rates as Adam takes them.

    `schedule`: warm-up, then "wsd" (constant, with a last part `decay` of the horizon falling to `final_lr` x
    lr), "cosine" and "linear" (falling over the whole horizon to `final_lr` x lr) or "constant".
    `early_stop`: give up after that many evaluations without a better test loss, and report the best one.
    `noise_batches`: measure the gradient noise scale over that many batches at each evaluation, which costs
    as much as twice so many steps, or more (see `train.evaluate`).
    `init_from`: the id of a finished run in the same store whose final weights this one starts from.
    `stop_accuracy`: end once the held-out answers are right this often (only with `loss_on="answer"`).
    """

    tokens: Annotated[Tokens, Field(ge=1)]
    batch_tokens: Annotated[Tokens, Field(ge=1)] = 1024
    lr: Annotated[float, Field(gt=0)]
    schedule: Schedule = "wsd"
    warmup: Annotated[int, Field(ge=0)] = 100
    decay: Annotated[float, Field(gt=0, le=1)] = 0.2
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    evals_per_octave: Annotated[int, Field(ge=1)] = 2
    early_stop: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    noise_batches: Annotated[int, Field(ge=0)] = 0
    init_from: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    stop_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None

    @property
    def steps(self) -> int:
        """Number of updates S = D / B, rounded."""
        return max(1, round(self.tokens / self.batch_tokens))

    @property
    def decay_start(self) -> int:
        """The step after which a "wsd" run leaves the constant rate.

        Runs that differ only in `tokens` agree until the smaller of their two.
        """
        return self.steps - max(1, round(self.decay * self.steps)) if self.schedule == "wsd" else self.steps


class RunConfig(StrictModel):
    """A fully resolved run. `id` is its name everywhere: a readable slug and a hash of the identity.

    `devices` is how many train it together (`allometry.experimental.torchrun`). Like the machine, it changes no more
    than the last digits of a run without dropout, so it is no part of the identity. `plugins` are those that
    the family, corpus or tokenizer comes from, each with the hash of its source ("my_things.py@1f3a9c2e"); they
    are found when the configuration is made, and kept when it is read again.
    """

    model: SerializeAsAny[ModelConfig]
    data: DataConfig = DataConfig()
    train: TrainConfig
    engine: EngineName = "auto"
    devices: Annotated[int, Field(ge=1)] = 1
    plugins: Annotated[tuple[str, ...], Field(validate_default=True)] = ()

    @model_validator(mode="before")
    @classmethod
    def _absent_family(cls, value: Any) -> Any:
        """Take a recorded model as it stands where its plugin is not loaded, or has other fields by now."""
        model = value.get("model") if isinstance(value, dict) and value.get("plugins") else None
        if not isinstance(model, dict):
            return value
        try:
            known: ModelConfig = family(model.get("family", "")).model_validate(model)
        except (AllometryError, ValidationError):
            known = AbsentModel.model_validate(model)
        return {**value, "model": known}

    @field_validator("model", mode="before")
    @classmethod
    def _model_of_family(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "family" not in value:
            raise ValueError("model.family is missing; known: " + ", ".join(families()))
        return family(value["family"]).model_validate(value)

    @field_validator("plugins")
    @classmethod
    def _plugins_of_parts(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        model, data = info.data.get("model"), info.data.get("data")
        if value or model is None or data is None:
            return value
        found = [FAMILIES.plugin(getattr(model, "family", "")), *plugins_of_data(data.corpus, data.tokenizer)]
        return tuple(sorted({plugin.tag for plugin in found if plugin is not None}))

    @model_serializer(mode="wrap")
    def _without_empty_plugins(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        if not plain.get("plugins"):
            plain.pop("plugins", None)
        return plain

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, checked again; its plugins are those of its new parts."""
        if {"model", "data"} & changes.keys():
            changes.setdefault("plugins", ())
        return super().replace(**changes)

    @model_validator(mode="after")
    def _batch_holds_whole_sequences(self) -> RunConfig:
        if self.train.batch_tokens % self.model.n_ctx:
            batch, context = self.train.batch_tokens, self.model.n_ctx
            raise ValueError(f"batch_tokens {batch} is not a multiple of the context n_ctx {context}")
        return self

    @model_validator(mode="after")
    def _noise_can_be_measured(self) -> RunConfig:
        if (
            self.train.noise_batches
            and self.train.noise_batches * self.train.batch_tokens < 2 * self.model.n_ctx
        ):
            raise ValueError(
                f"noise_batches {self.train.noise_batches} holds one sequence; the noise scale compares two"
            )
        if self.train.noise_batches and self.data.loss_on != "all":
            raise ValueError(
                "the noise scale is of the loss on all tokens: leave noise_batches or loss_on out"
            )
        return self

    @model_validator(mode="after")
    def _probes_exist(self) -> RunConfig:
        data = self.data
        if data.probe == "planted" and data.plant is None:
            raise ValueError("probe 'planted' needs a plant: give data.plant")
        if data.probe == "windows" and data.spread <= self.model.n_ctx:
            raise ValueError(f"probe 'windows' needs blocks: set data.spread above n_ctx {self.model.n_ctx}")
        if data.loss_on != "all" and (data.plant or data.half is not None or data.probe or data.novelty):
            raise ValueError("plant, half, probe and novelty are for losses on all tokens: leave loss_on out")
        return self

    @model_validator(mode="after")
    def _accuracy_is_measured(self) -> RunConfig:
        if self.train.stop_accuracy is not None and self.data.loss_on != "answer":
            raise ValueError("stop_accuracy needs questions: set data.loss_on to 'answer'")
        return self

    def undivided(self, devices: int) -> str | None:
        """Return why a batch cannot be divided among so many devices, or None."""
        rows = self.train.batch_tokens // self.model.n_ctx
        if rows % devices:
            return f"a batch of {rows} sequences cannot be divided evenly among {devices} devices"
        return None

    def identity(self) -> dict[str, Any]:
        """Return all that decides the run's numbers as plain JSON, without the settings of ADDED that have their
        default.
        """
        plain = self.model_dump(mode="json")
        del plain["devices"]
        records: dict[str, type[StrictModel]] = {"train": TrainConfig, "data": DataConfig}
        for part, names in ADDED.items():
            for name in names:
                if plain[part][name] == records[part].model_fields[name].default:
                    del plain[part][name]
        return plain

    def canonical(self) -> str:
        """Return the identity as canonical JSON: sorted keys, no spaces, with the format's version."""
        return json.dumps({"format": FORMAT, **self.identity()}, sort_keys=True, separators=(",", ":"))

    @cached_property
    def id(self) -> str:
        """Slug and hash, such as "transformer-4x64-sotu-8.39M-s0-1f3a9c2e"."""
        corpus = "".join(c if c.isalnum() else "_" for c in self.data.corpus)[:24]
        digest = hashlib.sha256(self.canonical().encode()).hexdigest()[:8]
        name, tokens = getattr(self.model, "family", "model"), format_count(self.train.tokens)
        return f"{name}-{self.model.shape}-{corpus}-{tokens}-s{self.train.seed}-{digest}"

    def _repr_html_(self) -> str:
        """Return the id and the settings, part by part, for a notebook."""
        plain = self.model_dump(mode="json")
        rows = [
            f"<tr><td>{part}.{name}</td><td>{escape(str(value))}</td></tr>"
            for part in ("model", "data", "train")
            for name, value in plain[part].items()
        ]
        return f"<p>{escape(self.id)}</p><table>{''.join(rows)}</table>"

    @cached_property
    def trunk(self) -> str | None:
        """The hash, without the horizon, that runs share which can share a constant-rate trunk; None if there is
        no trunk.
        """
        if self.train.schedule != "wsd" or (self.train.early_stop or self.train.stop_accuracy) is not None:
            return None
        if self.data.plant is not None or self.data.probe is not None:
            return None  # where things are planted depends on the horizon; probes are recorded from the start
        rest = self.identity()
        del rest["train"]["tokens"]
        return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def learning_rate(train: TrainConfig, step: int) -> float:
    """Return the rate of update `step` (from 1 to `train.steps`): linear warm-up, then the schedule's shape.

    "wsd" (warm-up, stable, decay) stays at `lr` until `train.decay_start` and then falls as 1 - sqrt(x), the
    form that Hägele et al. 2024 (arXiv 2405.18392) found best; until there it does not depend on the horizon,
    bit for bit.
    """
    warm = min(1.0, step / train.warmup) if train.warmup else 1.0
    return train.lr * warm * _shape(train, step)


def _shape(train: TrainConfig, step: int) -> float:
    """Return the schedule without its warm-up, from 1 down to `final_lr`."""
    if train.schedule == "constant":
        return 1.0
    start = train.decay_start if train.schedule == "wsd" else min(train.warmup, train.steps - 1)
    if step <= start:
        return 1.0
    x = (step - start) / (train.steps - start + 1)  # the update after the last would have the final rate
    falls = {"wsd": 1 - math.sqrt(x), "cosine": 0.5 * (1 + math.cos(math.pi * x)), "linear": 1 - x}
    return train.final_lr + (1 - train.final_lr) * falls[train.schedule]


def evaluation_steps(config: RunConfig) -> list[int]:
    """Return the steps at which a run is evaluated: `evals_per_octave` for each doubling of the step, and the
    last step.

    The steps lie on one grid whatever the horizon, so that runs of different length have comparable curves.
    It begins where a run has trained on as many tokens as an evaluation reads, so that evaluation costs a
    small share of any run. After something was inserted at one step, there are evaluations before that step,
    after it, and after 1, 2, 4, … further ones.
    """
    train, plant = config.train, config.data.plant
    first = max(1, math.ceil(config.data.eval_tokens / train.batch_tokens))
    octaves = math.ceil(math.log2(train.steps) * train.evals_per_octave) + 1
    grid = {round(2 ** (k / train.evals_per_octave)) for k in range(octaves + 1)}
    around = set()
    if plant is not None and plant.at is not None:
        around = {plant.at - 1, plant.at} | {plant.at + 2**k for k in range(octaves + 1)}
    wanted = {step for step in grid if step >= first} | around
    return sorted({step for step in wanted if 1 <= step < train.steps} | {train.steps})


def kaplan_learning_rate(n: float) -> float:
    """Return LR(N) = 0.003239 - 0.0001395 ln N (Kaplan et al. 2020, eq. D.1), for transformers below about 1e10
    parameters.

    Measured at 2^19 tokens a batch and GPT-2's widths; narrow models at small batches want `lr_for_width`.
    """
    rate = 0.003239 - 0.0001395 * math.log(n)
    if rate <= 0:
        raise AllometryError(
            f"Kaplan's learning rate rule is negative at N = {n:.2g}",
            hint="it holds below 1e10; give lr yourself",
        )
    return rate


def lr_for_width(d_model: int, constant: float = 0.256) -> float:
    """Return constant / d_model: Adam's best rate goes as 1 / width when weights start by fan-in.

    The exponent is that of Yang et al. 2022 (arXiv 2203.03466); the constant was measured on byte-level
    models of width 32 to 128 with 1024 tokens a batch.
    """
    return constant / d_model


_BYTES_PER_PARAMETER = 16
"""fp32 parameter, gradient and two moments."""

_SHARE = 0.5
"""Of a device's memory that may go into them; the rest is for activations."""


def is_divided(config: RunConfig, room: float) -> bool:
    """Return whether parameters, gradients and moments are divided among devices of `room` bytes, because one
    device could not hold them besides the activations.
    """
    return config.model.counts().N_total * _BYTES_PER_PARAMETER >= _SHARE * room
