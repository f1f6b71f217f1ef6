"""What every model family must do, asked of one family, with the remedy for what it does not.

A scaling law compares losses of models that differ in size alone. A model that sees the token it is to predict, or
whose weights differ each time it is made, gives losses that mean nothing, and gives them without a word. So these
checks come before any training; each takes a second on a small model of the family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allometry.core.errors import AllometryError
from allometry.models.base import FAMILIES, ModelConfig
from allometry.models.own import ModuleConfig, flops

N_CTX, N_VOCAB, PARAMETERS = 24, 131, 20_000
"""The small model that is asked: sizes that are no round numbers, so that mixed-up axes are found."""

SPLIT = 13
"""Positions from here on are changed, to see whether earlier ones notice."""

UPDATES, LEARNT = 150, 0.5
"""Updates on one batch, and the loss (nats) that a model which learns is below by then."""


@dataclass(frozen=True)
class Finding:
    """One check: what was asked, whether it holds, and if not what is wrong and what to do."""

    asked: str
    wrong: str | None = None
    remedy: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the check holds."""
        return self.wrong is None


def check_family(config: type[ModelConfig]) -> Iterator[Finding]:
    """Yield what each check of a family finds. Checks that need a model that runs are left out if it does not."""
    try:
        small = config.from_n_params(PARAMETERS, n_ctx=N_CTX, n_vocab=N_VOCAB)
        model = small.build().eval()
    except AllometryError as error:
        yield Finding("it is built", error.message, error.hint)
        return
    except Exception as error:
        yield Finding("it is built", f"{type(error).__name__}: {error}", "mend the constructor")
        return
    yield Finding("it is built")
    found = _shapes(small, model)
    yield found
    if not found.ok:
        return
    for check in (*_BEFORE_TRAINING, _short, _same_twice, _flops, _sizes, _gradients, _learns):
        yield _asked(check, small)


def require_sound(family: str) -> None:
    """Refuse a plugin's family whose losses would mean nothing: AllometryError with the first finding.

    Families of Allometry itself are not asked, and one that passed is not asked again in this process.
    """
    plugin = FAMILIES.plugin(family)
    if plugin is None or (family, plugin.digest) in _sound:
        return
    small = FAMILIES[family].from_n_params(PARAMETERS, n_ctx=N_CTX, n_vocab=N_VOCAB)
    found = [_shapes(small, small.build().eval())]
    if found[0].ok:
        found += [_asked(check, small) for check in _BEFORE_TRAINING]
    for each in found:
        if not each.ok:
            raise AllometryError(
                f"family {family!r} of {plugin.name} cannot be trained: {each.wrong}",
                hint=f"{each.remedy}; all of it: allometry check {plugin.path}",
            )
    _sound.add((family, plugin.digest))


def _asked(check: Callable[[ModelConfig], Finding], config: ModelConfig) -> Finding:
    """Return what a check finds; an exception is a finding too."""
    title = (check.__doc__ or "").splitlines()[0].removeprefix("Ask whether ").rstrip(".")
    try:
        return check(config)
    except AllometryError as error:
        return Finding(title, error.message, error.hint)
    except Exception as error:
        return Finding(title, f"{type(error).__name__}: {error}", "mend the module's forward")


def _tokens(config: ModelConfig, rows: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.n_vocab, (rows, config.n_ctx), generator=generator)


def _logits(config: ModelConfig, tokens: Tensor, seed: int = 0) -> Tensor:
    """Return logits in double precision, without dropout."""
    with torch.no_grad():
        return config.build(seed).double().eval()(tokens)


def _shapes(config: ModelConfig, model: nn.Module) -> Finding:
    asked = "it maps token ids (batch, time) to logits (batch, time, n_vocab)"
    try:
        with torch.no_grad():
            out = model(_tokens(config))
    except Exception as error:
        return Finding(asked, f"{type(error).__name__}: {error}", "mend the module's forward")
    wanted = (3, config.n_ctx, config.n_vocab)
    if not isinstance(out, Tensor) or tuple(out.shape) != wanted:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        return Finding(asked, f"for 3 windows of {config.n_ctx} tokens it returns {got}, not {wanted}",
                       "return one row of logits for every position, and nothing else")  # fmt: skip
    if not bool(torch.isfinite(out).all()):
        return Finding(asked, "some logits of a fresh model are not finite", "start from smaller weights")
    return Finding(asked)


def _causal(config: ModelConfig) -> Finding:
    """Ask whether no position sees a later token.

    Position t predicts token t + 1, so a model that sees a later position sees its own answer.
    """
    asked = "no position sees a later token"
    before = _tokens(config)
    after = before.clone()
    after[:, SPLIT:] = (after[:, SPLIT:] + 1) % config.n_vocab
    a, b = _logits(config, before), _logits(config, after)
    moved = (a - b).abs().amax((0, 2)) > 1e-9
    if bool(moved[:SPLIT].any()):
        first = int(moved.nonzero()[0])
        reach = _reach(config)
        if reach == 1:
            return Finding(
                asked,
                "position t sees token t + 1, which is the target: the loss would fall to nothing and mean nothing",
                "shift what the module reads by one: logits at t may depend on tokens 0 to t only",
            )
        return Finding(
            asked,
            f"changing tokens from position {SPLIT} on changes the logits at position {first}",
            "mask the future: is_causal=True in attention, padding on the left in convolutions, no "
            "bidirectional recurrence, no mean over the whole window",
        )
    if not bool(moved[SPLIT:].any()):
        return Finding(asked, "the logits do not depend on the tokens at all", "use the tokens in forward")
    return Finding(asked)


def _reach(config: ModelConfig) -> int:
    """Return how many positions ahead a model sees."""
    before = _tokens(config, rows=1)
    base = _logits(config, before)
    after = before.clone()
    after[:, SPLIT] = (after[:, SPLIT] + 1) % config.n_vocab
    moved = (base - _logits(config, after)).abs().amax((0, 2)) > 1e-9
    return SPLIT - int(moved.nonzero()[0]) if bool(moved[:SPLIT].any()) else 0


def _short(config: ModelConfig) -> Finding:
    """Ask whether windows shorter than the context work, and say the same."""
    asked = "windows shorter than the context work, and say the same"
    whole = _tokens(config)
    if not torch.allclose(_logits(config, whole)[:, :5], _logits(config, whole[:, :5]), atol=1e-9):
        return Finding(asked, "the first positions depend on the length of the window",
                       "index positions by arange(tokens.shape[1]), and normalise over features, not time")  # fmt: skip
    return Finding(asked)


def _same_seed(config: ModelConfig) -> Finding:
    """Ask whether one seed gives one set of weights, another seed another."""
    asked = "one seed gives one set of weights, another seed another"
    torch.manual_seed(7)
    one = config.build(3).state_dict()
    torch.manual_seed(8)
    two, other = config.build(3).state_dict(), config.build(4).state_dict()
    differ = [name for name in one if not torch.equal(one[name], two[name])]
    if differ:
        return Finding(asked, f"two models of one seed differ in {differ[0]}, so no run could be made again",
                       "draw weights with torch's generator only: not numpy, not random, not the time")  # fmt: skip
    if all(torch.equal(one[name], other[name]) for name in one):
        return Finding(asked, "two seeds give the same weights, so seeds measure nothing",
                       "draw weights within the constructor, and do not call manual_seed in it")  # fmt: skip
    return Finding(asked)


def _same_twice(config: ModelConfig) -> Finding:
    """Ask whether the same tokens give the same logits twice."""
    asked = "the same tokens give the same logits twice"
    model, tokens = config.build().double().eval(), _tokens(config)
    with torch.no_grad():
        same = torch.equal(model(tokens), model(tokens))
    if not same:
        return Finding(asked, "in evaluation two passes over the same tokens differ",
                       "no random numbers in forward outside training: nn.Dropout follows model.eval()")  # fmt: skip
    return Finding(asked)


def _counts(config: ModelConfig) -> Finding:
    """Ask whether the counts are the module's parameters."""
    asked = "the counts are the module's parameters"
    counts, real = config.counts(), sum(p.numel() for p in config.build().parameters())
    if counts.N_total != real:
        return Finding(asked, f"counts() has {counts.N_total:,} parameters, the module {real:,}",
                       "leave counts= out: they are counted from the module")  # fmt: skip
    if counts.N <= 0:
        return Finding(asked, "no weight is left besides embeddings and the head, so N is 0",
                       "a model needs matrices between its embedding and its head")  # fmt: skip
    return Finding(asked)


def _flops(config: ModelConfig) -> Finding:
    """Ask whether the FLOPs are those that PyTorch counts."""
    asked = "the FLOPs are those that PyTorch counts"
    if not isinstance(config, ModuleConfig):
        return Finding(asked)
    stated, spent = config.counts(), flops(config)
    ours = stated.flops_blocks + stated.flops_head
    counted = round((spent["blocks"] + spent["head"]) / config.n_ctx)
    if config.made.counts is not None and ours != counted:
        return Finding(asked, f"counts= has {ours:,} FLOPs a token in blocks and head, PyTorch counts {counted:,}",
                       "mend flops_blocks and flops_head, or leave counts= out")  # fmt: skip
    if not spent["blocks"]:
        return Finding(asked, "PyTorch counts no product with a weight of the blocks, so C would be 0",
                       "give exact ones: family(NAME, counts=lambda config: Counts(...))")  # fmt: skip
    return Finding(asked)


def _sizes(config: ModelConfig) -> Finding:
    """Ask whether sizes can be asked for by their number of parameters."""
    asked = "sizes can be asked for by their number of parameters"
    last = 0
    for wanted in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        reached = type(config).from_n_params(wanted, n_ctx=N_CTX, n_vocab=N_VOCAB).counts().N
        if reached <= last:
            return Finding(asked, f"asked for {wanted:,} parameters it has {reached:,}, no more than for fewer",
                           "name the argument that sets the size: family(NAME, size='d_model')")  # fmt: skip
        if abs(math.log(reached / wanted)) > math.log(1.4):
            return Finding(asked, f"asked for {wanted:,} parameters the nearest is {reached:,}",
                           "let the size go in finer steps: family(NAME, multiple=2)")  # fmt: skip
        last = reached
    return Finding(asked)


def _buffers(config: ModelConfig) -> Finding:
    """Ask whether all that training changes are parameters.

    Checkpoints hold parameters; a run that was killed would go on with fresh buffers.
    """
    asked = "all that training changes are parameters"
    model = config.build().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(_tokens(config))
    changed = [name for name, buffer in model.named_buffers() if not torch.equal(before[name], buffer)]
    if changed:
        return Finding(asked, f"forward changes the buffer {changed[0]}, which no checkpoint holds",
                       "normalise without running averages: nn.LayerNorm, not nn.BatchNorm1d")  # fmt: skip
    return Finding(asked)


def _loss(model: nn.Module, config: ModelConfig) -> Tensor:
    tokens, targets = _tokens(config), _tokens(config, seed=1)
    return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


def _gradients(config: ModelConfig) -> Finding:
    """Ask whether every parameter has a gradient."""
    asked = "every parameter has a gradient"
    model = config.build().train()
    _loss(model, config).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    broken = [
        n for n, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())
    ]
    if broken:
        return Finding(
            asked, f"the gradient of {broken[0]} is not finite", "look for a root or a logarithm of 0"
        )
    unused = [name for name in idle if model.get_parameter(name).grad is None]
    if unused:
        return Finding(asked, f"{unused[0]} has no gradient: it would count in N and never be trained",
                       "use the parameter in forward, or leave it out")  # fmt: skip
    return Finding(asked)


def _learns(config: ModelConfig) -> Finding:
    """Ask whether it learns a batch by heart."""
    asked = "it learns a batch by heart"
    model = config.build().train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(UPDATES):
        optimiser.zero_grad()
        loss = _loss(model, config)
        loss.backward()
        optimiser.step()
    end = float(loss.detach())
    if not end < math.log(config.n_vocab) - LEARNT:
        return Finding(asked, f"after {UPDATES} updates on one batch the loss is {end:.2f} nats, chance is "
                       f"{math.log(config.n_vocab):.2f}", "look for a detach() or weights of 0")  # fmt: skip
    return Finding(asked)


_BEFORE_TRAINING = (_causal, _same_seed, _counts, _buffers)
"""What a family must pass before it is trained."""

_sound: set[tuple[str, str]] = set()
