import errno
from pathlib import Path

import pandas as pd
import pytest

from allometry.core.errors import AllometryError
from allometry.core.files import is_full, read_json, read_lines, write_json, write_text, writing
from allometry.runs.query import export


def test_a_write_replaces_the_whole_file(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    write_json(path, {"b": [1, 2]})
    assert read_json(path) == {"b": [1, 2]}
    assert list(tmp_path.iterdir()) == [path]
    assert read_json(tmp_path / "none.json") is None


def test_a_full_disk_leaves_the_old_file_and_a_remedy(tmp_path: Path):
    with pytest.raises(AllometryError, match="disk is full") as caught, writing(tmp_path / "x"):
        Path("/dev/full").write_text("something")
    assert is_full(caught.value)
    assert "free some space" in str(caught.value)
    with pytest.raises(AllometryError, match="may not write"), writing(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(AllometryError, match="could not write"):
        write_text(tmp_path / "no" / "folder", "text")
    assert not is_full(None)


def test_damaged_json_names_the_file(tmp_path: Path):
    path = tmp_path / "a.json"
    for text in ('{"a": ', "[]", "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(AllometryError, match=r"a\.json is damaged"):
            read_json(path)


def test_lines_after_a_kill(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    assert read_lines(path) == ([], [])
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a"')
    assert read_lines(path) == (
        [{"a": 1}, {"a": 2}],
        ["a.jsonl: the last line was cut off and is left out"],
    )


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_export_and_back(tmp_path: Path, ending: str):
    table = pd.DataFrame({"run": ["a", "b"], "loss": [1.25, 0.1 + 0.2]})
    path = tmp_path / f"runs.{ending}"
    export(table, path)
    back = getattr(pd, f"read_{ending}")(path)
    pd.testing.assert_frame_equal(back, table, check_dtype=False, check_exact=False, rtol=1e-14)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(AllometryError, match=r"unknown file ending '\.xlsx'"):
        export(table, tmp_path / "runs.xlsx")
    with pytest.raises(AllometryError, match="could not write"):
        export(table, tmp_path / "nowhere" / f"runs.{ending}")
