"""Random command lines, tables, configurations, stores and checkpoints: none may end in an internal error.

python benchmarks/fuzz.py --examples 20000 --seed 1

Everything runs in this process, through the command line's own entry point: without a network, without
further processes, and without training (`run` plans only, `train` stops before it trains, `watch` serves
nothing). An internal error is one that the command line would end on with exit code 70. Each is shown once,
by the place that raised it, with the shortest example that came to it.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from allometry.cli import app
from allometry.core.errors import AllometryError

EXPECTED = (AllometryError, click.ClickException, click.exceptions.Exit, click.Abort, SystemExit)

NOT_HERE = {"webtext"}
"""Commands that start processes of their own; their stages have tests of their own."""

WORDS = (
    *(
        "",
        "-",
        "0",
        "1",
        "-1",
        "1e400",
        "nan",
        "inf",
        "9" * 400,
        "10m",
        "5M",
        "1e18",
        "2/8",
        "0/0",
        "a=b",
        "N>1e5",
    ),
    *(
        "kaplan",
        "chinchilla",
        "quickstart",
        "size",
        "sotu",
        "bytes",
        "loss",
        "status=done",
        "study=x",
        "N",
        "*",
        "ü",
    ),
    *(
        "\x1b[2J",
        "\udc80",
        "../..",
        "/",
        "/dev/null",
        "N=6*",
        "L=loss*2",
        "min(N)",
        "(" * 300,
        "+".join("N" * 5000),
    ),
    *(
        "chinchila",
        "bpe:9",
        "bpe:x",
        "files:",
        "files:/nonexistent",
        "hf:",
        "uniform:3",
        "local",
        "ray://x",
        "cuda",
    ),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**400, "step", "done", -1, 1e308, "\x1b]0;x\x07", "../victim"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
"""Values that take the place of what a file held."""

RUN = "transformer-2x16-sotu-512-s0-aaaaaaaa"
COUNTS = {"embedding": 4096, "position": 512, "blocks": 6144, "other": 96, "head": 0,
          "flops_blocks": 12288, "flops_attention": 1024, "flops_head": 8192}  # fmt: skip
CONFIG = {
    "model": {"family": "transformer", "n_layer": 2, "d_model": 16, "n_head": 2, "n_ctx": 64, "n_vocab": 256},
    "data": {"corpus": "uniform:256", "tokenizer": "bytes"},
    "train": {"batch_tokens": 128, "lr": 0.01, "schedule": "wsd", "seed": 0, "tokens": 512},
    "engine": "auto",
}
ROWS = [
    {"step": k, "tokens": 128 * k, "lr": 0.01, "train_loss": 5 / k, "loss": 5.1 / k} for k in (1, 2, 3, 4)
]
RESULT = {"format": 1, "status": "done", "step": 4, "tokens": 512, "loss": 1.275, "train_loss": 1.25,
          "seconds": 90.0, "engine": "native", "unique": 512, "notes": []}  # fmt: skip
PREDICTION = {
    "registered": "2026-01-31T00:00:00", "made_from": [RUN], "digest": "0",
    "predictions": [{"run": RUN, "N": 1e4, "loss": 1.2, "low": 1.1, "high": 1.4, "already_known": False}],
}  # fmt: skip
HEADER = {"format": 1, "run": RUN, "trunk": None, "decay_start": 3, "checksum": 0,
          "position": {"step": 2, "curve": ROWS, "loss_sum": 0.0, "engine": "native"}}  # fmt: skip
STORE: dict[str, Any] = {
    "store.json": {"format": 1},
    f"{RUN}/config.json": {"format": 1, "id": RUN, "config": CONFIG, "counts": COUNTS},
    f"{RUN}/result.json": RESULT,
    f"{RUN}/env.json": {"cpu": "x", "cores": 2},
    f"{RUN}/curve.jsonl": ROWS,
    f"{RUN}/probes.json": {"format": 1, **{k: ["x"] for k in ("probe", "kind", "text")}, "steps": [[1]],
                           **{k: [1] for k in ("repeats", "prompt", "tokens", "entropy")}},
    f"{RUN}/probes.jsonl": [{"step": 1, "loss": [1.0], "hits": [1]}],
    f"{RUN}/novelty.json": {"format": 1, "step": 4, "length": 4, "generated": [[1, 0]], "human": [[0, 0]]},
    "other/config.json": {"format": 1, "id": "other", "config": CONFIG, "counts": COUNTS},
    "other/error.txt": "it failed",
    "studies/quickstart-1m.json": {"format": 1, "runs": [RUN], "question": "?", "command": "c"},
    "studies/quickstart-1m/plan.json": {
        "study": "quickstart", "question": "?", "budget": 60.0, "compute": 1e9, "seconds": 60.0,
        "created": "x", "held_back": [], "parts": {"quickstart": [RUN]}, "designs": {}, "runs": [CONFIG],
    },
    "studies/quickstart-1m/prediction.json": PREDICTION,
    f".claims/{RUN}.1.json": {"owner": "a", "beat": 1, "released": False},
}  # fmt: skip
"""A small store by its files: objects, lists of rows (JSONL) or text."""

OF_STORES = (
    *(
        ("runs", "list"),
        ("runs", "list", "--json"),
        ("runs", "list", "study=quickstart-1m", "--sort", "loss"),
    ),
    *(
        ("runs", "show", RUN),
        ("runs", "show", RUN, "--json"),
        ("runs", "diff", RUN, "other"),
        ("runs", "undo"),
    ),
    *(
        ("runs", "rm", RUN),
        ("runs", "rm", "status=done"),
        ("runs", "export", "x.csv"),
        ("doctor",),
        ("report",),
    ),
    *(
        ("runs", "export", "x.csv", "--curves"),
        ("report", "quickstart-1m"),
        ("watch",),
        ("fit",),
        ("compare",),
    ),
    *(("run", "quickstart", "--dry-run", "--compute", "0"),),
)
"""Commands that open a store."""


def encoded(content: Any) -> bytes:
    """Return the bytes of a file of STORE."""
    if isinstance(content, str):
        return content.encode("utf-8", "surrogatepass")
    if isinstance(content, list):
        return "".join(json.dumps(row) + "\n" for row in content).encode()
    return json.dumps(content).encode()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where the values within a JSON value are, as keys."""
    yield path
    for key, item in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(item, (*path, key))


@st.composite
def damaged(draw: st.DrawFn, content: Any) -> bytes:
    """Return a file of STORE with one or two values replaced or removed, or its bytes cut or changed."""
    if isinstance(content, str) or draw(st.integers(0, 3)) == 0:
        return draw(cut(encoded(content)))
    value = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(value))))
        if not path:
            return json.dumps(draw(JSON)).encode()
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        if isinstance(parent, dict) and draw(st.integers(0, 3)) == 0:
            del parent[path[-1]]
        else:
            parent[path[-1]] = draw(JSON)
    return encoded(value)


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> bytes:
    """Return the bytes with a piece taken out, put in, or written over."""
    a, b = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
    return data[:a] + draw(st.binary(max_size=12)) + data[b if draw(st.booleans()) else a :]


@contextlib.contextmanager
def harmless() -> Iterator[None]:
    """Forbid network, processes, training and serving."""

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(101, "the network is off")

    def no_process(*_: Any, **__: Any) -> Any:
        raise AllometryError("no processes here")

    with contextlib.ExitStack() as stack:
        for target, name, instead in (
            (socket.socket, "connect", refused), (socket, "getaddrinfo", refused),
            (subprocess, "Popen", no_process),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(target, name, instead))
        for name in (
            "allometry.cli.train._alone", "os.execv", "webbrowser.open",
            "allometry.watch.server.Server.serve_forever",
        ):  # fmt: skip
            stack.enter_context(mock.patch(name, return_value=None))
        yield


class Fuzz:
    """Runs command lines in a folder of its own and keeps the internal errors by their place."""

    def __init__(self, home: Path, *, loud: bool = False) -> None:
        """Work in the folder `home`; `loud`: show each internal error when it is first met."""
        self.home, self.loud = home, loud
        self.done: Counter[str] = Counter()
        self.codes: Counter[int] = Counter()
        self.defects: dict[str, str] = {}

    def run(self, kind: str, arguments: list[str]) -> None:
        """Run one command line; an internal error is kept."""
        self.done[kind] += 1
        silent = io.StringIO()
        try:
            with (
                contextlib.redirect_stdout(silent),
                contextlib.redirect_stderr(silent),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                app.main(arguments, prog_name="allometry", standalone_mode=False)
            self.codes[0] += 1
        except EXPECTED as error:
            self.codes[2 if isinstance(error, click.ClickException) else 1] += 1
        except Exception as error:
            self.codes[70] += 1
            self.note(error, arguments)

    def call(self, kind: str, function: Callable[[], object]) -> None:
        """Call a function of the library; what is no AllometryError is an internal error."""
        self.done[kind] += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function()
        except AllometryError:
            return
        except Exception as error:
            self.codes[70] += 1
            self.note(error, [kind])

    def note(self, error: Exception, arguments: list[str]) -> None:
        """Keep an internal error by its place."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/allometry/" in f.filename]
        place = f"{frames[-1].filename.rpartition('/allometry/')[2]}:{frames[-1].lineno}" if frames else "?"
        key, said = f"{type(error).__name__} at {place}", f"{str(error)[:160]!r} from {arguments!r:.300}"
        if self.loud and key not in self.defects:
            print(f"{key}\n  {said}", file=sys.__stderr__, flush=True)
        self.defects[key] = min(self.defects.get(key, said), said, key=len)

    def write(self, folder: str, files: dict[str, bytes]) -> Path:
        """Write files into a fresh folder."""
        root = self.home / folder
        shutil.rmtree(root, ignore_errors=True)
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root


def leaves(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with its words."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if name not in NOT_HERE and (found := command.get_command(context, name)) is not None:
                yield from leaves(found, (*path, name))
    else:
        yield path, command


@st.composite
def command_lines(draw: st.DrawFn, files: list[str]) -> list[str]:
    """Return a command with options that it has, and values that it may not expect."""
    words, command = draw(st.sampled_from(list(leaves(app))))
    line = list(words)
    value = st.sampled_from([*WORDS, *files]) | st.text(max_size=6).filter(lambda text: "\0" not in text)
    seldom = draw(st.sampled_from([4, 24]))  # with many options, hardly a line gets as far as the command
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            count = draw(st.integers(0, 2)) if parameter.nargs != 1 else draw(st.integers(0, 5)) > 0
            line += [draw(value) for _ in range(int(count))]
        elif draw(st.integers(0, seldom)) == 0 and "--budget" not in parameter.opts:
            line.append(draw(st.sampled_from(parameter.opts)))
            if not getattr(parameter, "is_flag", False):
                choices = getattr(parameter.type, "choices", None)
                line.append(
                    draw(st.sampled_from(sorted(choices)) if choices and draw(st.booleans()) else value)
                )
    if words == ("run",):
        line += ["--dry-run", "--compute", "0"]
    return line


GRID = [(n, d) for n in (1000, 4000, 16000) for d in (10**6, 4 * 10**6, 16 * 10**6)]
TABLES: dict[str, bytes] = {
    "runs.csv": b"N,D,loss\n" + b"".join(b"%d,%d,%.4f\n" % (n, d, 1.5 + 40 / n**0.4) for n, d in GRID),
    "runs.tsv": b"Params (B)\ttokens\tval_loss\n0.1\t2e9\t3.1\n0.2\t4e9\t2.9\n0.4\t8e9\t2.7\n",
    "runs.json": json.dumps([{"N": 1e6, "D": 1e8, "loss": 3.0}, {"N": 2e6, "D": 2e8, "loss": 2.8}]).encode(),
    "runs.jsonl": b'{"N": 1e6, "D": 1e8, "loss": 3.0}\n{"N": 2e6, "D": 2e8, "loss": 2.8}\n',
    "trainer_state.json": b'{"log_history": [{"step": 1, "loss": 3.0}, {"step": 1, "eval_loss": 3.1}]}',
    "log.txt": b"step 0: train loss 4.1, val loss 4.2\nstep 10: train loss 3.1, val loss 3.2\n",
    "runs.csv.gz": gzip.compress(b"N,D,loss\n1e6,1e8,3.0\n", mtime=0),
}  # fmt: skip
"""Small tables by name."""

OF_TABLES = (
    *(("fit", "--law", "chinchilla"), ("fit", "--law", "kaplan"), ("fit",), ("compare",), ("isoflop",)),
    *(("fit", "--where", "N>2000"), ("fit", "--let", "N=6*N"), ("fit", "--let", "L=min(loss)")),
)
"""Commands that read a table."""


def fuzz(home: Path, examples: int, start: int, *, kinds: tuple[str, ...] = (), loud: bool = False) -> Fuzz:
    """Return what `examples` random examples came to, a sixth of each kind."""
    work = Fuzz(home, loud=loud)
    store = work.write("good", {name: encoded(content) for name, content in STORE.items()})
    tables = work.write("tables", TABLES)
    (home / "config.json").write_text(json.dumps(CONFIG))
    files = [str(store), str(home / "config.json"), str(home), *(str(tables / name) for name in TABLES)]

    @given(command_lines(files))
    def commands(line: list[str]) -> None:
        work.run("command line", line)

    @given(st.sampled_from(list(TABLES)), st.sampled_from(OF_TABLES), st.data())
    def of_tables(name: str, command: tuple[str, ...], data: st.DataObject) -> None:
        folder = work.write("table", {name: data.draw(cut(TABLES[name]))})
        if command[0] == "fit" and name == "runs.csv" and data.draw(st.integers(0, 5)):
            command = ("fit", "--where", "N<0")  # fits take seconds: most examples only read
        work.run("table", [command[0], str(folder / name), *command[1:]])

    @given(damaged(CONFIG))
    def configurations(data: bytes) -> None:
        folder = work.write("configuration", {"run.json": data})
        work.run("configuration", ["train", str(folder / "run.json"), "--store", str(home / "new")])

    @given(st.sampled_from(list(STORE)), st.sampled_from(OF_STORES), st.data())
    def stores(name: str, command: tuple[str, ...], data: st.DataObject) -> None:
        whole = {each: encoded(content) for each, content in STORE.items()}
        root = work.write("store", {**whole, name: data.draw(damaged(STORE[name]))})
        if data.draw(st.integers(0, 9)) == 0:
            (root / RUN).rename(root / "renamed")
        on = [str(root)] if command[0] in ("watch", "fit", "compare") else ["--store", str(root)]
        work.run("store", [*command, *on])
        from allometry.runs.store import Store
        from allometry.watch.page import Page

        def read() -> None:
            opened = Store(root)
            opened.frame(), opened.curves(), opened.positions(), opened.probes(), opened.novelty()
            page = Page(opened, fits=False)
            page.update(page.newest())

        work.call("library", read)

    @given(
        st.text(max_size=12) | st.sampled_from(WORDS),
        st.text("NDL+-*/()., 0123456789eminlogx`^", max_size=30),
    )
    def expressions(word: str, text: str) -> None:
        from allometry.laws.law import evaluate
        from allometry.runs.query import parse, select
        from allometry.runs.store import run_table

        values = {"N": np.array([1.0, 2.0]), "D": 3.0, "L": "text"}
        for each in (word, text):
            work.call("expression", lambda each=each: evaluate(each, values))
            work.call("filter", lambda each=each: (parse(each), select(run_table([]), each)))

    @given(damaged(HEADER))
    def checkpoints(header: bytes) -> None:
        from safetensors.numpy import save

        from allometry.train.checkpoint import read_newest
        from allometry.train.config import RunConfig

        run = RunConfig.model_validate(CONFIG)
        text = header.decode("utf-8", "replace")
        state = {"params/x": np.zeros(2, np.float32)}
        data = save(state, metadata={"allometry": text})
        folder = work.write("checkpoint", {"checkpoints/step-000000002.safetensors": data})
        work.call("checkpoint", lambda: read_newest(folder, run, lambda _: None))

    tests = {"commands": commands, "tables": of_tables, "configurations": configurations, "stores": stores,
             "expressions": expressions, "checkpoints": checkpoints}  # fmt: skip
    kept, before = Path.cwd(), dict(os.environ)
    os.chdir(home)
    os.environ["ALLOMETRY_CACHE"] = str(home / "cache")
    try:
        with harmless():
            for name, test in tests.items():
                if kinds and name not in kinds:
                    continue
                count = max(1, examples // len(kinds or tests))
                settings(
                    max_examples=count, deadline=None, database=None, phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )(seed(start)(test))()  # fmt: skip
    finally:
        os.chdir(kept)
        os.environ.clear()
        os.environ.update(before)
    return work


KINDS = ("commands", "tables", "configurations", "stores", "expressions", "checkpoints")
"""What is made at random."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", default=[], choices=KINDS)
    given_ = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = fuzz(Path(folder), given_.examples, given_.seed, kinds=tuple(given_.kind), loud=True)
    print(", ".join(f"{count:,} of {kind}" for kind, count in work.done.items()))
    print(f"{sum(work.done.values()):,} in {time.monotonic() - began:.0f} s; exit codes {dict(work.codes)}")
    for place, example in work.defects.items():
        print(f"\n{place}\n  {example}")
    raise SystemExit(bool(work.defects))


if __name__ == "__main__":
    main()
