"""Saving charts: every format from its suffix, both modes, whole files or none, and errors that say
what to do.
"""

import base64
import hashlib
import json
import re
from pathlib import Path

import altair as alt
import pandas as pd
import pytest

from allometry import figures
from allometry.core.errors import AllometryError
from allometry.figures import theme
from allometry.figures.theme import Figure

MAGIC = {
    ".svg": b"<svg",
    ".png": b"\x89PNG",
    ".pdf": b"%PDF",
    ".json": b"{",
    ".html": b"<!DOCTYPE html>",
}


@pytest.fixture(scope="module")
def figure(planted_runs: pd.DataFrame) -> Figure:
    return figures.power_law(planted_runs, x="N", slopes={"paper": -0.076})


@pytest.mark.parametrize("suffix", MAGIC)
def test_the_suffix_says_the_format(figure: Figure, tmp_path: Path, suffix: str) -> None:
    path = figures.save(figure, tmp_path / "new" / f"chart{suffix}")
    assert path.read_bytes().lstrip().startswith(MAGIC[suffix])
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_chart_alone_is_saved_as_a_figure_is(figure: Figure, tmp_path: Path) -> None:
    spec = json.loads(figures.save(figure.chart, tmp_path / "c.json").read_text())
    assert spec["width"] == theme.WIDTH
    assert spec["config"]["background"] == theme.palette("light")["paper"]


def test_the_mode_changes_the_colours_and_nothing_else(figure: Figure) -> None:
    light, dark = theme.svg(figure), theme.svg(figure, mode="dark")
    assert theme.palette("light")["paper"] in light
    assert theme.palette("dark")["paper"] in dark
    assert light.count("<path") == dark.count("<path")


@pytest.mark.parametrize("name", ["chart.gif", "chart"])
def test_an_unknown_suffix_lists_the_known(figure: Figure, tmp_path: Path, name: str) -> None:
    with pytest.raises(AllometryError, match="cannot save") as caught:
        figures.save(figure, tmp_path / name)
    assert ".svg" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_an_error(figure: Figure, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AllometryError, match="cannot write"):
        figures.save(figure, tmp_path / "file" / "chart.json")


def test_an_unknown_mode_is_an_error() -> None:
    with pytest.raises(AllometryError, match="unknown mode"):
        theme.palette("sepia")  # type: ignore[arg-type]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_has_the_contrast_that_the_accessibility_guidelines_ask(mode: theme.Mode) -> None:
    colours = theme.palette(mode)
    paper = luminance(colours["paper"])

    def contrast(colour: str) -> float:
        bright, dim = sorted((luminance(colour), paper), reverse=True)
        return (bright + 0.05) / (dim + 0.05)

    assert min(contrast(colours[k]) for k in ("ink", "muted", "accent")) >= 4.5
    assert min(contrast(colour) for colour in colours["category"]) >= 3


def test_a_notebook_shows_the_figure(figure: Figure) -> None:
    html = figure._repr_html_()
    assert "<svg" in html
    assert "Points are means" in html


def test_no_text_of_the_data_runs_in_a_saved_page(tmp_path: Path) -> None:
    evil = "</script><script>document.title='XSS'</script><!--"
    chart = alt.Chart(pd.DataFrame({"x": [1, 2], "who": [evil, "\u2028"]}), title=evil)
    page = theme.save(chart.mark_point().encode(x="x", color="who"), tmp_path / "x.html").read_text()
    assert page.count("<script") == page.count("</script>") == 3
    assert evil not in page
    allowed = re.search(r"script-src ([^;]*);", page)[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert allowed == " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    assert json.loads(re.search(r'id="spec">(.*?)</script>', page)[1])["title"] == evil
