"""The documentation site builds without a warning: every link and anchor of every page leads somewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install 'allometry[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install 'allometry[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    out = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert out.returncode == 0, out.stdout + out.stderr
    for page in ("index", "gallery/index", "api/index", "tutorial/index"):
        assert (tmp_path / f"{page}.html").exists()
    assert 'id="allometry.laws.fit.fit"' in (tmp_path / "api" / "index.html").read_text()
