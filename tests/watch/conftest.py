from pathlib import Path

import pytest
from halfway import make

from allometry.runs.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make(tmp_path / "runs")
