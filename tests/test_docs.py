"""The documentation cannot rot: its Python blocks run, its commands exist, and the README's map is true."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from allometry.cli import COMMANDS, main
from allometry.models import base as models
from allometry.studies.core import study as studies

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
    monkeypatch.setattr(
        models, "_FAMILIES", dict(models.families())
    )  # what a page registers is forgotten again
    monkeypatch.setattr(studies, "_STUDIES", studies.studies())
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # classes look up the module that they are defined in
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
    places = (ROOT, ROOT / "allometry", ROOT / "tests", *(ROOT / "allometry").glob("*/"))
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
