"""A web server that behaves badly on request, for loopback addresses only; a process or a thread."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

WORDS = [
    "the",
    "and",
    "of",
    "to",
    "that",
    "have",
    "with",
    "be",
    "river",
    "mountain",
    "harvest",
    "winter",
    "letter",
    "engine",
    "garden",
    "music",
    "teacher",
    "window",
    "copper",
    "island",
    "market",
    "story",
    "evening",
    "bridge",
    "captain",
    "village",
    "summer",
    "history",
    "science",
    "travel",
    "silver",
    "forest",
]


def article(number: int, paragraphs: int = 6) -> str:
    """A page of plain English words; the same number gives the same page."""
    state = number * 2654435761 % 2**32
    body = []
    for _ in range(paragraphs):
        sentences = []
        for _ in range(5):
            chosen = []
            for _ in range(12):
                state = (state * 1103515245 + 12345) % 2**31
                chosen.append(WORDS[state >> 8 & 31] if state >> 8 & 31 < len(WORDS) else "water")
            sentences.append(" ".join(chosen).capitalize() + f" {number}.")
        body.append("<p>" + " ".join(sentences) + "</p>")
    title = f"Article {number}"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title></head><body>"
        f"<nav><a href='/'>Home</a></nav><article><h1>{title}</h1>{''.join(body)}</article></body></html>"
    )


def self_signed(folder: Path) -> ssl.SSLContext:
    """A certificate that nobody vouches for, of the right name."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "test")])
    start = datetime(2020, 1, 1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context


@cache
def bomb() -> bytes:
    """200 MiB of zeros, gzipped."""
    packed = zlib.compressobj(1, wbits=31)
    return b"".join([packed.compress(bytes(1 << 20)) for _ in range(200)] + [packed.flush()])


class Server:
    """Serves on every 127.x.y.z address at one port. `hits` counts requests by (address, path)."""

    def __init__(self) -> None:
        self.hits: Counter[tuple[str, str]] = Counter()
        self.agents: set[str] = set()
        self.times: dict[str, list[float]] = {}
        self.port = 0
        self.robots = "User-agent: *\nDisallow: /forbidden\n"
        self.robots_of: dict[str, tuple[int, bytes, str]] = {}  # address -> status, body, more headers
        self.tdmrep_of: dict[str, bytes] = {}
        self.schedule: dict[str, list[float]] = {}  # address -> when it was asked for a page
        self.tls_port = 0
        self.hold_after: int | None = None  # pages answered before all others wait for ever
        self.reached = threading.Event()  # the first page is being held
        self._pages = 0
        self._never = asyncio.Event()  # kept, or the tasks that wait for it are collected
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def count(self, path: str, host: str = "127.0.0.1") -> int:
        return self.hits[host, path]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.create_task(self._serve())
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._handle, "0.0.0.0", 0, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        self._server = server
        with tempfile.TemporaryDirectory() as folder:
            secure = await asyncio.start_server(self._handle, "0.0.0.0", 0, ssl=self_signed(Path(folder)))
        self.tls_port = secure.sockets[0].getsockname()[1]
        self._secure = secure
        self._ready.set()

    def _end(self) -> None:
        self._server.close()
        self._secure.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_soon(self._loop.stop)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, OSError
        ):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if not await self._answer(head, writer):
                    break
        with contextlib.suppress(Exception):
            writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        first, *rest = head.decode("latin-1").split("\r\n")
        target = first.split(" ")[1]
        address = writer.get_extra_info("sockname")[0]
        self.hits[address, target] += 1
        self.times.setdefault(target, []).append(time.monotonic())
        if not target.startswith(("/robots.txt", "/.well-known")):
            self.schedule.setdefault(address, []).append(time.monotonic())
        self.agents |= {line[12:] for line in rest if line.lower().startswith("user-agent: ")}
        parts = urlsplit(target)
        name, _, argument = parts.path.strip("/").partition("/")
        behave = getattr(self, f"_do_{name.replace('.', '_').replace('-', '_')}", None)
        if behave is None:
            return await _send(writer, 404, b"<p>none</p>")
        return bool(await behave(writer, argument, parse_qs(parts.query), (address, target)))

    async def _do_robots_txt(self, writer, argument, query, key):
        if key[0] in self.robots_of:
            status, body, extra = self.robots_of[key[0]]
            if status == 429 and self.hits[key] > 1:
                status, body, extra = 200, b"", ""
            return await _send(writer, status, body, kind="text/plain", extra=extra)
        return await _send(writer, 200, self.robots.encode(), kind="text/plain")

    async def _do__well_known(self, writer, argument, query, key):
        if argument == "tdmrep.json" and key[0] in self.tdmrep_of:
            return await _send(writer, 200, self.tdmrep_of[key[0]], kind="application/json")
        return await _send(writer, 404, b"none")

    async def _do_later(self, writer, argument, query, key):
        return await _send(writer, 429, b"", extra="Retry-After: 3600\r\n")

    async def _do_noai(self, writer, argument, query, key):
        return await _send(writer, 200, article(15).encode(), extra="X-Robots-Tag: noindex, noai\r\n")

    async def _do_null(self, writer, argument, query, key):
        return await _send(writer, 200, b"")

    async def _do_brokenchunk(self, writer, argument, query, key):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"fff\r\n")
        await writer.drain()
        return False

    async def _do_page(self, writer, argument, query, key):
        self._pages += 1
        if self.hold_after is not None and self._pages > self.hold_after:
            self.reached.set()
            await self._never.wait()
        return await _send(writer, 200, article(int(argument)).encode())

    async def _do_tiny(self, writer, argument, query, key):
        return await _send(
            writer, 200, b"<html><title>t</title><p>tiny page " + argument.encode() + b"</p></html>"
        )

    async def _do_forbidden(self, writer, argument, query, key):
        return await _send(writer, 200, article(1).encode())

    async def _do_loop(self, writer, argument, query, key):
        return await _send(writer, 302, b"", extra=f"Location: /loop/{int(argument or 0) + 1}\r\n")

    async def _do_to(self, writer, argument, query, key):
        return await _send(writer, 301, b"", extra=f"Location: {query['u'][0]}\r\n")

    async def _do_slowloris(self, writer, argument, query, key):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(600):
            writer.write(b"<p>")
            await writer.drain()
            await asyncio.sleep(0.1)
        return False

    async def _do_slowheader(self, writer, argument, query, key):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(600):
            writer.write(f"X-{number}: 1\r\n".encode())
            await writer.drain()
            await asyncio.sleep(0.1)
        return False

    async def _do_headers(self, writer, argument, query, key):
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(20_000):
            writer.write(b"X-Filler: " + b"a" * 1000 + b"\r\n")
            await writer.drain()
        return False

    async def _do_endless(self, writer, argument, query, key):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n")
        block = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(20_000):
            writer.write(block)
            await writer.drain()
        return False

    async def _do_bomb(self, writer, argument, query, key):
        return await _send(writer, 200, bomb(), extra="Content-Encoding: gzip\r\n")

    async def _do_zipped(self, writer, argument, query, key):
        return await _send(
            writer, 200, gzip.compress(article(7).encode()), extra="Content-Encoding: gzip\r\n"
        )

    async def _do_brokenzip(self, writer, argument, query, key):
        return await _send(writer, 200, b"this is no gzip at all", extra="Content-Encoding: gzip\r\n")

    async def _do_latin(self, writer, argument, query, key):
        text = article(8).replace("river", "rivière").replace("water", "forêt")
        return await _send(
            writer,
            200,
            text.replace("<meta charset='utf-8'>", "").encode("latin-1"),
            kind="text/html; charset=iso-8859-1",
        )

    async def _do_liar(self, writer, argument, query, key):
        return await _send(
            writer,
            200,
            article(9).replace("river", "rivière").encode("latin-1"),
            kind="text/html; charset=utf-8",
        )

    async def _do_image(self, writer, argument, query, key):
        return await _send(writer, 200, b"\x89PNG\r\n\x1a\n" + bytes(5000), kind="text/html")

    async def _do_pdf(self, writer, argument, query, key):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(800):
            writer.write(bytes(65536))
            await writer.drain()
            self.hits["pdf", "blocks"] += 1
        return False

    async def _do_short(self, writer, argument, query, key):
        body = article(10).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
            + f"Content-Length: {len(body) + 999}\r\n\r\n".encode()
        )
        writer.write(body)
        await writer.drain()
        return False

    async def _do_long(self, writer, argument, query, key):
        body = article(11).encode()
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        writer.write(body + b"<p>more than was announced</p>" * 10)
        await writer.drain()
        return False

    async def _do_busy(self, writer, argument, query, key):
        if self.hits[key] == 1:
            return await _send(writer, 429, b"", extra=f"Retry-After: {argument or 1}\r\n")
        return await _send(writer, 200, article(12).encode())

    async def _do_flaky(self, writer, argument, query, key):
        if self.hits[key] <= int(argument):
            return await _send(writer, 500, b"oops")
        return await _send(writer, 200, article(13).encode())

    async def _do_broken(self, writer, argument, query, key):
        return await _send(writer, 500, b"always")

    async def _do_reset(self, writer, argument, query, key):
        writer.transport.abort()
        return False

    async def _do_garbage(self, writer, argument, query, key):
        writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        await writer.drain()
        return False

    async def _do_huge(self, writer, argument, query, key):
        return await _send(writer, 200, b"<html><body>" + b"<div>" * 200_000 + b"deep" + b"</div>" * 200_000)

    async def _do_script(self, writer, argument, query, key):
        text = article(14).replace(
            "<title>Article 14</title>", "<title>&lt;script&gt;alert(1)&lt;/script&gt; | x</title>"
        )
        return await _send(
            writer, 200, text.replace("<h1>Article 14", "<h1>&lt;script&gt;alert(1)&lt;/script&gt;").encode()
        )

    async def _do_stats(self, writer, argument, query, key):
        return await _send(writer, 200, json.dumps(sum(self.hits.values())).encode(), kind="application/json")


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, *, kind: str = "text/html", extra: str = ""
) -> bool:
    writer.write(
        f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode()
        + body
    )
    await writer.drain()
    return True


if __name__ == "__main__":
    with Server() as running:
        print(running.port, flush=True)
        sys.stdin.read()
