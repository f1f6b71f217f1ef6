"""Plugins: files that register things, whose source is part of the identity of the runs that use them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import allometry
from allometry.cli import main
from allometry.core import plugins
from allometry.core.errors import AllometryError
from allometry.data.spec import CORPORA, TOKENIZERS
from allometry.laws.zoo import LAWS
from allometry.models import check
from allometry.models.base import FAMILIES
from allometry.models.check import require_sound
from allometry.train.config import DataConfig, RunConfig
from allometry.train.engines.select import engine

MODEL = '''
import torch
from torch import nn
import torch.nn.functional as F
import allometry

@allometry.family("mixer", size="d_model", rate=0.01)
class Mixer(nn.Module):
    """A residual stack of layers over the token alone."""
    def __init__(self, n_vocab: int, d_model: int, n_layer: int = 2):
        super().__init__()
        self.embed = nn.Embedding(n_vocab, d_model)
        self.layers = nn.ModuleList(nn.Linear(d_model, d_model) for _ in range(n_layer))
    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + F.gelu(layer(x))
        BODY
        return F.linear(x, self.embed.weight)
'''
COUNTS = (
    "__import__('allometry.models.base').models.base.Counts(embedding=1, position=0, blocks=c.d_model**2, other=0, "
    "head=0, flops_blocks=1, flops_attention=0, flops_head=0)"
)
OTHERS = """
import allometry, numpy as np
from allometry.laws.zoo import amount, exponent, floor

allometry.register(allometry.Law(name="own-law", title="Own", expression="E + A/N**alpha", inputs={"N": "parameters"},
    parameters=(floor(), amount("A", "A*N**alpha"), exponent("alpha")), source="nobody"))

@allometry.corpus("haiku", about="three lines")
def haiku():
    for number in range(400):
        yield f"an old pond {number}"

class Codes:
    n_vocab, separator = 128, 0
    def encode(self, text): return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    def decode(self, ids): return bytes(ids).decode()

allometry.register(Codes, name="ascii")
"""


@pytest.fixture
def write(tmp_path: Path) -> Iterator[object]:
    """Writes plugins; what they register is forgotten at the end."""
    before = os.environ.get(plugins.VARIABLE)
    known = dict(plugins._loaded)

    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    with FAMILIES.temporary(), CORPORA.temporary(), TOKENIZERS.temporary(), LAWS.temporary():
        yield make
    plugins._loaded.clear()
    plugins._loaded.update(known)
    os.environ.pop(plugins.VARIABLE, None)
    if before is not None:
        os.environ[plugins.VARIABLE] = before


def model(body: str = "pass") -> str:
    return MODEL.replace("BODY", body)


def config() -> RunConfig:
    shape = FAMILIES["mixer"].from_n_params(5000, n_ctx=16, n_vocab=256)
    return RunConfig(model=shape, train={"tokens": 1024, "batch_tokens": 64, "lr": 0.01})


def test_a_module_becomes_a_family_that_counts_itself(write) -> None:
    allometry.load_plugins(write("mixers.py", model()))
    shape = FAMILIES["mixer"].from_n_params(20_000, n_ctx=24, n_vocab=131)
    counts, d = shape.counts(), shape.d_model
    assert 2 * d * d == counts.N
    assert pytest.approx(20_000, rel=0.1) == counts.N
    assert (counts.flops_blocks, counts.flops_head, counts.flops_attention) == (4 * d * d, 2 * d * 131, 0)
    assert counts.N_total == sum(p.numel() for p in shape.build().parameters())
    assert shape.own_rate() == 0.01


def test_only_runs_that_use_a_plugin_carry_its_hash(write) -> None:
    plain = {"family": "lstm", "n_layer": 2, "d_model": 16, "n_ctx": 256}
    train = {"tokens": 1000, "lr": 0.1}
    before = RunConfig(model=plain, train=train)
    (plugin,) = allometry.load_plugins(write("mixers.py", model()))
    assert RunConfig(model=plain, train=train).id == before.id == "lstm-2x16-sotu-1k-s0-d3e75ddb"
    assert "plugins" not in before.model_dump()
    own = config()
    assert own.plugins == (plugin.tag,)
    assert RunConfig.model_validate(own.model_dump(mode="json")).id == own.id
    assert own.replace(model=plain | {"n_ctx": 16}).plugins == ()


def test_an_edited_plugin_makes_other_runs_and_refuses_to_train_the_old(write) -> None:
    path = write("mixers.py", model())
    allometry.load_plugins(path)
    old = config()
    allometry.load_plugins(write("mixers.py", model("x = 2 * x")))
    new = config()
    assert new.id != old.id
    assert RunConfig.model_validate(old.model_dump(mode="json")).id == old.id
    with pytest.raises(AllometryError, match=r"mixers\.py has changed since this run was planned"):
        engine("reference", old)
    assert engine("reference", new).name == "reference"


def test_what_a_plugin_imports_from_its_folder_counts_too(write, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = write("helper_of_mixers.py", "WIDTH = 3\n")
    path = write("mixers.py", "from helper_of_mixers import WIDTH\nimport helper_of_mixers\n" + model())
    monkeypatch.syspath_prepend(str(path.parent))
    (first,) = allometry.load_plugins(path)
    helper.write_text("WIDTH = 4\n")
    (second,) = allometry.load_plugins(path)
    assert first.digest != second.digest


def test_laws_corpora_and_tokenizers_are_known_by_name(write) -> None:
    from allometry.data.corpora import resolve
    from allometry.data.tokens import prepare
    from allometry.studies.core.check import check_corpus, check_tokenizer

    (plugin,) = allometry.load_plugins(write("others.py", OTHERS))
    assert LAWS["own-law"].source == "nobody"
    assert resolve("haiku,docs=5").limits == {"docs": 5}
    tokens = prepare("haiku", "ascii")
    assert tokens.manifest.n_vocab == 128
    assert tokens.manifest.train_documents + tokens.manifest.test_documents == 400
    check_corpus("haiku")
    check_tokenizer("ascii")
    run = RunConfig(
        model={"family": "lstm", "n_layer": 1, "d_model": 8, "n_vocab": 128},
        data=DataConfig(corpus="haiku,docs=5", tokenizer="ascii"),
        train={"tokens": 1024, "lr": 0.1},
    )
    assert run.plugins == (plugin.tag,)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("broken.py", "import allometry\ndef f(:\n", r"broken\.py, line 2: invalid syntax: def f\(:"),
        ("fails.py", "x = 1\ny = 1 / 0\n", r"fails\.py, line 2: ZeroDivisionError"),
        ("lacks.py", "import no_such_module\n", r"lacks\.py, line 1: ModuleNotFoundError: .*no_such_module"),
        (
            "transformers.py",
            model().replace('"mixer"', '"lstm"'),
            "two of kind model family are called 'lstm'",
        ),
        ("sizes.py", model().replace('size="d_model"', 'size="n"'), "family 'mixer' takes no n"),
        ("names.py", model().replace("n_layer", "shape"), "cannot have an argument called 'shape'"),
    ],
)
def test_a_plugin_with_an_error_says_where(write, name: str, text: str, said: str) -> None:
    with pytest.raises(AllometryError, match=said):
        allometry.load_plugins(write(name, text))


def test_two_plugins_of_one_name_or_of_one_thing_are_refused(write) -> None:
    allometry.load_plugins(write("mixers.py", model()))
    with pytest.raises(AllometryError, match=r"'mixer': in mixers\.py and in again\.py"):
        allometry.load_plugins(write("again.py", model()))
    with pytest.raises(AllometryError, match=r"two plugins are called mixers\.py"):
        allometry.load_plugins(write("other/mixers.py", model()))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = x + x.mean(1, keepdim=True)", "changes the logits at position 0"),
        ("x = x + torch.cat([x[:, 1:], x[:, :1]], 1)", "which is the target|logits at position"),
        ("x = torch.cat([x[:, 1:], 0 * x[:, :1]], 1)", "sees token t \\+ 1, which is the target"),
        ("x = 0 * x", "do not depend on the tokens"),
    ],
)
def test_a_family_that_sees_its_target_is_not_trained(write, body: str, said: str) -> None:
    allometry.load_plugins(write("mixers.py", model(body)))
    with pytest.raises(AllometryError, match=said):
        require_sound("mixer")


WRONG = {
    "_gradients": ("super().__init__()", "super().__init__(); self.idle = nn.Linear(3, 3)", "idle.weight has"),
    "_same_seed": ("super().__init__()", "super().__init__(); torch.manual_seed(3)", "two seeds give the same weights"),
    "_same_twice": ("return F", "x = x + torch.rand(1)\n        return F", "two passes over the same tokens differ"),
    "_counts": ("rate=0.01", f"counts=lambda c: {COUNTS}", "counts() has 1"),
    "_flops": ("rate=0.01", f"counts=lambda c: {COUNTS}", "PyTorch counts"),
    "_buffers": ("BODY", "self.last.add_(1)", "changes the buffer last"),
    "_short": ("BODY", "x = x * tokens.shape[1]", "depend on the length of the window"),
}  # fmt: skip
"""Check -> what is replaced in the module, by what, and what the check then says."""


@pytest.mark.parametrize("name", WRONG)
def test_a_check_names_what_is_wrong_and_a_remedy(write, name: str) -> None:
    old, new, said = WRONG[name]
    text = MODEL.replace(old, new).replace("BODY", "pass")
    text = text.replace("self.layers =", 'self.register_buffer("last", torch.zeros(1)); self.layers =')
    allometry.load_plugins(write("mixers.py", text))
    small = FAMILIES["mixer"].from_n_params(check.PARAMETERS, n_ctx=check.N_CTX, n_vocab=check.N_VOCAB)
    found = getattr(check, name)(small)
    assert said in found.wrong
    assert found.remedy


@pytest.mark.slow
def test_the_command_checks_all_families_and_fails_if_one_does(
    write, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = model("x = x + x.mean(1, keepdim=True)").replace("mixer", "mean").replace("Mixer", "Mean")
    for path, code in ((write("mixers.py", model()), 0), (write("means.py", wrong), 1)):
        with pytest.raises(SystemExit) as ended:
            main(["check", str(path)])
        assert (ended.value.code or 0) == code
        printed = " ".join(capsys.readouterr().out.split())
        assert ("FAIL no position sees a later token" in printed) == bool(code)
        assert "it learns a batch by heart" in printed


def test_plugin_stands_anywhere_on_the_line(write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("others.py", OTHERS)
    for line in (["laws", "own-law", "--plugin", str(path)], [f"--plugin={path}", "laws", "own-law"]):
        with pytest.raises(SystemExit) as ended:
            main(line)
        assert ended.value.code == 0
        assert "nobody" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["laws", "--plugin"])
    assert ended.value.code != 0
