"""The native engine against float64 autograd and the reference engine; what it says where it cannot run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allometry.core.errors import AllometryError
from allometry.models.base import family as family_called
from allometry.train.config import RunConfig, TrainConfig
from allometry.train.engines.native import NativeEngine
from allometry.train.engines.reference import ReferenceEngine

pytestmark = pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None,
    reason="no C++ compiler to build the native engine",
)


FAMILIES = pytest.mark.parametrize("family", ["transformer", "universal", "lstm"])


def run_config(seed=0, clip=1.0, weight_decay=0.1, sequences=4, family="transformer", **model):
    shape = family_called(family)(**{"n_layer": 2, "d_model": 32, "n_ctx": 24, "n_vocab": 61, **model})
    tokens = sequences * shape.n_ctx
    train = TrainConfig(
        tokens=tokens, batch_tokens=tokens, lr=1e-3, seed=seed, clip=clip, weight_decay=weight_decay
    )
    return RunConfig(model=shape, train=train, engine="native")


def windows(config, sequences=4, seed=0):
    shape = (sequences, config.model.n_ctx + 1)
    return np.random.default_rng(seed).integers(0, config.model.n_vocab, shape)


def autograd(config, tokens, weights=None):
    """Loss and gradients in float64."""
    model = config.model.build(config.train.seed).double()
    t = torch.from_numpy(tokens)
    losses = F.cross_entropy(model(t[:, :-1]).transpose(1, 2), t[:, 1:], reduction="none")
    loss = losses.mean() if weights is None else (losses * torch.from_numpy(weights)).sum()
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    return float(loss.detach()), gradients, losses.detach().numpy()


def relative_error(found, expected):
    difference = sum(float(np.sum((found[k] - v) ** 2)) for k, v in expected.items())
    return np.sqrt(difference / sum(float(np.sum(v**2)) for v in expected.values()))


@st.composite
def transformers(draw):
    heads = draw(st.integers(1, 3))
    return {
        "n_layer": draw(st.integers(1, 2)),
        "n_head": heads,
        "d_model": heads * draw(st.sampled_from([8, 16, 24, 32])),
        "d_ff": draw(st.integers(3, 140)),
        "n_ctx": draw(st.integers(1, 70)),
        "n_vocab": draw(st.integers(2, 90)),
        "bias": draw(st.booleans()),
    }


@st.composite
def universals(draw):
    repeated = draw(
        st.sampled_from(
            [{"n_layer": 2}, {"n_layer": 4}, {"n_layer": 6, "reuse": 3}, {"n_layer": 3, "reuse": 1}]
        )
    )
    return {**draw(transformers()), "family": "universal", **repeated, "timestep": draw(st.booleans())}


@st.composite
def lstms(draw):
    return {
        "family": "lstm",
        "n_layer": draw(st.integers(1, 3)),
        "d_model": draw(st.integers(1, 80)),
        "n_ctx": draw(st.integers(1, 40)),
        "n_vocab": draw(st.integers(2, 90)),
    }


def check_gradients(config, sequences, threads=1):
    tokens = windows(config, sequences)
    engine = NativeEngine(config, threads=threads)
    loss, gradients = engine.gradients(tokens)
    expected_loss, expected, losses = autograd(config, tokens)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert gradients.keys() == expected.keys()
    assert relative_error(gradients, expected) < 1e-5
    np.testing.assert_allclose(engine.losses(tokens), losses, atol=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(shape=transformers() | universals(), sequences=st.integers(1, 5), threads=st.integers(1, 2))
def test_gradients_equal_float64_autograd(shape, sequences, threads):
    check_gradients(run_config(**shape), sequences, threads)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(shape=lstms(), sequences=st.integers(1, 30), threads=st.integers(1, 2))
def test_gradients_of_lstms_equal_float64_autograd(shape, sequences, threads):
    check_gradients(run_config(**shape), sequences, threads)


@pytest.mark.parametrize(
    "model",
    [
        {"n_ctx": 600, "n_layer": 1},
        {"n_vocab": 3000},
        {"d_model": 320, "n_layer": 1},
        {"d_model": 320, "n_layer": 1, "family": "lstm"},
        {"n_ctx": 300, "n_layer": 1, "family": "lstm"},
    ],
    ids=str,
)
def test_gradients_of_large_dimensions(model):
    check_gradients(run_config(**model), 2)


@FAMILIES
def test_only_weighted_positions_count(family):
    config = run_config(family=family)
    tokens = windows(config)
    weights = np.random.default_rng(1).random((4, 24)).astype(np.float32)
    weights[:, :12] = 0
    loss, gradients = NativeEngine(config).gradients(tokens, weights=weights)
    expected_loss, expected, _ = autograd(config, tokens, weights / weights.sum(dtype=np.float64))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert relative_error(gradients, expected) < 1e-5


def test_weights_that_are_all_zero_are_refused():
    config = run_config()
    with pytest.raises(AllometryError, match="all its weights are zero"):
        NativeEngine(config).step(windows(config), lr=1e-3, step=1, weights=np.zeros((4, 24), np.float32))


@FAMILIES
def test_norms_of_single_sequences(family):
    config = run_config(family=family)
    tokens = windows(config)
    expected = []
    for sequence in tokens:
        gradients = autograd(config, sequence[None])[1]
        expected.append(np.sqrt(sum(np.sum(g**2) for g in gradients.values())))
    for threads in (1, 2):
        norms = NativeEngine(config, threads=threads).sequence_norms(tokens)
        np.testing.assert_allclose(norms, expected, rtol=1e-5)


@FAMILIES
def test_shorter_windows_are_evaluated(family):
    config = run_config(family=family)
    tokens = windows(config)[:, :11]
    np.testing.assert_allclose(NativeEngine(config).losses(tokens), autograd(config, tokens)[2], atol=1e-5)


@FAMILIES
@pytest.mark.parametrize("clip", [None, 0.5])
def test_steps_equal_the_reference(clip, family):
    config = run_config(family=family, clip=clip, seed=3)
    native, reference = NativeEngine(config), ReferenceEngine(config)
    first, second = native.state(), reference.state()
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    for step in range(1, 21):
        tokens = windows(config, seed=step)
        a, b = (engine.step(tokens, lr=3e-3, step=step) for engine in (native, reference))
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
    second = reference.state()
    for name, values in native.state().items():
        np.testing.assert_allclose(values, second[name], atol=2e-4, err_msg=name)


def loss_differences(kind, seeds=5, d_model=64, sequences=16):
    """Relative differences of the last losses to the reference's, for paired seeds."""
    differences = []
    text = np.frombuffer(Path(F.__file__).read_bytes(), np.uint8)
    for seed in range(seeds):
        config = run_config(seed=seed, n_vocab=256, n_ctx=64, d_model=d_model)
        engines = kind(config), ReferenceEngine(config)
        rng = np.random.default_rng(seed)
        last = []
        for step in range(1, 301):
            starts = rng.integers(0, len(text) - 65, sequences)
            tokens = np.stack([text[s : s + 65] for s in starts]).astype(np.int64)
            last.append([engine.step(tokens, lr=3e-3, step=step).loss for engine in engines])
        a, b = np.mean(last[-50:], axis=0)
        differences.append(a / b - 1)
    return differences


@pytest.mark.slow
def test_loss_curves_agree_with_the_reference_over_seeds():
    """Mean difference of the last losses under 0.2 % and within its own scatter."""
    differences = loss_differences(NativeEngine)
    assert abs(np.mean(differences)) < 0.002
    assert abs(np.mean(differences)) < 3 * np.std(differences, ddof=1) / np.sqrt(5) + 1e-5


@FAMILIES
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_every_time_and_across_resume(dropout, threads, family):
    config = run_config(family=family, dropout=dropout)
    whole, begun = NativeEngine(config, threads=threads), NativeEngine(config, threads=threads)
    results = [whole.step(windows(config, seed=s), lr=1e-2, step=s) for s in range(1, 7)]
    again = [begun.step(windows(config, seed=s), lr=1e-2, step=s) for s in range(1, 4)]
    resumed = NativeEngine(config.replace(train=config.train.model_dump()), threads=threads)
    resumed.load_state(begun.state())
    again += [resumed.step(windows(config, seed=s), lr=1e-2, step=s) for s in range(4, 7)]
    assert results == again
    first, second = whole.state(), resumed.state()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@FAMILIES
def test_dropout_gradients_follow_the_loss(family):
    """The backward pass uses the forward pass's masks: the loss changes along the gradient as it says."""
    config = run_config(family=family, dropout=0.3, d_model=48)
    tokens = windows(config, 8)
    engine = NativeEngine(config)
    state = engine.state()
    _, gradients = engine.gradients(tokens, step=5)
    norm = np.sqrt(sum(np.sum(g.astype(float) ** 2) for g in gradients.values()))
    losses = []
    for sign in (1, -1):
        moved = {f"params/{k}": state[f"params/{k}"] + sign * 1e-2 * g / norm for k, g in gradients.items()}
        engine.load_state({**state, **moved})
        losses.append(engine.gradients(tokens, step=5)[0])
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(norm, rel=5e-3)


@FAMILIES
def test_dropout_depends_on_step_and_seed_and_keeps_the_mean(family):
    config = run_config(family=family, dropout=0.1)
    tokens = windows(config, 64)
    engine = NativeEngine(config)
    losses = {engine.gradients(tokens, step=step)[0] for step in range(1, 6)}
    assert len(losses) == 5
    plain = float(engine.losses(tokens).mean())
    assert all(abs(loss - plain) < 0.2 for loss in losses)


@FAMILIES
@pytest.mark.parametrize("sequences", [1, 7, 40])
def test_any_number_of_threads_gives_the_same_bits(family, sequences):
    """Also if it changes in between."""
    config = run_config(family=family, dropout=0.1, d_model=72)  # enough parameters for several slices
    engines = [NativeEngine(config, threads=n) for n in (1, 2, 3, 1)]
    for step in range(1, 5):
        tokens = windows(config, sequences, seed=step)
        assert len({engine.step(tokens, lr=1e-3, step=step) for engine in engines}) == 1
        assert len({engine.sequence_norms(tokens).tobytes() for engine in engines}) == 1
        assert len({engine.losses(tokens).tobytes() for engine in engines}) == 1
        engines[-1].use_threads(step)
    states = [engine.state() for engine in engines]
    assert all(np.array_equal(states[0][name], state[name]) for state in states for name in state)


@FAMILIES
def test_divergence_is_seen(family):
    config = run_config(family=family)
    engine = NativeEngine(config)
    state = engine.state()
    name = next(
        name
        for name in state
        if name.startswith("params/") and name.endswith(("expand.weight", "input.weight"))
    )
    state[name][3, 5] = np.nan
    engine.load_state(state)
    result = engine.step(windows(config), lr=1e-3, step=1)
    assert np.isnan(result.loss)
    assert np.isnan(result.grad_norm)


def test_tokens_outside_the_vocabulary_are_refused():
    config = run_config()
    with pytest.raises(AllometryError, match="outside the vocabulary of 61"):
        NativeEngine(config).step(windows(config) + 1000, lr=1e-3, step=1)
    with pytest.raises(AllometryError, match="do not fit a context of 24"):
        NativeEngine(config).losses(np.zeros((2, 40), np.int64))


def test_what_it_lacks():
    assert NativeEngine.unsupported_reason(run_config()) is None
    act = run_config(family="universal", act=True)
    assert "without ACT" in str(NativeEngine.unsupported_reason(act))
    assert "contexts to 1024" in str(NativeEngine.unsupported_reason(run_config(n_ctx=2048)))
    with pytest.raises(AllometryError, match="not on 'cuda'"):
        NativeEngine(run_config(), device="cuda")


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler" in str(NativeEngine.unsupported_reason(run_config()))


def test_a_compiler_that_fails(monkeypatch, tmp_path):
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho 'step.cpp: error: cannot do it' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path / "cache"))
    assert "cannot do it" in str(NativeEngine.unsupported_reason(run_config()))
    assert list((tmp_path / "cache" / "native").iterdir()) == []


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALLOMETRY_CACHE", str(tmp_path / "file" / "cache"))
    assert "ALLOMETRY_CACHE" in str(NativeEngine.unsupported_reason(run_config()))


SANITISED = """
import numpy as np
from test_native_engine import run_config, windows
from allometry.train.engines.native import NativeBf16Engine, NativeEngine
for model in ({}, {"d_model": 24, "n_head": 3, "d_ff": 37, "n_ctx": 19, "bias": True, "dropout": 0.1},
              {"n_ctx": 300, "n_vocab": 5, "n_layer": 1, "d_ff": 300},
              {"d_model": 8, "n_vocab": 2, "n_ctx": 1},
              {"family": "universal", "n_layer": 4, "timestep": True, "dropout": 0.1},
              {"family": "lstm", "dropout": 0.1}, {"family": "lstm", "d_model": 13, "n_ctx": 70},
              {"family": "lstm", "n_vocab": 2, "n_ctx": 1}):
    config = run_config(**model)
    for threads in (1, 2):
        engine = NativeEngine(config, threads=threads)
        engine.step(windows(config, 5), lr=1e-3, step=1)
        engine.losses(windows(config, 3))
        engine.sequence_norms(windows(config, 3))
        if NativeBf16Engine.unsupported_reason(config) is None:
            NativeBf16Engine(config, threads=threads).step(windows(config, 5), lr=1e-3, step=1)
print("clean")
"""


@pytest.mark.slow
def test_no_access_out_of_bounds(tmp_path):
    """The engine built with AddressSanitizer and UndefinedBehaviorSanitizer, in a process of its own."""
    gcc = shutil.which("g++")
    library = gcc and subprocess.check_output([gcc, "-print-file-name=libasan.so"], text=True).strip()
    if not library or not os.path.isabs(library):
        pytest.skip("no AddressSanitizer here")
    wrapper = tmp_path / "sanitising-c++"
    flags = "-O1 -g -DALLOMETRY_EMULATE_AMX -fsanitize=address,undefined -fno-sanitize-recover=all"
    wrapper.write_text(f'#!/bin/sh\nexec {gcc} "$@" {flags}\n')
    wrapper.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", SANITISED],
        env={
            **os.environ,
            "CXX": str(wrapper),
            "ALLOMETRY_CACHE": str(tmp_path / "cache"),
            "LD_PRELOAD": library,
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONPATH": str(Path(__file__).parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == "clean"
