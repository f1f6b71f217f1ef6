"""Uniform random sequences in sets that pass what a model can hold (Morris et al. 2025, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allometry.studies.designs.base import register, too_little

if TYPE_CHECKING:
    from allometry.models.transformer import TransformerConfig
    from allometry.train.config import DataConfig, RunConfig

SYMBOLS, LENGTH = 64, 17
"""Alphabet and length of a sequence: 16 predicted symbols of 6 bits. Few symbols leave most parameters of so
small a model to the blocks; the paper finds the capacity to depend on neither."""

SHAPES = ((1, 16), (2, 16), (2, 24), (2, 32))
"""Layers and width: 4e3 to 3e4 parameters, embeddings included, which the paper counts too."""

BITS_PER_PARAMETER = 3.6
"""The paper's capacity, in which the sizes of the sets are measured."""

FILLINGS = (0.5, 1.0, 2.0, 4.0)
"""Bits of a training set over the capacity that the paper would give the model."""

FEWEST_UPDATES = 20
"""Updates of the smallest model; larger ones get more, in proportion to their parameters."""


@register
def capacity(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Every shape on sets from half to four times the expected capacity, tokens in proportion to parameters.

    `data` is not read: the sequences are drawn at random.
    """
    from allometry.studies.recipe import BATCH_TOKENS

    models = [_model(*shape) for shape in SHAPES]
    sizes = [model.counts().N_total for model in models]
    flops = sum(m.counts().flops_per_token("attention") * n for m, n in zip(models, sizes, strict=True))
    per_parameter = compute / flops / len(FILLINGS)
    if per_parameter * sizes[0] < FEWEST_UPDATES * BATCH_TOKENS:
        raise too_little(compute, "capacity of models")
    return tuple(
        _run(model, round(per_parameter * n / BATCH_TOKENS) * BATCH_TOKENS, filling)
        for model, n in zip(models, sizes, strict=True)
        for filling in FILLINGS
    )


def _model(n_layer: int, d_model: int) -> TransformerConfig:
    from allometry.models.transformer import TransformerConfig
    from allometry.studies.recipe import heads

    return TransformerConfig(
        n_layer=n_layer, d_model=d_model, n_head=heads(d_model), d_ff=4 * d_model, n_ctx=LENGTH - 1,
        n_vocab=SYMBOLS + 1,
    )  # fmt: skip


def _run(model: TransformerConfig, tokens: int, filling: float) -> RunConfig:
    import math

    from allometry.data.uniform import Uniform
    from allometry.studies.recipe import small_run
    from allometry.train.config import DataConfig

    bits_each = (LENGTH - 1) * math.log2(SYMBOLS)
    wanted = round(filling * BITS_PER_PARAMETER * model.counts().N_total / bits_each)
    sequences = max(wanted, Uniform(symbols=SYMBOLS, length=LENGTH).fewest)
    corpus = f"synthetic:uniform,symbols={SYMBOLS},length={LENGTH},sequences={sequences},seed=0"
    data = DataConfig(corpus=corpus, tokenizer="symbols", probe="trained")
    run = small_run(model, tokens=tokens, data=data, weight_decay=0.0, evals_per_octave=2)
    return run.replace(data=data.replace(eval_tokens=1024))
