"""Pages a second of the extraction stage with two processes, against trafilatura alone in one process.

    python benchmarks/webtext_extract.py --html FOLDER [--pages 400]
    python benchmarks/webtext_extract.py --deb debian-handbook     # fetches the package with apt-get download

Both do the same work: bare_extraction with the metadata, on the same bytes. The texts are compared one by
one, so the stage's F1 on any evaluation set is that of the library in the same mode. Two ratios are shown: of
wall time, which needs two free cores to mean anything, and of processor time, which says what two free cores
would give: 2 x the seconds of the single process over those of all processes of the stage together.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from allometry.data.webtext import extract
from allometry.data.webtext.jsonl import read_rows, write_rows
from allometry.data.webtext.warc import Page, PartArchive
from allometry.data.webtext.workspace import Workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--html", type=Path, help="a folder of HTML pages")
    source.add_argument("--deb", help="a Debian package that holds HTML pages")
    parser.add_argument("--pages", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        html = options.html or unpacked(options.deb, folder)
        files = sorted(html.rglob("*.html"), key=lambda path: (path.stat().st_ino * 2654435761) % 2**32)
        bodies = [path.read_bytes() for path in files[: options.pages]]
        compare(bodies, folder)


def unpacked(package: str, folder: Path) -> Path:
    subprocess.run(["apt-get", "download", package], cwd=folder, check=True, capture_output=True)
    subprocess.run(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(folder / "deb")], check=True)
    return folder / "deb"


def compare(bodies: list[bytes], folder: Path) -> None:
    pages = [Page(f"http://docs.example/{n}", body, "text/html", "", {}) for n, body in enumerate(bodies)]
    extract.extract_page(pages[0])  # imports
    wall, cpu = time.perf_counter(), time.process_time()
    alone = [extract.extract_page(page).get("text") for page in pages]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"one process, library alone: {len(pages) / wall:6.1f} pages/s wall, "
        f"{len(pages) / cpu:6.1f} a processor second"
    )

    workspace = archived(pages, folder / "out")
    # What both workers need to start (imports) is measured on a few pages and taken off, with those pages.
    few = 4 * extract.CHUNK
    start_wall, start_cpu = stage(archived(pages[:few], folder / "warm"))
    all_wall, all_cpu = stage(workspace)
    share = len(pages) / (len(pages) - few)
    stage_wall, stage_cpu = share * (all_wall - start_wall), share * (all_cpu - start_cpu)
    print(
        f"stage, two processes:       {len(pages) / stage_wall:6.1f} pages/s wall, "
        f"{len(pages) / stage_cpu:6.1f} a processor second"
    )
    print(
        f"ratio of wall times {wall / stage_wall:.2f}, "
        f"of processor times on two cores {2 * cpu / stage_cpu:.2f}"
    )
    found = {row["id"]: row["text"] for row in read_rows(workspace.path("extract", 0))}
    same = sum(found.get(f"{n:016x}") == text for n, text in enumerate(alone))
    print(f"same text as the library: {same} of {len(pages)}")


def archived(pages: list[Page], root: Path) -> Workspace:
    """Make a workspace whose crawl is done."""
    workspace = Workspace(root, parts=1)
    archive = PartArchive(workspace.path("fetch"), 0, about={})
    for number, page in enumerate(pages):
        link = {"id": f"{number:016x}", "url": page.url}
        archive.store(
            link,
            url=page.url,
            status="200 OK",
            headers=[("Content-Type", "text/html")],
            body=page.body,
            truncated=None,
        )
    archive.close()
    write_rows(
        workspace.path("fetch", 0, ".pages.jsonl"), read_rows(workspace.path("fetch", 0, ".log.jsonl"))
    )
    workspace.create()
    workspace.finish_part("links", 0, inputs="", fingerprint="", counts={"links": len(pages)}, removed={})
    write_rows(workspace.path("links") / "summary.json", [{}])
    workspace.finish_part("fetch", 0, inputs="", fingerprint="", counts={"fetched": len(pages)}, removed={})
    workspace.path("fetch").joinpath("summary.json").write_text("{}")
    return workspace


def stage(workspace: Workspace) -> tuple[float, float]:
    """Return wall and processor seconds of the stage and all its processes."""
    wall, cpu = time.perf_counter(), used()
    extract.run(workspace, extract.ExtractOptions(page_seconds=120), workers=2)
    return time.perf_counter() - wall, used() - cpu


def used() -> float:
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


if __name__ == "__main__":
    main()
