"""What a worker does with an order, whether it came through a pipe or from a cluster.

Orders (JSON objects): {"do": "train", "store", "run", "config", "branch_at", "source", "device",
"checkpoint_every", "claim", "data"}; {"do": "pack", "orders", "device"}: orders to train that are carried out
as a pack; and {"do": "measure", "config", "packs", "device"}. `source` is (run, step) of a branch point;
`data` names token sets (`allometry.data.placed`); `claim`, where others write to the same store, is {"owner",
"lease", "over"} (`allometry.runs.claims`).

Reports: {"is": "progress", "step", "loss", "train_loss", "pace", "threads"}; {"is": "branched"} when the run
has its copy of the trunk that it starts from; {"is": "left", "step"} when it has left a branch point for
others; and at the end {"is": "done", "result"}, {"is": "measured", …}, {"is": "failed", "error", "hint",
"full"}, {"is": "stopped"}, {"is": "elsewhere"} if somebody else trains the run, or {"is": "died", "signal"}
if one of the processes that train a run on several devices was killed. In a pack each run has reports of its
own, which name it as "run"; its end may also be {"is": "unpacked", "error"}: it cannot go on in a pack.
{"is": "parted"} ends the pack.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allometry.sweeps.training import Elsewhere, Order, Stopped, Tell, Training

if TYPE_CHECKING:
    from allometry.train.group import Alone


_ENDS = ("done", "measured", "failed", "stopped", "elsewhere", "died", "parted")


def ends(report: Mapping[str, Any]) -> bool:
    """Whether this is the last report on an order: a pack goes on when one of its runs has ended."""
    return report["is"] in _ENDS and "run" not in report


class Service:
    """Carries out one order after the other in this process."""

    def __init__(
        self, tell: Tell, stopping: Callable[[], bool], threads: Callable[[], int] = lambda: 1
    ) -> None:
        """`stopping` is asked at every report of progress whether to stop, `threads` how many may work on the
        run (see `allometry.sweeps.lending`).
        """
        self.tell, self.stopping, self.threads = tell, stopping, threads

    def serve(self, order: Order) -> None:
        """Do what is ordered; failures are reported, never raised."""
        if order["do"] == "pack":
            self._serve_pack(order)
            self.tell("parted")
        else:
            self._serve_one(order, self.tell)

    def _serve_one(self, order: Order, tell: Tell, group: Alone | None = None) -> None:
        from allometry.train.together import Killed

        try:
            if order["do"] == "train":
                tell("done", result=Training(order, tell, self.stopping, self.threads, group).run())
            else:
                tell("measured", **_measure(order))
        except Stopped:
            tell("stopped")
        except Elsewhere:
            tell("elsewhere")
        except Killed as killed:
            tell("died", signal=killed.signal)
        except BaseException as error:
            if group is not None and _is_the_packs(error):
                tell("unpacked", error=_sentence(error.__cause__ or error))
            else:
                _fail(order, error, tell)

    def _serve_pack(self, order: Order) -> None:
        """Carry out several orders to train in threads that take turns, their steps as those of one pack."""
        from allometry.train.config import RunConfig
        from allometry.train.engines.packed import Pack
        from allometry.train.packing import Meeting

        orders = [{**each, "device": order["device"]} for each in order["orders"]]
        tells = [partial(self.tell, run=each["run"]) for each in orders]
        try:
            configs = [RunConfig.model_validate(each["config"]) for each in orders]
            meeting = Meeting(Pack(configs, device=order["device"]))
        except Exception as error:
            for tell in tells:
                tell("unpacked", error=_sentence(error))
            return
        for outcome in meeting.hold(
            [partial(self._serve_one, *each) for each in zip(orders, tells, strict=True)]
        ):
            if outcome is not None:  # a report could not be sent
                raise outcome


def _is_the_packs(error: BaseException) -> bool:
    """Whether a run might go on if it were not in a pack."""
    import torch

    from allometry.train.packing import Broken

    return isinstance(error, Broken | torch.OutOfMemoryError)


def _sentence(error: BaseException) -> str:
    from allometry.errors import AllometryError

    return error.message if isinstance(error, AllometryError) else f"{type(error).__name__}: {error}"


def _fail(order: Order, error: BaseException, tell: Tell) -> None:
    """Keep the failure with the run, and report it in a sentence."""
    from allometry.errors import AllometryError
    from allometry.runs.files import is_full
    from allometry.runs.place import url_of

    known = isinstance(error, AllometryError)
    hint = error.hint if isinstance(error, AllometryError) else None
    if order["do"] == "train" and url_of(order["store"]) is None:
        directory = Path(order["store"]) / order["run"]
        if not (directory / "error.txt").exists():
            text = str(error) if known else "".join(traceback.format_exception(error))
            with contextlib.suppress(OSError, AllometryError):
                keep_failure(directory, text)
    tell("failed", error=_sentence(error), hint=hint, full=is_full(error))


def keep_failure(directory: Path, text: str) -> None:
    """Write down in a run's directory why it failed."""
    from allometry.runs.files import write_text

    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / "error.txt", text.rstrip() + "\n")


def _measure(order: Order) -> dict[str, Any]:
    from allometry.sweeps.measure import measure
    from allometry.train.config import RunConfig

    config, device = RunConfig.model_validate(order["config"]), order["device"]
    return measure(config, device=device, packs=order.get("packs", 0))
