"""A quarter of an hour of science on a GPU, prepared: the study `long_context` on a mixture of corpora.

Started by `python benchmarks/gpu.py --science --minutes 15`. The corpora are those that are here without a network:
what is installed, and what the cache holds already (`allometry data prepare NAME` fetches one). Their documents are
shuffled into one file, cut into tokens of several bytes, and the study trains transformers and LSTMs of up to 3e7
parameters on them, in contexts of 256 and 1,024 tokens. The same command continues after an interruption, on another
machine too if the folder travels.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from allometry.core.errors import AllometryError
from allometry.core.files import write_json, write_text
from allometry.data.corpora import corpora
from allometry.data.packages import fetched

TOKENIZER = "bpe:4096"
"""Tokens of three to four bytes: a context of 1,024 is a few pages, and the head stays small beside the blocks."""


def here() -> list[str]:
    """Return the corpora that can be read without a network."""
    return [name for name, spec in corpora().items() if spec.package is None or fetched(spec.package)]


def mixture(names: Sequence[str], path: Path, most: int | None = None) -> dict[str, int]:
    """Write the documents of the corpora in a random order that is always the same, as lines of JSON; return the
    characters of each. `most` limits the documents of each corpus. What is there already is kept.
    """
    about = path.with_suffix(".about.json")
    if path.exists() and about.exists():
        return {name: int(count) for name, count in json.loads(about.read_text())["characters"].items()}
    lines: list[str] = []
    characters = {}
    for name in names:
        texts = [
            document.text
            for _, document in zip(range(most or sys.maxsize), corpora()[name].read(None), strict=False)
        ]
        lines += [json.dumps({"text": text, "corpus": name}) for text in texts]
        characters[name] = sum(map(len, texts))
    random.Random(0).shuffle(lines)
    write_text(path, "\n".join(lines) + "\n")
    write_json(about, {"characters": characters})
    return characters


def commands(device: str, spend: Sequence[str], folder: Path) -> list[list[str]]:
    """Return the commands that train and report, and keep the results; `spend` is --budget or --compute with its
    value.
    """
    store = ["--store", str(folder / "runs")]
    data = ["--data", f"files:{folder / 'mixture.jsonl'}", "--tokenizer", TOKENIZER]
    return [
        ["run", "long_context", *store, "--device", device, *spend, *data],
        ["report", "long_context", *store, "--save", str(folder / "results")],
    ]


def conduct(device: str, spend: Sequence[str], folder: Path) -> int:
    """Make the mixture, train, report; return the first exit status that is not zero."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        characters = mixture(here(), folder / "mixture.jsonl")
    except AllometryError as error:
        print(error, file=sys.stderr)
        return 1
    print("mixture: " + ", ".join(f"{name} {count:,} characters" for name, count in characters.items()))
    for command in commands(device, spend, folder):
        status = subprocess.run([sys.executable, "-m", "allometry", *command], check=False).returncode
        if status:
            return status
    print(f"results in {folder / 'results'}: copy them to results/gpu")
    return 0
