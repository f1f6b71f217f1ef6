"""Checks of a plugin's corpus, tokenizer or study: each raises AllometryError with what is wrong and the remedy."""

from __future__ import annotations

from itertools import islice

import numpy as np

from allometry.core.errors import AllometryError
from allometry.data.corpora import resolve
from allometry.data.spec import TOKENIZERS
from allometry.studies.core.plan import smallest
from allometry.studies.core.study import study
from allometry.train.config import DataConfig

DOCUMENTS = 50
"""Documents of a corpus that are read twice."""

SAMPLE = "A law: 3.5 of it."


def check_corpus(name: str) -> None:
    """Refuse a corpus that has no text, or other text each time it is read."""
    spec = resolve(name)
    first, second = (list(islice(spec.documents(), DOCUMENTS)) for _ in range(2))
    if not any(document.text.strip() for document in first):
        raise AllometryError("it has no text", hint="yield one text a document")
    if first != second:
        raise AllometryError(
            "its documents differ when it is read again, so no run of it could be made again",
            hint="read in a fixed order: sorted(...), and no random numbers without a seed",
        )
    if spec.fingerprint() != spec.fingerprint():
        raise AllometryError(
            "its fingerprint differs each time",
            hint="make it from what the text depends on: a version, a hash",
        )


def check_tokenizer(name: str) -> None:
    """Refuse a tokenizer whose ids do not give the text again, or lie outside its vocabulary."""
    made = TOKENIZERS[name]()
    ids = np.asarray(made.encode(SAMPLE))
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= made.n_vocab):
        raise AllometryError(f"an id is outside 0 to {made.n_vocab - 1}", hint="mend n_vocab or encode")
    if not 0 <= made.separator < made.n_vocab or made.separator in ids:
        raise AllometryError(
            "its separator is no id of its own", hint="keep one id that no text is encoded to, within n_vocab"
        )
    if made.decode(ids) != SAMPLE:
        raise AllometryError(
            f"{SAMPLE!r} comes back as {made.decode(ids)!r}", hint="mend decode, or keep what encode drops"
        )


def check_study(name: str) -> None:
    """Refuse a study that cannot be planned, or asks for less when it is given more."""
    asked, data = study(name), DataConfig()
    if not asked.question:
        raise AllometryError("it asks no question", hint="question = 'How does ...?'")
    least = smallest(lambda compute: asked.sweep(compute, data))
    spent = [
        sum(
            run.model.counts().flops_per_token("attention") * run.train.tokens for run in asked.sweep(c, data)
        )
        for c in (least, 10 * least)
    ]
    if spent[1] < spent[0]:
        raise AllometryError(
            "given ten times the compute it asks for less", hint="let tokens or sizes grow with compute"
        )
    if asked.sweep(least, data).ids != asked.sweep(least, data).ids:
        raise AllometryError("asked twice it plans different runs", hint="no random numbers without a seed")
