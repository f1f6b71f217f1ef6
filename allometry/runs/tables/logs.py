"""Plain-text logs of training programs: nanoGPT, nanochat, modded-nanogpt, llm.c, Megatron."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from allometry.core.units import counted, readings

_N = r"([\d.,]+(?:[eE][+-]?\d+)?[kKMBT]?)"
_LINES: tuple[tuple[str, re.Pattern[str], tuple[str, ...]], ...] = (
    ("nanoGPT", re.compile(rf"^step (\d+): train loss {_N}, val loss {_N}"),
     ("step", "train_loss", "val_loss")),
    ("nanoGPT", re.compile(rf"^iter (\d+): loss {_N}, time"), ("step", "train_loss")),
    ("nanochat", re.compile(rf"^Step (\d+) \| Validation bpb: {_N}"), ("step", "val_bpb")),
    ("nanochat", re.compile(rf"^step (\d+)/\d+ .*?\| (?:train )?loss: {_N} \|"), ("step", "train_loss")),
    ("modded-nanogpt", re.compile(rf"^step:(\d+)/\d+ val_loss:{_N}"), ("step", "val_loss")),
    ("modded-nanogpt", re.compile(rf"^step:(\d+)/\d+ train_loss:{_N}"), ("step", "train_loss")),
    ("llm.c", re.compile(rf"^s:(\d+) tel:{_N}"), ("step", "val_loss")),
    ("llm.c", re.compile(rf"^s:(\d+) trl:{_N}"), ("step", "train_loss")),
    ("Megatron", re.compile(rf"validation loss at iteration (\d+).*? lm loss value: {_N}"),
     ("step", "val_loss")),
    ("Megatron", re.compile(rf"\biteration +(\d+)/ *\d+ \|.*? lm loss: {_N} \|"), ("step", "train_loss")),
)  # fmt: skip
_FACTS = (
    ("N", re.compile(rf"(?i)^\W*(?:total )?number of (?:trainable )?parameters:? *{_N}")),
    ("N", re.compile(rf"^\W*num_parameters: {_N}")),
    ("tokens_per_step", re.compile(rf"(?i)^\W*tokens per iteration will be: *{_N}")),
    ("tokens_per_step", re.compile(rf"(?i)^\W*total batch size:? *{_N}(?: *=>.*)?$")),
)


def read_log(text: str, notices: list[str]) -> pd.DataFrame | None:
    """Return the losses in a training program's log, one row a step; None for text that is no known log.

    The number of parameters and the tokens of a step are taken where the log says them; tokens follow from
    steps then.
    """
    rows: dict[int, dict[str, Any]] = {}
    facts: dict[str, float] = {}
    programs: list[str] = []
    for line in text.splitlines():
        entry = line[:1000].strip()
        for program, pattern, names in _LINES:
            match = pattern.search(entry)
            if match:
                values = [_value(cell) for cell in match.groups()[1:]]
                if all(value is not None for value in values):
                    rows.setdefault(int(match[1]), {"step": int(match[1])}).update(
                        zip(names[1:], values, strict=True)
                    )
                    programs.append(program)
                break
        else:
            for name, pattern in _FACTS:
                match = pattern.search(entry)
                value = _value(match[1]) if match else None
                if value is not None:
                    facts.setdefault(name, value)
    if not rows:
        return None
    frame = pd.DataFrame([rows[step] for step in sorted(rows)])
    said = f"read as a log of {programs[0]}: {counted(len(frame), 'step')}"
    if "N" in facts:
        frame["params"] = facts["N"]
        said += f", {facts['N']:.4g} parameters as it counts them"
    if "tokens_per_step" in facts:
        frame["tokens_per_step"] = facts["tokens_per_step"]
        frame["tokens"] = frame["step"] * facts["tokens_per_step"]
        said += f", tokens are steps times {facts['tokens_per_step']:.10g}"
    notices.append(said)
    return frame


def _value(text: str) -> float | None:
    """Return a number as programs print it: commas separate thousands."""
    return readings(text.rstrip(".,")).get(".")
