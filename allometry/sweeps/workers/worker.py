"""A worker process: it imports torch once, then trains the runs that its parent names, one after the other.

Started as `python -m allometry.sweeps.workers.worker PARENT`. Tasks arrive on standard input and messages leave on
standard output, one JSON object a line (`allometry.sweeps.workers.service` lists them; {"do": "stop"}, {"do":
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

from allometry.core.env import die_with
from allometry.sweeps.workers.service import Service


class Worker:
    """The loop of a worker process."""

    def __init__(self, tasks: TextIO, messages: TextIO) -> None:
        self.tasks: queue.Queue[dict[str, Any]] = queue.Queue()
        self.stopping = threading.Event()
        self.threads = 1
        self._messages = messages
        threading.Thread(target=self._listen, args=(tasks,), daemon=True).start()

    def _listen(self, tasks: TextIO) -> None:
        for line in tasks:
            task = json.loads(line)
            if task["do"] == "threads":
                self.threads = task["count"]
                continue
            self.threads = 1
            if task["do"] == "stop":
                self.stopping.set()
            self.tasks.put(task)
        os._exit(1)  # the parent is gone: nobody is left to send to

    def send(self, kind: str, /, **fields: Any) -> None:
        """Send one message to the parent; if it is gone, so is the worker, and no run counts as failed."""
        try:
            self._messages.write(json.dumps({"is": kind, **fields}) + "\n")
            self._messages.flush()
        except OSError:
            os._exit(1)

    def run(self) -> None:
        """Carry out tasks until told to stop."""
        import torch

        torch.set_num_threads(1)
        self.send("ready")
        service = Service(self.send, self.stopping.is_set, lambda: self.threads)
        while True:
            task = self.tasks.get()
            if task["do"] == "stop":
                self.send("stopped")
                return
            service.serve(task)


def main() -> None:
    """Run the process: nothing but messages may reach the pipe, so prints go to standard error."""
    die_with(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    Worker(sys.stdin, messages).run()


if __name__ == "__main__":
    main()
