"""How small models are trained in every study: one recipe, measured, so that sizes differ by size and by
nothing else.

At this scale ordinary defaults give no law at all: one learning rate for all sizes turns their order around,
a batch of hundreds of thousands of tokens leaves too few updates, and a large vocabulary makes the width of
the head the bottleneck. `docs/log.md` has what was measured, with the failures.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from allometry.core.errors import AllometryError
from allometry.train.config import DataConfig, RunConfig, TrainConfig

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig

CONTEXT = 64
"""Tokens of context. For N < 1e6, bytes and a few million tokens, 64 reach a lower loss than 128 or 256: more
sequences a batch, and the plateau before context is used ends sooner."""

ASPECT = 128
"""Largest d_model / n_layer along the ladder. Kaplan et al. 2020 (figure 5) find the loss of larger models
flat from 10 to 200."""

BATCH_TOKENS = 512
"""Tokens a batch: small, because a run of fewer than about 2,000 updates measures its plateau, not its size.
"""

EVAL_TOKENS = 65_536
"""Held-out tokens of an evaluation, the same ones in every run: what they leave uncertain is common to
all."""

RATE_TIMES_WIDTH = 0.16
"""Peak learning rate x d_model of transformers: the best rate goes as 1 / width, hardly with depth."""

HIGHEST_RATE = 0.01
"""The rule's 1 / width is capped for the narrowest models."""

LSTM_RATE, LSTM_POWER = 0.33, 0.75
"""Peak learning rate of LSTMs: LSTM_RATE / d_model^LSTM_POWER, several times the transformer's."""

LSTM_HIGHEST_RATE = 0.05
"""The cap of the LSTMs' rule, for the narrowest."""


def learning_rate(model: ModelConfig) -> float:
    """Return the peak learning rate of a model at BATCH_TOKENS, by its family's rule; other families: the
    transformer's.

    A Universal Transformer takes the rate of the transformer of its width. AllometryError for a family
    without d_model.
    """
    width = getattr(model, "d_model", None)
    if width is None:
        raise AllometryError(
            f"the recipe has no learning rate for {type(model).__name__}, which has no d_model",
            hint="give lr",
        )
    return rule_rate(model.family, width)  # type: ignore[attr-defined]


def rule_rate(family: str, d_model: float) -> float:
    """Return the rule itself: peak learning rate of a family at a width, as `learning_rate` gives it to a
    model.
    """
    if (
        family == "lstm"
    ):  # rounded: the last bits of a power differ between machines, and runs' names with them
        return float(f"{min(LSTM_HIGHEST_RATE, LSTM_RATE / d_model**LSTM_POWER):.3g}")
    return min(HIGHEST_RATE, RATE_TIMES_WIDTH / d_model)


def heads(d_model: int) -> int:
    """Return the attention heads of a width: about 8 wide below d_model = 48, about 16 wide from there on.

    At these widths more and narrower heads are better than the 32 or 64 wide ones of larger models.
    """
    wanted = 8 if d_model < 48 else 16
    widths = [width for width in range(8, d_model + 1, 8) if d_model % width == 0]
    return d_model // min(widths, key=lambda width: abs(math.log(width / wanted)))


def small_model(n: int, *, n_vocab: int, family: str = "transformer", **fixed: Any) -> ModelConfig:
    """Return the model of about `n` parameters that studies train: two layers, wider and wider.

    Up to d_model / n_layer of about ASPECT a third layer makes a transformer of the same N no better on these
    horizons, and a ladder that mixes depths has kinks that no law of N can follow. A Universal Transformer
    has the transformer of this N as its stack of distinct blocks; other families have their own dial, an
    LSTM's being two layers too. `fixed` sets any field of the family's configuration, and a fixed depth or
    width decides the other. AllometryError for an unknown family.
    """
    from allometry.models.base import family as config_class

    fixed = {"n_ctx": CONTEXT, "n_vocab": n_vocab, **fixed}
    config = config_class(family)
    if family not in ("transformer", "universal"):
        return config.from_n_params(n, **fixed)
    reuse = fixed.setdefault("reuse", 2) if family == "universal" else 1
    depth = max(2, round((n / (12 * ASPECT**2)) ** (1 / 3)))
    if "d_model" in fixed:
        depth = max(1, round(n / (12 * fixed["d_model"] ** 2)))
    depth = max(1, fixed["n_layer"] // reuse) if "n_layer" in fixed else depth
    width = fixed.get("d_model") or _width(n / (12 * depth))
    shape = {"n_layer": depth * reuse, "d_model": width, "n_head": heads(width), "d_ff": 4 * width}
    return config.model_validate({**shape, **fixed})


def _width(square: float) -> int:
    """Return the width near the root of `square`: a multiple of 8, of 16 from 40 on."""
    width = math.sqrt(square)
    grain = 8 if width < 40 else 16
    return grain * max(1, round(width / grain))


def small_run(
    model: ModelConfig, *, tokens: int, data: DataConfig, seed: int = 0, **changes: Any
) -> RunConfig:
    """Return a run of the recipe: constant rate with a final decay, so that runs of one size share their
    trunk.

    `changes` are fields of `TrainConfig` that a study varies on purpose.
    """
    train = {
        "tokens": tokens,
        "batch_tokens": BATCH_TOKENS,
        "lr": learning_rate(model),
        "schedule": "wsd",
        "evals_per_octave": 1,
        "seed": seed,
        **changes,
    }
    data = data.replace(eval_tokens=EVAL_TOKENS)
    return RunConfig(model=model, data=data, train=TrainConfig.model_validate(train))


def vocabulary(data: DataConfig) -> int:
    """Return the size of the vocabulary of the data set's tokens; prepare them if they are not there yet."""
    from allometry.data.tokens import manifest_of

    return manifest_of(data.corpus, data.tokenizer).n_vocab
