"""Everything about one GPU that is worth knowing, in one command; it installs nothing:

    python benchmarks/gpu.py --minutes 8
    python benchmarks/gpu.py --device cpu --minutes 1      a miniature, to see that the script works

(a) correctness: gradients and curves of every family against the reference on a CPU, with and without a CUDA
graph, packs against models alone, the same bits again and after a stop; (b) speed: tokens per second and
share of the peak of nanoGPT's loop, engine fast, its graph and packs; (c) a quickstart, its report included;
(d) memory forecast and used; (e) processes that share the device; (f) LSTM and Universal Transformer.

Writes gpu.json after every measurement, and gpu.md from it. The same command goes on where it ended: what the
JSON holds is not measured again, what failed is tried again last. A failure is recorded with its traceback.
The time is divided among the parts; what one leaves over goes to the others. Measurements run in a child
process, which is started anew after a failure of CUDA, a crash, or one that hangs.
"""

from __future__ import annotations

import faulthandler
import gc
import itertools
import json
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import gpu_parts as parts
import torch
from gpu_parts import Found
from rich.console import Console
from train import Case, environment

from allometry.core import env
from allometry.core.files import read_json, write_json, write_text
from allometry.train.engines.reference import settle

AGAIN = 75
"""The child's exit status when it is to be started anew, because CUDA no longer works in it."""

SHARES = {
    "correctness": 0.25,
    "speed": 0.3,
    "quickstart": 0.27,
    "memory": 0.06,
    "processes": 0.06,
    "families": 0.06,
}
"""Of the time, by part, in the order in which they are measured."""

FAMILIES = ("transformer", "universal", "lstm")
CONTENDERS = ("nanoGPT eager", "nanoGPT compiled", "fast", "graph")
PACKS = (16, 4, 64, 2, 8, 32)


@dataclass(frozen=True)
class Item:
    """One measurement: its part, its name within it, and what does it."""

    part: str
    name: str
    work: Callable[[], Found]

    @property
    def key(self) -> str:
        """What the JSON calls it."""
        return f"{self.part}: {self.name}"


@dataclass(frozen=True)
class Scale:
    """How large everything is: shapes (depth, width) of the ladder with the most telling ones first, contexts,
    vocabularies, tokens of a batch, models in packs, steps of curves, seconds of a timing, the matrix product
    that is the peak, what quickstart is given, and seconds after which a measurement is stopped.
    """

    shapes: Sequence[tuple[int, int]]
    contexts: Sequence[int]
    vocabularies: Sequence[int]
    batch: int
    packs: Sequence[int]
    steps: int
    seconds: float
    matrix: int
    quickstart: tuple[str, ...]
    longest: float

    def case(
        self, shape: tuple[int, int], context: int = 0, vocabulary: int = 0, family: str = "transformer"
    ) -> Case:
        """A shape at the first context and vocabulary unless others are given."""
        return Case(
            *shape, vocabulary or self.vocabularies[0], context or self.contexts[0], self.batch, family
        )


def scale_of(device: str, minutes: float) -> Scale:
    """Full size on a GPU, a miniature on a CPU."""
    if not device.startswith("cuda"):
        tiny = ((2, 16), (2, 32))
        return Scale(tiny, (16, 32), (64, 300), 64, (2, 4), 6, 0.02, 128, ("--compute", "0"), 300.0)
    ladder = ((2, 32), (6, 256), (4, 64), (12, 768), (4, 128), (8, 512))
    budget = max(20, min(120, round(15 * minutes)))
    quick = ("--budget", f"{budget}s")
    return Scale(
        ladder,
        (128, 64, 256, 1024),
        (256, 50_304),
        4096,
        PACKS,
        parts.STEPS,
        0.5,
        8192,
        quick,
        2 * budget + 60.0,
    )


def items_of(device: str, scale: Scale) -> list[Item]:
    """Every measurement, part by part, the most valuable first."""
    found = [
        *(Item("correctness", *each) for each in correctness(device, scale)),
        *(Item("speed", *each) for each in speed(device, scale)),
        Item("quickstart", device, partial(parts.quickstart, device, [*scale.quickstart], scale.longest)),
        *(Item("memory", *each) for each in memory(device, scale)),
        *(Item("processes", *each) for each in processes(device, scale)),
        *(Item("families", *each) for each in families(device, scale)),
    ]
    if device.startswith("cuda"):  # what the same time trains on two cores
        cores = [*scale.quickstart, "--workers", "2"]
        found.append(Item("quickstart", "cpu", partial(parts.quickstart, "cpu", cores, scale.longest)))
    return found


def correctness(device: str, scale: Scale) -> Iterator[tuple[str, Callable[[], Found]]]:
    """(a): names and work."""
    small = {family: scale.case(scale.shapes[0], family=family) for family in FAMILIES}
    for family, precision in itertools.product(FAMILIES, parts.PRECISIONS):
        name = f"gradients, {family}, {precision}"
        yield name, partial(parts.gradients, small[family], device, precision)
    for family in FAMILIES[:2]:
        yield f"graph, {family}", partial(parts.graph, small[family], device, 1, scale.steps)
        for precision in parts.PRECISIONS:
            name = f"pack of 4, {family}, {precision}"
            yield name, partial(parts.packs, small[family], device, precision, 4, scale.steps)
    for family, precision in itertools.product(FAMILIES, parts.PRECISIONS):
        name = f"{scale.steps} steps, {family}, {precision}"
        yield name, partial(parts.curves, small[family], device, precision, scale.steps)
    for family in FAMILIES:
        yield f"same bits, {family}", partial(parts.resumed, small[family], device, scale.steps, False, 0.0)
    yield "graph of 4", partial(parts.graph, small["transformer"], device, 4, scale.steps)
    long = scale.case(scale.shapes[0], scale.contexts[-1], scale.vocabularies[-1])
    for precision in parts.PRECISIONS:
        yield f"gradients, long, {precision}", partial(parts.gradients, long, device, precision)
    for name, strict, dropout in (("strict", True, 0.0), ("dropout", False, 0.1)):
        work = partial(parts.resumed, small["transformer"], device, scale.steps, strict, dropout)
        yield f"same bits, {name}", work


def speed(device: str, scale: Scale) -> Iterator[tuple[str, Callable[[], Found]]]:
    """(b): the peak; the ladder at one context and vocabulary; then all contenders wherever else."""
    yield "peak", partial(parts.peak, device, scale.matrix)
    first = [scale.case(shape) for shape in scale.shapes]
    elsewhere = [
        scale.case(shape, context, vocabulary)
        for vocabulary, context, shape in itertools.product(scale.vocabularies, scale.contexts, scale.shapes)
        if (context, vocabulary) != (scale.contexts[0], scale.vocabularies[0])
    ]
    packs = [f"pack {count}" for count in scale.packs]
    order = [
        *itertools.product(first[:2], [*CONTENDERS, packs[0]]),
        *itertools.product(first[2:], [*CONTENDERS, packs[0]]),
        *itertools.product(first, packs[1:]),
        *itertools.product(elsewhere, ["fast", "graph", packs[0], "nanoGPT eager", *packs[1:]]),
        *itertools.product(elsewhere, ["nanoGPT compiled"]),
    ]
    for case, contender in order:
        yield f"{label(case)}, {contender}", partial(parts.pace, case, contender, device, scale.seconds)


def memory(device: str, scale: Scale) -> Iterator[tuple[str, Callable[[], Found]]]:
    """(d): one model and packs."""
    for shape, context in itertools.product(scale.shapes[:4], (scale.contexts[0], scale.contexts[-1])):
        case = scale.case(shape, context, scale.vocabularies[-1])
        yield label(case), partial(parts.memory, case, device, 1)
    case = scale.case(scale.shapes[:2][-1])
    yield f"{label(case)}, pack {scale.packs[0]}", partial(parts.memory, case, device, scale.packs[0])


def processes(device: str, scale: Scale) -> Iterator[tuple[str, Callable[[], Found]]]:
    """(e): two processes, then four."""
    for count, shape in itertools.product((2, 4), scale.shapes[:2]):
        case = scale.case(shape)
        yield f"{label(case)}, {count}", partial(parts.processes, case, device, count, 4 * scale.steps)


def families(device: str, scale: Scale) -> Iterator[tuple[str, Callable[[], Found]]]:
    """(f): the other families' speed."""
    contenders = ["fast", "graph", f"pack {scale.packs[0]}", "nanoGPT eager"]
    for shape, family, contender in itertools.product(scale.shapes[:2], FAMILIES[1:], contenders):
        case = scale.case(shape, family=family)
        yield f"{label(case)}, {contender}", partial(parts.pace, case, contender, device, scale.seconds)


def label(case: Case) -> str:
    """A case in a word, such as "2x32 ctx 128 V 256"."""
    family = "" if case.family == "transformer" else f"{case.family} "
    return f"{family}{case.n_layer}x{case.d_model} ctx {case.context} V {case.vocab}"


class Record:
    """The JSON: "environment", "found" by key, and "running", the key of what is being measured."""

    def __init__(self, path: Path, device: str) -> None:
        """Reads it if it is there; refuses one of another device."""
        self.path = path
        self.value: dict[str, Any] = read_json(path) or {"device": device, "found": {}}
        if self.value["device"] != device:
            raise click.UsageError(f"{path} is of device {self.value['device']}: name another --out")

    @property
    def found(self) -> dict[str, Found]:
        """What was measured, by key: what the work returned, or "error" and "traceback", or "needs"."""
        found: dict[str, Found] = self.value["found"]
        return found

    def write(self, **changes: Any) -> None:
        """Change fields, and write JSON and table."""
        self.value |= changes
        write_json(self.path, self.value)
        write_text(self.path.with_suffix(".md"), markdown(self.value))

    def keep(self, key: str, found: Found) -> None:
        """Keep a measurement."""
        tries = self.found.get(key, {}).get("tries", 0) + 1
        self.found[key] = found | {"tries": tries}
        self.write(running=None)

    def open_items(self, items: Sequence[Item]) -> list[Item]:
        """What was not measured yet."""
        return [item for item in items if item.key not in self.found]


def attempt(item: Item, record: Record, longest: float) -> bool:
    """Measure one item and keep what came of it; whether this process can go on.

    One that takes longer than `longest` ends the process, with the places where its threads stood.
    """
    record.write(running=item.key)
    faulthandler.dump_traceback_later(longest, exit=True)
    began, fatal = time.perf_counter(), False
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = item.work()
        except parts.NeedsCuda as error:
            found = {"needs": f"needs CUDA: {error}"}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            fatal = not isinstance(error, torch.OutOfMemoryError) and "CUDA" in str(error)
    faulthandler.cancel_dump_traceback_later()
    told = sorted({str(each.message).splitlines()[0] for each in said})
    record.keep(
        item.key, found | {"took": time.perf_counter() - began} | ({"warnings": told} if told else {})
    )
    if torch.cuda.is_available() and not fatal:
        gc.collect()
        torch.cuda.empty_cache()
    return not fatal


def measure(items: Sequence[Item], record: Record, until: float, longest: float) -> bool:
    """Measure what is open until that time (of `time.time`): each part within its share of what is left, then
    whatever is open, then once more what has failed. False if the process must be started anew.
    """
    for part in SHARES:
        todo = record.open_items([item for item in items if item.part == part])
        if not todo:
            continue
        later = sum(SHARES[item] for item in list(SHARES)[list(SHARES).index(part) :])
        end = time.time() + (until - time.time()) * SHARES[part] / later
        for item in todo:
            if time.time() < end and not attempt(item, record, longest):
                return False
    failed = [item for item in items if "error" in record.found.get(item.key, {})]
    once = [item for item in failed if record.found[item.key]["tries"] == 1]
    for item in [*record.open_items(items), *once]:
        if time.time() < until and not attempt(item, record, longest):
            return False
    return True


def watch(out: Path, device: str, minutes: float, until: float) -> None:
    """Start the child that measures, and again whenever it ended before it was done."""
    command = [sys.executable, str(Path(__file__)), "--device", device, "--out", str(out)]
    command += ["--minutes", str(minutes), "--until", repr(until)]
    while True:
        child = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        record = Record(out, device)
        if child.returncode == 0:
            sys.stderr.write(child.stderr)
            return
        if running := record.value.get("running"):
            why = f"the process ended with status {child.returncode}"
            record.keep(running, {"error": why, "traceback": child.stderr[-8000:]})
        elif child.returncode != AGAIN:
            raise click.ClickException(f"measuring ended with {child.returncode}:\n{child.stderr[-4000:]}")
        if time.time() >= until:
            return


def markdown(value: Mapping[str, Any]) -> str:
    """The record as one table, a row for each measurement in the order of parts, and what failed below it."""
    lines = [
        f"# {value.get('title', value['device'])}",
        "",
        *(f"* {line}" for line in value.get("environment", [])),
        "",
    ]
    lines += ["| part | measurement | result | |", "|---|---|---|---|"]
    found: Mapping[str, Found] = value["found"]
    peak = found.get("speed: peak", {}).get("flops")
    order = sorted(found, key=lambda key: list(SHARES).index(key.split(": ")[0]))
    for key in order:
        part, name = key.split(": ", 1)
        each = found[key]
        verdict = {True: "as it should be", False: "**not as it should be**", None: ""}[each.get("ok")]
        lines.append(f"| {part} | {name} | {result(each, peak)} | {verdict} |")
    for key in order:
        if "error" in found[key]:
            lines += ["", f"## {key}", "", "```", found[key]["traceback"].rstrip(), "```"]
    return "\n".join(lines) + "\n"


def result(each: Found, peak: float | None) -> str:
    """What a measurement came to, in a few words."""
    if "error" in each:
        return "failed: " + each["error"].splitlines()[0].replace("|", "/")[:120]
    if "needs" in each or "lacks" in each:
        return str(each.get("needs") or each["lacks"])
    if "tokens per second" in each:
        of_peak = f", {each['flops'] / peak:.1%} of peak" if peak else ""
        size = f", {each['memory'] / 1e9:.2f} GB" if each["memory"] else ""
        return f"{each['tokens per second']:,.0f} tokens/s{of_peak}{size}"
    if "compute" in each:
        return f"{each['compute']:.3g} FLOPs in {each['runs']} runs, {each['seconds']:.0f} s"
    hidden = ("ok", "took", "tries", "warnings", "said")
    cells = [f"{name} {brief(value)}" for name, value in each.items() if name not in hidden]
    return ", ".join(cells)


def brief(value: Any) -> str:
    """A number with three digits; anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def describe(device: str, record: Record) -> None:
    """Write what decides the numbers into the record."""
    settings = settle(device)
    title = settings.get("gpu") or env.cpu_model()
    record.write(title=title, environment=environment(torch.get_num_threads()), settings=settings)


@click.command()
@click.option("--device", help="cuda or cpu; by default the GPU if there is one.")
@click.option("--minutes", default=8.0, show_default=True, help="Time for everything.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("gpu.json"), show_default=True, help="The JSON."
)
@click.option("--until", type=float, hidden=True, help="Measure in this process, until this time.")
@click.option("--one-process", hidden=True, help="Be one of several processes that train this case.")
@click.option("--steps", type=int, default=100, hidden=True, help="Its steps.")
def main(
    device: str | None, minutes: float, out: Path, until: float | None, one_process: str | None, steps: int
) -> None:
    """Measure one GPU: correctness, speed, a quickstart, memory, sharing, families."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise click.UsageError("PyTorch sees no GPU here; --device cpu runs a miniature of everything")
    if one_process:
        parts.one_process(Case(**json.loads(one_process)), device, steps)
        return
    if until is None:
        watch(out, device, minutes, time.time() + 60 * minutes)
        record = Record(out, device)
        failed = [key for key, found in record.found.items() if "error" in found or found.get("ok") is False]
        console = Console()
        console.print(f"{len(record.found)} measurements in {out} and {out.with_suffix('.md')}")
        console.print(f"{len(failed)} not as they should be" + "".join(f"\n  {key}" for key in failed))
        return
    record, scale = Record(out, device), scale_of(device, minutes)
    describe(device, record)
    if not measure(items_of(device, scale), record, until, scale.longest):
        sys.exit(AGAIN)


if __name__ == "__main__":
    main()
