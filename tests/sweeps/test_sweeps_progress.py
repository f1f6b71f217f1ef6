import io

import pytest

from allometry.sweeps.progress import Display, Event


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def events(make_run) -> list[Event]:
    run = make_run(100)
    sweep = {"sweep": "quickstart", "total": 3}
    return [
        Event(kind="begin", finished=1, fraction=0.0, eta=90.0, text="1 done, 2 new", **sweep),
        Event(kind="start", finished=1, fraction=0.0, eta=90.0, run=run, **sweep),
        Event(
            kind="progress", finished=1, fraction=0.2, eta=70.0, run=run, step=40, loss=2.5, pace=5e4, **sweep
        ),
        Event(kind="retry", finished=1, fraction=0.2, eta=70.0, run=run, step=40, text="killed", **sweep),
        Event(kind="done", finished=2, fraction=0.6, eta=30.0, run=run, step=100, loss=2.25, **sweep),
        Event(kind="failed", finished=3, fraction=1.0, eta=0.0, run=run, text="out of luck", **sweep),
        Event(kind="end", finished=3, fraction=1.0, eta=0.0, **sweep),
    ]


def show(events: list[Event], stream: io.StringIO, *, quiet: bool = False) -> str:
    with Display(stream=stream, quiet=quiet) as display:
        display.calibrating(1, 2)
        display.calibrating(2, 2)
        for event in events:
            display(event)
        if display._bars is not None:
            display._bars.refresh()  # else drawn five times a second
    return stream.getvalue()


def test_plain_lines_where_there_is_no_terminal(events):
    lines = show(events, io.StringIO()).splitlines()
    run = events[1].run.id
    assert lines == [
        "timed 2 shapes on this machine",
        "quickstart: 1 done, 2 new",
        f"{run}: killed; it goes on from step 40",
        f"[2/3] {run}  loss 2.2500  (30 s left)",
        f"[3/3] {run} failed: out of luck",
    ]


def test_quiet_shows_failures_only(events):
    assert show(events, io.StringIO(), quiet=True).splitlines() == [
        f"[3/3] {events[1].run.id} failed: out of luck"
    ]


def test_a_terminal_gets_bars(events, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    shown = show(events[:3], Terminal())
    assert "1 done, 2 new" in shown
    assert "2x16" in shown
    assert "loss 2.500" in shown
    assert "1/3 runs" in shown
