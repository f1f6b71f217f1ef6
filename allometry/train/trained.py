"""A finished run's model, ready to be used, examined or exported.

from allometry.models.hf import export_gpt2
from allometry.train.trained import trained_model
export_gpt2(trained_model(Path("runs/transformer-4x64-…")), Path("exported"))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from allometry.core.errors import AllometryError
from allometry.core.files import read_json
from allometry.train.checkpoint import final_parameters
from allometry.train.config import RunConfig

if TYPE_CHECKING:
    from torch import nn


def trained_model(directory: Path) -> nn.Module:
    """Return the module of a finished run with its trained fp32 weights, in evaluation mode.

    Raises AllometryError if there is no run, it is not finished, or its files are damaged.
    """
    stored = read_json(directory / "config.json")
    if stored is None:
        raise AllometryError(f"{directory} holds no run: it has no config.json", hint="allometry runs list")
    parameters = final_parameters(directory)
    model = RunConfig.model_validate(stored["config"]).model.build()
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in parameters.items()})
    return model.eval()
