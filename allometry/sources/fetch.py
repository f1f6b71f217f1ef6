"""Fetch the files of a source from its own public address into the cache: bounded, resumable, and checked.

A file counts only once its SHA-256 is the one that is recorded here, or one that the user accepted.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from allometry.core.env import cache_root
from allometry.core.errors import AllometryError
from allometry.core.files import read_bytes, read_json, replacing, write_json, writing
from allometry.core.locks import hold
from allometry.core.units import format_bytes
from allometry.sources.source import File, Source

LARGEST = 64_000_000
"""Bytes of one file that are ever taken, whatever the server sends."""

_PATIENCE = 20.0
_BLOCK = 1 << 16
_ACCEPTED = "accepted.json"

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class State:
    """What the cache holds of a source: how many files of how many, and which were accepted though they differ."""

    here: int
    files: int
    accepted: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether all files are here."""
        return self.here == self.files


def folder(source: Source, cache: Path | None = None) -> Path:
    """Return where the files of a source lie in the cache: one folder for each commit."""
    return cache_root(cache) / "atlas" / f"{source.id}-{source.commit[:12]}"


def state(source: Source, cache: Path | None = None) -> State:
    """Return what the cache holds of a source, by names and sizes alone; `content` checks the hashes."""
    home = folder(source, cache)
    accepted = _accepted(home)
    here = sum((home / "files" / file.path).is_file() for file in source.files)
    return State(here=here, files=len(source.files), accepted=tuple(accepted))


def content(source: Source, cache: Path | None = None) -> dict[str, bytes]:
    """Return the bytes of every file of a source, by path.

    Raises AllometryError where a file was not fetched, and where one is not the file that is recorded.
    """
    home = folder(source, cache)
    accepted = _accepted(home)
    found = {}
    for file in source.files:
        data = read_bytes(home / "files" / file.path, LARGEST)
        if data is None:
            now = state(source, cache)
            some = f" ({now.here} of its {now.files} files are here)" if now.here else ""
            raise AllometryError(
                f"{source.id} is not on this machine yet{some}", hint=f"allometry atlas fetch {source.id}"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest not in (file.sha256, accepted.get(file.path)):
            raise AllometryError(
                f"{home / 'files' / file.path} is not the file that was fetched: its SHA-256 is {digest[:12]}…,"
                f" not {file.sha256[:12]}…",
                hint=f"allometry atlas fetch {source.id}",
            )
        found[file.path] = data
    return found


def fetch(
    source: Source,
    *,
    place: str | Path | None = None,
    accept: bool = False,
    cache: Path | None = None,
    say: Say = lambda text: None,
) -> Path:
    """Fetch what the cache does not hold of a source, and return its folder there.

    Parameters
    ----------
    source
        Which.
    place
        Another address, or a folder, that holds the repository's files at the pinned commit (default: GitHub).
    accept
        Take files whose SHA-256 differs from the recorded one, and record theirs on this machine.
    cache
        The cache (default: the user's).
    say
        Receives a sentence on what is worth knowing.

    Raises
    ------
    AllometryError
        Where the server cannot be reached, leads elsewhere, or sends something else; the same call goes on from there.
    """
    home = folder(source, cache)
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    with hold(home / "lock", f"the fetch of {source.id}"):
        accepted = _accepted(home)
        missing = [file for file in source.files if not _is_here(home, file, accepted)]
        for number, file in enumerate(missing, 1):
            if len(missing) > 1:
                say(f"{number} of {len(missing)}: {file.path}")
            _get(source, file, home, place, accept, say)
    return home


def _accepted(home: Path) -> dict[str, str]:
    stored = read_json(home / _ACCEPTED) or {}
    return {path: digest for path, digest in stored.items() if isinstance(digest, str)}


def _is_here(home: Path, file: File, accepted: dict[str, str]) -> bool:
    data = read_bytes(home / "files" / file.path, LARGEST)
    return data is not None and hashlib.sha256(data).hexdigest() in (file.sha256, accepted.get(file.path))


def _get(source: Source, file: File, home: Path, place: str | Path | None, accept: bool, say: Say) -> None:
    """Bring one file into its place, if it is the one that is recorded or `accept` says so."""
    partly = home / "partly" / hashlib.sha256(file.path.encode()).hexdigest()[:16]
    with writing(partly):
        partly.parent.mkdir(parents=True, exist_ok=True)
    resumed = partly.is_file() and partly.stat().st_size > 0
    _bring(source, file, partly, place, say)
    digest = hashlib.sha256(partly.read_bytes()).hexdigest()
    if digest != file.sha256 and resumed:  # its beginning may be that of another version
        partly.unlink()
        _bring(source, file, partly, place, say)
        digest = hashlib.sha256(partly.read_bytes()).hexdigest()
    if digest != file.sha256:
        size = partly.stat().st_size
        if not accept:
            with replacing(home / "changed") as aside:
                aside.write_bytes(partly.read_bytes())
            partly.unlink()
            raise AllometryError(
                f"{file.path} of {source.id} is not the file that was recorded: {size:,} bytes with SHA-256"
                f" {digest}, where {file.size:,} bytes with {file.sha256} were expected. It was not used; it lies at"
                f" {home / 'changed'}",
                hint=f"look at it; if it is right: allometry atlas fetch {source.id} --accept",
            )
        say(f"{file.path}: accepted with SHA-256 {digest[:12]}…, where {file.sha256[:12]}… is recorded")
        write_json(home / _ACCEPTED, {**_accepted(home), file.path: digest})
    target = home / "files" / file.path
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partly, target)


def _bring(source: Source, file: File, partly: Path, place: str | Path | None, say: Say) -> None:
    """Write the file to `partly`, going on from what is there."""
    if place is not None and "://" not in str(place):
        data = read_bytes(Path(place) / file.path, LARGEST)
        if data is None:
            raise AllometryError(
                f"there is no {file.path} in {place}",
                hint=f"name a copy of https://github.com/{source.repository} at commit {source.commit[:12]}",
            )
        with writing(partly):
            partly.write_bytes(data)
        return
    address = source.address(file, None if place is None else str(place))
    limit = min(LARGEST, max(2 * file.size, file.size + 1_000_000))
    try:
        _download(address, partly, limit)
    except urllib.error.HTTPError as error:
        error.close()
        raise AllometryError(
            f"{_host(address)} answers {error.code} ({error.reason}) to {address}",
            hint="it may have moved: name another copy with --from ADDRESS-OR-FOLDER",
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise AllometryError(
            f"{_host(address)} cannot be reached or broke off ({reason}); what came so far is kept",
            hint=f"with a connection: allometry atlas fetch {source.id}",
        ) from None


def _host(address: str) -> str:
    return urlsplit(address).netloc or address


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follow redirects within a host; refuse those to another, naming it."""

    def redirect_request(self, request: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Return the next request; see urllib."""
        if _host(newurl) != _host(request.full_url):
            fp.close()
            raise AllometryError(
                f"{_host(request.full_url)} leads elsewhere, to {newurl[:200]}: nothing was fetched from there",
                hint="if you trust that place: --from with the address of its copy of the repository's files",
            )
        return super().redirect_request(request, fp, code, msg, headers, newurl)


def _opened(path: Path, mode: str) -> IO[bytes]:
    with writing(path):
        return open(path, mode)


def _download(address: str, partly: Path, limit: int) -> None:
    """Append what is missing of the file at `address` to `partly`, at most `limit` bytes in all."""
    have = partly.stat().st_size if partly.is_file() else 0
    headers = {"User-Agent": "allometry-atlas"} | ({"Range": f"bytes={have}-"} if have else {})
    opener = urllib.request.build_opener(_SameHost)
    try:
        answer = opener.open(urllib.request.Request(address, headers=headers), timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing
            error.close()
            return
        raise
    with answer, _opened(partly, "ab" if answer.status == 206 else "wb") as out:
        size = out.tell()
        sent = answer.headers.get("Content-Length")
        whole = None if sent is None else size + int(sent)
        while size <= limit and (block := answer.read(_BLOCK)):
            size += len(block)
            with writing(partly):
                out.write(block)
    if size > limit:
        partly.unlink()
        raise AllometryError(
            f"{address} sends more than {format_bytes(limit)}, far more than the file that is recorded",
            hint="it is another file by now: look at the address",
        )
    if whole is not None and size < whole:
        raise OSError(f"{size:,} of {whole:,} bytes came")
