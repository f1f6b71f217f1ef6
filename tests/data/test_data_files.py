"""Local files: every format, and every way in which a file can be wrong."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allometry.core.errors import AllometryError
from allometry.data.corpora import resolve
from allometry.data.tokens import prepare


def read(corpus: str) -> list[str]:
    return [document.text for document in resolve(corpus).documents()]


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b.txt").write_text("one\n\ntwo ünï")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.md").write_text("# three")
    write_rows(tmp_path / "c.jsonl", [{"text": "four", "n": 1}, {"text": "five", "n": 2}])
    pq.write_table(pa.table({"text": ["six", "seven", None]}), tmp_path / "d.parquet")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.txt").write_text("not this")
    return tmp_path


def test_a_folder_is_read_by_path_in_every_format(folder: Path) -> None:
    expected = ["# three", "one\n\ntwo ünï", "four", "five", "six", "seven", ""]
    assert read(f"files:{folder}") == expected
    assert read(f"files:{folder}") == expected


def test_no_file_is_reported_to_a_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *where, **_: asked.append(where))
    assert len(read(f"files:{folder}")) == 7
    assert not asked


def test_a_named_file_is_text_whatever_its_suffix(tmp_path: Path) -> None:
    (tmp_path / "LICENCE").write_text("free")
    assert read(f"files:{tmp_path}/LICENCE") == ["free"]


def test_a_file_name_may_hold_commas_and_glob_characters(tmp_path: Path) -> None:
    (tmp_path / "a,b [1]*.txt").write_text("found")
    assert read(f"files:{tmp_path}/a,b [1]*.txt") == ["found"]


def test_limits_and_column_are_options(folder: Path) -> None:
    assert read(f"files:{folder},docs=2") == ["# three", "one\n\ntwo ünï"]
    assert len(read(f"files:{folder},bytes=8")) == 2
    write_rows(folder / "c.jsonl", [{"body": "four"}])
    assert read(f"files:{folder}/c.jsonl,column=body") == ["four"]


def test_text_that_is_not_utf8_is_named_with_its_byte(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "latin.txt").write_bytes("na\xefve".encode("latin-1"))
    with pytest.raises(AllometryError, match=r"latin\.txt is not UTF-8: byte 2 ") as caught:
        read(f"files:{tmp_path}")
    assert "encoding=" in (caught.value.hint or "")


def test_json_lines_that_are_not_utf8_are_named_with_their_byte(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"text": "na\xefve"}\n'.encode("latin-1"))
    with pytest.raises(AllometryError, match=r"latin\.jsonl is not UTF-8: byte 12 "):
        read(f"files:{tmp_path}")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_missing_column_is_answered_with_those_there_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), path)
    else:
        write_rows(path, [{"body": "x", "title": "y"}])
    with pytest.raises(AllometryError, match=r"has no column 'text'.* it has: body, title") as caught:
        read(f"files:{path}")
    assert "column=NAME" in (caught.value.hint or "")


def test_a_column_without_text_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": 1}])
    with pytest.raises(AllometryError, match="row 1: column 'text' holds int, not text"):
        read(f"files:{path}")


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", b'{"text": "x"}\n{"te'), ("a.parquet", b"PAR1 no")]
)
def test_a_broken_table_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AllometryError, match=f"{name} cannot be read as"):
        read(f"files:{tmp_path}")


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone.txt"
    path.write_text("text")
    spec = resolve(f"files:{path}")
    path.unlink()
    with pytest.raises(AllometryError, match=r"gone\.txt cannot be read"):
        list(spec.documents())


def test_an_empty_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(AllometryError, match=r"a\.jsonl is empty"):
        read(f"files:{tmp_path}")


def test_a_missing_path_is_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(AllometryError, match="no such file or folder") as caught:
        resolve(f"files:{folder}/pictre.png")
    assert "did you mean picture.png" in (caught.value.hint or "")
    with pytest.raises(AllometryError, match="no such file or folder"):
        resolve("files:/no/such/place")


def test_a_folder_without_text_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(AllometryError, match=r"it holds 1 x \.png"):
        resolve(f"files:{tmp_path}")


def test_a_changed_file_is_tokenized_again(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"line {i} of a text that is long enough" for i in range(500)))
    first = prepare(f"files:{path}", "bytes", cache=tmp_path / "cache")
    path.write_text("\n\n".join(f"line {i} of another text, long enough" for i in range(500)))
    second = prepare(f"files:{path}", "bytes", cache=tmp_path / "cache")
    assert first.manifest.hash != second.manifest.hash


def webtext(folder: Path) -> Path:
    rows = [f"page {i}: " + "words of a page " * 30 for i in range(60)]
    pq.write_table(pa.table({"text": rows[:30], "url": rows[:30]}), folder / "train-00000.parquet")
    pq.write_table(pa.table({"text": rows[30:50], "url": rows[30:50]}), folder / "train-00001.parquet")
    pq.write_table(pa.table({"text": rows[50:], "url": rows[50:]}), folder / "test-00000.parquet")
    return folder


def test_the_splits_of_web_text_are_honoured(tmp_path: Path) -> None:
    tokens = prepare(f"webtext:{webtext(tmp_path)}", "bytes", cache=tmp_path / "cache")
    assert (tokens.manifest.train_documents, tokens.manifest.test_documents) == (50, 10)
    assert tokens.manifest.split == "as the corpus gives it"
    assert bytes(tokens.test[:8].astype("uint8")) == b"page 50:"
    limited = prepare(f"webtext:{tmp_path},docs=20", "bytes", cache=tmp_path / "cache").manifest
    assert (limited.train_documents, limited.test_documents) == (20, 10)


def test_web_text_without_a_split_or_folder_is_refused(tmp_path: Path) -> None:
    webtext(tmp_path)
    (tmp_path / "test-00000.parquet").unlink()
    with pytest.raises(AllometryError, match=r"has no test-\*\.parquet"):
        resolve(f"webtext:{tmp_path}")
    with pytest.raises(AllometryError, match=r"has no test-\*\.parquet") as caught:
        resolve(f"webtext:{tmp_path}/nowhere")
    assert "allometry webtext" in (caught.value.hint or "")
