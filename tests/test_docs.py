"""The documentation cannot rot: its Python blocks run, its commands exist, and the README's map is true."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest
import quickstart_store as planted

from allometry.cli import COMMANDS, main
from allometry.core.errors import EXTRAS
from allometry.data.spec import CORPORA
from allometry.laws.zoo import LAWS
from allometry.models.base import FAMILIES
from allometry.studies.core.study import RUN_SETS, STUDIES

quickstart_store = planted.quickstart_store
ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text()) if kind == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page are one script, run beside the repository's files."""
    script = "\n".join(blocks(page, "python"))
    if not script:
        pytest.skip(f"{page.name} has no Python")
    for name in ("examples", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # classes look up the module that they are defined in
    registries = (FAMILIES, STUDIES, RUN_SETS, LAWS, CORPORA)
    with ExitStack() as stack:
        for registry in registries:
            stack.enter_context(registry.temporary())
        exec(compile(script, str(page), "exec"), vars(module))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text()
    inline = re.findall(r"`(allometry [^`]*)`", text)
    typed = [line.removeprefix("$ ") for code in blocks(page, "sh") for line in code.splitlines()]
    for line in [*inline, *typed]:
        words = line.split("#")[0].split()
        if words[:1] == ["allometry"] and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]):
            assert words[1] in COMMANDS, f"{page.name}: {line}"


STAND_INS = {
    "make quickstart": "",  # a planted store of the smallest quickstart stands for ten minutes of training
    "make test": "",  # this
    "allometry run generalisation --budget 1h": "allometry run generalisation --help",
    "allometry run kaplan --budget 1h": "allometry run kaplan --help",
}
"""What is run in place of commands that install or train: line of a page -> line that is run."""

LITERAL = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", ROOT / "docs" / "fitting.md"]


@pytest.mark.parametrize("page", LITERAL, ids=lambda page: page.name)
def test_shell_blocks_run_as_they_are_printed(
    page: Path,
    quickstart_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the order of the page, where its own Python and a quickstart have been run before."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(quickstart_store)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    if page.name == "fitting.md":
        names: dict[str, object] = {}
        exec(compile(blocks(page, "python")[0], str(page), "exec"), names)  # it makes the table runs.csv
    for line in (line for code in blocks(page, "sh") for line in code.splitlines()):
        typed = shlex.split(STAND_INS.get(" ".join(line.split("#")[0].split()), line), comments=True)
        if typed[:1] == ["allometry"]:
            with pytest.raises(SystemExit) as ended:
                main(typed[1:])
            said = capsys.readouterr()
            assert not ended.value.code, f"{page.name}: {line}: {said.err}"
        elif typed:
            assert typed[:2] in (["pip", "install"], ["uv", "pip"]), f"{page.name}: {line}"
            for target in typed:
                if target.startswith(".["):
                    assert target.strip(".[]") in EXTRAS, f"{page.name}: {line}"


def test_the_shell_blocks_leave_nothing_to_stand_ins_that_is_not_printed() -> None:
    lines = {
        " ".join(line.split("#")[0].split())
        for page in LITERAL
        for code in blocks(page, "sh")
        for line in code.splitlines()
    }
    assert {"make quickstart", "make test"} <= lines


TRIPLE = re.compile(r"(?P<value>[−-]?[\d.]+)( ?%)? \[(?P<low>[−-]?[\d.]+), (?P<high>[−-]?[\d.]+)\]")


def section(text: str, heading: str) -> str:
    """What stands below a heading of a page."""
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def triples(text: str) -> list[tuple[str, str, str]]:
    """Every "value [low, high]" of a text, without signs: a text may say "better by 3.9"."""
    found = []
    for match in TRIPLE.finditer(text):
        low, high = sorted((match["low"].strip("−-"), match["high"].strip("−-")), key=float)
        found.append((match["value"].strip("−-"), low, high))
    return found


def same(quoted: tuple[str, str, str], made: tuple[str, str, str]) -> bool:
    """Whether numbers are equal to the digits that the less precise one has, as parts or in per cent."""
    for scale in (1, 100):
        close = [
            abs(float(a) - scale * float(b)) <= 0.5001 * max(_unit(a), scale * _unit(b))
            for a, b in zip(quoted, made, strict=True)
        ]
        if all(close):
            return True
    return False


def _unit(number: str) -> float:
    """The weight of a number's last digit."""
    return 10.0 ** -len(number.partition(".")[2])


@pytest.mark.parametrize(
    ("guide", "folder"),
    [("reproducing-kaplan", "kaplan"), ("generalisation", "generalisation")],
)
def test_the_guides_quote_the_results_that_they_name(guide: str, folder: str) -> None:
    """Each interval of a row is one that the results of its study hold, with the level that they have."""
    made = {}
    for row in (ROOT / "results" / folder / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) == 8 and triples(cells[4]):
            made.setdefault(cells[1], []).extend(triples(cells[4]))
    levels = dict(re.findall(r">([^<>]+\]) <span class=\"level\">\((\d\d) %\)", _report(folder)))
    everything = [triple for found in made.values() for triple in found]
    text = section((ROOT / "docs" / f"{guide}.md").read_text(), "What came out here")
    rows = [row for row in text.splitlines() if "|" in row]
    checked = 0
    for row in rows:
        study = re.match(r"\| `(\w+)`", row)
        for triple in triples(row):
            if (folder, *triple) in FROM_FIGURES:
                continue
            found = [t for t in made.get(study[1], []) if same(triple, t)] if study else []
            found = found or [t for t in everything if not study and same(triple, t)]
            assert found, f"{folder} does not hold {triple}: {row}"
            level = {text for text, at in levels.items() if at == "90" and found[0] in triples(text)}
            assert bool(level) == ("90 %" in row), f"of which level is {triple}? {row}"
            checked += 1
    assert checked >= 6


FROM_FIGURES = {("generalisation", "40", "19", "65")}
"""Intervals that no row of constants holds: they are of a figure's table, by hand (90 %, said in the row)."""


def _report(folder: str) -> str:
    return (ROOT / "results" / folder / "report.html").read_text()


def test_the_readme_quotes_the_fits_that_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    """The rows about our own ten minutes that name a command: the command says the same."""
    text = section((ROOT / "README.md").read_text(), "What came out here")
    rows = [row for row in text.splitlines() if "`allometry fit examples/" in row]
    assert len(rows) == 2
    for row in rows:
        line = re.search(r"`(allometry fit [^`]*)`", row)
        assert line is not None
        with pytest.raises(SystemExit):
            main([*line[1].replace("examples/", f"{ROOT}/examples/").split()[1:], "--json"])
        fitted = json.loads(capsys.readouterr().out)["parameters"]
        exponents = [fitted[name] for name in ("alpha_N", "alpha_D", "alpha", "beta") if name in fitted]
        quoted = [float(value) for value, _, _ in triples(row)]
        assert quoted == pytest.approx(exponents, abs=0.006)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http", "mailto")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_map_in_the_readme_is_true() -> None:
    (block,) = [code for code in blocks(ROOT / "README.md", "") if "allometry/" in code]
    places = (ROOT, ROOT / "allometry", ROOT / "tests", *(ROOT / "allometry").glob("**/"))
    for name in re.findall(r"[\w/]+\.py|\w+/", block):
        assert any((place / name).exists() for place in places), f"the map names {name}"


def test_the_page_of_commands_is_what_they_say() -> None:
    found = importlib.util.spec_from_file_location("cli_docs", ROOT / "tools" / "cli_docs.py")
    assert found is not None
    assert found.loader is not None
    tool = importlib.util.module_from_spec(found)
    found.loader.exec_module(tool)
    stale = "run: python tools/cli_docs.py"
    assert (ROOT / "docs" / "cli.md").read_text() == tool.page(), stale
