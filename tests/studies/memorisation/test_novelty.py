"""The reading of novelty: planted copying is found, and what people repeat is set against it."""

import numpy as np
import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.runs.measurements import NOVELTY_COLUMNS
from allometry.studies.core.study import StudyData
from allometry.studies.memorisation.novelty import (
    TRUNCATED,
    copied,
    half_new,
    measured,
    novelty_section,
    score,
)

PROMPTS, LENGTH, MOST = 64, 128, 64
PASSES = (0.5, 4.0, 200.0)
N = np.arange(1, MOST + 1)


def shares(source: str, passes: float, size: int) -> np.ndarray:
    """Duplicated n-grams: half of those of 8 for people; fewer at few passes, long copies at many."""
    half = 8.0 if source == "human" else 7.0 if passes < 1 else 8.0 if passes < 10 else 20.0 * size
    return 1 / (1 + np.exp(N - half))


def evidence(sizes: tuple[int, ...] = (1, 2)) -> StudyData:
    """Runs of these sizes at all PASSES, with counts drawn from `shares`."""
    random = np.random.default_rng(0)
    runs, rows = [], []
    for size in sizes:
        for passes in PASSES:
            run = f"{size}-{passes}"
            runs.append({"run": run, "N": 1000 * size, "D": 1e6, "unique": 1e6 / passes, "loss": 2.0})
            for source in ("generated", "human"):
                counts = random.binomial(LENGTH + 1 - N, shares(source, passes, size), (PROMPTS, MOST))
                for prompt, of in enumerate(counts):
                    columns = {"step": 9, "source": source, "prompt": prompt, "n": N}
                    rows.append(pd.DataFrame({"run": run, **columns, "duplicated": of}))
    frame = pd.concat(rows).assign(grams=lambda f: LENGTH + 1 - f["n"])[list(NOVELTY_COLUMNS)]
    table = pd.DataFrame(runs).assign(status="done")
    return StudyData(
        runs=table, curves=pd.DataFrame(), novelty=frame, planned=tuple(table["run"]), command="x"
    )


def test_planted_copying_is_found_within_its_intervals() -> None:
    found = evidence()
    table = measured(found.runs, copied(found.runs, found.novelty)).set_index(["N", "passes"])
    for (n, passes), row in table.iterrows():  # type: ignore[misc]
        planted = [score(shares(source, passes, n // 1000)) for source in ("generated", "human")]
        assert row["low"] - 0.05 <= planted[0] - planted[1] <= row["high"] + 0.05
        assert row["low"] < row["excess"] < row["high"]
        assert row["human half new"] == pytest.approx(8, abs=0.2)
    assert table.loc[(2000, 200.0), "half new"] == pytest.approx(40, abs=0.5)
    assert (table["low"] > 0).tolist() == [False, False, True, False, False, True]
    assert (table["high"] < 0).tolist() == [True, False, False, True, False, False]


def test_the_answer_says_who_copies_and_the_constants_are_of_the_plainest_run() -> None:
    found = evidence()
    part = novelty_section(found.runs, found)
    assert "Of 6 models that write, 2 copy more" in part.fits["summary"]
    assert "and 2 less" in part.fits["summary"]
    short, long, half = part.constants
    assert short.verdict == "differs", "people repeat more 4-grams here: half of all at n = 8, not 7"
    assert half.ours == pytest.approx(7, abs=0.2)
    assert half.published["held-out text"] == pytest.approx(8, abs=0.2)
    assert half.verdict == "differs"
    assert long.high < 0.01
    assert "200 to 200" not in part.section.text
    names = [shown.name for shown in part.section.evidence]  # type: ignore[union-attr]
    assert names == ["novelty", "copying", "copied"]


def test_scores_are_one_more_than_the_shares_below_the_truncation() -> None:
    share = np.zeros((2, MOST))
    share[1, :] = 1.0
    assert score(share).tolist() == [1, TRUNCATED]
    assert half_new(share)[0] == pytest.approx(0.5)
    assert np.isnan(half_new(share)[1])


def test_one_run_and_none() -> None:
    found = evidence(sizes=(1,))
    one = found.runs.iloc[:1]
    assert "Of 1 models" in novelty_section(one, found).fits["summary"]
    with pytest.raises(AllometryError, match="no finished run recorded what it copied"):
        copied(found.runs.iloc[:0], found.novelty)
    with pytest.raises(AllometryError, match="no finished run recorded what it copied"):
        copied(found.runs, None)
