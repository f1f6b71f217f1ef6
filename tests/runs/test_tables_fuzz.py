"""Strange tables are read or refused with an error that says so, never anything else."""

import random
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allometry.core.errors import AllometryError
from allometry.core.units import parse_count, parse_duration, parse_number
from allometry.laws.law import evaluate
from allometry.laws.observations import observe
from allometry.laws.zoo import get
from allometry.runs.importers import read_table
from allometry.runs.query import select

CELLS = [
    "1,5", "10M", "1,234", "nan", "inf", "", "mean", "finished", '"', "1e999", "{'a': 1}", "[1]", "3.5",
    "1e6", "-2", "é",
]  # fmt: skip
NAMES = ["N", "D", "loss", "params (M)", "Step", "r - loss", "config", "status", "name", "tokens"]
QUIET = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


def attempt(path, **options):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            observe(read_table(path, **options).frame, get("chinchilla"))
    except AllometryError:
        return


@pytest.mark.parametrize("seed", range(40))
def test_tables_in_text(tmp_path, seed):
    rng = random.Random(seed)
    names = [rng.choice(NAMES) for _ in range(rng.randint(1, 5))]
    rows = [
        [rng.choice(CELLS) for _ in range(len(names) + rng.choice((0, 0, 0, 1)))]
        for _ in range(rng.randint(0, 8))
    ]
    path = tmp_path / f"t.{rng.choice(('csv', 'tsv', 'txt', 'json', 'jsonl'))}"
    path.write_text("\n".join(",".join(cells) for cells in [names, *rows]))
    attempt(path, row=rng.choice((None, "last", "best")))


@QUIET
@given(
    content=st.binary(max_size=200),
    head=st.sampled_from(
        [
            b"",
            b"N,D,loss\n1,2,3\n",
            b"PAR1",
            b"PK\x03\x04",
            b"\x1f\x8b\x08",
            b"BZh9",
            b"\x28\xb5\x2f\xfd",
            b"{",
            b'{"N": 1}\n',
        ]
    ),
)
def test_files_of_any_bytes(tmp_path, content, head):
    path = tmp_path / "t.csv"
    path.write_bytes(head + content)
    attempt(path)


@QUIET
@given(text=st.text(max_size=40))
def test_numbers_times_and_filters(text):
    import pandas as pd

    for read in (parse_number, parse_count, parse_duration):
        try:
            read(text)
        except AllometryError:
            continue
    frame = pd.DataFrame({"N": [1.0, 2.0], "name": ["a", None]})
    for condition in (text, f"N>{text}", f"name={text}"):
        try:
            assert len(select(frame, condition)) <= 2
        except AllometryError:
            continue


@pytest.mark.parametrize(
    "text",
    [
        "min(N)",
        "max()",
        "N+" * 5000 + "N",
        "(" * 300 + "N" + ")" * 300,
        "log(N, N, N)",
        "N**N**N",
    ],
)
def test_expressions(text):
    if text.startswith("N**"):
        assert evaluate(text, {"N": 2.0}) == 16
    else:
        with pytest.raises(AllometryError) as stop:
            evaluate(text, {"N": 2.0})
        assert stop.value.hint
        assert len(stop.value.message) < 300
