"""One thread for every test; runs and curves that follow a planted law, for figures and reports."""

import contextlib
import os
import signal
from pathlib import Path

with contextlib.suppress(ImportError):
    import readline  # noqa: F401  (sets COLUMNS for child processes when it is loaded, unseen by os.environ)

with contextlib.suppress(ImportError):
    # asks for the stack when it is loaded, which takes seconds once torch is there
    import scrapy.core.downloader.contextfactory  # noqa: F401

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: two test processes share two cores
# never the user's cache: timings of a machine that runs tests would spoil the next plan
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "allometry"
os.environ["ALLOMETRY_CACHE"] = str(CACHE)
os.environ["COLUMNS"] = ""
del os.environ["COLUMNS"]  # output is as wide as it is, whoever's console the tests run on
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit that it is ignored

import hypothesis
import numpy as np
import pandas as pd
import pytest

hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Have pip refuse texts that are packages at once, except where slow tests ask for them."""
    if "not slow" in config.option.markexpr:
        os.environ["PIP_NO_INDEX"] = "1"
        os.environ.pop("PIP_FIND_LINKS", None)


SIZES = (4_600, 10_000, 22_000, 48_000, 105_000)
HORIZONS = (300_000, 600_000, 1_200_000, 2_400_000)
NOISE = 0.003


def planted_loss(n: float, d: np.ndarray | float) -> np.ndarray:
    """E + A/N^alpha + B/D^beta, with an optimum of N at each compute well inside the sizes."""
    return np.asarray(1.05 + 0.9 * (2.2e3 / n) ** 0.42 + (9e4 / np.asarray(d)) ** 0.5)


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with nothing in it but the compiled engine and the script of charts, which take seconds."""
    return _without_compiling(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `empty_cache`, for one test."""
    folder = _without_compiling(tmp_path / "cache")
    monkeypatch.setenv("ALLOMETRY_CACHE", str(folder))
    return folder


def _without_compiling(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for part in ("native", "report"):
        (CACHE / part).mkdir(parents=True, exist_ok=True)
        (folder / part).symlink_to(CACHE / part, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def planted_runs() -> pd.DataFrame:
    """20 settings, one size under three seeds, with the columns of a run store that figures read."""
    rng = np.random.default_rng(0)
    rows = []
    for n in SIZES:
        for d in HORIZONS:
            for seed in range(3 if n == 22_000 else 1):
                loss = float(planted_loss(n, d) * (1 + NOISE * rng.standard_normal()))
                run = f"t-{n}-{d}-s{seed}"
                sizes = {"N": n, "D": d, "C": 6.0 * n * d, "seed": seed, "loss": loss}
                rows.append({"run": run, "status": "done", "family": "transformer", **sizes})
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def planted_curves(planted_runs: pd.DataFrame) -> pd.DataFrame:
    """Thirty evaluations a run, from the loss of a uniform guess over bytes down to the planted law."""
    parts = []
    for row in planted_runs.itertuples():
        tokens = np.geomspace(1e4, row.D, 30)
        loss = np.minimum(5.5, planted_loss(row.N, tokens) + 4.2 * np.exp(-tokens / 3e4))
        loss[-1] = row.loss
        seen = {"step": (tokens / 1024).astype(int), "tokens": tokens, "C": 6 * row.N * tokens}
        parts.append(pd.DataFrame({"run": row.run, **seen, "loss": loss}))
    return pd.concat(parts, ignore_index=True)
