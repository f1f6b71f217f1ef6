"""Compressed files as streams of blocks and of lines, in memory that does not grow with them."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from allometry.core.errors import AllometryError, missing_extra

MAX_LINE = 16 << 20
"""Longer lines are skipped and listed: a line is held in memory."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
XZ_MEMORY = 1 << 30
"""Bytes that unpacking an .xz file may take: the strongest preset needs 65 MB."""

_BLOCK = 1 << 20
_ZSTD_BLOCK = (
    1 << 10
)  # bytes in: a hostile frame makes at most 32,768 of each, so this bounds what one step can make


class Problem(NamedTuple):
    """A line or record of a source that could not be used."""

    where: str
    reason: str
    value: str


def decompressed(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield blocks of the uncompressed content. AllometryError if the first bytes contradict the name."""
    magic = file.read(6)
    file.seek(0)
    suffix = path.suffix.lower()
    if suffix == ".zst" or magic[:4] == _ZSTD_MAGIC:
        if magic[:4] != _ZSTD_MAGIC and not _is_skippable_frame(magic[:4]):
            raise AllometryError(
                f"{path} is not zstd: it begins with {magic!r}",
                hint="fetch it again (it may be an error page), or name it after what it holds",
            )
        return _unzstd(file, path)
    for ending, (name, first, unpack) in _UNPACK.items():
        if suffix == ending or magic.startswith(first):
            if not magic.startswith(first):
                raise AllometryError(
                    f"{path} is not {name}: it begins with {magic!r}",
                    hint="fetch it again (it may be an error page), or name it after what it holds",
                )
            return unpack(file, path)
    if magic.startswith(_ARCHIVES):
        raise AllometryError(
            f"{path} is an archive of files (zip, 7z or rar)",
            hint="unpack it, and give the files that it holds",
        )
    return iter(lambda: file.read(_BLOCK), b"")


def _is_skippable_frame(magic: bytes) -> bool:
    return len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18" and 0x50 <= magic[0] <= 0x5F


def _unzstd(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield the content of the frames, one after another, with windows of up to 2 GiB, as in Reddit's dumps."""
    try:
        import zstandard
    except ImportError as error:
        raise missing_extra("zstandard", "webtext", "reading .zst files") from error
    maker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame, inside = maker.decompressobj(), False
    try:
        while block := file.read(_ZSTD_BLOCK):
            while block:
                yield frame.decompress(block)
                inside = not frame.eof
                block = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame = maker.decompressobj()
    except zstandard.ZstdError as error:
        raise _damaged(path, str(error)) from error
    if inside:
        raise _damaged(path, "it ends in the middle of a zstd frame")


def _ungzip(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield the content of the members, one after another; of a damaged file all that precedes the damage, then
    raise.
    """
    member, inside = zlib.decompressobj(wbits=31), False
    try:
        while block := file.read(_BLOCK):
            while block:
                yield member.decompress(block, _BLOCK)
                inside = not member.eof
                block = member.unused_data if member.eof else member.unconsumed_tail
                if member.eof:
                    member, block = zlib.decompressobj(wbits=31), block.lstrip(b"\0")
        yield member.flush()
    except zlib.error as error:
        raise _damaged(path, str(error)) from error
    if inside:
        raise _damaged(path, "it ends in the middle of a gzip member")


def _unpack_python(make: Callable[[], Any]) -> Callable[[IO[bytes], Path], Iterator[bytes]]:
    """Make a reader from a decompressor of the standard library: streams one after another, block by
    block."""

    def unpack(file: IO[bytes], path: Path) -> Iterator[bytes]:
        stream, inside = make(), False
        try:
            while block := file.read(_BLOCK):
                while block or not (stream.eof or stream.needs_input):
                    yield stream.decompress(block, _BLOCK)
                    inside, block = not stream.eof, b""
                    if stream.eof:
                        block, stream = stream.unused_data.lstrip(b"\0"), make()
        except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
            raise _damaged(path, str(error)) from error
        if inside:
            raise _damaged(path, "it ends in the middle of a compressed stream")

    return unpack


_UNPACK: dict[str, tuple[str, bytes, Callable[[IO[bytes], Path], Iterator[bytes]]]] = {
    ".gz": ("gzip", b"\x1f\x8b", _ungzip),
    ".bz2": ("bzip2", b"BZh", _unpack_python(bz2.BZ2Decompressor)),
    ".xz": ("xz", b"\xfd7zXZ\0", _unpack_python(partial(lzma.LZMADecompressor, memlimit=XZ_MEMORY))),
}
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"7z\xbc\xaf\x27\x1c", b"Rar!")
PACKED = (*_UNPACK, ".zst", ".zip", ".7z", ".rar")
"""Endings that say how a file is packed, not what it holds; archives of files are refused when opened."""


def _damaged(path: Path, what: str) -> AllometryError:
    return AllometryError(
        f"{path} is damaged or truncated: {what}",
        hint="fetch it again, or take the links before the damage with --allow-truncated",
    )


def numbered_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield numbered lines without their newline; None for one that is longer than MAX_LINE."""
    number, held, skipping = 0, bytearray(), False
    for block in blocks:
        held += block
        if b"\n" in block:
            *whole, rest = bytes(held).split(b"\n")
            held = bytearray(rest)
            for line in whole:
                number += 1
                yield number, None if skipping or len(line) > MAX_LINE else line
                skipping = False
        if len(held) > MAX_LINE:
            held, skipping = bytearray(), True
    if held or skipping:
        yield number + 1, None if skipping else bytes(held)
