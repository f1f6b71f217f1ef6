"""Three architectures at matched sizes: the transformer, the LSTM and the Universal Transformer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.core.run_sets import register, too_little

if TYPE_CHECKING:
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

N_AT_REFERENCE = 1.1e5
"""Parameters of the largest transformer at REFERENCE compute; N and D grow with its square root."""

REFERENCE = 6e13

SMALLEST = 6e3
"""N of the largest transformer below which its ladder has no room."""

SIZES, STEP = 5, 2.0
"""Transformers along the ladder, and the factor in N between them."""

REUSES = (2, 4)
"""How often a Universal Transformer applies its two distinct blocks; each costs that much more compute."""

LSTM_LAYERS = (1, 2, 4)
"""Layers of the LSTMs, those of Kaplan et al. 2020, figure 7; the ladder of two layers is complete."""

SEEDS = 3
"""Seeds of one matched pair."""

LONG_CONTEXT = 256
"""Context of the pair in which an LSTM's memory can be seen to end: four times the recipe's."""

FEWEST_UPDATES = 100


@register
def recurrent(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Every family at the same N and the same D, so that only the architecture differs; Universal
    Transformers have exactly the N of the transformer of their width, and `reuse` times its compute.
    """
    from allometry.studies.core.recipe import BATCH_TOKENS, small_run, vocabulary

    n_vocab = vocabulary(data)
    largest = max(SMALLEST, N_AT_REFERENCE * math.sqrt(compute / REFERENCE))
    ladder = _ladder(largest, n_vocab)
    models = [*ladder, *_universal(ladder), *_lstms(ladder)]
    pair, long = _pair(ladder), [_longer(model) for model in _pair(ladder)]
    every = [*models, *(model for model in pair for _ in range(SEEDS - 1)), *long]
    flops = sum(model.counts().flops_per_token("attention") for model in every)
    # A multiple of the long context's batch, so that all see the same number of tokens.
    steps = 2 * math.floor(compute / flops / (2 * BATCH_TOKENS))
    if steps < FEWEST_UPDATES:
        raise too_little(compute, "comparison of architectures")
    tokens = steps * BATCH_TOKENS
    runs = [small_run(model, tokens=tokens, data=data) for model in models]
    runs += [
        small_run(model, tokens=tokens, data=data, seed=seed) for model in pair for seed in range(1, SEEDS)
    ]
    # Two sequences of 256 are too few for a batch: the long pair has four.
    runs += [small_run(model, tokens=tokens, data=data, batch_tokens=2 * BATCH_TOKENS) for model in long]
    return tuple({run.id: run for run in runs}.values())


def _ladder(largest: float, n_vocab: int) -> list[ModelConfig]:
    """Transformers of the recipe, smallest first."""
    from allometry.studies.core.recipe import small_model

    targets = [largest / STEP**k for k in reversed(range(SIZES))]
    return list(dict.fromkeys(small_model(max(1, round(n)), n_vocab=n_vocab) for n in targets))


def _universal(ladder: list[ModelConfig]) -> list[ModelConfig]:
    """For each width the Universal Transformers with the same distinct blocks; the largest width, which
    would cost the most, only at the fewest repetitions."""
    from allometry.models.universal import UniversalConfig

    made: list[ModelConfig] = []
    for reuse in REUSES:
        for model in ladder if reuse == min(REUSES) else ladder[:-1]:
            shape = model.model_dump(exclude={"family", "n_layer", "init"})
            made.append(UniversalConfig(**shape, n_layer=model.n_layer * reuse, reuse=reuse))  # type: ignore[attr-defined]
    return made


def _lstms(ladder: list[ModelConfig]) -> list[ModelConfig]:
    """LSTMs at the transformers' N: two layers at every size, one and four at three sizes."""
    return [
        _lstm(model, layers)
        for layers in LSTM_LAYERS
        for model in (ladder if layers == 2 else ladder[-1::-2])
    ]


def _lstm(model: ModelConfig, layers: int) -> ModelConfig:
    """The LSTM of so many layers with N = 8 layers d_model^2 nearest to a transformer's."""
    from allometry.models.lstm import LSTMConfig

    width = 4 * max(1, round(math.sqrt(model.counts().N / (8 * layers)) / 4))
    return LSTMConfig(n_layer=layers, d_model=width, n_ctx=model.n_ctx, n_vocab=model.n_vocab)


def _pair(ladder: list[ModelConfig]) -> list[ModelConfig]:
    """The transformer in the middle of the ladder, and its LSTM."""
    middle = ladder[len(ladder) // 2]
    return [middle, _lstm(middle, 2)]


def _longer(model: ModelConfig) -> ModelConfig:
    return model.replace(n_ctx=LONG_CONTEXT)
