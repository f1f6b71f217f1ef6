"""A worker process: it imports torch once, then trains the runs that its parent names, one after the other.

Started as `python -m allometry.sweeps.worker PARENT`. Orders arrive on standard input and reports leave on
standard output, one JSON object a line (`allometry.sweeps.service` lists them; {"do": "stop"}, {"do":
"threads", "count"}, how many may work on the run under way, and {"is": "ready"} belong to the pipe alone).
The worker ends when its parent does, however that ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any, TextIO

from allometry.processes import die_with
from allometry.sweeps.service import Service


class Worker:
    """The loop of a worker process."""

    def __init__(self, orders: TextIO, reports: TextIO) -> None:
        self.orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self.stopping = threading.Event()
        self.threads = 1
        self._reports = reports
        threading.Thread(target=self._listen, args=(orders,), daemon=True).start()

    def _listen(self, orders: TextIO) -> None:
        for line in orders:
            order = json.loads(line)
            if order["do"] == "threads":
                self.threads = order["count"]
                continue
            self.threads = 1
            if order["do"] == "stop":
                self.stopping.set()
            self.orders.put(order)
        os._exit(1)  # the parent is gone: nobody is left to report to

    def report(self, kind: str, /, **fields: Any) -> None:
        """Send one report to the parent; if it is gone, so is the worker, and no run counts as failed."""
        try:
            self._reports.write(json.dumps({"is": kind, **fields}) + "\n")
            self._reports.flush()
        except OSError:
            os._exit(1)

    def run(self) -> None:
        """Serve orders until told to stop."""
        import torch

        torch.set_num_threads(1)
        self.report("ready")
        service = Service(self.report, self.stopping.is_set, lambda: self.threads)
        while True:
            order = self.orders.get()
            if order["do"] == "stop":
                self.report("stopped")
                return
            service.serve(order)


def main() -> None:
    """Entry point of the process: nothing but reports may reach the pipe, so prints go to standard error."""
    die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    Worker(sys.stdin, reports).run()


if __name__ == "__main__":
    main()
