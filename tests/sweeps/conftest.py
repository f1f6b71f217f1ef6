"""A small corpus, runs over it that take a moment, and one pool of workers for all tests."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from allometry.models.transformer import TransformerConfig
from allometry.runs.store import Store
from allometry.sweeps.local import LocalPool
from allometry.train.config import DataConfig, RunConfig, TrainConfig

WORDS = ("law", "loss", "scale", "token", "step", "power", "curve", "batch", "width", "depth")
MakeRun = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(random.choice(WORDS, size=200)) + ".")
    return f"files:{folder}"


@pytest.fixture(scope="session", autouse=True)
def own_cache(empty_cache: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALLOMETRY_CACHE", str(empty_cache))
        yield


@pytest.fixture(scope="session")
def make_run(corpus: str) -> MakeRun:
    """`make_run(steps, d_model=16, **train)`: a run of 128 tokens a step."""

    def make(steps: int, d_model: int = 16, **train: object) -> RunConfig:
        settings = {"tokens": steps * 128, "batch_tokens": 128, "lr": 0.01, "warmup": 5, **train}
        return RunConfig(
            model=TransformerConfig(n_layer=2, d_model=d_model, n_ctx=32, n_vocab=256),
            data=DataConfig(corpus=corpus, eval_tokens=512),
            train=TrainConfig(**settings),
            engine="reference",
        )

    return make


@pytest.fixture(scope="session")
def pool(own_cache: None) -> Iterator[LocalPool]:
    with LocalPool(2) as workers:
        yield workers


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs", create=True)


@pytest.fixture(scope="session")
def s3() -> Iterator[None]:
    """An S3 server on the loopback address: one, for clients remember where theirs is."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
        }.items():
            patch.setenv(name, value)
        yield
    server.stop()


@pytest.fixture
def bucket(s3: None) -> str:
    """A store in a bucket of its own."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/runs"
