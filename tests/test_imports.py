"""Imports go one way, and the reading half never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "allometry"

BELOW = {
    "core": set(),
    "cluster": set(),
    "sources": set(),
    "runs": {"sources"},
    "data": {"runs"},
    "models": {"runs", "data"},
    "train": {"runs", "data", "models"},
    "experimental": {"runs", "data", "models", "train"},
    "sweeps": {"runs", "data", "models", "train", "experimental"},
    "laws": {"runs", "sources"},
    "planner": {"runs", "laws"},
    "figures": {"runs", "laws", "planner"},
    "report": {"runs", "laws", "planner", "figures"},
    "watch": {"runs", "laws", "planner", "figures", "report", "studies"},
    "studies": {"runs", "data", "models", "train", "sweeps", "laws", "planner", "figures", "report"},
}
EVERYWHERE = {"core", "cluster"}
READING = (
    "runs.store",
    "sources.atlas",
    "laws.fit",
    "laws.backtest",
    "laws.isoflop",
    "planner",
    "figures",
    "report.build",
    "watch.server",
)


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, at any depth of its code, as "data.tokens"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("allometry."):
            found.add(node.module.removeprefix("allometry."))
        elif isinstance(node, ast.Import):
            names = {alias.name for alias in node.names if alias.name.startswith("allometry.")}
            found |= {name.removeprefix("allometry.") for name in names}
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = part(path)
    if here in ("api", "cli", "__init__", "__main__"):
        return
    allowed = BELOW[here] | EVERYWHERE | {here}
    wrong = {m for m in imported(path) if m.split(".")[0] not in allowed and m not in allowed}
    assert not wrong, f"{here} may not import {wrong}"


def loads(code: str, module: str = "torch") -> bool:
    script = f"import sys\n{code}\nprint({module!r} in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return out.stdout.strip().endswith("True")


def test_reading_runs_never_loads_torch() -> None:
    """Nor does any public name, nor the configuration of a run: a plan, a store and a report hold those."""
    lines = "\n".join(f"import allometry.{module}" for module in READING)
    read = f"import allometry\n{lines}\n[getattr(allometry, name) for name in allometry.__all__]\n"
    read += "from allometry.train.config import RunConfig\n"
    for family in ("transformer", "lstm", "universal"):
        model = f"dict(family={family!r}, n_layer=2, d_model=16)"
        read += f"config = RunConfig(model={model}, train=dict(tokens=10_000, lr=0.01))\n"
        read += "config.id, config.model.counts()\n"
    assert not loads(read)


def test_help_loads_nothing_heavy() -> None:
    code = "from allometry.cli import app\napp.main(['--help'], standalone_mode=False)"
    script = f"import sys\n{code}\nassert not {{'torch', 'pandas', 'numpy', 'sympy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_making_a_model_loads_torch_and_never_its_compiler() -> None:
    """That costs every worker seconds, and needs nothing of it."""
    make = "from allometry.models.base import families\n"
    make += "[family.from_n_params(5_000, n_vocab=64).build() for family in families().values()]\n"
    make += "import torch; assert torch is sys.modules['torch']\n"
    assert not loads(make, "torch._dynamo")
