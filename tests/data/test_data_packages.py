"""Packages that cannot be had, and source archives, of which no code runs."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from allometry.core.errors import AllometryError
from allometry.data import packages
from allometry.data.packages import Package, fetch, members

ABSENT = Package(requirement="six==1.16.0", file="six-1.16.0-py2.py3-none-any.whl", sha256="0" * 64, size=1)


def test_what_could_not_be_had_is_not_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(packages, "_refused", {})
    with pytest.raises(AllometryError, match=r"pip could not download six==1\.16\.0") as first:
        fetch(ABSENT, tmp_path)
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: pytest.fail("asked again"))
    with pytest.raises(AllometryError) as second:
        fetch(ABSENT, tmp_path)
    assert second.value is first.value
    assert "check the network" in str(second.value)


def source(index: Path) -> Package:
    """An index with a source archive whose build would leave a mark."""
    home = index / "evil"
    home.mkdir(parents=True)
    setup = f"open({str(index / 'mark')!r}, 'w').write('ran')".encode()
    with tarfile.open(home / "evil-1.0.tar.gz", "w:gz") as tar:
        for name, content in (("evil-1.0/setup.py", setup), ("evil-1.0/text.txt", b"a text")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = (home / "evil-1.0.tar.gz").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return Package(requirement="evil==1.0", file="evil-1.0.tar.gz", sha256=digest, size=len(data))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packages, "_refused", {})
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "index"


def test_a_source_archive_is_fetched_and_nothing_of_it_runs(index: Path, tmp_path: Path):
    package = source(index)
    (index / "evil" / "index.html").write_text('<a href="evil-1.0.tar.gz#sha256=0">it</a>')
    fetched = fetch(package, tmp_path / "cache")
    assert [name for name, _ in members(fetched, "*/text.txt")] == ["evil-1.0/text.txt"]
    assert not (index / "mark").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda page: page.write_text("nothing"), "does not have"),
        (lambda page: page.unlink(), "no such file"),
        (lambda page: (page.parent / "evil-1.0.tar.gz").write_bytes(b"x" * 100), "SHA-256 differs"),
        (lambda page: (page.parent / "evil-1.0.tar.gz").write_bytes(b"x" * 100_000), "more than"),
    ],
)
def test_another_archive_is_refused(change, said: str, index: Path, tmp_path: Path):
    package = source(index)
    page = index / "evil" / "index.html"
    page.write_text('<a href="evil-1.0.tar.gz">it</a>')
    change(page)
    with pytest.raises(AllometryError, match=said):
        fetch(package, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.tar.gz"))
