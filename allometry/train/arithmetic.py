"""What decides a run's last digits besides its configuration and its machine: PyTorch's settings, and the GPU.

They hold for the whole process. Engines settle them before they compute, and a run's env.json keeps them.
"""

from __future__ import annotations

import os
from typing import Any

import torch


def settle(device: torch.device | str) -> dict[str, Any]:
    """Settle how fp32 numbers are multiplied on `device`, and return what env.json keeps of it.

    On a GPU cuDNN, whose kernels the LSTM's are, would round factors of fp32 products to 10 bits (TF32)
    unless told otherwise. PyTorch's own products are exact unless somebody asked for less.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    found: dict[str, Any] = {
        "device": str(device),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    return found if device.type != "cuda" else found | _of_gpu(device)


def _of_gpu(device: torch.device) -> dict[str, Any]:
    """The GPU and its libraries, and the switches that matter only there."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpu_memory": properties.total_memory,
        "compute_capability": [properties.major, properties.minor],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32_products": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "bf16_reduced_sums": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }
