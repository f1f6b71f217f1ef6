"""Everything about one GPU that is worth knowing, in one command; it installs nothing:

    python benchmarks/gpu.py --minutes 8
    python benchmarks/gpu.py --device cpu --minutes 5      a miniature, to see that the script works
    python benchmarks/gpu.py --science --minutes 15        instead: a study that needs a GPU (gpu_science.py)

(a) correctness: gradients and curves of every family against the reference on a CPU, with and without a CUDA
graph, packs against models alone, the same bits again and after a stop; (b) speed: tokens per second and
share of the peak of nanoGPT's loop, engine fast, its graph and packs; (c) a quickstart, its report included;
(d) whole sweeps in packs and with several workers on the device, losses and speed; (e) memory forecast and
used; (f) processes that share the device; (g) speed of LSTM and Universal Transformer.

Writes gpu.json after every measurement, and gpu.md from it. The same command goes on where it ended: what the
JSON holds is not measured again, what failed is tried again last. A failure is recorded with its traceback.
The time is divided among the parts; what one leaves over goes to the others, and half a minute after its end
whatever is still under way is stopped. Measurements run in a child process, which is started anew after a
failure of CUDA, a crash, or one that takes too long.
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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import gpu_parts as parts
import gpu_science
import gpu_table
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
    "correctness": 0.2,
    "speed": 0.27,
    "quickstart": 0.26,
    "sweeps": 0.13,
    "memory": 0.04,
    "processes": 0.05,
    "families": 0.05,
}
"""Of the time, by part, in the order in which they are measured."""

GRACE = 30.0
"""Seconds after the end until which a measurement that is under way may go on."""

LONGEST = 100.0
"""Seconds after which a measurement is stopped, unless it says otherwise: a compiler may take most of them."""

FAMILIES = ("transformer", "universal", "lstm")
CONTENDERS = ("nanoGPT eager", "nanoGPT compiled", "fast", "graph")
PACKS = (16, 4, 64, 2, 8, 32)
BYTES = 256
"""Vocabulary of sweeps, which read text."""


@dataclass(frozen=True)
class Item:
    """One measurement: its part, its name within it, and what does it; seconds that it takes at the least, and
    after which it is stopped.
    """

    part: str
    name: str
    work: Callable[[], Found]
    least: float = 0.0
    longest: float = LONGEST

    @property
    def key(self) -> str:
        """What the JSON calls it."""
        return f"{self.part}: {self.name}"


@dataclass(frozen=True)
class Scale:
    """How large everything is: shapes (depth, width) of the ladder with the most telling ones first, contexts,
    vocabularies, tokens of a batch, models in packs, steps of curves, seconds of a timing, the matrix product
    that is the peak, what quickstart is given, how long it may take at the least and the most, and seeds and steps
    of a whole sweep.
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
    least: float
    longest: float
    seeds: int

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
        return Scale(
            shapes=((2, 16), (2, 32)),
            contexts=(16, 32),
            vocabularies=(64, 300),
            batch=64,
            packs=(2, 4),
            steps=6,
            seconds=0.02,
            matrix=128,
            quickstart=("--compute", "0"),
            least=0.0,
            longest=300.0,
            seeds=4,
        )
    budget = max(20, min(120, round(15 * minutes)))
    return Scale(
        shapes=((2, 32), (6, 256), (4, 64), (12, 768), (4, 128), (8, 512)),
        contexts=(128, 64, 256, 1024),
        vocabularies=(256, 50_304),
        batch=4096,
        packs=PACKS,
        steps=parts.STEPS,
        seconds=0.5,
        matrix=8192,
        quickstart=("--budget", f"{budget}s"),
        least=budget,
        longest=2 * budget + 60.0,
        seeds=32,
    )


def items_of(device: str, scale: Scale) -> list[Item]:
    """Every measurement, part by part, the most valuable first."""
    ends = {"least": scale.least, "longest": scale.longest}
    found = [
        *(Item("correctness", *each) for each in correctness(device, scale)),
        *(Item("speed", *each) for each in speed(device, scale)),
        Item(
            "quickstart",
            device,
            partial(parts.quickstart, device, [*scale.quickstart], scale.longest),
            **ends,
        ),
        *(Item("sweeps", *each, longest=scale.longest) for each in sweeps(device, scale)),
        *(Item("memory", *each) for each in memory(device, scale)),
        *(Item("processes", *each) for each in processes(device, scale)),
        *(Item("families", *each) for each in families(device, scale)),
    ]
    if device.startswith("cuda"):  # what the same time trains on two cores
        cores = [*scale.quickstart, "--workers", "2"]
        work = partial(parts.quickstart, "cpu", cores, scale.longest)
        found.append(Item("quickstart", "cpu", work, **ends))
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


def sweeps(device: str, scale: Scale) -> Iterator[tuple[str, Callable[[], Found]]]:
    """(d): packs; workers that share the device (on a CPU: its cores); both; and what timings choose."""
    most = scale.packs[0]
    ways: list[tuple[str, int | None, int]] = [
        (f"packs of {most}", most, 1),
        ("2 workers", 1, 2),
        ("as chosen by timings", None, 1),
        (f"packs of {most} on 2 workers", most, 2),
        ("4 workers", 1, 4),
    ]
    for shape in scale.shapes[:3:2]:
        case = scale.case(shape, vocabulary=BYTES)
        for name, pack, per_gpu in ways if device.startswith("cuda") else ways[:2]:
            work = partial(parts.sweeps, case, device, scale.seeds, 4 * scale.steps, pack, per_gpu)
            yield f"{label(case)}, {name}", work


def memory(device: str, scale: Scale) -> Iterator[tuple[str, Callable[[], Found]]]:
    """(e): one model and packs."""
    for shape, context in itertools.product(scale.shapes[:4], (scale.contexts[0], scale.contexts[-1])):
        case = scale.case(shape, context, scale.vocabularies[-1])
        yield label(case), partial(parts.memory, case, device, 1)
    case = scale.case(scale.shapes[:2][-1])
    yield f"{label(case)}, pack {scale.packs[0]}", partial(parts.memory, case, device, scale.packs[0])


def processes(device: str, scale: Scale) -> Iterator[tuple[str, Callable[[], Found]]]:
    """(f): two processes, then four."""
    for count, shape in itertools.product((2, 4), scale.shapes[:2]):
        case = scale.case(shape)
        yield f"{label(case)}, {count}", partial(parts.processes, case, device, count, 4 * scale.steps)


def families(device: str, scale: Scale) -> Iterator[tuple[str, Callable[[], Found]]]:
    """(g): the other families' speed."""
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

    def begin(self, key: str) -> None:
        """Write what is being measured; the table does not say it."""
        self.value["running"] = key
        write_json(self.path, self.value)

    def write(self, **changes: Any) -> None:
        """Change fields, and write JSON and table."""
        self.value |= changes
        write_json(self.path, self.value)
        write_text(self.path.with_suffix(".md"), gpu_table.markdown(self.value, list(SHARES)))

    def keep(self, key: str, found: Found) -> None:
        """Keep a measurement."""
        left, part = self.value.get("open", {}), key.split(": ")[0]
        if key not in self.found and left.get(part):
            left[part] -= 1
        tries = self.found.get(key, {}).get("tries", 0) + 1
        self.found[key] = found | {"tries": tries}
        self.write(running=None)

    def forgive(self) -> None:
        """Let everything that has failed be tried once more."""
        for found in self.found.values():
            if "error" in found:
                found["tries"] = 1
        self.write()

    def count_open(self, items: Sequence[Item]) -> None:
        """Write how many measurements of each part are still to be made."""
        self.write(open=dict(Counter(item.part for item in self.open_items(items))))

    def open_items(self, items: Sequence[Item]) -> list[Item]:
        """What was not measured yet."""
        return [item for item in items if item.key not in self.found]


def attempt(item: Item, record: Record, until: float) -> bool:
    """Measure one item and keep what came of it; whether this process can go on.

    One that takes longer than it may, or that is under way GRACE seconds after `until`, ends the process, with the
    places where its threads stood.
    """
    record.begin(item.key)
    faulthandler.dump_traceback_later(min(item.longest, until + GRACE - time.time()), exit=True)
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
    told = sorted({str(each.message).splitlines()[0] for each in said if str(each.message)})
    record.keep(
        item.key, found | {"took": time.perf_counter() - began} | ({"warnings": told} if told else {})
    )
    if torch.cuda.is_available() and not fatal:
        gc.collect()
        torch.cuda.empty_cache()
    return not fatal


def measure(items: Sequence[Item], record: Record, until: float) -> bool:
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
            if time.time() < end and fits(item, until) and not attempt(item, record, until):
                return False
    failed = [item for item in items if "error" in record.found.get(item.key, {})]
    once = [item for item in failed if record.found[item.key]["tries"] == 1]
    for item in [*record.open_items(items), *once]:
        if fits(item, until) and not attempt(item, record, until):
            return False
    return True


def fits(item: Item, until: float) -> bool:
    """Whether there is time for it."""
    return time.time() < until and time.time() + item.least <= until


def watch(out: Path, device: str, minutes: float, until: float) -> None:
    """Start the child that measures, and again whenever it ended before it was done."""
    command = [sys.executable, str(Path(__file__)), "--device", device, "--out", str(out)]
    command += ["--minutes", str(minutes), "--until", repr(until)]
    Record(out, device).forgive()
    while True:
        child = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        record = Record(out, device)
        if child.returncode == 0:
            sys.stderr.write(child.stderr)
            return
        if running := record.value.get("running"):
            late = "Timeout (" in child.stderr  # what faulthandler writes
            why = "stopped: it took too long" if late else f"the process ended with status {child.returncode}"
            record.keep(running, {"error": why, "traceback": child.stderr[-8000:]})
        elif child.returncode != AGAIN:
            raise click.ClickException(f"measuring ended with {child.returncode}:\n{child.stderr[-4000:]}")
        if time.time() >= until:
            return


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
@click.option("--science", is_flag=True, help="Spend the time on the study of long contexts instead.")
@click.option("--compute", help="FLOPs of that study instead of the time; 0 for the smallest.")
@click.option("--until", type=float, hidden=True, help="Measure in this process, until this time.")
@click.option("--one-process", hidden=True, help="Be one of several processes that train this case.")
@click.option("--steps", type=int, default=100, hidden=True, help="Its steps.")
def main(
    device: str | None,
    minutes: float,
    out: Path,
    science: bool,
    compute: str | None,
    until: float | None,
    one_process: str | None,
    steps: int,
) -> None:
    """Measure one GPU: correctness, speed, a quickstart, sweeps, memory, sharing, families."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise click.UsageError("PyTorch sees no GPU here; --device cpu runs a miniature of everything")
    if science:
        spend = ["--compute", compute] if compute else ["--budget", f"{60 * minutes:.0f}s"]
        sys.exit(gpu_science.conduct(device, spend, out.parent / "gpu-science"))
    if one_process:
        parts.one_process(Case(**json.loads(one_process)), device, steps)
        return
    if until is None:
        watch(out, device, minutes, time.time() + 60 * minutes)
        record = Record(out, device)
        failed = [key for key, found in record.found.items() if "error" in found or found.get("ok") is False]
        console = Console()
        left = sum(record.value.get("open", {}).values())
        console.print(f"{len(record.found)} measurements in {out} and {out.with_suffix('.md')}, {left} left")
        console.print(f"{len(failed)} not as they should be" + "".join(f"\n  {key}" for key in failed))
        return
    record, scale = Record(out, device), scale_of(device, minutes)
    describe(device, record)
    items = items_of(device, scale)
    record.count_open(items)
    if not measure(items, record, until):
        sys.exit(AGAIN)


if __name__ == "__main__":
    main()
