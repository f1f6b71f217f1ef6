"""Transformer against LSTM on a text of one's own: the same sizes, horizons and seeds, each with its laws.

    allometry sweep --family transformer,lstm --n 3e3:5e4:4 --seeds 2 --data files:my-texts/ --budget 10m

Here the text is the documentation of Allometry, so that the example needs nothing else; a real question wants
megabytes, and more sizes. Each family takes the learning rate of its own rule.
"""

from pathlib import Path

import allometry

if __name__ == "__main__":
    docs = Path(__file__).resolve().parent.parent / "docs"
    found = allometry.sweep(
        family=["transformer", "lstm"],
        n="3e3:5e4:4",
        seeds=2,
        context=64,
        data=f"files:{docs}",
        budget="4m",
        store="runs-transformer-against-lstm",
        name="transformer-against-lstm",
        question="Which family has the lower loss on this text, and does the difference grow with size?",
    )
    print(found.answer)
    print(
        found.tables["effects"].to_string(index=False)
    )  # what the family does, in pairs of equal size and seed
    print(found.constants[["name", "value", "low", "high"]].to_string(index=False))
    for name, figure in found.figures.items():  # in a notebook a figure shows itself
        print(name, "-", figure.title)
