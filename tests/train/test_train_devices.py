"""What can be known of steps on a GPU without one: where tensors lie, and that nobody waits within a step.

PyTorch's meta device has shapes and no numbers, so whatever asks for one (float(), bool(), .cpu()) raises
there; on a GPU the same would make the host wait until the device has done all that it was given.
"""

import ast
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import allometry
from allometry.experimental.packs import Pack
from allometry.models.base import families, family
from allometry.models.transformer import TransformerConfig
from allometry.train.config import RunConfig, TrainConfig
from allometry.train.engines import reference
from allometry.train.engines.base import Step
from allometry.train.engines.fast import FastEngine
from allometry.train.engines.reference import sent
from allometry.train.loop import train

MOVES = ("aten._to_copy.default", "aten.copy_.default")
"""The operations that may read one device and write another."""


def config(kind: str = "transformer", **fields: Any) -> RunConfig:
    model = family(kind).from_n_params(3000, **{"n_ctx": 10, "n_vocab": 40, **fields})
    return RunConfig(model=model, train=TrainConfig(tokens=4000, batch_tokens=40, lr=0.01, clip=0.1))


def batch(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 40, (4, 11))


class Watch(TorchDispatchMode):
    """Keeps the operations that ran, with the devices and types of the tensors that they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, set[str], list[torch.dtype]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        self.seen.append((str(func), {each.device.type for each in tensors}, [t.dtype for t in tensors]))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_autocast_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The LSTM asks whether autocast is on, and PyTorch knows of none on the meta device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)


@pytest.mark.usefixtures("no_autocast_there")
@pytest.mark.parametrize(("kind", "dropout"), [("transformer", 0.0), *((kind, 0.1) for kind in families())])
def test_a_step_asks_nothing_of_the_device_and_mixes_no_two(kind: str, dropout: float) -> None:
    engine = FastEngine(config(kind, dropout=dropout), device="meta", precision=torch.float32)
    weights = np.ones((4, 10), np.float32)
    with Watch() as watch:
        results = [engine.enqueue(batch(), lr=0.01, step=step, weights=weights) for step in (1, 2)]
        results.append(engine.enqueue(batch(), lr=0.01, step=3))
    assert all(
        (each.shape, each.dtype, each.device.type) == ((2,), torch.float32, "meta") for each in results
    )
    assert [name for name, devices, _ in watch.seen if len(devices) > 1 and name not in MOVES] == []
    assert len(watch.seen) > 100
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        engine.step(batch(), lr=0.01, step=4)  # which ends by asking


def test_adaptive_computation_time_does_ask() -> None:
    """Its repetitions depend on the data, and the documentation of `enqueue` says so."""
    engine = FastEngine(config("universal", act=True), device="meta", precision=torch.float32)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        engine.enqueue(batch(), lr=0.01, step=1)


@pytest.mark.parametrize("kind", ["transformer", "universal"])
def test_a_packs_step_asks_nothing_and_mixes_no_two(kind: str) -> None:
    pack = Pack([config(kind)] * 3, device="meta", precision=torch.float32)
    with Watch() as watch:
        pack._step()
    assert [name for name, devices, _ in watch.seen if devices != {"meta"} and devices] == []
    assert len(watch.seen) > 100


def test_bf16_products_of_a_transformer_have_bf16_factors_and_fp32_parameters() -> None:
    engine = FastEngine(config(), precision=torch.bfloat16)
    with Watch() as watch:
        engine.enqueue(batch(), lr=0.01, step=1)
    products = [dtypes for name, _, dtypes in watch.seen if name.startswith(("aten.mm", "aten.bmm"))]
    assert len(products) > 10
    assert {dtype for dtypes in products for dtype in dtypes} == {torch.bfloat16}
    assert {buffer.dtype for buffer in (*engine.buffers.values(), engine.gradient)} == {torch.float32}


class Graph:
    """Stands in for a CUDA graph: what it replays is the step that ran while it was captured."""

    replay: Callable[[], None]


def test_capturing_a_graph_leaves_parameters_and_moments_and_replays_from_fixed_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pack, plain = (Pack([config(), config()], precision=torch.float32) for _ in range(2))

    @contextlib.contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        yield
        graph.replay = pack._step

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    asked = {row: [Step(batch(step), 0.01, step) for step in (1, 2, 3)] for row in range(2)}
    for place, value in zip(
        (pack.tokens, pack.share, pack.rates), pack._gathered(asked, 0), strict=True
    ):  # warm-ups do move parameters
        place.copy_(value)
    places = [pack.tokens, pack.share, pack.rates, pack.results, *pack.buffers.values()]
    addresses = [place.data_ptr() for place in places]
    monkeypatch.setattr(pack, "_run", pack._capture())
    assert pack.steps(asked) == plain.steps(asked)
    assert all(torch.equal(pack.buffers[kind], plain.buffers[kind]) for kind in pack.buffers)
    now = [pack.tokens, pack.share, pack.rates, pack.results, *pack.buffers.values()]
    assert [place.data_ptr() for place in now] == addresses


def test_what_is_sent_to_a_gpu_is_pinned_and_nobody_waits() -> None:
    done: list[object] = []

    class Values:
        def pin_memory(self) -> "Values":
            done.append("pinned")
            return self

        def to(self, device: torch.device, **how: object) -> "Values":
            done.append((device.type, how))
            return self

    values: Any = Values()
    sent(values, torch.device("cuda"))
    assert done == ["pinned", ("cuda", {"non_blocking": True})]


def test_on_gpus_fp32_products_of_cudnn_are_exact_and_the_record_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = SimpleNamespace(name="A GPU", total_memory=5e9, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    found = reference.settle("cuda:1")
    assert torch.backends.cudnn.allow_tf32 is False
    assert (found["device"], found["gpu"], found["tf32_cudnn"]) == ("cuda:1", "A GPU", False)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_run_keeps_its_device_and_the_settings_that_decide_its_digits(
    make_run: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    """To set the switch itself would load PyTorch's compiler."""
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    train(make_run(tokens=256), tmp_path)
    found = json.loads((tmp_path / "env.json").read_text())["arithmetic"]
    assert found == {"device": "cpu", "deterministic_algorithms": deterministic}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", families())
def test_every_family_can_be_compiled_in_one_piece(kind: str) -> None:
    """Traced with fake tensors, without a break of the graph; the compiler's first half, which needs no GPU."""
    torch.compiler.reset()
    module = config(kind).model.build()
    tokens = torch.from_numpy(batch()[:, :-1])
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(tokens), module(tokens), atol=1e-5)


def test_no_tensor_is_moved_by_naming_one_kind_of_device() -> None:
    """`.to(device)` follows the option --device; `.cuda()` would not."""
    calls = []
    package = Path(allometry.__file__).parent
    for file in (*package.rglob("*.py"), *(Path(__file__).parents[2] / "benchmarks").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if ".cuda(" in text else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "cuda"
            ):
                calls.append(f"{file.name}:{node.lineno}")
    assert calls == []


def test_clipping_on_the_device_is_the_clipping_of_a_number() -> None:
    """The factor is worked out in fp64 and rounded once, whether as a number of Python's or as a tensor."""
    model = TransformerConfig(n_layer=1, d_model=8, n_ctx=10, n_vocab=40)
    for clip in (0.01, 0.3, 1.7, 1e9):
        recipe = TrainConfig(tokens=4000, batch_tokens=40, lr=0.01, clip=clip, beta1=0.0)
        engine = FastEngine(RunConfig(model=model, train=recipe), precision=torch.float32)
        _, gradients = engine.gradients(batch())
        norm = float(torch.linalg.vector_norm(engine.gradient))
        factor = clip / (norm + 1e-6) if norm > clip else 1.0
        result = engine.step(batch(), lr=0.01, step=1)
        assert result.grad_norm == norm
        for name, gradient in gradients.items():
            expected = torch.from_numpy(gradient).mul_(factor).numpy()
            assert np.array_equal(engine.state()[f"adam_m/{name}"], expected), name
