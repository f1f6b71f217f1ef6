"""What `benchmarks/gpu.py` measures, item by item: each is a function that returns plain JSON.

Everything takes its device as text, so that a miniature of it runs on a CPU. What only CUDA has raises
`NeedsCuda` there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from packing import Run, alone, clock, matrix_peak, packed
from torch import nn
from train import Case
from train_peers import adamw, cut_out, plain_model

from allometry.experimental.packs import Pack, unsupported_reason
from allometry.runs.store import Store
from allometry.sweeps.cost import PROCESS_BYTES, estimated_memory
from allometry.train.config import RunConfig
from allometry.train.engines.base import Engine, Step, StepResult
from allometry.train.engines.fast import FastEngine, best_precision
from allometry.train.engines.reference import ReferenceEngine

Found = dict[str, Any]
STEPS = 50
"""Steps of a curve that is compared."""

TOLERANCES = {"fp32": {"gradient": 1e-4, "curve": 2e-3}, "bf16": {"gradient": 0.05, "curve": 0.05}}
"""How far a gradient (relative to its norm) and a training loss (nats, at any step) may lie from fp32 on a
CPU."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class NeedsCuda(Exception):
    """What an item raises that only a CUDA device can do."""


def need_cuda(device: str, what: str) -> None:
    """Raise NeedsCuda on any other device."""
    if not device.startswith("cuda"):
        raise NeedsCuda(what)


def batches(config: RunConfig, seed: int = 0) -> Iterator[np.ndarray]:
    """Batches without end of tokens that can be learned: each token is the one before plus a small number."""
    random, model = np.random.default_rng(seed), config.model
    shape = (config.train.batch_tokens // model.n_ctx, model.n_ctx + 1)
    while True:
        steps = random.integers(0, 3, shape)
        yield (random.integers(0, model.n_vocab, (shape[0], 1)) + steps.cumsum(axis=1)) % model.n_vocab


def curve(engine: Engine, config: RunConfig, steps: int, *, after: int = 0) -> list[StepResult]:
    """What an engine reports of steps `after` + 1 to `steps`."""
    found = []
    for step, batch in zip(range(1, steps + 1), batches(config), strict=False):
        if step > after:
            found.append(engine.step(batch, lr=config.train.lr, step=step))
    return found


def bits(engine: Engine) -> str:
    """A hash of parameters and moments."""
    digest = hashlib.sha256()
    for _, value in sorted(engine.state().items()):
        digest.update(value.tobytes())
    return digest.hexdigest()[:16]


def farthest(a: list[StepResult], b: list[StepResult]) -> float:
    """The largest difference of two curves' losses, nats; infinite if one is not finite."""
    gap = np.abs([x.loss - y.loss for x, y in zip(a, b, strict=True)])
    return float(gap.max()) if np.isfinite(gap).all() else float("inf")


# (a) correctness


def gradients(case: Case, device: str, precision: str) -> Found:
    """The gradient of a batch on engine fast against the reference on a CPU."""
    config = case.config()
    batch = next(batches(config))
    engine = FastEngine(config, device=device, precision=PRECISIONS[precision])
    loss, found = engine.gradients(batch)
    expected_loss, expected = ReferenceEngine(config).gradients(batch)
    difference, norm = (
        float(np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in parts)))
        for parts in ([found[name] - expected[name] for name in expected], expected.values())
    )
    error, limit = difference / norm, TOLERANCES[precision]["gradient"]
    return {"gap": error, "limit": limit, "loss": loss, "on a CPU": expected_loss, "ok": error <= limit}


def curves(case: Case, device: str, precision: str, steps: int) -> Found:
    """Training losses on engine fast against the reference on a CPU."""
    config = case.config()
    found = curve(FastEngine(config, device=device, precision=PRECISIONS[precision]), config, steps)
    expected = curve(ReferenceEngine(config), config, steps)
    gap, limit = farthest(found, expected), TOLERANCES[precision]["curve"]
    return {"gap": gap, "limit": limit, "last loss": found[-1].loss, "ok": gap <= limit}


class Eager(Pack):
    """A pack without a graph."""

    def _run(self) -> None:
        self._step()


def pack_curves(pack: Pack, config: RunConfig, steps: int, at_once: int = 5) -> list[list[StepResult]]:
    """What each member reports when all are given the same batches, a few steps in a call."""
    found: list[list[StepResult]] = [[] for _ in pack.members]
    asked = [
        Step(batch, config.train.lr, step)
        for step, batch in zip(range(1, steps + 1), batches(config), strict=False)
    ]
    for first in range(0, steps, at_once):
        results = pack.steps(dict.fromkeys(range(len(pack.members)), asked[first : first + at_once]))
        for row, members in results.items():
            found[row] += members
    return found


def with_seeds(config: RunConfig, count: int) -> list[RunConfig]:
    """The configuration with as many seeds."""
    return [config.replace(train={**config.train.model_dump(), "seed": seed}) for seed in range(count)]


def graph(case: Case, device: str, models: int, steps: int) -> Found:
    """A pack's step replayed from its CUDA graph against the same step launched operation by operation."""
    need_cuda(device, "a CUDA graph")
    configs = with_seeds(case.config(), models)
    with_graph, without = Pack(configs, device=device), Eager(configs, device=device)
    a, b = (pack_curves(pack, configs[0], steps) for pack in (with_graph, without))
    gap = max(farthest(x, y) for x, y in zip(a, b, strict=True))
    same = all(bits(x) == bits(y) for x, y in zip(with_graph.members, without.members, strict=True))
    return {"gap": gap, "limit": 1e-4, "same bits": same, "ok": gap <= 1e-4}


def packs(case: Case, device: str, precision: str, models: int, steps: int) -> Found:
    """The curves of a pack's members against each model alone on engine fast."""
    configs, kind = with_seeds(case.config(), models), PRECISIONS[precision]
    if lack := unsupported_reason(configs):
        return {"lacks": lack}
    together = pack_curves(Pack(configs, device=device, precision=kind), configs[0], steps)
    gaps = [
        farthest(curve(FastEngine(each, device=device, precision=kind), each, steps), mine)
        for each, mine in zip(configs, together, strict=True)
    ]
    limit = TOLERANCES[precision]["curve"]
    return {"gap": max(gaps), "limit": limit, "ok": max(gaps) <= limit}


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """PyTorch's deterministic algorithms, where it has them."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def resumed(case: Case, device: str, steps: int, strict: bool, dropout: float) -> Found:
    """Whether a run repeats bit for bit, and whether one that was stopped half-way ends in the same bits;
    `strict` with PyTorch's deterministic algorithms, and what a step then costs.
    """
    config = case.config()
    if dropout:
        config = config.replace(model={**config.model.model_dump(), "dropout": dropout})
    with deterministic(strict):
        one, two, first = (FastEngine(config, device=device) for _ in range(3))
        now = clock(device)
        curve(one, config, steps)
        began = now()
        curve(two, config, steps)
        seconds = (now() - began) / steps
        curve(first, config, steps // 2)
        second = FastEngine(config, device=device)
        second.load_state(first.state())
        curve(second, config, steps, after=steps // 2)
    same = bits(one) == bits(two)
    again = bits(one) == bits(second)
    return {"repeats": same, "resumes": again, "seconds a step": seconds, "ok": same and again}


# (b) speed


def peak(device: str, size: int) -> Found:
    """FLOPs per second of PyTorch's matrix product in the engine's precision."""
    precision = best_precision(torch.device(device))
    flops = matrix_peak(clock(device), size, turns=10, device=device, dtype=precision)
    return {"flops": flops, "precision": str(precision)}


def nano_gpt(case: Case, device: str, compiled: bool) -> Run:
    """Steps of nanoGPT's loop: bf16 autocast, fused AdamW, clipping, pinned batches, losses not fetched."""
    config, kind = case.config(), torch.device(device).type
    plain = plain_model(config.model).to(device)
    optimiser = adamw(plain, fused=kind == "cuda")
    model: nn.Module = torch.compile(plain) if compiled else plain
    stream = np.random.default_rng(1).integers(0, case.vocab, 1 << 20).astype(np.uint16)
    B, T, now, half = (
        case.batch // case.context,
        case.context,
        clock(device),
        best_precision(torch.device(device)),
    )

    def to_device(values: torch.Tensor) -> torch.Tensor:
        return values.pin_memory().to(device, non_blocking=True) if kind == "cuda" else values

    def run(steps: int) -> float:
        began = now()
        for _ in range(steps):
            x, y = map(to_device, cut_out(stream, B, T))
            with torch.autocast(kind, torch.bfloat16, enabled=half is torch.bfloat16):
                logits = model(x)
                loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), y.reshape(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return (now() - began) / steps

    return run


def pace(case: Case, contender: str, device: str, seconds: float) -> Found:
    """Median seconds of a step, tokens and FLOPs per second, bytes at the peak, of one contender:
    "nanoGPT eager", "nanoGPT compiled", "fast", "graph" (a pack of one) or "pack K".
    """
    models = int(contender.split()[1]) if contender.startswith("pack") else 1
    if contender in ("graph", "nanoGPT compiled"):
        need_cuda(device, contender)
    if contender.startswith(("graph", "pack")) and (lack := unsupported_reason([case.config()])):
        return {"lacks": lack}
    reset_peak(device)
    if contender.startswith("nanoGPT"):
        run = nano_gpt(case, device, contender.endswith("compiled"))
    elif contender == "fast":
        run = alone(FastEngine(case.config(), device=device), case, device)
    else:
        run = packed(case, models, device)
    run(8)
    steps = max(1, round(seconds / 5 / max(run(4), 1e-5)))
    step = statistics.median(run(steps) for _ in range(5))
    return {
        "seconds": step,
        "tokens per second": models * case.batch / step,
        "flops": models * case.flops() / step,
        "memory": peak_memory(device),
        "models": models,
    }


def reset_peak(device: str) -> None:
    """Begin to look for the most memory that is taken."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> int | None:
    """Bytes of a GPU's memory that PyTorch had reserved at the most since then; None on CPUs."""
    return torch.cuda.max_memory_reserved() if device.startswith("cuda") else None


# (c) quickstart


def quickstart(device: str, arguments: list[str], seconds: float) -> Found:
    """`allometry run quickstart` as a user types it, in an empty store; what it trained, and its report.

    It is ended a little before `seconds` are over, so that nothing of it outlives this process.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "runs"
        command = [sys.executable, "-m", "allometry", "run", "quickstart", "--store", str(store)]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--device", device, *arguments],
            capture_output=True,
            text=True,
            timeout=0.9 * seconds,
            check=False,
        )
        taken = time.perf_counter() - began
        said = (done.stdout + done.stderr)[-3000:]
        if done.returncode:
            raise RuntimeError(f"quickstart ended with {done.returncode}:\n{said}")
        frame = Store(store).frame()
        reports = sorted(str(path.relative_to(store)) for path in store.rglob("report*.html"))
        finished = frame[frame["status"] == "done"]
        return {
            "seconds": taken,
            "runs": len(finished),
            "compute": float(finished["C"].sum()),
            "engines": sorted(set(finished["engine"])),
            "reports": reports,
            "said": said,
            "ok": len(finished) == len(frame) > 0 and bool(reports),
        }


# (d) memory


_RESIDENT = """
import json, resource, sys, numpy as np
from allometry.train.config import RunConfig
from allometry.train.engines.fast import FastEngine
config = RunConfig.model_validate(json.loads(sys.argv[1]))
engine = FastEngine(config)
batch = np.zeros((config.train.batch_tokens // config.model.n_ctx, config.model.n_ctx + 1), np.int64)
for step in (1, 2, 3):
    engine.step(batch, lr=0.0, step=step)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def memory(case: Case, device: str, models: int) -> Found:
    """Bytes that plans say a run takes (a pack: as many times that, without the process) and that it takes.

    On a GPU what PyTorch reserves, which leaves out the CUDA context; on a CPU the process at its largest.
    """
    config = case.config()
    forecast = estimated_memory(config)
    if device.startswith("cuda"):
        reset_peak(device)
        run = (
            packed(case, models, device)
            if models > 1
            else alone(FastEngine(config, device=device), case, device)
        )
        run(8)
        used, forecast = torch.cuda.max_memory_reserved(), models * (forecast - PROCESS_BYTES)
    else:
        if models > 1:
            raise NeedsCuda("memory of packs, which plans use on GPUs only")
        text = json.dumps(config.model_dump(mode="json"))
        done = subprocess.run(
            [sys.executable, "-c", _RESIDENT, text], capture_output=True, text=True, check=True
        )
        used = int(done.stdout)
    return {"forecast": forecast, "used": used, "used over forecast": used / forecast, "ok": used <= forecast}


# (e) two processes on one device


def one_process(case: Case, device: str, steps: int) -> None:
    """Train on engine fast: says when it is ready, begins when told, and prints seconds and bytes."""
    run = alone(FastEngine(case.config(), device=device), case, device)
    run(8)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    run(steps)
    print(json.dumps({"seconds": time.perf_counter() - began, "memory": peak_memory(device)}), flush=True)


def processes(case: Case, device: str, count: int, steps: int) -> Found:
    """Tokens per second of one process and of several that share the device, each training a model."""
    paces = {number: _side_by_side(case, device, number, steps) for number in (1, count)}
    gain = paces[count] / paces[1]
    return {"one": paces[1], str(count): paces[count], "gain": gain, "ok": gain > 0}


def _side_by_side(case: Case, device: str, count: int, steps: int) -> float:
    script = Path(__file__).with_name("gpu.py")
    text = json.dumps(dataclasses.asdict(case))
    command = [sys.executable, str(script), "--one-process", text, "--device", device, "--steps", str(steps)]
    others = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        for each in others:
            assert each.stdout is not None
            if each.stdout.readline().strip() != "ready":
                raise RuntimeError(f"one of {count} processes on {device} did not start")
        ends = _together(others)
    finally:
        for each in others:
            each.kill()
            each.communicate()
    return count * steps * case.batch / max(json.loads(end)["seconds"] for end in ends)


def _together(others: list[subprocess.Popen[str]]) -> list[str]:
    """Tell all to begin, then read what each printed."""
    for each in others:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    ends = []
    for each in others:
        assert each.stdout is not None
        ends.append(each.stdout.readline())
    return ends
