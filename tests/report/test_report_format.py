"""Numbers, intervals and markup as a report writes them."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allometry.figures import theme
from allometry.report import page as fmt
from allometry.report.build import Constant, strip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12288, "12,288"), (np.int64(7), "7"), (0.0812345, "0.08123"), (1.5, "1.500"), (2.0, "2"),
        (-0.25, "−0.2500"),
        (1.234567e13, "1.235e13"), (5e-5, "5e−5"), (0.0, "0"), (math.nan, "–"), (None, "–"), (pd.NaT, "–"),
        (math.inf, "∞"), (True, "yes"), (np.bool_(False), "no"), ("a<b", "a<b"), (10**15, "1e15"),
        ([1, 2], "[1, 2]"),
    ],
)  # fmt: skip
def test_numbers(value: object, text: str) -> None:
    assert fmt.number(value) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.08123, 0.0741, 0.0889), "0.081 [0.074, 0.089]"),
        ((0.55, 0.41, 0.71), "0.55 [0.41, 0.71]"),
        ((1.3e9, 4.1e8, 5.2e9), "1.3e9 [4.1e8, 5.2e9]"),
        ((-0.5, -0.6, -0.4), "−0.50 [−0.60, −0.40]"),
        ((0.5, math.nan, math.nan), "0.5000"),
        ((123.4, 100.2, 160.9), "123 [100, 161]"),
    ],
)
def test_intervals_have_the_digits_that_they_support(numbers: tuple[float, float, float], text: str) -> None:
    assert fmt.interval(*numbers) == text


@settings(max_examples=50, derandomize=True)
@given(st.floats(1e-3, 1e5), st.floats(1e-3, 0.5))
def test_an_interval_is_never_shown_as_empty(value: float, width: float) -> None:
    text = fmt.interval(value, value * (1 - width), value * (1 + width))
    low, high = text.split("[")[1].rstrip("]").split(", ")
    assert low != high


def test_markup_is_small_and_everything_else_is_escaped() -> None:
    assert fmt.inline("`a*b*<` *em* **st** 2*3*4 <b>") == (
        "<code>a*b*&lt;</code> <em>em</em> <strong>st</strong> 2*3*4 &lt;b&gt;"
    )
    assert fmt.paragraphs("one\n\ntwo & three") == "<p>one</p>\n<p>two &amp; three</p>"


@settings(max_examples=50, derandomize=True)
@given(st.text(max_size=40))
def test_any_text_survives_a_script_element(text: str) -> None:
    embedded = theme.script_json({"text": text, "nan": math.nan})
    assert "<" not in embedded
    assert json.loads(embedded) == {"text": text, "nan": None}


def constant(**changes: float) -> Constant:
    values = {"ours": 0.08, "low": 0.07, "high": 0.09} | changes
    return Constant(
        name="x", symbol="x", published={"p<": 0.076}, level=0.95, verdict="agrees", why="", **values
    )


def test_the_strip_shows_ours_and_theirs_in_order() -> None:
    drawing = str(strip(constant()))
    assert "p&lt;: 0.076" in drawing
    assert drawing.count("strip-paper") == 1
    assert drawing.count("strip-bar") == 1
    assert str(strip(constant(ours=math.nan))) == ""
    assert "strip-bar" not in str(strip(constant(low=math.nan)))


@pytest.mark.parametrize(("text", "name"), [("L(N, D)!", "l-n-d"), ("<>", "untitled"), ("Été 2", "t-2")])
def test_identifiers(text: str, name: str) -> None:
    assert fmt.identifier(text) == name


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("as N^-0.073 and C^a", "as N<sup>−0.073</sup> and C<sup>a</sup>"),
        ("L^−5.2 [−6.4, −4.1]", "L<sup>−5.2</sup> [−6.4, −4.1]"),
        ("D_T = k · D_F^α N^(1/3)", "D<sub>T</sub> = k · D<sub>F</sub><sup>α</sup> N<sup>1/3</sup>"),
        ("α_N, N_opt(C), d_model", "α<sub>N</sub>, N<sub>opt</sub>(C), d<sub>model</sub>"),
        ("`N^-0.073` of least_data and a_very_long_name", "<code>N^-0.073</code> of least_data and a_very_long_name"),
        ("a^<b> & c_<i>", "a^&lt;b&gt; &amp; c_&lt;i&gt;"),
    ],
)  # fmt: skip
def test_powers_and_indices_are_typeset(text: str, html: str) -> None:
    assert fmt.inline(text) == html
    if "`" not in text:
        assert fmt.formula(text) == html


def test_an_abstract_ends_with_a_sentence_and_loses_no_word() -> None:
    sentence = "The loss falls as N^-0.07 (95 % interval 0.06 to 0.08), Kaplan et al. had more. "
    first, rest = fmt.abstract(sentence * 9)
    assert len(first.split()) <= fmt.ABSTRACT
    assert first.endswith("had more.")
    assert f"{first} {rest}".split() == (sentence * 9).split()
    assert fmt.abstract("word " * 200) == ("word " * 200, "")  # one sentence is never cut
    assert fmt.abstract("Short.") == ("Short.", "")
