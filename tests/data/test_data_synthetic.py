"""Generated languages: the stated entropy is the loss of the model that knows the language."""

from pathlib import Path

import numpy as np
import pytest

from allometry.core.errors import AllometryError
from allometry.data.generated import Language
from allometry.data.tokens import prepare


def knowing_loss(language: Language) -> tuple[float, float]:
    """Mean and standard error, in nats per byte, of the loss of a model that knows every ranking."""
    position = np.argsort(language.ranking(), axis=1)
    p, q = np.log(language.rank_probabilities), 1 / language.length
    losses, sizes = [], []
    for document in language.documents():
        characters = np.frombuffer(document.text.encode(), dtype=np.uint8).astype(int) - 32
        padded = np.concatenate([np.zeros(language.order, dtype=int), characters])
        context = np.zeros(len(characters), dtype=int)
        for back in range(language.order):
            context = context * (language.symbols + 1) + padded[back : back + len(characters)]
        ranks = position[context, characters - 1]
        losses.append(-p[ranks].sum() - (len(ranks) - 1) * np.log1p(-q) - np.log(q))
        sizes.append(len(ranks) + 1)
    loss, size = np.array(losses), np.array(sizes)
    mean = loss.sum() / size.sum()
    return float(mean), float(np.std(loss - mean * size) * len(size) ** 0.5 / size.sum())


@pytest.mark.parametrize(("order", "symbols"), [(1, 40), (2, 20), (3, 6)])
def test_the_stated_entropy_is_the_loss_of_the_true_model(order: int, symbols: int) -> None:
    language = Language(order=order, symbols=symbols, length=200, bytes=400_000, seed=3)
    mean, error = knowing_loss(language)
    assert abs(mean - language.entropy) < 4 * error
    assert error < 0.01


def test_a_uniform_language_has_the_entropy_of_its_alphabet() -> None:
    language = Language(exponent=0, symbols=32, length=10**9)
    assert language.entropy == pytest.approx(np.log(32), abs=1e-6)


def test_contexts_must_be_learned() -> None:
    """The unigram entropy lies well above the rate, so that there is something to learn."""
    text = "".join(document.text for document in Language(bytes=200_000).documents())
    shares = np.bincount(np.frombuffer(text.encode(), dtype=np.uint8)) / len(text)
    unigram = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    assert unigram > Language().entropy + 0.5


def test_language_and_text_are_functions_of_the_fields() -> None:
    one, same, other = (Language(bytes=20_000, seed=seed) for seed in (1, 1, 2))
    assert list(one.documents()) == list(same.documents())
    assert list(one.documents()) != list(other.documents())


def test_the_manifest_carries_the_entropy_per_token(tmp_path: Path) -> None:
    corpus = "synthetic:zipf,order=1,bytes=300k"
    by_byte = prepare(corpus, "bytes", cache=tmp_path).manifest
    assert by_byte.entropy == pytest.approx(Language(order=1).entropy)
    by_pair = prepare(corpus, "bpe:400", cache=tmp_path).manifest
    assert by_pair.entropy == pytest.approx(Language(order=1).entropy * by_pair.bytes_per_token)
    assert by_byte.train_tokens + by_byte.test_tokens == pytest.approx(300_000, rel=0.02)


@pytest.mark.parametrize(
    "numbers", [{"symbols": 1}, {"order": 0}, {"order": 9}, {"length": 2}, {"order": 1.5}]
)
def test_an_impossible_language_is_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(AllometryError) as caught:
        Language.of(numbers)
    assert caught.value.hint
