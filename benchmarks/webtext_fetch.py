"""Pages a second and memory of a crawl, against a local server without delays.

    python benchmarks/webtext_fetch.py [--pages 50000]

The server runs in a process of its own on loopback; pages are tiny, so this measures the crawler and not the
network. Memory is the crawl process's resident set over time: flat means that the last quarter does not
exceed the second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from allometry.data.webtext import fetch, links
from allometry.data.webtext.workspace import Workspace

SERVER = Path(__file__).parent.parent / "tests" / "data" / "webtext" / "webtext_server.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument(
        "--kind", default="tiny", choices=("tiny", "page"), help="80-byte pages or articles of 2 kB"
    )
    options = parser.parse_args()
    server = subprocess.Popen(
        [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with tempfile.TemporaryDirectory() as folder:
            crawl(Path(folder), port, options.pages, options.kind)
    finally:
        server.communicate()


def crawl(folder: Path, port: int, pages: int, kind: str) -> None:
    listing = folder / "links.jsonl"
    # Eight loopback addresses stand for eight hosts.
    with listing.open("w") as file:
        for number in range(pages):
            url = f"http://127.0.0.{number % 8 + 1}:{port}/{kind}/{number}"
            file.write(json.dumps({"url": url, "score": 3}) + "\n")
    workspace = Workspace(folder / "out", parts=4)
    links.run(workspace, [listing], links.LinkOptions(local=True))
    options = fetch.FetchOptions(
        delay=0.0, per_host=16, window=128, autothrottle=False, allow_addresses=("127.0.0.0/8",)
    )
    memory: list[tuple[int, int]] = []
    start = time.perf_counter()

    def watch(report: dict[str, object]) -> None:
        memory.append((sum(report["outcomes"].values()), int(report["rss"])))  # type: ignore[attr-defined,call-overload]

    summary = fetch.run(workspace, options, on_report=watch)
    seconds = time.perf_counter() - start
    print(
        f"{summary.counts['fetched']:,} pages in {seconds:.1f} s: "
        f"{summary.counts['fetched'] / seconds:,.0f} pages/s"
    )
    for at in range(0, len(memory), max(1, len(memory) // 12)):
        print(f"  after {memory[at][0]:>7,} pages: {memory[at][1] / 1e6:.0f} MB")
    quarter = max(1, len(memory) // 4)
    second, last = memory[quarter : 2 * quarter] or memory, memory[-quarter:]
    growth = max(rss for _, rss in last) / max(rss for _, rss in second)
    print(f"memory, last quarter / second quarter: {growth:.3f}")


if __name__ == "__main__":
    main()
