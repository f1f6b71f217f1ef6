"""The native engine: a whole training step in one call of compiled C++ (folder `csrc`).

A plain C interface called through ctypes, no PyTorch headers: it compiles in seconds. `native` is fp32 throughout;
`native-bf16` rounds the factors of products on processors with AMX.
Python owns the flat buffers of parameters, moments and gradients; the compiled side owns packed weights and
activations. Any number of threads gives the same bits (`csrc/parts.h`).
"""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from allometry.core.errors import AllometryError
from allometry.train.engines.base import (
    ADAM_EPS,
    CLIP_EPS,
    Engine,
    Floats,
    State,
    StepResult,
    Tokens,
    decays,
    normalised,
    register,
)
from allometry.train.engines.bindings import (
    FAMILIES,
    INSTEAD,
    Adam,
    Batch,
    Shape,
    environment,
    library,
    no_library,
    parameter_names,
    stack_of,
    unsuited,
)
from allometry.train.engines.reference import hits, with_parameters

if TYPE_CHECKING:
    from allometry.train.config import RunConfig

LONGEST = 1024
"""The longest context: probabilities of every layer are kept for the backward pass."""


@register
class NativeEngine(Engine):
    """The compiled engine: fp32 on the CPU, with every option of its families: biases, dropout, any width and
    vocabulary.
    """

    name = "native"

    @classmethod
    def unsupported_reason(cls, config: RunConfig) -> str | None:
        """Return the reason in one sentence with the remedy, or None; compiles the step if this machine has not
        done so yet.
        """
        model = config.model
        if reason := unsuited(model):
            return reason
        if model.n_ctx > LONGEST:
            return f"the native engine holds contexts to {LONGEST}, not {model.n_ctx}: {INSTEAD}"
        return no_library(environment())

    def __init__(self, config: RunConfig, *, threads: int = 1, device: str = "cpu") -> None:
        if device != "cpu":
            raise AllometryError(
                f"the native engine computes on the CPU, not on {device!r}", hint="use engine fast for a GPU"
            )
        if reason := self.unsupported_reason(config):
            raise AllometryError(reason)
        self._config = config
        weights = {k: v.numpy() for k, v in config.model.build(config.train.seed).state_dict().items()}
        self._shapes = {name: w.shape for name, w in weights.items()}
        self._bounds = np.cumsum([0, *(w.size for w in weights.values())], dtype=np.int64)
        size = int(self._bounds[-1])
        self._params, self._first, self._second, self._gradients = (
            np.zeros(size, np.float32) for _ in range(4)
        )
        self._lib = library(environment())
        self._threads = max(1, threads)
        self._model = self._allocate()
        self._finalizer = weakref.finalize(self, self._lib.allometry_free, self._model)
        for name, view in self._views(self._params).items():
            view[...] = weights[name]
        self._lib.allometry_changed(self._model)

    def _allocate(self) -> int:
        model: Any = self._config.model  # of one of FAMILIES
        shape = Shape(
            layers=model.n_layer,
            width=model.d_model,
            heads=getattr(model, "n_head", 0),
            hidden=getattr(model, "d_ff", 0),
            vocab=model.n_vocab,
            context=model.n_ctx,
            threads=self._threads,
            stack=stack_of(model) if getattr(model, "timestep", False) else 0,
            bf16=self.bf16,
            dropout=model.dropout,
            seed=self._config.train.seed,
        )
        starts = dict(zip(self._shapes, self._bounds.tolist(), strict=False))
        offsets = np.array([starts.get(name, -1) for name in parameter_names(model)], np.int64)
        shrinks = np.array([decays(name, s) for name, s in self._shapes.items()], np.uint8)
        buffers = (self._params, self._first, self._second, self._gradients)
        handle = self._lib.allometry_new(
            FAMILIES[model.family],
            ctypes.byref(shape),
            offsets.ctypes.data,
            self._bounds.ctypes.data,
            shrinks.ctypes.data,
            len(shrinks),
            *(b.ctypes.data for b in buffers),
        )
        if not handle:
            raise AllometryError(
                "not enough memory for the activations", hint="use a smaller model or context"
            )
        return int(handle)

    def use_threads(self, count: int) -> bool:
        """Use another number of threads: see `Engine.use_threads`. Without memory for more threads the number
        stays.
        """
        if count != self._threads:
            self._threads = self._lib.allometry_use_threads(self._model, max(1, count)) or self._threads
        return True

    def _views(self, flat: Floats) -> dict[str, Floats]:
        starts = self._bounds.tolist()
        return {
            name: flat[a:b].reshape(shape)
            for (name, shape), a, b in zip(self._shapes.items(), starts, starts[1:], strict=False)
        }

    def _batch(
        self, windows: Tokens, *, weights: Floats | None = None, losses: Floats | None = None
    ) -> tuple[Batch, tuple[NDArray[Any] | None, ...]]:
        """Return the C structure, and the arrays that must live as long as it."""
        model = self._config.model
        tokens = np.ascontiguousarray(windows, dtype=np.int32)
        if tokens.ndim != 2 or not 2 <= tokens.shape[1] <= model.n_ctx + 1:
            raise AllometryError(
                f"token windows of shape {tokens.shape} do not fit a context of {model.n_ctx}",
                hint=f"pass shape (sequences, {model.n_ctx + 1})",
            )
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < model.n_vocab:
            raise AllometryError(
                f"token ids {tokens.min()} to {tokens.max()} are outside the vocabulary of {model.n_vocab}",
                hint="encode the text with the tokenizer that the model was made for",
            )
        if weights is not None:
            weights = np.ascontiguousarray(weights, np.float32)
            assert weights.shape == (tokens.shape[0], tokens.shape[1] - 1)
            weights = normalised(weights)
        pointers = [None if a is None else a.ctypes.data for a in (weights, losses)]
        return Batch(tokens.ctypes.data, len(tokens), tokens.shape[1] - 1, *pointers), (
            tokens,
            weights,
            losses,
        )

    def step(self, batch: Tokens, *, lr: float, step: int, weights: Floats | None = None) -> StepResult:
        """Make one update: see `Engine.step`."""
        train = self._config.train
        clip = math.inf if train.clip is None else train.clip
        adam = Adam(lr, train.beta1, train.beta2, ADAM_EPS, train.weight_decay, clip, CLIP_EPS, step)
        structure, _alive = self._batch(batch, weights=weights)
        norm = ctypes.c_double()
        loss = self._lib.allometry_step(
            self._model, ctypes.byref(structure), ctypes.byref(adam), ctypes.byref(norm)
        )
        return StepResult(loss, norm.value)

    def losses(self, windows: Tokens) -> Floats:
        """Return the losses: see `Engine.losses`."""
        result = np.empty((len(windows), windows.shape[1] - 1), np.float32)
        structure, _alive = self._batch(windows, losses=result)
        self._lib.allometry_losses(self._model, ctypes.byref(structure))
        return result

    def hits(self, windows: Tokens) -> NDArray[np.bool_]:
        """Return which predictions are right: see `Engine.hits`. PyTorch computes it: the compiled step keeps no
        logits.
        """
        module = self._config.model.build(self._config.train.seed)
        return hits(with_parameters(module, self.state()), windows, torch.device("cpu"))

    def gradients(
        self, windows: Tokens, *, step: int = 1, weights: Floats | None = None
    ) -> tuple[float, dict[str, Floats]]:
        """Return loss and gradients: see `Engine.gradients`."""
        structure, _alive = self._batch(windows, weights=weights)
        loss = self._lib.allometry_gradients(self._model, ctypes.byref(structure), step)
        return loss, {name: view.copy() for name, view in self._views(self._gradients).items()}

    def sequence_norms(self, windows: Tokens, *, step: int = 1) -> NDArray[np.float64]:
        """Return the gradient norm of each sequence: see `Engine.sequence_norms`."""
        norms = np.empty(len(windows), np.float64)
        structure, _alive = self._batch(windows)
        self._lib.allometry_sequence_norms(self._model, ctypes.byref(structure), step, norms.ctypes.data)
        return norms

    def state(self) -> State:
        """Return parameters and moments: see `Engine.state`."""
        kinds = {"params": self._params, "adam_m": self._first, "adam_v": self._second}
        return {f"{kind}/{k}": v.copy() for kind, flat in kinds.items() for k, v in self._views(flat).items()}

    def load_state(self, state: State) -> None:
        """Load parameters and moments: see `Engine.load_state`."""
        kinds = {"params": self._params, "adam_m": self._first, "adam_v": self._second}
        for kind, flat in kinds.items():
            for name, view in self._views(flat).items():
                view[...] = state[f"{kind}/{name}"]
        self._lib.allometry_changed(self._model)


@register
class NativeBf16Engine(NativeEngine):
    """Round the factors of matrix products to bf16 and multiply them on AMX tiles (csrc/gemm_bf16.h).

    Parameters, moments, gradients, activations, sums, softmax and losses stay fp32. An engine of its own name,
    because its numbers are not those of `native`: losses of trained models differ by less than their seeds' do, to
    either side (docs/performance.md). It trains only where a run names it.
    """

    name = "native-bf16"
    bf16 = True

    @classmethod
    def unsupported_reason(cls, config: RunConfig) -> str | None:
        """Return why this engine cannot run `config` here, or None: see `Engine.unsupported_reason`."""
        if reason := super().unsupported_reason(config):
            return reason
        if getattr(config.model, "family", "?") == "lstm":
            return "an LSTM's recurrence is kept in fp32: use engine native"
        if not library(environment()).allometry_has_bf16():
            return "this processor has no bf16 tiles (AMX), or the system keeps them back: use engine native"
        return None
