"""Equations: the tables, their split, and windows that are one question each."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.core.errors import AllometryError
from allometry.data import tokenizers
from allometry.data.arithmetic import MODULAR, PRODUCTS, QUOTIENTS, Equations
from allometry.data.tokens import BatchOrder, prepare, windows

DIV = "synthetic:modular:29:div:0.5:0"


@settings(max_examples=20, derandomize=True, deadline=None)
@given(p=st.sampled_from([23, 29, 31]), operation=st.sampled_from([*MODULAR, *QUOTIENTS]))
def test_tables_are_whole_and_true(p: int, operation: str) -> None:
    table = Equations(operation=operation, modulus=p).table()
    a, b, c = table.T
    assert table.min() == 0
    assert table.max() == p - 1
    assert len(np.unique(a * p + b)) == len(table) == (p * (p - 1) if operation in QUOTIENTS else p * p)
    odd = b % 2 == 1
    if operation == "div":
        assert np.array_equal(c * b % p, a)
    elif operation == "divsub":
        assert np.array_equal((c * b % p)[odd], a[odd])
        assert np.array_equal(((c + b) % p)[~odd], a[~odd])
    elif operation == "x3xy2y":
        assert all(z == (x**3 + x * y**2 + y) % p for x, y, z in table[::7].tolist())


def test_permutations_multiply_as_a_group_does() -> None:
    product = {(a, b): c for a, b, c in Equations(operation="xy").table().tolist()}
    assert len(product) == 120**2
    assert all(product[0, k] == product[k, 0] == k for k in range(120))  # 0 changes nothing
    inverse = {a: b for (a, b), c in product.items() if c == 0}
    random = np.random.default_rng(0).integers(0, 120, (200, 3)).tolist()
    assert all(product[product[a, b], c] == product[a, product[b, c]] for a, b, c in random)
    for operation, last in (("xyx", lambda a: a), ("conjugate", inverse.get)):
        table = Equations(operation=operation).table().tolist()
        assert all(c == product[product[a, b], last(a)] for a, b, c in table[::37])
    assert {"xy", "xyx", "conjugate"} == set(PRODUCTS)


def test_a_share_is_trained_on_and_the_rest_is_held_out(tmp_path: Path) -> None:
    tokens = prepare(DIV, "symbols", cache=tmp_path)
    manifest = tokens.manifest
    assert (manifest.n_vocab, manifest.record, manifest.answer) == (29 + 3, 6, 4)
    assert manifest.train_documents == manifest.test_documents == 29 * 28 // 2
    sides = [
        {tuple(row) for row in np.reshape(each, (-1, 6)).tolist()} for each in (tokens.train, tokens.test)
    ]
    assert not sides[0] & sides[1]
    other = prepare("synthetic:modular:29:div:0.25:1", "symbols", cache=tmp_path)
    assert other.manifest.train_documents == 29 * 28 // 4
    coder = tokenizers.load(manifest.tokenizer)
    a, b, c = coder.decode(tokens.train[:5]).replace("div", "").replace("=", "").split()
    assert int(c) * int(b) % 29 == int(a)
    assert prepare(DIV, "bytes", cache=tmp_path).manifest.answer is None  # its records have no fixed length


@pytest.mark.parametrize("n_ctx", [4, 5])
def test_windows_are_questions(tmp_path: Path, n_ctx: int) -> None:
    tokens = prepare(DIV, "symbols", cache=tmp_path)
    order = BatchOrder(tokens.train, n_ctx=n_ctx, batch_tokens=58 * n_ctx, seed=3, record=6)
    epoch = np.concatenate([order.batch(step) for step in range(1, 8)])  # 7 x 58 = 406 questions
    assert len({tuple(row) for row in epoch.tolist()}) == 406
    tests = windows(tokens.test, n_ctx=n_ctx, n_tokens=10**6, record=6)
    assert tests.shape == (406, n_ctx + 1)
    for found in (epoch, tests):
        assert np.array_equal(found[:, 2] * found[:, 4] % 29, found[:, 0])
    assert windows(tokens.test, n_ctx=4, n_tokens=44, record=6).shape == (11, 5)
    with pytest.raises(AllometryError, match="longer than a record"):
        BatchOrder(tokens.train, n_ctx=6, batch_tokens=12, seed=0, record=6)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("synthetic:modular", "cannot read the equations"),
        ("synthetic:modular:97", "cannot read the equations"),
        ("synthetic:modular:many:add", "cannot read the equations"),
        ("synthetic:modular:97:pow", "unknown operation 'pow'"),
        ("synthetic:modular:97:add:1.0", "leaves one split empty"),
        ("synthetic:modular:96:div", "not prime"),
        ("synthetic:modular:7:add", "not between 23 and 512"),
        ("synthetic:s5:add", "unknown operation 'add'"),
        ("synthetic:modular:97:add,bytes=100", "unknown option"),
    ],
)
def test_what_cannot_be_written_out_says_why(corpus: str, message: str) -> None:
    with pytest.raises(AllometryError, match=message) as caught:
        prepare(corpus, "symbols")
    assert caught.value.hint


def test_symbols_are_for_closed_vocabularies() -> None:
    with pytest.raises(AllometryError, match="no closed vocabulary"):
        tokenizers.full_name("symbols", "sotu")
    with pytest.raises(AllometryError, match="'7' is none of the corpus's 2 symbols"):
        tokenizers.Symbols(("1", "2")).encode("1 7")


def test_wrong_answers_are_in_training_alone() -> None:
    clean, noisy = (list(Equations.of(f"modular:29:div:0.5:3{n}").documents()) for n in ("", ":0.2"))
    changed = [(a, b) for a, b in zip(clean, noisy, strict=True) if a.text != b.text]
    assert all(a.split == "train" for a, _ in changed)
    assert 406 * 0.2 * 0.85 < len(changed) <= 406 * 0.2  # some random answers are right
    assert all(a.text.split("=")[0] == b.text.split("=")[0] for a, b in changed)
    with pytest.raises(AllometryError, match="wrong answers"):
        Equations.of("modular:29:div:0.5:0:1")
