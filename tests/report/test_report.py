"""The report: everything in it, nothing loaded from outside, hostile text harmless, and it runs in a
browser.
"""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from allometry import figures
from allometry.core.errors import AllometryError
from allometry.figures.theme import Figure
from allometry.report.build import Analysis, Constant, Section, Table, build, write
from allometry.report.page import chart_json

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028\u2029<!--'\"&{{7*7}}"


@pytest.fixture(scope="module")
def analysis(planted_runs: pd.DataFrame, planted_curves: pd.DataFrame) -> Analysis:
    runs = planted_runs.copy()
    runs.loc[0, "run"] = HOSTILE
    curves = planted_curves.replace({"run": {planted_runs.loc[0, "run"]: HOSTILE}})
    fitted = pd.DataFrame({"parameter": ["alpha_N"], "estimate": [0.0812], "low95": [0.0741]})
    scored = runs.assign(predicted=runs["loss"], measured=runs["loss"])
    return Analysis(
        study="quickstart",
        question=f"Does it follow a power law? {HOSTILE}",
        answer="Yes: *L* falls as **N** to the −0.081 on `sotu`.",
        command=f"allometry run quickstart --note '{HOSTILE}'",
        sections=(
            Section(title="Curves", text="One `code` word.\n\nA second paragraph.",
                    evidence=(figures.learning_curves(curves, runs), figures.power_law(runs))),
            Section(title=HOSTILE, text=HOSTILE,
                    evidence=(Table(name=HOSTILE, title=HOSTILE, caption=HOSTILE, frame=fitted),
                              figures.predictions(scored))),
        ),
        constants=(
            Constant(name="Exponent of L(N)", symbol="alpha_N", published={HOSTILE: 0.076}, ours=0.08123,
                     low=0.0741, high=0.0889, level=0.95, verdict="agrees", why=HOSTILE),
        ),
        warnings=(HOSTILE,),
        excluded=pd.DataFrame({"run": [HOSTILE], "reason": ["diverged"]}),
        runs=runs,
        environment={"machine": {"cores": 2, HOSTILE: HOSTILE}, "flags": ["avx2", "fma"], "git": None},
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(analysis: Analysis) -> str:
    return build(analysis)


class Reader(HTMLParser):
    """Tags with attributes, script contents by type, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.text = ""
        self.inside: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            kind, before = self.scripts[-1]
            self.scripts[-1] = kind, before + data
        elif self.inside != "style":
            self.text += data


@pytest.fixture(scope="module")
def read(page: str) -> Reader:
    return Reader(page)


def test_every_part_is_there(read: Reader) -> None:
    ids = {attributes["id"] for _, attributes in read.tags if "id" in attributes}
    expected = {"answer", "constants", "warnings", "s1-curves", "excluded", "runs", "environment", "again",
                "learning-curves", "loss-against-n", "all-runs", "predicted-and-measured"}  # fmt: skip
    assert expected <= ids
    for text in ("0.081 [0.074, 0.089]", "agrees", "0.076", "diverged", "avx2, fma", "machine.cores"):
        assert text in read.text


def test_ids_are_unique_and_the_contents_lead_to_them(read: Reader) -> None:
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in read.tags if tag == "a" and a.get("href")]
    assert links
    assert all(link is not None and link[0] == "#" and link[1:] in ids for link in links)


def test_nothing_is_loaded_from_outside(read: Reader, page: str) -> None:
    assert not {"link", "iframe", "object", "embed", "img", "base"} & {tag for tag, _ in read.tags}
    for _, attributes in read.tags:
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    outside = page
    for _, script in read.scripts:
        if len(script) > 500_000:  # Vega's own: namespaces and the name of its editor, never loaded
            outside = outside.replace(script, "")
    addresses = set(re.findall(r"https?://[^\s\"'<>\\]+", outside))
    assert all(a.startswith("https://vega.github.io/schema/") for a in addresses), addresses
    assert any(str(a.get("content")).startswith("default-src 'none';") for _, a in read.tags)
    assert "@import" not in page


def test_one_runtime_and_only_our_scripts_may_run(read: Reader) -> None:
    running = [script for kind, script in read.scripts if kind is None]
    assert len(running) == 2
    assert len(running[0]) > 500_000 > len(running[1])
    policy = next(a["content"] for tag, a in read.tags if tag == "meta" and a.get("http-equiv"))
    for script in running:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in str(policy)


def test_hostile_text_is_text(read: Reader) -> None:
    assert "alert(1)" in read.text
    assert "{{7*7}}" in read.text
    assert not [a for _, a in read.tags if "onerror" in a]
    assert "alert(" not in "".join(script for kind, script in read.scripts if kind is None)


def test_embedded_data_survives_and_cannot_leave_its_element(read: Reader, analysis: Analysis) -> None:
    blocks = [script for kind, script in read.scripts if kind == "application/json"]
    assert not [block for block in blocks if re.search("[<>\u2028\u2029]", block)]
    values: list[Any] = [json.loads(block) for block in blocks]
    tables = [value for value in values if isinstance(value, str)]
    assert any(HOSTILE in table.replace('""', '"') for table in tables)
    specs = [value for value in values if isinstance(value, dict) and "$schema" in value]
    assert len(specs) == 3
    assert all(spec["description"] for spec in specs)
    rows = [row for spec in specs for data in spec["datasets"].values() for row in data]
    assert any(row.get("run") == HOSTILE for row in rows)


def test_colours_agree_between_data_and_scale(planted_runs: pd.DataFrame) -> None:
    """Numbers are shortened in the page; a colour is found only if data and scale are shortened alike."""
    odd = planted_runs.assign(C=planted_runs["N"] * 3.141592653589793e7)
    section = Section(title="t", text="", evidence=(figures.isoflop(odd),))
    page = build(Analysis(study="s", question="q", answer="a", command="c", sections=(section,)))
    specs = [json.loads(text) for kind, text in Reader(page).scripts if kind and "$schema" in text]
    (spec,) = specs
    domain = set(spec["layer"][0]["encoding"]["color"]["scale"]["domain"])
    assert {row["C"] for data in spec["datasets"].values() for row in data} == domain


def test_size_and_emptiness(page: str) -> None:
    assert len(page.encode()) < 2_500_000
    bare = build(Analysis(study="s", question="q", answer="a", command="c", sections=()))
    read = Reader(bare)
    assert "Make it again" in read.text
    assert "Comparison with published values" not in read.text
    assert "Excluded runs" not in read.text


def test_it_is_written_whole(analysis: Analysis, tmp_path: Path) -> None:
    path = write(analysis, tmp_path / "deep" / "report.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(AllometryError, match="cannot write"):
        write(analysis, path / "below-a-file.html")


@pytest.fixture(scope="module")
def log(analysis: Analysis) -> Reader:
    """A collection's report: two chapters with the same figures, and one that could say nothing."""
    chapter = replace(
        analysis, date="2026-05-01T10:20:30+00:00", expected="A straight line.", next="Ask for more.",
        constants=tuple(replace(c, symbol="beta") for c in analysis.constants), runs=None, environment={},
    )  # fmt: skip
    silent = Analysis(
        study="silent", question="Why?", answer="Nothing to read yet.", command="c", sections=()
    )
    chapters = (replace(chapter, study="first"), replace(chapter, study="runs"), silent)
    return Reader(build(replace(analysis, sections=(), constants=(), excluded=None, chapters=chapters)))


def test_chapters_read_as_a_log(log: Reader) -> None:
    for text in ("What we expected", "A straight line.", "What to ask next", "Ask for more."):
        assert log.text.count(text) == 2
    assert log.text.count("1 May 2026, 10:20 UTC") == 2
    assert "Nothing to read yet." in log.text
    assert log.text.count("beta") == 4  # at the top, grouped by chapter, and in each chapter
    assert "first, runs" in log.text  # one row for a run that two chapters left out
    assert "1 run is excluded from some of the fits" in log.text


def test_ids_are_unique_across_chapters_and_the_contents_lead_to_them(log: Reader) -> None:
    ids = [attributes["id"] for _, attributes in log.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in log.tags if tag == "a" and a.get("href")]
    assert {"#first", "#first-s1-curves", "#runs-2", "#silent", "#excluded"} <= set(links)
    assert all(link is not None and link[0] == "#" and link[1:] in ids for link in links)
    names = [a["data-name"] for _, a in log.tags if a.get("class") == "csv"]
    assert len(names) == len(set(names))


def test_the_same_figure_is_the_same_text_whenever_it_is_drawn(planted_runs: pd.DataFrame) -> None:
    first, again = (chart_json(figures.power_law(planted_runs)) for _ in range(2))
    assert first == again


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_a_browser_draws_every_chart_without_a_word(analysis: Analysis, tmp_path: Path, mode: str) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    path = write(analysis, tmp_path / "report.html")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=390,900",
        "--virtual-time-budget=120000", "--dump-dom", f"{path.as_uri()}#{mode}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    assert 'data-drawn="3"' in done.stdout
    assert re.search(rf"<html[^>]*color-scheme: (only {mode}|{mode} only)", done.stdout)


def test_a_page_begins_with_an_abstract_and_its_first_figure(
    read: Reader, page: str, analysis: Analysis
) -> None:
    """Before tables and caveats; the figure stands there alone."""
    opening = page.split('<section id="answer"')[1].split("</section>")[0]
    (first, *_) = [item for part in analysis.sections for item in part.evidence if isinstance(item, Figure)]
    assert f'<figure id="{first.name}"' in opening
    assert page.count(f'<figure id="{first.name}"') == 1
    long = replace(analysis, answer="One sentence of seven words stands here. " * 30)
    opening = build(long).split('<section id="answer"')[1].split("</section>")[0]
    shown, folded = opening.split("All that was seen")
    assert shown.count("One sentence") == 11
    assert folded.count("One sentence") == 19


def test_five_caveats_are_shown_and_the_rest_is_folded_away(analysis: Analysis) -> None:
    warned = replace(analysis, warnings=tuple(f"caveat number {i}" for i in range(9)))
    part = build(warned).split('<section id="warnings">')[1].split("</section>")[0]
    shown, folded = part.split("<summary>4 more</summary>")
    assert shown.count("caveat number") == 5
    assert folded.count("caveat number") == 4
