"""How much of a trained model's text is copied from its training data, compared with human text.

A run with `data.novelty` continues that many held-out texts when it has ended: plain sampling at temperature
1 after prompts of half a context. Its continuations and the true ones are then looked up in the tokens that
it was trained on (McCoy et al. 2021, "How much do language models copy from their training data?", arXiv
2111.09509). See `runs.novelty` for the reading of what is written. It costs as many forward passes as there
are tokens in LENGTH: at a context of 64, 64 texts cost what training on about 1.6e5 tokens does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from allometry.data.batches import duplicated, windows
from allometry.runs.files import write_json
from allometry.runs.novelty import FILE, FORMAT

if TYPE_CHECKING:
    from allometry.train.config import RunConfig
    from allometry.train.engines.base import State
    from allometry.train.inputs import Inputs

LENGTH = 128
"""Tokens of a continuation: they slide the context along."""

MOST = 64
"""The longest n-grams that are looked up."""

_STREAM = 4
"""The stream of random numbers that continuations are drawn from, beside the run's seed."""


def continued(test: npt.NDArray[np.unsignedinteger], n_ctx: int, count: int) -> npt.NDArray[np.int64]:
    """Return `count` held-out texts or as many as there are, evenly spread: prompts with what follows them, (n,
    max(1, n_ctx // 2) + LENGTH).

    AllometryError where the held-out text is too short for one.
    """
    width = _prompt(n_ctx) + LENGTH
    return windows(test, n_ctx=width - 1, n_tokens=count * (width - 1))


def _prompt(n_ctx: int) -> int:
    return max(1, n_ctx // 2)


def record(directory: Path, config: RunConfig, inputs: Inputs, state: State, step: int) -> None:
    """Continue the run's held-out texts with these parameters, and write down how often n-grams of the
    continuations, and of the true ones, occur in the training tokens.
    """
    from allometry.train.engines.predictions import with_parameters
    from allometry.train.generate import generate

    assert inputs.continued is not None
    prompt = _prompt(config.model.n_ctx)
    model = with_parameters(config.model.build(), state)
    written = generate(model, inputs.continued[:, :prompt], LENGTH, seed=(config.train.seed, _STREAM))
    counts = duplicated(
        inputs.order.tokens, np.concatenate([written, inputs.continued[:, prompt:]]), MOST
    ).tolist()
    found = {"generated": counts[: len(written)], "human": counts[len(written) :]}
    about = {"format": FORMAT, "step": step, "prompt": prompt, "length": LENGTH}
    write_json(directory / FILE, {**about, **found})
