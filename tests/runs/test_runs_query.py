import math

import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.runs.query import parse, select

TABLE = pd.DataFrame(
    {
        "run": ["a", "b", "c", "d"],
        "status": ["done", "done", "failed", "partial"],
        "corpus": ["sotu", "stdlib", "sotu", None],
        "N": [1e4, 1e6, 2e7, math.nan],
        "lr": [0.01, 0.02, 0.003, 0.01],
        "seconds": [30.0, 90.0, 4000.0, math.nan],
        "finished": ["2026-01-31T23:59:59Z", "2026-02-01T00:00:00Z", None, None],
        "study": ["quickstart", "quickstart, widths", "", "widths"],
    }
)


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("", "abcd"),
        ("status=done", "ab"),
        ("status!=done", "cd"),
        ("N>1e5", "bc"),
        ("N>=10k N<10M", "ab"),
        ("N != 1e4", "bcd"),
        ("n > 100k", "bc"),
        ("lr<=0.01 status=done,partial", "ad"),
        ("seconds<2m", "ab"),
        ("corpus=s*", "abc"),
        ("corpus!=sotu", "bd"),
        ("study=widths", "bd"),
        ("study==quickstart corpus='stdlib'", "b"),
        ("run=z", ""),
        ("finished>=2026-02", "b"),
        ("finished<=2026-01-31", "a"),
        ("finished=2026-02-01", "b"),
        ("finished!=2026-02-01", "acd"),
    ],
)
def test_conditions_select_rows(text: str, runs: str):
    assert "".join(select(TABLE, text)["run"]) == runs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loos<3", "unknown column 'loos'"),
        ("statu=done", "did you mean 'status'"),
        ("status<done", "makes no sense"),
        ("N>lots", "cannot read 'lots'"),
        ("done", "cannot read 'done' in the filter"),
        ("N>1e5 and lr<1", "cannot read 'and'"),
    ],
)
def test_bad_filters_say_what_is_wrong(text: str, message: str):
    with pytest.raises(AllometryError, match=message) as caught:
        select(TABLE, text)
    assert caught.value.hint


def test_a_condition_reads_back():
    assert [str(condition) for condition in parse("N >= 10M  corpus='a b'")] == ["N>=10M", "corpus=a b"]
