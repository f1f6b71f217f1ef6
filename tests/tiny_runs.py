"""A small corpus, and runs over it that take a second."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from allometry.models.transformer import TransformerConfig
from allometry.train.config import DataConfig, RunConfig, TrainConfig

STEMS = ("law", "loss", "scale", "token", "step", "power")
WORDS = tuple(f"{stem}{end}" for stem in STEMS for end in ("", "s", "d", "ing"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Documents of random words: something to learn, nothing to download."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(random.choice(WORDS, size=300)) + ".")
    return f"files:{folder}"


@pytest.fixture(autouse=True, scope="session")
def own_cache(empty_cache: Path) -> None:
    """Prepared data and timings go to a folder of the test session."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ALLOMETRY_CACHE", str(empty_cache))


@pytest.fixture
def make_run(corpus: str) -> Callable[..., RunConfig]:
    """Configurations of tiny runs; keyword arguments change the training."""

    def make(engine: str = "reference", data: dict[str, object] | None = None, **train: object) -> RunConfig:
        settings = {"tokens": 60 * 128, "batch_tokens": 128, "lr": 0.01, "warmup": 5, **train}
        return RunConfig(
            model=TransformerConfig(n_layer=2, d_model=16, n_ctx=32, n_vocab=256),
            data=DataConfig(corpus=corpus, eval_tokens=512, **(data or {})),
            train=TrainConfig(**settings),
            engine=engine,
        )

    return make


@pytest.fixture
def run_files() -> Callable[[Path], tuple[bytes, bytes]]:
    """The curve and the final parameters of a run directory, as bytes."""

    def read(directory: Path) -> tuple[bytes, bytes]:
        from allometry.train.checkpoint import final_parameters

        parameters = final_parameters(directory)
        joined = b"".join(parameters[name].tobytes() for name in sorted(parameters))
        return (directory / "curve.jsonl").read_bytes(), joined

    return read
