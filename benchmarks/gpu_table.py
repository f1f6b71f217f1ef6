"""What `benchmarks/gpu.py` has measured, as Markdown: what was hoped for beside what was found, one table of all
measurements, what is still open, and the traceback of whatever failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Found = Mapping[str, Any]
"""A measurement's JSON."""

FRACTION_OF_PEAK = 0.25
"""Share of the device's bf16 peak that packs are to reach for some shape from (4,64) to (6,256)."""

PACK_GAIN = 20.0
"""Times the tokens per second of one model alone that packs are to reach at (2,32)."""

QUICKSTART_GAIN = 30.0
"""Times the compute of two processor cores that a quickstart on the GPU is to train in the same time."""

UNSURE = 0.97
"""A ratio of speeds from here on counts as equal: repetitions differ by as much."""


@dataclass(frozen=True)
class Aim:
    """What was hoped for, what was found in words, and whether that is it; None: not measured."""

    text: str
    found: str
    reached: bool | None

    def row(self) -> str:
        """The row of a table."""
        verdict = {True: "yes", False: "**no**", None: "not measured"}[self.reached]
        return f"| {self.text} | {self.found} | {verdict} |"


def markdown(value: Mapping[str, Any], parts: Sequence[str]) -> str:
    """The record as text; `parts` in their order. `value` has "found" by key, "device", and, where known, "title",
    "environment" (lines) and "open" (how many measurements of each part are still to be made).
    """
    found: Mapping[str, Found] = value["found"]
    lines = [f"# {value.get('title', value['device'])}", ""]
    on_gpu = value["device"].startswith("cuda")
    if not on_gpu:
        lines += ["**A miniature on a CPU, to see that the script works: it says nothing of a GPU.**", ""]
    lines += [f"* {line}" for line in value.get("environment", [])]
    lines += ["", *_guide(found), "", "| hoped for | found | reached |", "|---|---|---|"]
    hoped = list(aims(found))
    lines += [aim.row() for aim in (hoped if on_gpu else hoped[:1])]
    lines += ["", "| part | measurement | result | |", "|---|---|---|---|"]
    order = sorted(found, key=lambda key: parts.index(key.split(": ")[0]))
    for key in order:
        part, name = key.split(": ", 1)
        verdict = {True: "as it should be", False: "**not as it should be**", None: ""}[found[key].get("ok")]
        lines.append(f"| {part} | {name} | {result(key, found)} | {verdict} |")
    still = {part: count for part, count in value.get("open", {}).items() if count}
    if still:
        counts = ", ".join(f"{count} of {part}" for part, count in still.items())
        lines += ["", f"Not measured yet: {counts}. The same command goes on with them."]
    for key in order:
        if "error" in found[key]:
            lines += ["", f"## {key}", "", "```", found[key]["traceback"].rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _guide(found: Mapping[str, Found]) -> list[str]:
    """What the words of the table mean."""
    flops, whose = peak_of(found)
    peak = f"; the peak is {flops / 1e12:,.4g} TFLOP/s, {whose}" if flops else ""
    return [
        "`2x32 ctx 128 V 256` is a model of 2 layers of width 32 with a context of 128 tokens and a vocabulary of "
        "256. *gap* is the largest distance from what was expected (gradients: relative; losses: nats), *limit* "
        "how large it may be. *fast* is Allometry's engine, one model, operation by operation; *graph* the same "
        f"as one CUDA graph; *pack K* K models in one graph. Tokens per second are of all models together{peak}.",
    ]


def peak_of(found: Mapping[str, Found]) -> tuple[float | None, str]:
    """FLOPs per second that shares are of, and where they come from: the data sheet's, or those of a matrix product."""
    peak = found.get("speed: peak", {})
    if peak.get("stated"):
        return float(
            peak["stated"]
        ), f"of the maker's data sheet (a matrix product here reaches {peak['flops']:.3g})"
    return peak.get("flops"), f"of a matrix product here ({peak.get('precision', '')})"


def result(key: str, found: Mapping[str, Found]) -> str:
    """What a measurement came to, in a few words."""
    each = found[key]
    if "error" in each:
        return "failed: " + each["error"].splitlines()[0].replace("|", "/")[:120]
    if "needs" in each or "lacks" in each:
        return str(each.get("needs") or each["lacks"])
    if "tokens per second" in each:
        return _speed(key, found)
    if "compute" in each:
        return f"{each['compute']:.3g} FLOPs in {each['runs']} runs, {each['seconds']:.0f} s"
    if "one by one" in each:
        return _sweep(each)
    hidden = ("ok", "took", "tries", "warnings", "said")
    cells = [
        f"{name} {brief(value)}" for name, value in each.items() if name not in hidden and value is not None
    ]
    return ", ".join(cells)


def _sweep(each: Found) -> str:
    packs = f" in packs of up to {each['packs of up to']}" if each["packs of up to"] > 1 else ""
    return (
        f"{each['sweep']:,.0f} tokens/s{packs}, {each['times']:.2f} x one by one; {each['seconds']:.1f} s, predicted "
        f"{each['predicted']:.1f} s; gap {brief(each['gap'])}, limit {brief(each['limit'])}"
    )


def _speed(key: str, found: Mapping[str, Found]) -> str:
    each, (peak, _) = found[key], peak_of(found)
    cells = [f"{each['tokens per second']:,.0f} tokens/s"]
    case, contender = key.rsplit(", ", 1)
    fast = pace(found, f"{case}, fast")
    if fast and contender != "fast":
        cells.append(f"{each['tokens per second'] / fast:.2f} x fast")
    if peak:
        cells.append(f"{each['flops'] / peak:.1%} of peak")
    if each["memory"]:
        cells.append(f"{each['memory'] / 1e9:.2f} GB")
    return ", ".join(cells)


def brief(value: Any) -> str:
    """A number with three digits; yes or no; anything else as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 and value < 1e7 else f"{value:.3g}"
    return str(value)


def pace(found: Mapping[str, Found], key: str) -> float | None:
    """Tokens per second of a measurement, if it was made."""
    value = found.get(key, {}).get("tokens per second")
    return None if value is None else float(value)


def aims(found: Mapping[str, Found]) -> Iterator[Aim]:
    """What was hoped for of an H100 or H200, beside what was found."""
    yield _all_correct(found)
    yield _of_peak(found)
    yield _pack_gain(found)
    yield _against_compiled(found)
    yield _quickstart(found)


def _all_correct(found: Mapping[str, Found]) -> Aim:
    judged = {
        key: each.get("ok", "error" not in each)
        for key, each in found.items()
        if "ok" in each or "error" in each
    }
    wrong = [key for key, right in judged.items() if not right]
    text = f"{len(judged) - len(wrong)} of {len(judged)}" + "".join(f"; not {key}" for key in wrong[:3])
    return Aim("all that was compared agrees, and nothing failed", text, not wrong if judged else None)


def _packs(found: Mapping[str, Found]) -> Iterator[tuple[str, int, int, str, Found]]:
    """(case, layers, width, contender, measurement) of each pack that was timed."""
    for key, each in found.items():
        match = re.fullmatch(r"speed: ((\d+)x(\d+) .*), (pack \d+|graph)", key)
        if match and "tokens per second" in each:
            yield match[1], int(match[2]), int(match[3]), match[4], each


def _of_peak(found: Mapping[str, Found]) -> Aim:
    text = f"packs reach {FRACTION_OF_PEAK:.0%} of the bf16 peak somewhere from (4,64) to (6,256)"
    peak, _ = peak_of(found)
    shares = [
        (each["flops"] / peak, f"{case}, {contender}")
        for case, layers, width, contender, each in _packs(found)
        if peak and 4 <= layers <= 6 and 64 <= width <= 256
    ]
    if not shares:
        return Aim(text, "", None)
    share, where = max(shares)
    return Aim(text, f"{share:.1%} ({where})", share >= FRACTION_OF_PEAK)


def _pack_gain(found: Mapping[str, Found]) -> Aim:
    text = f"packs train {PACK_GAIN:.0f} times the tokens of one model alone at (2,32)"
    gains = [
        (each["tokens per second"] / fast, f"{case}, {contender}")
        for case, layers, width, contender, each in _packs(found)
        if (layers, width) == (2, 32) and (fast := pace(found, f"speed: {case}, fast"))
    ]
    if not gains:
        return Aim(text, "", None)
    gain, where = max(gains)
    return Aim(text, f"{gain:.3g} times ({where})", gain >= PACK_GAIN)


def _against_compiled(found: Mapping[str, Found]) -> Aim:
    text = "engine fast is as fast as compiled nanoGPT at every shape"
    ratios = []
    for key in found:
        case, _, contender = key.rpartition(", ")
        mine, theirs = pace(found, f"{case}, fast"), pace(found, key)
        if contender == "nanoGPT compiled" and mine and theirs:
            ratios.append((mine / theirs, case.removeprefix("speed: ")))
    if not ratios:
        return Aim(text, "", None)
    ratio, where = min(ratios)
    words = f"at the least {ratio:.2f} times its speed ({where}), {len(ratios)} compared"
    return Aim(text, words, ratio >= UNSURE)


def _quickstart(found: Mapping[str, Found]) -> Aim:
    text = f"quickstart trains {QUICKSTART_GAIN:.0f} times the compute of two cores in the same time"
    mine, theirs = (found.get(f"quickstart: {device}", {}).get("compute") for device in ("cuda", "cpu"))
    if not mine or not theirs:
        return Aim(text, "", None)
    return Aim(text, f"{mine / theirs:.3g} times", mine >= QUICKSTART_GAIN * theirs)
