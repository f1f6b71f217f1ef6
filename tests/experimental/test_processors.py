"""The native step for other processors: emulated bf16 tiles, NEON under QEMU, AVX-512 and AMX under Bochs."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from allometry.models.lstm import LSTMConfig
from allometry.models.transformer import TransformerConfig
from allometry.train.config import RunConfig, TrainConfig
from allometry.train.engines import bindings
from allometry.train.engines.native import NativeBf16Engine

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++")

EMULATED = "-DALLOMETRY_EMULATE_AMX"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]


def compiled(source, target, *flags, compiler=COMPILER):
    """A program of this folder, compiled with the engine's flags, the optimisation apart."""
    usual = [f for f in bindings.FLAGS if f not in ("-O3", "-march=native", "-shared", "-fPIC")]
    command = [
        compiler,
        "-O1",
        *usual,
        *WARNINGS,
        "-I",
        bindings.SOURCES,
        *flags,
        HERE / source,
        "-o",
        target,
    ]
    subprocess.run(command, check=True)
    return target


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_products_in_fp32_and_bf16(tmp_path):
    """Against sums in double of the same, rounded, factors: a wrong layout would be off by about 1."""
    program = compiled("products.cpp", tmp_path / "products", "-march=native", EMULATED)
    fp32, bf16, not_numbers = map(float, output(program).split())
    assert max(fp32, bf16) < 1e-6
    assert not_numbers == 4  # NaN and infinity stay what they are


def a_run(**model):
    shape = TransformerConfig(**{"n_layer": 2, "d_model": 64, "n_ctx": 24, "n_vocab": 61, **model})
    tokens = 4 * shape.n_ctx
    return RunConfig(model=shape, train=TrainConfig(tokens=tokens, batch_tokens=tokens, lr=1e-3))


def test_bf16_is_refused_where_it_cannot_be():
    found = NativeBf16Engine.unsupported_reason(a_run())
    assert found is None or "no bf16 tiles" in found
    lstm = a_run().replace(model=LSTMConfig(n_layer=1, d_model=8, n_ctx=24))
    assert "kept in fp32" in str(NativeBf16Engine.unsupported_reason(lstm))


TRAINED = """
import numpy as np
from test_processors import a_run
from allometry.train.engines.native import NativeBf16Engine, NativeEngine

def far(found, expected):
    off = sum(float(np.sum((found[k] - v) ** 2)) for k, v in expected.items())
    return (off / sum(float(np.sum(v**2)) for v in expected.values())) ** 0.5

for model in ({}, {"d_model": 24, "n_head": 3, "d_ff": 37, "n_ctx": 19, "bias": True}):
    config = a_run(**model)
    assert NativeBf16Engine.unsupported_reason(config) is None
    one, two, whole = NativeBf16Engine(config), NativeBf16Engine(config), NativeEngine(config)
    batch = lambda seed: np.random.default_rng(seed % 3).integers(0, 30, (4, config.model.n_ctx + 1))
    (loss, gradients), (exact, expected) = (engine.gradients(batch(0)) for engine in (one, whole))
    assert abs(loss - exact) < 0.01
    assert 1e-5 < far(gradients, expected) < 0.01, far(gradients, expected)
    for step in range(1, 25):
        results = [engine.step(batch(step), lr=0.01, step=step) for engine in (one, two, whole)]
        assert results[0] == results[1]
    assert abs(results[0].loss / results[2].loss - 1) < 0.1, results  # of 0.9, from 5 at the start
print("as it should")
"""


CURVES = """
from test_native_engine import loss_differences
from allometry.train.engines.native import NativeBf16Engine

print(*loss_differences(NativeBf16Engine, seeds=6, d_model=32, sequences=8))
"""


def emulating(program, tmp_path):
    """What a Python program prints with the engine built to emulate tiles."""
    wrapper = tmp_path / "emulating-c++"
    wrapper.write_text(f'#!/bin/sh\nexec {COMPILER} "$@" -O3 {EMULATED}\n')
    wrapper.chmod(0o755)
    environment = {
        "CXX": str(wrapper),
        "ALLOMETRY_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "train")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.slow
def test_training_in_bf16_by_emulation(tmp_path):
    """Gradients within 1 % of fp32's, the same bits again, and learning alike."""
    assert emulating(TRAINED, tmp_path) == "as it should"


@pytest.mark.slow
def test_loss_curves_in_bf16_agree_with_the_reference_over_seeds(tmp_path):
    differences = [float(word) for word in emulating(CURVES, tmp_path).split()]
    assert abs(np.mean(differences)) < 0.002
    assert abs(np.mean(differences)) < 3 * np.std(differences, ddof=1) / np.sqrt(len(differences))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="code for x86")
@pytest.mark.parametrize("processor", ["x86-64-v3", "x86-64-v4", "sapphirerapids"])
def test_compiles_for_other_x86_processors(tmp_path, processor):
    """AVX2, AVX-512, and AVX-512 with AMX; only compiled: what the code computes, the next test says."""
    program = compiled("whole_step.cpp", tmp_path / "step", f"-march={processor}")
    assembly = output("objdump", "-d", program)
    assert ("zmm" in assembly) == (processor != "x86-64-v3")
    assert ("tdpbf16ps" in assembly) == (processor == "sapphirerapids")


@pytest.mark.slow
def test_avx512_and_amx_under_bochs():
    """AVX-512 to 1e-5 in fp32 and 1e-3 in bf16; real tiles to the digit what the emulated ones give."""
    folder = os.environ.get("ALLOMETRY_BOCHS")
    if folder is None:
        pytest.skip("needs a folder in ALLOMETRY_BOCHS where tools/experimental/emulate_x86.py has run")
    tool = HERE.parents[1] / "tools" / "experimental" / "emulate_x86.py"
    subprocess.run([sys.executable, tool, folder], check=True)


@pytest.mark.slow
def test_neon_under_qemu_computes_what_this_processor_computes(tmp_path):
    """Transformer, LSTM and bf16 (emulated tiles), dropout and AdamW: four steps of each."""
    cross, qemu = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if cross is None or qemu is None:
        pytest.skip("needs apt install g++-aarch64-linux-gnu qemu-user")
    here = compiled("whole_step.cpp", tmp_path / "here", "-march=native", EMULATED)
    there = compiled("whole_step.cpp", tmp_path / "there", "-static", EMULATED, compiler=cross)
    lines = zip(output(here).splitlines(), output(qemu, there).splitlines(), strict=True)
    for (name, *expected), (same, *found) in ((a.split(), b.split()) for a, b in lines):
        assert name == same
        bound = 1e-3 if "bf16" in name else 1e-5  # another last digit may round a factor the other way
        assert [float(x) for x in found] == pytest.approx([float(x) for x in expected], rel=bound)
