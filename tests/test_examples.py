"""Every example runs as it is, and says something."""

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from allometry.core import plugins
from allometry.models.base import FAMILIES

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
TRAIN = ("own_model.py", "transformer_against_lstm.py")
"""Those that train for minutes."""


@pytest.fixture
def own_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets the plugins that an example loads."""
    known = dict(plugins._loaded)
    monkeypatch.setenv(plugins.VARIABLE, "")
    with FAMILIES.temporary():
        yield
    plugins._loaded.clear()
    plugins._loaded.update(known)


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.name in TRAIN else []) for p in EXAMPLES],
)
@pytest.mark.usefixtures("own_plugins")
def test_examples_run(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.name in TRAIN:
        monkeypatch.chdir(tmp_path)  # their stores
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_the_module_of_the_example_is_short() -> None:
    """What a user writes for a family of his own: at most 40 lines, imports included."""
    text = next(p for p in EXAMPLES if p.name == "own_model.py").read_text()
    start, end = text.index("import torch"), text.index("if __name__")
    assert sum(bool(line.strip()) for line in text[start:end].splitlines()) <= 40
