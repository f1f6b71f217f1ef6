"""The family that docs/add-a-model.md adds keeps the contract of families."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from allometry.models import base

ROOT = Path(__file__).parents[2]


def run_blocks(document: str) -> dict[str, Any]:
    """Run the Python blocks of a document, one after the other, in one namespace."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / document).read_text(), re.DOTALL | re.MULTILINE
    )
    assert blocks
    names: dict[str, Any] = {"__name__": "document"}
    for block in blocks:
        exec(compile(block, document, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def scratch_registry() -> Iterator[None]:
    torch.set_num_threads(1)
    with base.FAMILIES.temporary():
        yield


def test_the_example_family_keeps_the_contract(tmp_path: Path) -> None:
    family = run_blocks("add-a-model.md")["WindowConfig"]
    assert base.family("window") is family
    spec = importlib.util.spec_from_file_location("contract", ROOT / "tests/contracts/test_models.py")
    assert spec is not None
    assert spec.loader is not None
    contract = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contract)
    config = family.from_n_params(20_000, n_ctx=24, n_vocab=131)
    contract.test_counts_equal_the_real_parameters(config)
    contract.test_flops_agree_with_torchs_counter(config)
    contract.test_no_position_sees_the_future(config)
    contract.test_shorter_inputs_than_the_context_are_fine(config)
    contract.test_knows_nothing_at_initialisation(config)
    contract.test_overfits_a_batch(config)
    contract.test_same_seed_same_model(config)
    contract.test_weights_survive_a_file(config, tmp_path)
    contract.test_the_configuration_survives_json(config)
    contract.test_the_dial_hits_its_size(family)
    contract.test_the_dial_never_turns_back(family)
    contract.test_bad_fields_are_explained(family)
