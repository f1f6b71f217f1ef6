"""How fast a trained BPE encodes the default corpus on one core, beside the library that trained it.

    python benchmarks/tokenizing.py [V]

The target is at least 10 MB/s of CPU time on one core. `tokenizers` (encode_batch_fast on one thread) is the
reference in the same run; ids are compared, and a difference is an error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

TARGET = 10.0
REPEATS = 5


def main(n_vocab: int) -> int:
    """Print MB/s of both, and return 1 if the target is missed."""
    from tokenizers import Tokenizer as Reference

    from allometry.core.env import cache_root
    from allometry.data import tokenizers
    from allometry.data.cache import slug
    from allometry.data.corpora import resolve
    from allometry.data.split import clean

    name = f"bpe:{n_vocab}@sotu"
    coder = tokenizers.load(name)
    home = slug(f"bpe:{n_vocab}", "sotu", identity=tokenizers.identity(name))
    reference = Reference.from_file(str(cache_root() / "tokenizers" / home / "tokenizer.json"))
    texts = [clean(document.text) for document in resolve("sotu").documents()]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6

    ours, our_seconds = best_of(lambda: [coder.encode(text) for text in texts], REPEATS)
    theirs, their_seconds = best_of(lambda: reference.encode_batch_fast(texts), 1)
    different = sum(a.tolist() != b.ids for a, b in zip(ours, theirs, strict=True))
    tokens = sum(len(ids) for ids in ours)
    print(f"{name}: {megabytes:.2f} MB, {tokens:,} tokens, {megabytes * 1e6 / tokens:.2f} bytes a token")
    print(f"  allometry (tiktoken) {megabytes / our_seconds:6.1f} MB/s of CPU, best of {REPEATS}")
    print(f"  tokenizers           {megabytes / their_seconds:6.1f} MB/s of CPU")
    print(f"  ratio                {their_seconds / our_seconds:6.1f}")
    print(f"  documents whose ids differ: {different} of {len(texts)}")
    return int(different > 0 or megabytes / our_seconds < TARGET)


def best_of(work: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """Return the result, and the least CPU time of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024))
