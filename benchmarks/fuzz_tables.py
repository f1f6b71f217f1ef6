"""Feed damaged and strange tables to the readers of tables: each is read, or refused with an AllometryError.

    python benchmarks/fuzz_tables.py [--minutes 5] [--seed 0]

`attack(rng, folder)` tries one file; other fuzzers may call it. Prints every other exception once, by the
place where it was raised, and exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import bz2
import collections
import gzip
import json
import lzma
import random
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from allometry.core.errors import AllometryError
from allometry.laws.observations import observe
from allometry.laws.zoo import get
from allometry.runs.importers import read_table
from allometry.runs.query import select

CELLS = [
    "1e6",
    "10M",
    "1,5",
    "1,234",
    "1.234.567",
    "10 000",
    "-",
    "nan",
    "inf",
    "",
    "oops",
    "1e999",
    "0x10",
    '"',
    "'",
    "\x00",
    "é",
    "\u202f",
    "=SUM(A1)",
    "true",
    "2026-01-01",
    "{'a': 1}",
    "[1]",
    "9" * 400,
    "1/0",
    "\ufeff",
    "finished",
    "crashed",
    "mean",
]
NAMES = [
    "N",
    "D",
    "loss",
    "params (M)",
    "Step",
    "run - val/loss",
    "a - b__MIN",
    "config",
    "summary",
    "status",
    "name",
    "",
    "loss",
    "Wall time",
    "Value",
    "tokens",
    "L",
    "train_loss",
    "`",
    "\x1b[2J",
]
ENDINGS = ["csv", "tsv", "txt", "json", "jsonl", "parquet", "log", "xlsx", "csv.gz", "x"]
PACKERS = [bytes, bytes, bytes, gzip.compress, bz2.compress, lzma.compress]


def table(rng: random.Random) -> bytes:
    """Return the bytes of a table that is good in parts."""
    names = [rng.choice(NAMES) for _ in range(rng.randint(0, 6))]
    rows = []
    for _ in range(rng.randint(0, 12)):
        width = max(0, len(names) + rng.choice((0, 0, 0, 0, 1, -1)))
        numbers = [f"{rng.random() * 10 ** rng.randint(0, 9):.6g}" for _ in range(width)]
        rows.append([rng.choice(CELLS) if rng.random() < 0.4 else number for number in numbers])
    form = rng.random()
    if form < 0.25:
        text = json.dumps([dict(zip(names, row, strict=False)) for row in rows])
    elif form < 0.45:
        text = "\n".join(json.dumps(dict(zip(names, row, strict=False))) for row in rows)
    elif form < 0.5:
        text = json.dumps({"log_history": [dict(zip(names, row, strict=False)) for row in rows], "x": rows})
    else:
        mark = rng.choice(",,,;\t|")
        text = rng.choice("\n\n\r").join(mark.join(row) for row in [names, *rows])
    data = text.encode(rng.choice(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"]), errors="replace")
    data = rng.choice(PACKERS)(data)
    return damaged(rng, data) if rng.random() < 0.4 else data


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return data with bytes changed, taken out, or cut off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if changed:
            place = rng.randrange(len(changed))
            how = rng.random()
            if how < 0.4:
                changed[place] = rng.randrange(256)
            elif how < 0.7:
                del changed[place : place + rng.randint(1, 20)]
            else:
                del changed[place:]
    return bytes(changed)


def attack(rng: random.Random, folder: Path) -> Exception | None:
    """Write one strange file (or two), read it as the commands do; return an exception that is a defect."""
    paths = []
    for i in range(rng.choice((1, 1, 1, 2))):
        paths.append(folder / f"t{i}.{rng.choice(ENDINGS)}")
        paths[-1].write_bytes(table(rng))
    try:
        read = read_table(
            paths, decimal=rng.choice((None, None, ".", ",")), row=rng.choice((None, "last", "best", "all")),
            columns=rng.choice(({}, {"N": "tokens"}, {"loss": "loss"}, {"N": rng.choice(CELLS)})),
            encoding=rng.choice((None, None, None, "cp1252", "utf-16", "idna", "nothing")),
        )  # fmt: skip
        select(read.frame, rng.choice(("", "N>1e5", "status=finished", "loss!=3", "`params (M)`<1,5")))
        observe(read.frame, get(rng.choice(("chinchilla", "power"))), columns={"X": "N"})
    except AllometryError:
        return None
    except Exception as error:
        return error
    finally:
        for path in paths:
            path.unlink()
    return None


def main() -> int:
    """Attack until the time is over; report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    found: collections.Counter[str] = collections.Counter()
    end, count = time.monotonic() + 60 * asked.minutes, 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            error = attack(random.Random(f"{asked.seed}-{count}"), Path(folder))
            count += 1
            if error is not None:
                frames = traceback.extract_tb(error.__traceback__)
                own = [f for f in frames if "allometry/" in f.filename][-1]
                where = f"{type(error).__name__} at {Path(own.filename).name}:{own.lineno}"
                if where not in found:
                    print(f"attack {count - 1}: {where}: {str(error)[:150]}", flush=True)
                found[where] += 1
    print(f"{count} attacks, {sum(found.values())} defects at {len(found)} places")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
