"""Text that models generate, and what a run records of its novelty."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from allometry import Store
from allometry.core.errors import AllometryError
from allometry.data.batches import duplicated
from allometry.models.base import families
from allometry.models.transformer import TransformerConfig
from allometry.runs.measurements import NOVELTY_COLUMNS
from allometry.train.checkpoint import trained_model
from allometry.train.config import RunConfig
from allometry.train.generate import LENGTH, MOST, continued, generate
from allometry.train.inputs import load_inputs
from allometry.train.loop import train

TINY = TransformerConfig(n_layer=1, d_model=16, n_ctx=8, n_vocab=5)


@pytest.mark.parametrize("family", sorted(families()))
def test_every_family_writes_the_same_text_for_the_same_seed(family: str) -> None:
    model = families()[family].from_n_params(2000, n_ctx=8, n_vocab=11).build(seed=1)
    prompts = [[1, 2, 3], [4, 5, 6]]
    first = generate(model, prompts, 20, seed=3)
    assert first.shape == (2, 20)
    assert set(np.unique(first)) <= set(range(11))
    assert (generate(model, prompts, 20, seed=3) == first).all()
    assert (generate(model, prompts, 20, seed=4) != first).any()
    assert model.training, "the model is left as it was"


def test_tokens_come_as_often_as_the_model_expects_them() -> None:
    model = TINY.build(seed=0)
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([[1, 2]]))[0, -1].double(), 0).numpy()
    counts = np.bincount(generate(model, [[1, 2]] * 4000, 1, seed=0)[:, 0], minlength=5)
    assert chisquare(counts, 4000 * expected / expected.sum()).pvalue > 1e-3
    best = np.argsort(expected)[::-1]
    assert set(generate(model, [[1, 2]] * 50, 1, temperature=0)[:, 0]) == {best[0]}
    assert set(generate(model, [[1, 2]] * 200, 1, top_k=2)[:, 0]) == set(best[:2])
    cold = generate(model, [[1, 2]] * 4000, 1, temperature=0.5)[:, 0]
    squared = expected**2 / (expected**2).sum()
    assert chisquare(np.bincount(cold, minlength=5), 4000 * squared).pvalue > 1e-3


def test_the_context_slides_along() -> None:
    model = TINY.build(seed=0)
    text = np.concatenate([[[1, 2, 3]], generate(model, [[1, 2, 3]], 20, temperature=0)], axis=1)
    with torch.no_grad():
        last = model(torch.from_numpy(text[:, -9:-1]))[0, -1].argmax()
    assert text[0, -1] == int(last)


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([[1] * 9], {}, "longer than the context"),
        ([[1, 2], [1]], {}, "one length"),
        ([[]], {}, "at least one token"),
        ([[7]], {}, "knows 0 to 4"),
        ([[1]], {"temperature": -1.0}, "nothing to draw"),
        ([[1]], {"top_k": 0}, "nothing to draw"),
    ],
)
def test_what_cannot_be_continued_says_why(
    prompts: list[list[int]], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(AllometryError, match=message):
        generate(TINY.build(), prompts, 3, **settings)


def test_a_run_records_what_it_copied(make_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = make_run(data={"novelty": 4, "limit": 3000, "spread": 100})
    store = Store(tmp_path / "runs", create=True)
    train(config, store.directory(config.id))
    found = store.novelty([config.id])
    assert list(found.columns) == list(NOVELTY_COLUMNS)
    assert len(found) == 2 * 4 * MOST
    inputs = load_inputs(config)
    assert inputs.continued is not None
    prompts, human = inputs.continued[:, :16], inputs.continued[:, 16:]
    again = generate(trained_model(store.directory(config.id)), prompts, LENGTH, seed=(0, 4))
    for source, text in (("generated", again), ("human", human)):
        own = found[found["source"] == source].pivot(index="prompt", columns="n", values="duplicated")
        assert own.to_numpy().tolist() == duplicated(inputs.order.tokens, text, MOST).tolist()
    assert found.loc[found["n"] == 3, "grams"].unique().tolist() == [LENGTH - 2]
    assert (found["duplicated"] <= found["grams"]).all()


def test_runs_without_it_record_nothing_and_keep_their_names(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = make_run(tokens=128)
    assert "novelty" not in config.identity()["data"]
    assert config.id != make_run(tokens=128, data={"novelty": 4}).id
    store = Store(tmp_path / "runs", create=True)
    train(config, store.directory(config.id))
    assert list(store.novelty().columns) == list(NOVELTY_COLUMNS)
    assert not len(store.novelty())


def test_held_out_text_that_is_too_short_for_a_prompt_says_so(make_run: Callable[..., RunConfig]) -> None:
    with pytest.raises(AllometryError, match="fewer than one window"):
        continued(np.zeros(LENGTH, np.uint16), 32, 4)
    assert continued(np.zeros(4 * LENGTH, np.uint16), 32, 100).shape == (3, 16 + LENGTH)
    with pytest.raises(AllometryError, match="novelty"):
        make_run(data={"loss_on": "answer", "novelty": 4})
