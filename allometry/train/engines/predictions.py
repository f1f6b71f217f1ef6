"""Greedy predictions of a model: the most probable token at each position, compared with the target."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from allometry.train.engines.base import State, Tokens

LOGITS = 1 << 24
"""Logits that are held at once: 64 MB in fp32."""


@torch.no_grad()
def hits(module: nn.Module, windows: Tokens, device: torch.device) -> NDArray[np.bool_]:
    """Return whether the most probable token is the target, for windows (n, n_ctx + 1): shape (n, n_ctx)."""
    module.eval()
    vocabulary = int(module.get_parameter("embed.weight").shape[0])
    rows = max(1, LOGITS // (vocabulary * (windows.shape[1] - 1)))
    parts = []
    for first in range(0, len(windows), rows):
        part = np.ascontiguousarray(windows[first : first + rows], dtype=np.int64)
        tokens = torch.from_numpy(part).to(device)
        parts.append((module(tokens[:, :-1]).argmax(-1) == tokens[:, 1:]).cpu())
    return torch.cat(parts).numpy()


def with_parameters(module: nn.Module, state: State) -> nn.Module:
    """Load the parameters of an engine's state into the module, and return it."""
    found = {
        k.removeprefix("params/"): torch.from_numpy(v) for k, v in state.items() if k.startswith("params/")
    }
    module.load_state_dict(found)
    return module
