"""Sets of text that pass what a model can hold, and a larger model that has read everything else (Morris et
al. 2025, section 4).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allometry.studies.designs.base import register, too_little

if TYPE_CHECKING:
    from allometry.data.tokens import Manifest
    from allometry.models.base import ModelConfig
    from allometry.train.config import DataConfig, RunConfig

SHAPES = ((2, 16), (2, 24), (2, 32))
"""Layers and width: 1.1e4 to 3.5e4 parameters with bytes, embeddings included. At width 8 not even two blocks
are learnt by heart in hundreds of passes."""

BLOCK = 520
"""Tokens of the blocks that sets are made of: eight windows of the recipe's context, which are probed."""

BITS_PER_PARAMETER, BITS_PER_BYTE = 3.6, 2.5
"""The paper's capacity, and about what text costs a model of this scale: the measures of a set."""

FILLINGS, FEW_FILLINGS = (0.0625, 0.125, 0.25, 0.5, 1.0, 4.0), (0.0625, 0.25, 4.0)
"""Bits of a set over the paper's capacity. Sets are the nearest power of two of blocks."""

FEWEST_BLOCKS = 16
"""Blocks of a corpus below which there is no series of sets and no text beside them."""

REFERENCE_SHARE, N_AT_REFERENCE, REFERENCE = 0.3, 1e5, 2.4e13
"""Share of the compute for the model that knows the language, and its size at so many FLOPs of the design."""

SMALLEST_REFERENCE = 5e4
"""N of that model at any compute: twice the largest of the others."""

ENOUGH = 3e12
"""FLOPs from which all sets, and several seeds of all sizes but the largest, are affordable."""

SEEDS = 2

FEWEST_UPDATES = 20
"""Updates of the smallest model; larger ones get more, in proportion to their parameters."""

EVAL_TOKENS = 32_768

PROMPTS, FEW_PROMPTS = 64, 8
"""Held-out texts that the first seed of every model continues at its end, for what it copies."""


@register
def texts(compute: float, data: DataConfig) -> tuple[RunConfig, ...]:
    """Every shape on nested sets of blocks for tokens in proportion to its parameters, never stopped, without
    weight decay; and a reference on all the text but the blocks that are probed. All probe the same windows,
    and the first seed of each writes.

    None where the corpus has fewer than FEWEST_BLOCKS blocks.
    """
    from allometry.data.tokens import manifest_of
    from allometry.studies.recipe import BATCH_TOKENS

    text = manifest_of(data.corpus, data.tokenizer)
    plenty = compute >= ENOUGH
    models = [_model(*shape, n_vocab=text.n_vocab) for shape in SHAPES]
    sizes = [model.counts().N_total for model in models]
    seeds = [SEEDS if plenty and model is not models[-1] else 1 for model in models]
    flops = [model.counts().flops_per_token("attention") for model in models]
    fillings = FILLINGS if plenty else FEW_FILLINGS
    spent = sum(f * n * s for f, n, s in zip(flops, sizes, seeds, strict=True)) * len(fillings)
    per_parameter = (1 - REFERENCE_SHARE) * compute / spent
    if per_parameter * sizes[0] < FEWEST_UPDATES * BATCH_TOKENS:
        raise too_little(compute, "sets of text")
    pool = _pool(text)
    if not pool:
        return ()
    data = data.replace(novelty=PROMPTS if plenty else FEW_PROMPTS)
    runs = [
        _run(model, per_parameter * n, data, seed, limit=BLOCK * blocks)
        for model, n, count in zip(models, sizes, seeds, strict=True)
        for blocks in _sets(n, text, fillings, pool)
        for seed in range(count)
    ]
    return (*runs, _reference(REFERENCE_SHARE * compute, compute, data, text, pool))


def _model(n_layer: int, d_model: int, *, n_vocab: int) -> ModelConfig:
    from allometry.studies.recipe import small_model

    return small_model(1, n_vocab=n_vocab, n_layer=n_layer, d_model=d_model)


def _pool(text: Manifest) -> int:
    """Blocks that the reference does without, a power of two: those that are probed, half of the text at
    most; 0 where it has too few.
    """
    from allometry.train.probes import REACH

    blocks = text.train_tokens // BLOCK
    return min(REACH, 2 ** int(math.log2(blocks // 2))) if blocks >= FEWEST_BLOCKS else 0


def _sets(total: int, text: Manifest, fillings: tuple[float, ...], pool: int) -> list[int]:
    """Blocks of the sets of a model of `total` parameters; half the pool stays untrained by all."""
    bits = BLOCK * text.bytes_per_token * BITS_PER_BYTE
    wanted = [max(1.0, filling * BITS_PER_PARAMETER * total / bits) for filling in fillings]
    powers = [2 ** round(math.log2(blocks)) for blocks in wanted]
    return sorted({blocks for blocks in powers if blocks <= pool // 2})


def _reference(compute: float, whole: float, data: DataConfig, text: Manifest, pool: int) -> RunConfig:
    from allometry.studies.recipe import small_model

    size = max(SMALLEST_REFERENCE, N_AT_REFERENCE * math.sqrt(whole / REFERENCE))
    model = small_model(round(size), n_vocab=text.n_vocab)
    return _run(model, compute / model.counts().flops_per_token("attention"), data, 0, skip=BLOCK * pool)


def _run(
    model: ModelConfig, tokens: float, data: DataConfig, seed: int, *, limit: int | None = None, skip: int = 0
) -> RunConfig:
    from allometry.studies.recipe import BATCH_TOKENS, small_run

    run = small_run(
        model,
        tokens=max(1, round(tokens / BATCH_TOKENS)) * BATCH_TOKENS,
        data=data.replace(
            limit=limit, skip=skip, spread=BLOCK, probe="windows", novelty=0 if seed else data.novelty
        ),
        seed=seed,
        **({} if skip else {"weight_decay": 0.0}),
    )
    return run.replace(data=run.data.replace(eval_tokens=EVAL_TOKENS))
