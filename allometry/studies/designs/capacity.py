"""Uniform random sequences in sets that pass what a model can hold (Morris et al. 2025, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allometry.studies.core.run_sets import register, too_little

if TYPE_CHECKING:
    from allometry.models.transformer import TransformerConfig
    from allometry.train.config import DataConfig, RunConfig

SYMBOLS, LENGTH = 512, 65
"""Alphabet and length of a sequence: 64 predicted symbols of 9 bits. The paper finds the capacity to depend
on neither, but what a short training reaches does: of 64 symbols in sequences of 17 the same updates fix
a fifth less per parameter (`docs/log.md`)."""

SHAPES = ((1, 8), (1, 16), (2, 16), (1, 24))
"""Layers and width: 5e3 to 2e4 parameters, embeddings included, which the paper counts too."""

BITS_PER_PARAMETER = 3.6
"""The paper's capacity, in which the sizes of the sets are measured."""

FILLINGS = (0.5, 1.0, 2.0)
"""Bits of a training set over the capacity that the paper would give the model."""

HORIZONS = (1 / 16, 1 / 4, 4.0, 16.0)
"""Further horizons of the smallest model on the set of filling 1, over its own: how bits grow with it."""

RATE, BATCH, DECAY = 2.0, 2048, 0.5
"""The rate over the recipe's, tokens of a batch, and the share of the updates at which the rate falls."""

FEWEST_UPDATES = 8
"""Updates of the smallest model; larger ones get more, in proportion to their parameters."""


@register
def capacity(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Every shape on sets from half to twice the expected capacity, tokens in proportion to parameters; and
    the smallest one on one set to several horizons.

    `data` is not read: the sequences are drawn at random.
    """
    models = [_model(*shape) for shape in SHAPES]
    costs = [m.counts().N_total * m.counts().flops_per_token("attention") for m in models]
    per_parameter = compute / (len(FILLINGS) * sum(costs) + sum(HORIZONS) * costs[0])
    if per_parameter * models[0].counts().N_total < FEWEST_UPDATES * BATCH:
        raise too_little(compute, "capacity of models")
    runs = [_run(model, per_parameter, filling) for model in models for filling in FILLINGS]
    runs += [_run(models[0], per_parameter * horizon, 1.0) for horizon in HORIZONS]
    return tuple({run.id: run for run in runs}.values())


def _model(n_layer: int, d_model: int) -> TransformerConfig:
    from allometry.models.transformer import TransformerConfig
    from allometry.studies.core.recipe import heads

    return TransformerConfig(
        n_layer=n_layer, d_model=d_model, n_head=heads(d_model), d_ff=4 * d_model, n_ctx=LENGTH - 1,
        n_vocab=SYMBOLS + 1,
    )  # fmt: skip


def _run(model: TransformerConfig, per_parameter: float, filling: float) -> RunConfig:
    import math

    from allometry.data.uniform import Uniform
    from allometry.studies.core.recipe import learning_rate, small_run
    from allometry.train.config import DataConfig

    bits_each = (LENGTH - 1) * math.log2(SYMBOLS)
    total = model.counts().N_total
    wanted = round(filling * BITS_PER_PARAMETER * total / bits_each)
    sequences = max(wanted, Uniform(symbols=SYMBOLS, length=LENGTH).fewest)
    corpus = f"synthetic:uniform,symbols={SYMBOLS},length={LENGTH},sequences={sequences},seed=0"
    data = DataConfig(corpus=corpus, tokenizer="symbols", probe="trained")
    run = small_run(
        model, tokens=BATCH * max(1, round(per_parameter * total / BATCH)), data=data, batch_tokens=BATCH,
        lr=float(f"{RATE * learning_rate(model):.3g}"), decay=DECAY, weight_decay=0.0, evals_per_octave=2,
    )  # fmt: skip
    return run.replace(data={**run.data.model_dump(), "eval_tokens": 1024})
