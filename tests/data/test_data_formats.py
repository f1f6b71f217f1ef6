"""What lies about on disks: read as what it is, or refused with what to type. Nothing is text by default."""

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allometry.core.errors import AllometryError
from allometry.data.corpora import resolve

DOCUMENTS = ['a "quoted", word', "NA", "two\nlines", "1.0", "ünï"]


def read(corpus: str) -> list[str]:
    return [document.text for document in resolve(corpus).documents()]


def refused(corpus: str) -> AllometryError:
    with pytest.raises(AllometryError) as caught:
        read(corpus)
    assert caught.value.hint
    return caught.value


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"n": n, "text": text}) + "\n" for n, text in enumerate(DOCUMENTS)))


def write_json(path: Path) -> None:
    path.write_text(json.dumps([{"text": text} for text in DOCUMENTS]))


def write_csv(path: Path, mark: str = ",") -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file, delimiter=mark)
        rows.writerow(["n", "text"])
        rows.writerows(enumerate(DOCUMENTS))


def write_tsv(path: Path) -> None:
    write_csv(path, "\t")


def write_semicolons(path: Path) -> None:
    write_csv(path, ";")


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": DOCUMENTS}), path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.jsonl": write_jsonl,
    "a.json": write_json,
    "a.csv": write_csv,
    "b.csv": write_semicolons,
    "a.tsv": write_tsv,
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_tables_give_their_rows_as_they_stand(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert read(f"files:{tmp_path}/{name}") == DOCUMENTS
    assert read(f"files:{tmp_path}") == DOCUMENTS


def zst(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("ending", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zst)],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_compressed_tables_are_read_as_what_they_hold(
    name: str, ending: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    WRITERS[name](tmp_path / name)
    (tmp_path / (name + ending)).write_bytes(pack((tmp_path / name).read_bytes()))
    (tmp_path / name).unlink()
    assert read(f"files:{tmp_path}/{name}{ending}") == DOCUMENTS
    assert read(f"files:{tmp_path}") == DOCUMENTS


def test_compressed_text_and_damaged_archives(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("plain tëxt".encode()))
    assert read(f"files:{tmp_path}/a.txt.gz") == ["plain tëxt"]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}' * 99)[:-20])
    assert "b.jsonl.gz cannot be read" in refused(f"files:{tmp_path}/b.jsonl.gz").message


def test_a_saved_data_set_is_read_with_its_splits(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    whole = Dataset.from_dict({"text": DOCUMENTS, "n": list(range(len(DOCUMENTS)))})
    whole.save_to_disk(tmp_path / "one")
    assert read(f"files:{tmp_path}/one") == DOCUMENTS
    DatasetDict(train=whole.select(range(3)), test=whole.select(range(3, 5))).save_to_disk(tmp_path / "two")
    found = list(resolve(f"files:{tmp_path}/two").documents())
    assert [document.text for document in found if document.split == "train"] == DOCUMENTS[:3]
    assert [document.text for document in found if document.split == "test"] == DOCUMENTS[3:]
    assert "has no column 'body'" in refused(f"files:{tmp_path}/one,column=body").message
    assert "'format'" in refused(f"files:{tmp_path}/one,format=json").message


def test_what_is_about_the_data_is_no_document(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00000.parquet")
    for name in ("README.md", "LICENSE", "LICENSE.txt", "dataset_info.json", "CHANGELOG.md"):
        (tmp_path / name).write_text('{"about": "the data"}')
    assert read(f"files:{tmp_path}") == DOCUMENTS
    assert (
        "README.md" in resolve(f"files:{tmp_path}").source or "2 more" in resolve(f"files:{tmp_path}").source
    )
    only = tmp_path / "only"
    only.mkdir()
    (only / "README.md").write_text("read me")
    assert "1 x .md" in refused(f"files:{only}").message
    assert read(f"files:{only}/README.md") == ["read me"]


def test_a_pattern_names_the_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "settings.json").write_text('{"depth": 3}')
    error = refused(f"files:{tmp_path}")
    assert "settings.json has no column 'text'" in error.message
    assert "files:FOLDER/*.jsonl" in (error.hint or "")
    assert read(f"files:{tmp_path}/*.jsonl") == DOCUMENTS


def test_a_column_inside_a_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": {"text": "deep"}}\n{"content": {"text": "deeper"}}\n')
    assert read(f"files:{tmp_path}/a.jsonl,column=content.text") == ["deep", "deeper"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", b"<p>words</p>"),
        ("saved", b"<!DOCTYPE html>\n<html><body>words</body></html>"),
        ("feed.xml", b"<?xml version='1.0'?><a>words</a>"),
        ("rows.txt", b'{"text": "x"}\n{"text": "y"}\n'),
        ("rows.data", b'{"text": "x"}\n{"text": "y"}\n'),
        ("list.txt", b'[{"text": "x"},\n {"text": "y"}]\n'),
    ],
)
def test_structure_under_the_name_of_a_text_is_refused_unless_wanted(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    error = refused(f"files:{tmp_path}/{name}")
    assert f"files:{tmp_path}/{name},format=text" in (error.hint or "")
    assert read(f"files:{tmp_path}/{name},format=text") == [content.decode()]


def test_lines_of_json_under_another_name_are_read_as_the_hint_says(tmp_path: Path) -> None:
    (tmp_path / "rows.data").write_text('{"text": "x"}\n{"text": "y"}\n')
    hint = refused(f"files:{tmp_path}/rows.data").hint or ""
    typed = hint.partition("read them as such: ")[2].partition(";")[0]
    assert read(typed) == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.bin", bytes(range(256)) * 40, "binary"),
        ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(32)) * 9, "binary"),
        ("model.npy", b"\x93NUMPY\x01\x00v\x00" + b"\x00\x00\x80\x3f" * 99, "binary"),
        ("a.zip", b"PK\x03\x04" + b"words" * 99, "archive"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "Git LFS"),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "Git LFS"),
    ],
)
def test_what_is_no_text_is_refused(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in refused(f"files:{tmp_path}/{name}").message


@pytest.mark.parametrize("option", ["column=body", "encoding=klingon", "format=docx", "kolumn=text"])
def test_an_option_that_does_not_apply_is_refused(option: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    refused(f"files:{tmp_path}/a.txt,{option}")


def test_an_encoding_of_parquet_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    assert "encoding=cp1252" in refused(f"files:{tmp_path}/a.parquet,encoding=cp1252").message


RUSSIAN = "плывёт она над старая туман не рекой и что лодка куда никто не знает её имени " * 20
CHINESE = "春天的河水慢慢流过古老的石桥，人们在雾中等待渡船。" * 20
JAPANESE = "夕方になると古い船がゆっくりと川を下る。" * 20
FRENCH = "L'été, la forêt où naît le fleuve est déjà très verte ; ça plaît à l'élève. " * 20


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "utf-16"),
        (CHINESE, "gbk"),
        (JAPANESE, "shift_jis"),
        (FRENCH, "latin-1"),
        (FRENCH, "cp1252"),
        (FRENCH, "utf-16"),
    ],
)
def test_other_encodings_are_shown_and_the_remedy_reads_right(
    text: str, encoding: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    hint = refused(f"files:{tmp_path}/a.txt").hint or ""
    assert "iconv" not in hint
    assert text[:20] in hint or text[20:40] in hint  # a sample of how it would read
    assert read(hint.rpartition(": ")[2]) == [text]


def test_an_encoding_that_is_named_applies_to_tables_and_spares_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(("text\n" + RUSSIAN + "\n").encode("cp1251"))
    (tmp_path / "b.txt").write_text(RUSSIAN, encoding="utf-8")
    (tmp_path / "c.txt").write_bytes(RUSSIAN.encode("cp1251"))
    assert {text.strip() for text in read(f"files:{tmp_path},encoding=cp1251")} == {RUSSIAN.strip()}
    wrong = refused(f"files:{tmp_path}/c.txt,encoding=utf-16")
    assert "utf-16" in wrong.message


def test_a_mark_of_utf8_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfwords")
    assert read(f"files:{tmp_path}/a.txt") == ["words"]
