"""The identity of a run: what it depends on, and that it stays what it was."""

import hashlib
import json

import pytest

from allometry.core.errors import AllometryError
from allometry.models.transformer import TransformerConfig
from allometry.train.config import ADDED, DataConfig, RunConfig, TrainConfig


def known(**train: object) -> RunConfig:
    return RunConfig(
        model=TransformerConfig(n_layer=2, d_model=32, n_ctx=64, n_vocab=256),
        data=DataConfig(corpus="sotu", eval_on=("stdlib",)),
        train=TrainConfig(tokens=1 << 20, **{"lr": 0.008, "seed": 3, **train}),
    )


def test_runs_keep_the_ids_that_they_had_before_there_were_more_settings() -> None:
    config = known()
    assert config.id == "transformer-2x32-sotu-1.05M-s3-eeceb8a2"
    assert config.trunk == "fcc783fca2b2ef5f"
    assert hashlib.sha256(config.canonical().encode()).hexdigest()[:8] == config.id[-8:]


def test_settings_that_were_added_count_once_they_are_used() -> None:
    changed = known(noise_batches=4)
    assert changed.id != known().id
    assert changed.trunk != known().trunk
    assert json.loads(changed.canonical())["train"]["noise_batches"] == 4
    plain = json.loads(known().canonical())
    assert all(name not in plain[part] for part, names in ADDED.items() for name in names)


def test_a_stored_configuration_reads_back_with_or_without_added_settings() -> None:
    for config in (known(), known(noise_batches=4)):
        whole = config.model_dump(mode="json")
        assert RunConfig.model_validate(whole) == config
        assert RunConfig.model_validate(config.identity()) == config


def test_the_noise_scale_of_one_sequence_is_refused() -> None:
    with pytest.raises(AllometryError, match="holds one sequence"):
        known(noise_batches=1, batch_tokens=64)
    assert known(noise_batches=2, batch_tokens=64).train.noise_batches == 2
