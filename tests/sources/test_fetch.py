"""Fetching: from a server on this machine, in place of the sources' own."""

import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from allometry.core.errors import AllometryError
from allometry.sources import fetch as fetching
from allometry.sources.fetch import content, fetch, folder, state
from allometry.sources.source import SOURCES, File

TABLE = b"".join(b'%.3f,%.4f,"""400K"""\n' % (7 + i / 100, 4 - i / 100) for i in range(90))
SIZES = b"6.0,4.0\n7.0,3.4\n"
PATHS = ("loss_vs_model_and_param.csv", "params_scale.csv")


class Site(BaseHTTPRequestHandler):
    """Serves the files of `server.files`; what it was asked for is in `server.asked`."""

    def do_GET(self):
        server, name = self.server, self.path.rpartition("/")[2]
        server.asked.append((name, self.headers.get("Range")))
        if name in server.leads:
            self.send_response(302)
            self.send_header("Location", server.leads.pop(name))
            self.end_headers()
            return
        if name not in server.files:
            self.send_error(404)
            return
        data, first = server.files[name], 0
        asked = self.headers.get("Range")
        if asked and server.ranges:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            if first >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        self.wfile.write(data[first : server.breaks.pop(name, len(data))])

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.files = dict(zip(PATHS, (TABLE, SIZES), strict=True))
    server.asked, server.leads, server.breaks, server.ranges = [], {}, {}, True
    server.address = f"http://127.0.0.1:{server.server_port}/copy"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def source():
    files = tuple(
        File(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for path, data in zip(PATHS, (TABLE, SIZES), strict=True)
    )
    return replace(SOURCES["kaplan2020"], files=files)


def get(source, site, tmp_path, **options):
    return fetch(source, place=site.address, cache=tmp_path, **options)


def test_it_is_fetched_once(source, site, tmp_path):
    assert not state(source, tmp_path).complete
    assert get(source, site, tmp_path) == folder(source, tmp_path)
    assert content(source, tmp_path) == site.files
    assert state(source, tmp_path).complete
    get(source, site, tmp_path)
    assert [name for name, _ in site.asked] == list(PATHS)


@pytest.mark.parametrize("ranges", [True, False])
def test_what_broke_off_is_resumed(source, site, tmp_path, ranges):
    site.breaks[PATHS[0]], site.ranges = 500, ranges
    with pytest.raises(AllometryError, match="broke off") as caught:
        get(source, site, tmp_path)
    assert "allometry atlas fetch kaplan2020" in caught.value.hint
    with pytest.raises(AllometryError, match="not on this machine yet"):
        content(source, tmp_path)
    get(source, site, tmp_path)
    assert site.asked[1] == (PATHS[0], "bytes=500-")
    assert content(source, tmp_path) == site.files


def test_the_beginning_of_another_version_is_not_kept(source, site, tmp_path):
    """What was resumed with the wrong beginning is fetched again from the start."""
    right = site.files[PATHS[0]]
    site.files[PATHS[0]], site.breaks[PATHS[0]] = b"x" * len(right), 500
    with pytest.raises(AllometryError, match="broke off"):
        get(source, site, tmp_path)
    site.files[PATHS[0]] = right
    get(source, site, tmp_path)
    assert content(source, tmp_path)[PATHS[0]] == right


def test_a_changed_file_is_shown_and_not_used_until_it_is_accepted(source, site, tmp_path):
    site.files[PATHS[1]] = changed = SIZES + b"8.0,3.0\n"
    found = hashlib.sha256(changed).hexdigest()
    with pytest.raises(AllometryError) as caught:
        get(source, site, tmp_path)
    assert found in caught.value.message
    assert source.files[1].sha256 in caught.value.message
    assert "--accept" in caught.value.hint
    assert (folder(source, tmp_path) / "changed").read_bytes() == changed
    with pytest.raises(AllometryError, match="1 of its 2 files"):
        content(source, tmp_path)
    said = []
    get(source, site, tmp_path, accept=True, say=said.append)
    assert any(found[:12] in text for text in said)
    assert content(source, tmp_path)[PATHS[1]] == changed
    assert state(source, tmp_path).accepted == (PATHS[1],)


def test_a_file_that_was_changed_on_this_machine_is_refused_and_fetched_again(source, site, tmp_path):
    place = get(source, site, tmp_path) / "files" / PATHS[0]
    place.write_bytes(b"other")
    with pytest.raises(AllometryError, match="is not the file that was fetched"):
        content(source, tmp_path)
    get(source, site, tmp_path)
    assert content(source, tmp_path) == site.files


def test_another_host_is_named_and_not_followed(source, site, tmp_path):
    site.leads[PATHS[0]] = "http://elsewhere.invalid/file"
    with pytest.raises(AllometryError, match=r"leads elsewhere, to http://elsewhere\.invalid/file"):
        get(source, site, tmp_path)
    site.leads[PATHS[0]] = f"{site.address}/{PATHS[0]}"  # the same host
    get(source, site, tmp_path)
    assert content(source, tmp_path) == site.files


def test_more_bytes_than_a_file_may_have_are_not_taken(source, site, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "LARGEST", 100_000)
    site.files[PATHS[0]] = b"0" * 1_000_000
    with pytest.raises(AllometryError, match=r"more than 100\.0 kB"):
        get(source, site, tmp_path, accept=True)
    assert not list((folder(source, tmp_path) / "partly").iterdir())


def test_offline_and_missing_files_say_the_one_command_for_later(source, site, tmp_path):
    with pytest.raises(AllometryError, match="cannot be reached") as caught:
        fetch(source, place="http://127.0.0.1:1/", cache=tmp_path)
    assert caught.value.hint == "with a connection: allometry atlas fetch kaplan2020"
    del site.files[PATHS[1]]
    with pytest.raises(AllometryError, match="answers 404"):
        get(source, site, tmp_path)
    assert state(source, tmp_path).here == 1


def test_a_folder_with_the_files_will_do(source, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path, data in zip(PATHS, (TABLE, SIZES), strict=True):
        (copy / path).write_bytes(data)
    fetch(source, place=copy, cache=tmp_path / "cache")
    assert content(source, tmp_path / "cache")[PATHS[0]] == TABLE
    (copy / PATHS[0]).unlink()
    with pytest.raises(AllometryError, match="there is no loss_vs_model_and_param"):
        fetch(source, place=copy, cache=tmp_path / "other")
