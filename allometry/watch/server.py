"""Serves the live page: static files of this package, and server-sent events with what has changed.

On the loopback address only names of this machine are answered, so that no foreign page can reach the server
under a name of its own (DNS rebinding). On any other address every request needs the token.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import json
import secrets
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, urlsplit

from markupsafe import Markup

from allometry.core import __version__
from allometry.core.errors import AllometryError
from allometry.figures import theme
from allometry.figures.theme import runtime
from allometry.report import page as shared
from allometry.runs.store import Store
from allometry.watch.page import Page

LOOPBACK = "127.0.0.1"
INTERVAL = 1.5
"""Seconds between two looks at the store; more, up to _SLOWEST, where a look costs much: it gets a fifth of
a core."""

STREAMS = 32
"""Pages that are kept up to date at the same time: each takes a thread."""

_SHARE = 5.0
_SLOWEST = 15.0
_HEARTBEAT = 15.0
"""Seconds after which a silent connection gets a comment: that is how a closed one is noticed."""

_POLICY = theme.policy("'self'", connect_src="'self'", frame_ancestors="'none'")
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Server(ThreadingHTTPServer):
    """The server of one store's page. `url` is what to open; `token` is empty on the loopback address."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, store: Store, *, host: str = LOOPBACK, port: int = 8765, fits: bool = True) -> None:
        """Listen on `host` and `port` (0: any free one); `fits` as for `Page`. Raises AllometryError
        where that is impossible.
        """
        self.local = _is_loopback(host)
        self.token = "" if self.local else secrets.token_urlsafe(24)
        self.page = Page(store, fits=fits)
        self.stopping = threading.Event()
        self.streams = threading.BoundedSemaphore(STREAMS)
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise _refused(host, port, error) from error
        self.names = {f"{name}:{self.server_port}" for name in (host, LOOPBACK, "localhost")}
        self.html = _html(store)

    @property
    def url(self) -> str:
        """The address of the page, with the token if it needs one."""
        token = f"?token={self.token}" if self.token else ""
        return f"http://{self.server_address[0]!s}:{self.server_port}/{token}"

    def stop(self) -> None:
        """End the connections that are open, and listen no more."""
        self.stopping.set()
        self.page.close()
        self.server_close()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(host: str, port: int, error: OSError) -> AllometryError:
    if error.errno == errno.EADDRINUSE:
        return AllometryError(
            f"port {port} is taken, perhaps by another `allometry watch`",
            hint="choose another with --port, or --port 0 for any that is free",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return AllometryError(f"may not listen on port {port}", hint="choose one above 1023 with --port")
    return AllometryError(
        f"cannot listen on {host}:{port}: {error.strerror or error}",
        hint="give an address of this machine with --host",
    )


def _html(store: Store) -> str:
    source = shared.asset("page.html", "allometry.watch")
    return shared.template(source).render(
        colours=shared.colours(),
        style=Markup(shared.asset("style.css") + shared.asset("watch.css", "allometry.watch")),
        themes=shared.themes(),
        store=store.place.location,
        version=__version__,
    )


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "allometry"
    sys_version = ""
    timeout = 60
    scripts: ClassVar[dict[str, Any]] = {
        "/vega.js": runtime,
        "/charts.js": lambda: shared.asset("charts.js"),
        "/watch.js": lambda: shared.asset("watch.js", "allometry.watch"),
    }

    def do_GET(self) -> None:
        """Send the page, its scripts, or the stream of its parts."""
        if not self._allowed():
            return
        asked = urlsplit(self.path)
        if asked.path == "/":
            self._send(HTTPStatus.OK, self.server.html, "text/html")
        elif asked.path in self.scripts:
            self._send(HTTPStatus.OK, self.scripts[asked.path](), "text/javascript")
        elif asked.path == "/events":
            self._begin_stream(parse_qs(asked.query, keep_blank_values=True).get("study", [None])[0])
        else:
            self._send(HTTPStatus.NOT_FOUND, "There is nothing here.\n", "text/plain")

    def _allowed(self) -> bool:
        """Return whether this request may be answered; if not, it has been refused."""
        if self.server.local:
            if self.headers.get("Host", "") in self.server.names:
                return True
            self._send(
                HTTPStatus.FORBIDDEN, "This server answers to 127.0.0.1 and localhost.\n", "text/plain"
            )
            return False
        asked = urlsplit(self.path)
        given = parse_qs(asked.query).get("token", [""])[0]
        if self._is_token(given):
            self._admit(asked.path)
            return False
        if self._is_token(self._cookie()):
            return True
        self._send(HTTPStatus.FORBIDDEN, "Open the address that `allometry watch` printed.\n", "text/plain")
        return False

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.server.token.encode())

    def _cookie(self) -> str:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(self._cookie_name)
        except CookieError:
            return ""
        return cookie.value if cookie else ""

    @property
    def _cookie_name(self) -> str:
        return f"allometry-{self.server.server_port}"

    def _admit(self, path: str) -> None:
        """Keep the token in a cookie, and out of the address."""
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", quote(path) if path.startswith("/") and path[1:2] != "/" else "/")
        self.send_header(
            "Set-Cookie", f"{self._cookie_name}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
        )
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, status: HTTPStatus, text: str, kind: str) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store" if kind == "text/html" else "max-age=60")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _begin_stream(self, study: str | None) -> None:
        """Stream to a page of this server about a study of the store, while there are threads for it."""
        if self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            self._send(HTTPStatus.FORBIDDEN, "Requests from other pages are refused.\n", "text/plain")
        elif study is not None and not self.server.page.knows(study):
            self._send(HTTPStatus.NOT_FOUND, "The store has no such study.\n", "text/plain")
        elif not self.server.streams.acquire(blocking=False):
            self._send(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{STREAMS} pages are open; close one.\n", "text/plain"
            )
        else:
            try:
                self._stream(study)
            finally:
                self.server.streams.release()

    def _stream(self, study: str | None) -> None:
        """Send parts as they change, until the reader goes away or the server stops."""
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.send_header("Cache-Control", "no-store")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for event in self._events(study):
                self.wfile.write(event.encode("utf-8", "replace"))
                self.wfile.flush()
        except OSError:  # the reader has gone
            return

    def _events(self, study: str | None) -> Iterator[str]:
        """Yield the events of the stream. A look at the store that fails is reported, and tried again. A look
        at the store that fails is told, and tried again.
        """
        sent: dict[str, str] = {}
        spoke = time.monotonic()
        while not self.server.stopping.is_set():
            began, worked = time.monotonic(), time.thread_time()
            try:
                parts = self.server.page.update(self.server.page.newest() if study is None else study)
            except AllometryError as error:
                yield _event("trouble", json.dumps(error.message))
                parts = {}
            except Exception as error:  # a store that somebody else made ends no page
                said = f"the store cannot be read: {type(error).__name__}: {error}"
                yield _event("trouble", json.dumps(said))
                parts = {}
            changed = {name: text for name, text in parts.items() if sent.get(name) != text}
            for text in changed.values():
                yield _event("part", text)
            sent |= changed
            if changed or began - spoke > _HEARTBEAT:
                spoke = began
                yield _event("settled", "{}")
            self.server.stopping.wait(min(_SLOWEST, max(INTERVAL, _SHARE * (time.thread_time() - worked))))

    def log_message(self, format: str, *args: Any) -> None:
        """Do not log requests."""


def _event(kind: str, data: str) -> str:
    return f"event: {kind}\ndata: {data}\n\n"
