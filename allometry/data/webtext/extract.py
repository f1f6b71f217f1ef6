"""Stage 3, extract: the main text of each archived page, with trafilatura, in many processes.

On trafilatura's own 990 evaluation pages its fast mode reaches F1 .920 and its default mode .926 at half the
speed. Pages are decoded as browsers do (charsets.py). A page with lists that the library may lose is handed
to it once more with those as paragraphs (`keep_lists`), and that text is taken if it has all of the first
one's words. Nothing is taken from or added to what the library returns.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from allometry.core.errors import AllometryError, missing_extra, unknown
from allometry.core.units import counted
from allometry.data.webtext.consent import header_opt_out, html_opt_out
from allometry.data.webtext.jsonl import AppendLog, Row, encode, file_digest, read_rows, whole_file
from allometry.data.webtext.warc import Page, read_page
from allometry.data.webtext.workers import Outcome, Pool, open_pool
from allometry.data.webtext.workspace import Progress, Stopwatch, Summary, Workspace, digest, exclusive

STAGE = "extract"
CHUNK = 4
METHOD = 2
"""Counts up when the same page gives another document: what was extracted before is then extracted again."""


MODES = ("fast", "default")


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """`page_seconds` of processor time are the most that one page may take; `mode` is trafilatura's:
    "default" finds a little more at half the speed; `obey_opt_outs` drops pages that reserve themselves
    from training (consent.py)."""

    page_seconds: float = 20.0
    mode: str = "fast"
    obey_opt_outs: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown("mode of extraction", self.mode, MODES)


@dataclass(frozen=True)
class Extractor:
    """A function from a page's place in an archive to its document; sent to the worker processes."""

    mode: str = "fast"
    obey_opt_outs: bool = True

    def prepare(self) -> None:
        """Import heavy modules before the time of the first page starts to count."""
        _trafilatura()

    def __call__(self, place: tuple[str, int, int]) -> Row:
        """Return the document at (file, offset, length), or `{"reason": ...}`."""
        path, offset, length = place
        page = read_page(Path(path), offset, length)
        return extract_page(page, mode=self.mode, obey_opt_outs=self.obey_opt_outs)


def extract_page(page: Page, *, mode: str = "fast", obey_opt_outs: bool = True) -> Row:
    """Return the document of a page: `text`, `title`, `date`, `author`, `site` and the link's own fields.

    `{"reason": "no_text"}` if trafilatura finds no main text, `"opt_out"` if the page reserves itself.
    """
    trafilatura = _trafilatura()
    from allometry.data.webtext.charsets import decode_html  # needs what comes with trafilatura

    text = decode_html(page.body, page.content_type)[1]
    tree = trafilatura.load_html(text) if text.strip() else None
    opt_out = header_opt_out(page.headers) or (None if tree is None else html_opt_out(tree))
    if opt_out and obey_opt_outs:
        return {"reason": "opt_out", "value": opt_out, "url": page.url}
    found = None if tree is None else _extracted(trafilatura, tree, page.url, mode)
    if tree is not None and (again := trafilatura.load_html(text)) is not None and keep_lists(again):
        other = _extracted(trafilatura, again, page.url, mode)
        if _holds_all_of(other, found):
            found = other
    if found is None or not (found.text or "").strip():
        return {"reason": "no_text", "value": len(page.body), "url": page.url}
    link = page.link
    certificate = next((value for name, value in page.headers if name == "X-Crawler-Certificate"), None)
    return {
        "url": link.get("url", page.url),
        "final_url": page.url,
        "title": _clean(found.title) or _clean(link.get("title")),
        "date": _clean(found.date),
        "author": _clean(found.author),
        "site": _clean(found.sitename),
        "score": link.get("score"),
        "origin": link.get("origin", ""),
        "created": link.get("created"),
        "fetched": page.date,
        "opt_out": opt_out,
        "certificate": certificate,
        "text": found.text.strip(),
    }


def _extracted(trafilatura: Any, tree: Any, url: str, mode: str) -> Any:
    return trafilatura.bare_extraction(
        tree, url=url or None, fast=mode == "fast", include_comments=False, with_metadata=True
    )


def _holds_all_of(other: Any, found: Any) -> bool:
    """Return whether one extraction has every word of another."""
    if other is None or not other.text:
        return False
    return found is None or Counter((found.text or "").split()) <= Counter(other.text.split())


def keep_lists(tree: Any) -> bool:
    """Turn lists of text, not of links, that trafilatura loses into paragraphs: those in cells of tables, and
    those in the body beside its paragraphs (adbar/trafilatura issues 531 and 233).

    Returns whether there were any.
    """
    lists = tree.xpath("//td//ul | //td//ol | //th//ul | //th//ol | /html/body/ul | /html/body/ol")
    chosen = [each for each in lists if _is_text(each)]
    for each in chosen:
        each.tag = "div"
        for item in each.iterchildren("li"):
            item.tag = "p"
    return bool(chosen)


def _is_text(element: Any) -> bool:
    """Return whether less than a third of an element's characters are in links."""
    characters = len("".join(element.itertext()).strip())
    linked = sum(len("".join(link.itertext())) for link in element.iter("a"))
    return characters > 3 * linked


def _clean(text: str | None) -> str | None:
    return " ".join(text.split())[:500] if text and text.strip() else None


def _trafilatura() -> Any:
    try:
        import trafilatura
    except ImportError as error:
        raise missing_extra("trafilatura", "webtext", "extracting text") from error

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    logging.getLogger("htmldate").setLevel(logging.CRITICAL)
    return trafilatura


@exclusive(STAGE)
def run(
    workspace: Workspace,
    options: ExtractOptions,
    *,
    on: str = "local",
    workers: int | None = None,
    stream: IO[str] | None = None,
) -> Summary:
    """Write the documents of each part. Raises AllometryError if fetch has not run or no page gave any
    text."""
    workspace.require("fetch", STAGE)
    _trafilatura()
    watch = Stopwatch()
    todo = [
        part
        for part in range(workspace.parts)
        if not workspace.part_is_done(STAGE, part, _inputs(workspace, part, options))
    ]
    sizes = {part: sum(1 for _ in _pages(workspace, part)) for part in todo}
    progress = Progress(STAGE, sum(sizes.values()), unit="pages", stream=stream)
    with open_pool(on, workers) as pool:
        for part in todo:
            _extract_part(workspace, part, options, pool, progress)
    progress.finish()
    seconds = workspace.seconds_so_far(STAGE, len(todo)) + watch.seconds
    summary = Summary(STAGE, seconds=seconds, options=asdict(options))
    workspace.finish_stage(summary)
    if summary.counts["pages"] and not summary.counts["documents"]:
        raise AllometryError(
            f"no text in any of {counted(summary.counts['pages'], 'page')}",
            hint="look at removed/extract.jsonl",
        )
    return summary


def _inputs(workspace: Workspace, part: int, options: ExtractOptions) -> str:
    return digest(METHOD, workspace.part_fingerprint("fetch", part), asdict(options))


def _pages(workspace: Workspace, part: int) -> Iterator[Row]:
    return read_rows(workspace.path("fetch", part, ".pages.jsonl"))


def _extract_part(
    workspace: Workspace, part: int, options: ExtractOptions, pool: Pool, progress: Progress
) -> None:
    """Extract a part's pages in order. Each result is logged at once, so an interrupted part continues from there."""
    inputs = _inputs(workspace, part, options)
    work = workspace.path(STAGE, part, f".{inputs}.work.jsonl")
    log = AppendLog(work)
    already = sum(1 for _ in read_rows(work))
    progress.add(already)
    folder = workspace.path("fetch")
    places = (
        (str(folder / page["file"]), page["offset"], page["length"])
        for number, page in enumerate(_pages(workspace, part))
        if number >= already
    )
    for outcome in pool.map(
        Extractor(options.mode, options.obey_opt_outs), places, limit=options.page_seconds, chunk=CHUNK
    ):
        log.append(_row(outcome, options))
        progress.add()
    log.close()
    _finish_part(workspace, part, inputs, work)
    work.unlink()


def _row(outcome: Outcome, options: ExtractOptions) -> Row:
    if outcome.error == "timeout":
        return {"reason": "timeout", "value": options.page_seconds}
    if outcome.error is not None:
        return {"reason": "crashed" if outcome.error == "crashed" else "error", "value": outcome.error}
    row: Row = outcome.value
    return row


def _finish_part(workspace: Workspace, part: int, inputs: str, work: Path) -> None:
    counts, removed = Counter[str](), Counter[str]()
    target = workspace.path(STAGE, part)
    with (
        whole_file(target) as documents,
        whole_file(workspace.path(STAGE, part, ".removed.jsonl")) as dropped,
    ):
        for page, row in zip(_pages(workspace, part), read_rows(work), strict=True):
            counts["pages"] += 1
            if "reason" in row:
                removed[row["reason"]] += 1
                dropped.write(
                    encode({"id": page["id"], "file": page["file"], "offset": page["offset"], **row})
                )
            else:
                counts["documents"] += 1
                counts["bad_certificate"] += row["certificate"] is not None
                counts["opted_out"] += row["opt_out"] is not None
                counts["characters"] += len(row["text"])
                documents.write(encode({"id": page["id"], **row}))
    workspace.finish_part(
        STAGE, part, inputs=inputs, fingerprint=file_digest(target), counts=counts, removed=removed
    )
