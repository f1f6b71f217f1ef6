"""K runs of one shape trained as a pack: each by the ordinary loop, into a directory of its own, their steps taken
together in one program; seeds, rates, data and horizons may differ.

A step of a small model on a GPU is a few hundred launches of a few microseconds, whatever the model's size.
Stacked on a leading axis, K models take as many launches as one. Their numbers are independent: every
operation is batched, so one that diverges does not affect the others.

The family's own module runs under `torch.func.vmap`, forward only. The backward pass is plain autograd
through the batched operations, for attention on GPUs has a batching rule forward and none backward.

Each loop has a thread, and one thread runs at a time: it goes on until its run wants a step, and waits until
every run that is still under way wants one. So nothing is concurrent, and a pack repeats bit for bit. Run on CPUs;
never measured on a GPU, for which it is made.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from allometry.core.errors import AllometryError
from allometry.experimental import packable
from allometry.train.engines.base import ADAM_EPS, CLIP_EPS, Floats, Step, StepResult, Tokens, normalised
from allometry.train.engines.fast import KINDS, FastEngine, LinearCrossEntropy, best_precision, layout
from allometry.train.engines.reference import sent
from allometry.train.loop import Progress, SingleProcess, train

if TYPE_CHECKING:
    from allometry.train.config import RunConfig, TrainConfig
    from allometry.train.engines.base import Engine, Step, StepResult


OnProgress = Callable[[Path, Progress], None]
"""Told the directory of a run and how far it is; a KeyboardInterrupt from it stops all of them."""

T = TypeVar("T")


class Broken(BaseException):
    """A step of the pack failed, through no error of the run: it continues alone from its last checkpoint.

    Its cause is the original error. It is no Exception, because the run would then be recorded as failed.
    """


def train_packed(
    runs: Mapping[Path, RunConfig],
    *,
    threads: int = 1,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
    checkpoint_every: float = 15.0,
    cache: Path | None = None,
) -> dict[Path, dict[str, Any]]:
    """Train runs, given by their directories, as one pack, or finish those that were begun; return their results.

    What `train` says of directories, checkpoints and results holds for each run, so that runs of a pack may
    be continued alone, in another pack, at different steps, and the other way round; the last digits then
    differ. A run that fails leaves the others; the first failure is raised when they have ended.
    KeyboardInterrupt is raised after all have written checkpoints. AllometryError if the runs cannot be
    packed (`packs.unsupported_reason`).
    """
    runner = PackRunner(Pack(list(runs.values()), threads=threads, device=device))

    def loop(directory: Path, config: RunConfig, group: SingleProcess) -> dict[str, Any]:
        return train(
            config,
            directory,
            threads=threads,
            device=device,
            on_progress=partial(runner.report, on_progress, directory),
            checkpoint_every=checkpoint_every,
            cache=cache,
            group=group,
        )

    outcomes = dict(zip(runs, runner.run([partial(loop, *each) for each in runs.items()]), strict=True))
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, BaseException)]
    for error in sorted(errors, key=lambda error: not isinstance(error, KeyboardInterrupt)):
        raise error.__cause__ if isinstance(error, Broken) and error.__cause__ else error
    return {directory: result for directory, result in outcomes.items() if isinstance(result, dict)}


class PackRunner:
    """The point where the loops of a pack wait for each other. One loop runs at a time, in the order of the
    rows, until it wants a step or has ended; when all want one, the step is taken.
    """

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        self.turn_locks = [threading.Lock() for _ in pack.members]  # quicker than semaphores
        self.turns = deque(range(len(pack.members)))
        self.asked: dict[int, Step] = {}
        self.answers: dict[int, StepResult | Exception] = {}
        self.stopped = False
        for lock in self.turn_locks:
            lock.acquire()

    def run(self, loops: Sequence[Callable[[SingleProcess], T]]) -> list[T | BaseException]:
        """Run the loops, each given its member of the pack as `group`, until all have ended; return what each did."""
        outcomes: dict[int, T | BaseException] = {}

        def follow(row: int, loop: Callable[[SingleProcess], T]) -> None:
            self.turn_locks[row].acquire()
            try:
                outcomes[row] = loop(_PackMember(self, row))
            except BaseException as error:
                outcomes[row] = error
            finally:
                self._pass_on()  # no longer wait for this one

        threads = [threading.Thread(target=follow, args=each) for each in enumerate(loops)]
        for thread in threads:
            thread.start()
        self._pass_on()
        for thread in threads:
            self._wait_for(thread)
        return [outcomes[row] for row in range(len(loops))]

    def step(self, row: int, step: Step) -> StepResult:
        """Take a member's step together with those of all that are present; raises Broken if that failed."""
        self.asked[row] = step
        self._pass_on()
        self.turn_locks[row].acquire()
        answer = self.answers.pop(row)
        if isinstance(answer, Exception):
            raise Broken from answer
        return answer

    def _pass_on(self) -> None:
        """Give the turn to the next loop; after the last, take the step and begin a new round."""
        if not self.turns and self.asked:
            self._take_step()
        if self.turns:
            self.turn_locks[self.turns.popleft()].release()

    def _take_step(self) -> None:
        asked, self.asked = self.asked, {}
        self.turns.extend(asked)
        try:
            results = self.pack.steps({row: [step] for row, step in asked.items()})
            self.answers = {row: found[0] for row, found in results.items()}
        except Exception as error:
            self.answers = dict.fromkeys(asked, error)

    def report(self, on_progress: OnProgress | None, directory: Path, progress: Progress) -> None:
        """Pass progress on to the caller; a KeyboardInterrupt raised by it reaches every loop."""
        try:
            if on_progress is not None:
                on_progress(directory, progress)
        except KeyboardInterrupt:
            self.stopped = True
        if self.stopped:
            raise KeyboardInterrupt

    def _wait_for(self, thread: threading.Thread) -> None:
        """Wait until the thread has ended; ctrl-C stops the run at its next report, with a checkpoint."""
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt:
                self.stopped = True


class _PackMember(SingleProcess):
    """The group of one run of a pack, as its loop sees it: an engine whose steps are taken together."""

    def __init__(self, runner: PackRunner, row: int) -> None:
        self.runner, self.row = runner, row

    def engine(self, name: str, config: RunConfig, threads: int, device: str) -> Engine:
        """Return the pack's member, for any name."""
        torch.set_num_threads(threads)  # each thread has a number of its own
        member = self.runner.pack.members[self.row]
        member.together = partial(self.runner.step, self.row)
        return member


WARM_UPS = 3
"""Steps before a CUDA graph is captured: libraries choose algorithms and allocate in their first calls."""


class Pack:
    """K models in buffers of shape (K, size), stepped together.

    `members` are engines that each live in one row: what evaluates a run, measures its noise or saves it sees
    an ordinary engine. On a GPU the whole step is one CUDA graph, replayed; the CPU waits for it once in
    every call of `steps`, however many steps that asks for.
    """

    def __init__(
        self,
        configs: Sequence[RunConfig],
        *,
        threads: int = 1,
        device: str = "cpu",
        precision: torch.dtype | None = None,
    ) -> None:
        """Stack the models of these runs; raises AllometryError if they cannot be packed (see `unsupported_reason`)."""
        model = configs[0].model.build()
        if lack := unsupported_reason(configs, model):
            raise AllometryError(f"these runs cannot be packed: {lack}", hint="train them one by one")
        self.trains = [config.train for config in configs]
        self.device = torch.device(device)
        self.precision = precision or best_precision(self.device)
        places, self.decaying, size = layout(model)
        self.buffers = {kind: torch.zeros(len(configs), size, device=self.device) for kind in KINDS}
        self.parts = Parts(model).to("meta")  # only its code is used
        self.stacks: dict[str, Tensor] = {}
        self.gradients: list[Tensor] = []
        for name, (offset, shape) in places.items():
            end = offset + int(np.prod(shape))
            stack, gradient = (self.buffers[kind][:, offset:end].unflatten(1, shape) for kind in KINDS[::3])
            self.stacks[f"model.{name}"] = stack.requires_grad_()
            self.gradients.append(gradient)
        self.members = [
            Member(
                config,
                threads=threads,
                device=device,
                precision=self.precision,
                home={kind: buffer[row] for kind, buffer in self.buffers.items()},
            )
            for row, config in enumerate(configs)
        ]
        self._allocate(configs[0].train.batch_tokens // configs[0].model.n_ctx, configs[0].model.n_ctx)
        self._replay: Callable[[], None] | None = None

    def _allocate(self, sequences: int, n_ctx: int) -> None:
        """Allocate the inputs and outputs of a step at fixed addresses, so that a CUDA graph can be replayed."""
        models, device = len(self.trains), self.device
        self.tokens = torch.zeros(models, sequences, n_ctx + 1, dtype=torch.int64, device=device)
        self.share = torch.zeros(models, sequences * n_ctx, device=device)
        self.rates = torch.zeros(len(RATES), models, 1, device=device)
        self.results = torch.zeros(2, models, device=device)

    def steps(self, asked: Mapping[int, Sequence[Step]]) -> dict[int, list[StepResult]]:
        """Update the named members, the same number of steps each, one after the other.

        Members that are not named, because they are done or have diverged, are computed and not used. See
        `Engine.step` for the equations and for what it raises.
        """
        count = len(next(iter(asked.values())))
        assert all(len(steps) == count for steps in asked.values())
        inputs = [
            [sent(values, self.device) for values in self._gathered(asked, number)] for number in range(count)
        ]
        results = torch.empty(count, *self.results.shape, device=self.device)
        for number, values in enumerate(inputs):
            for place, value in zip((self.tokens, self.share, self.rates), values, strict=True):
                place.copy_(value)
            self._run()
            results[number].copy_(self.results)
        found = results.cpu().numpy()  # here the CPU waits
        return {row: [StepResult(*map(float, at[:, row])) for at in found] for row in asked}

    def _gathered(self, asked: Mapping[int, Sequence[Step]], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens, shares and rates of one step of all members, on the host."""
        tokens = torch.zeros(self.tokens.shape, dtype=torch.int64)
        share = torch.full(self.share.shape, 1 / self.share.shape[1])
        rates = np.zeros(self.rates.shape, np.float32)
        for row, steps in asked.items():
            step = steps[number]
            tokens[row] = torch.from_numpy(step.batch.astype(np.int64))
            if step.weights is not None:
                share[row] = torch.from_numpy(normalised(step.weights)).flatten()
            rates[:, row, 0] = rates_of(self.trains[row], step)
        return tokens, share, torch.from_numpy(rates)

    def _run(self) -> None:
        """Run one step on the fixed buffers: on a GPU by its graph, which the first call captures."""
        if self.device.type != "cuda":
            return self._step()
        with torch.cuda.device(self.device):  # the current device is a setting of each thread
            if self._replay is None:
                self._replay = self._capture()
            self._replay()

    def _capture(self) -> Callable[[], None]:
        """Capture the step as a CUDA graph, and restore parameters and moments afterwards."""
        kept = {kind: buffer.clone() for kind, buffer in self.buffers.items()}
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._step()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        for kind, buffer in kept.items():
            self.buffers[kind].copy_(buffer)
        return graph.replay

    def _step(self) -> None:
        """Compute losses and gradients of all models, then update them."""
        inputs, targets = self.tokens[..., :-1], self.tokens[..., 1:].flatten(1)
        with self._batched(), self._autocast():
            x, head = vmap(self._parts)(self.stacks, inputs)
        losses = LinearCrossEntropy.apply(x.flatten(1, 2).to(self.precision), head, targets, self.share)
        # No model's loss depends on another's parameters, so the sum's gradient holds that of each.
        found = torch.autograd.grad(losses.sum(), list(self.stacks.values()), allow_unused=True)
        for place, gradient in zip(self.gradients, found, strict=True):
            place.zero_() if gradient is None else place.copy_(gradient)
        self.results[0].copy_(losses.detach())
        self._update()

    def _parts(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features, (B, T, d), and the head's weights, (V, d), of one model."""
        found: tuple[Tensor, Tensor] = functional_call(self.parts, dict(parameters), (inputs,))
        return found

    @torch.no_grad()
    def _update(self) -> None:
        """Apply AdamW with a rate, a clipping threshold and a step of each model's own."""
        lr, beta1, beta2, fade, first, second, clip = self.rates
        p, m, v, g = (self.buffers[kind] for kind in KINDS)
        norm = torch.linalg.vector_norm(g, dim=1, keepdim=True)
        self.results[1].copy_(norm[:, 0])
        g.mul_(torch.where(norm > clip, clip / (norm + CLIP_EPS), 1.0))
        m.mul_(beta1).addcmul_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g.square(), 1 - beta2)
        p[:, : self.decaying].mul_(fade)
        p.addcdiv_(m * (lr * first), (v * second).sqrt_().add_(ADAM_EPS), value=-1.0)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision, cache_enabled=False)

    def _batched(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which attention has a batching rule: on CPUs without the fused kernel, which would
        run model by model.
        """
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else contextlib.nullcontext()


class Member(FastEngine):
    """One model of a pack: it computes with its row alone, or steps `together` with the others."""

    name = "packed"
    together: Callable[[Step], StepResult] | None = None

    def step(self, batch: Tokens, *, lr: float, step: int, weights: Floats | None = None) -> StepResult:
        """Make one update: see `Engine.step`."""
        if self.together is None:
            return super().step(batch, lr=lr, step=step, weights=weights)
        return self.together(Step(batch, lr, step, weights))


class Parts(nn.Module):
    """A module's features and head in one call, for use with other parameters than its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, T, d) and the head's weights (V, d), of token ids (B, T)."""
        model: Any = self.model
        return model.features(tokens), model.head()


RATES = ("lr", "beta1", "beta2", "fade", "first", "second", "clip")
"""The numbers of an update that may differ between models: `fade` is what weight decay leaves, `first` and
`second` undo the bias of the moments."""


def rates_of(train: TrainConfig, step: Step) -> tuple[float, ...]:
    """Return the numbers of `RATES` for one model at one step."""
    return (
        step.lr,
        train.beta1,
        train.beta2,
        1 - step.lr * train.weight_decay,
        1 / (1 - train.beta1**step.step),
        1 / (1 - train.beta2**step.step),
        np.inf if train.clip is None else train.clip,
    )


def unsupported_reason(configs: Sequence[RunConfig], model: nn.Module | None = None) -> str | None:
    """Return why these runs cannot be trained as one pack (one sentence), or None if they can.

    `model` is the module of the first, where the caller has built it already.
    """
    first = configs[0]
    for run in configs:
        if lack := packable.alone(run):
            return lack
    for other in configs[1:]:
        if packable.kind(other) != packable.kind(first):
            what = "models of different shape" if other.model != first.model else "batches of different size"
            return f"{first.id} and {other.id} have {what}"
    model = first.model.build() if model is None else model
    if not (hasattr(model, "features") and hasattr(model, "head")):
        return f"the family of {first.model.shape} does not tell its features from its head"
    try:
        _try(model)
    except RuntimeError as error:  # what PyTorch raises for what it cannot batch
        return f"{type(model).__name__} cannot be batched ({str(error).splitlines()[0]})"
    return None


def _try(model: nn.Module) -> None:
    """Run one model as a pack on two tokens, to see whether PyTorch can batch it."""
    stacks = {f"model.{name}": p.detach()[None] for name, p in model.named_parameters()}
    tokens = torch.zeros(1, 1, 2, dtype=torch.int64)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        vmap(lambda p, t: functional_call(Parts(model), p, (t,)))(stacks, tokens)
