"""A model of one's own in a ladder of sizes, with its laws: a stack of causal convolutions.

allometry check examples/own_model.py
allometry sweep --plugin examples/own_model.py --family conv --n 2e3:6e4:6 --budget 3m
"""

import torch.nn.functional as F
from torch import Tensor, nn

import allometry


@allometry.family("conv", size="width", rate=lambda config: 0.2 / config.width)
class Conv(nn.Module):
    """Each layer adds what a convolution over the last `reach` positions makes of its input."""

    def __init__(self, n_vocab: int, width: int, n_layer: int = 3, reach: int = 4) -> None:
        super().__init__()
        self.reach = reach
        self.embed = nn.Embedding(n_vocab, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_layer))
        self.layers = nn.ModuleList(nn.Linear(reach * width, width) for _ in range(n_layer))
        self.out = nn.LayerNorm(width)
        self.head = nn.Linear(width, n_vocab, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (batch, time) to logits (batch, time, n_vocab)."""
        x = self.embed(tokens)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            padded = F.pad(
                norm(x), (0, 0, self.reach - 1, 0)
            )  # zeros before the first token, none after the last
            seen = padded.unfold(1, self.reach, 1).flatten(2)  # (batch, time, width x reach)
            x = x + F.gelu(layer(seen))
        return self.head(self.out(x))


if __name__ == "__main__":
    allometry.load_plugins(__file__)  # the worker processes need it as a file
    found = allometry.sweep(family="conv", n="2e3:6e4:6", budget="3m", store="runs-own-model")
    print(found.answer)
    print(found.constants.to_string(index=False))
