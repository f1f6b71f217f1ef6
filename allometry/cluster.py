"""Join a Ray cluster, or start one on this machine: with a time limit, without Ray's dashboard, messages and
usage reports, and with Ray's errors in the user's words.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allometry.core.env import cores
from allometry.core.errors import AllometryError, missing_extra

NAMESPACE = "allometry"
CONNECT_SECONDS = 5.0
"""How long a cluster may take to answer on its port."""

_STORE_BYTES = 200_000_000
"""Bytes of shared memory of a cluster that is started here: nothing large passes through it."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns that it will not change CUDA_VISIBLE_DEVICES
    "RAY_DEDUP_LOGS": "0",
}


@dataclass(frozen=True)
class Connection:
    """The module `ray`, connected; `ours` if `close` is to end the connection, and a cluster started for
    it."""

    ray: Any
    ours: bool

    def close(self) -> None:
        """End the connection, unless another part of the program made it."""
        if self.ours:
            self.ray.shutdown()


@contextlib.contextmanager
def mapped(on: str) -> Iterator[Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]]:
    """Yield a `map` whose calls are tasks on the cluster that `on` names, one for each item, in their order.

    The function must be one of a module that the nodes have. AllometryError for another name, for a cluster
    that cannot be used, and for tasks that fail there.
    """
    if on != "ray" and not on.startswith("ray://"):
        raise AllometryError(f"{on!r} is no cluster", hint="say --on ray or --on ray://HOST:10001")
    connection = connect(on)
    ray = connection.ray

    def on_cluster(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        task = ray.remote(function)
        try:
            return list(ray.get([task.remote(item) for item in items]))
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            raise AllometryError(
                f"a task failed on the cluster: {_first_line(cause)}",
                hint="install the same version of Allometry here and on every node, or leave --on out",
            ) from error

    try:
        yield on_cluster
    finally:
        connection.close()


def connect(on: str = "ray", *, workers: int | None = None) -> Connection:
    """Connect to the cluster that `on` names: "ray" or "ray://host:port".

    "ray" means the cluster that the environment's RAY_ADDRESS names, else one that runs on this machine, else
    a new one here with `workers` cores (default: all), which ends with this process. A connection that this
    process has already is used.

    Raises AllometryError if Ray is not installed, the cluster does not answer, or it runs other versions.
    """
    os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})
    address = on if on.startswith("ray://") else os.environ.get("RAY_ADDRESS")
    with _token_shown():
        try:
            import ray
        except ImportError as error:
            raise missing_extra("ray", "ray", "running on a cluster") from error
        if ray.is_initialized():
            return Connection(ray, ours=False)
        joined = address != "local" and _join(ray, address)
    if not joined:
        _start(ray, workers or cores())
    return Connection(ray, ours=True)


@contextlib.contextmanager
def _token_shown() -> Iterator[None]:
    """Make Ray send the token of this machine, which it does by default only for a cluster that it starts. A
    cluster that needs no token accepts it too. Ray reads this setting when it is imported.
    """
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    ready = given or (Path.home() / ".ray" / "auth_token").is_file()
    if not ready or "RAY_AUTH_MODE" in os.environ:
        yield
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_MODE"]


def _join(ray: Any, address: str | None) -> bool:
    """Join the cluster at `address`, or the one that runs on this machine; False if there is none here."""
    if address and address != "auto":
        _require_answer(address)
        _initialise(ray, address)
        return True
    if _left_behind():
        return False
    try:
        _initialise(ray, "auto")
    except ConnectionError:
        return False
    return True


def _left_behind() -> bool:
    """Return whether the cluster that Ray has noted as this machine's has ended without removing the note: Ray
    would wait for it for minutes.
    """
    note = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    try:
        _require_answer(note.read_text().strip())
    except OSError:
        return False
    except AllometryError:
        return True
    return False


def _initialise(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": NAMESPACE}
    with _refusals(address):
        ray.init(address=address, **quiet)


def _start(ray: Any, count: int) -> None:
    with _refusals("a cluster on this machine"):
        ray.init(
            address="local",
            num_cpus=count,
            namespace=NAMESPACE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_STORE_BYTES,
            _node_ip_address="127.0.0.1",
        )


def _require_answer(address: str) -> None:
    """Check whether anything listens at an address, which is faster than waiting for Ray to give up."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise AllometryError(
            f"{address!r} is no address of a Ray cluster", hint="write --on ray://HOST:10001, or RAY_ADDRESS"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise AllometryError(
            f"no Ray cluster answers at {address}: {error.strerror or error}",
            hint="start one there (ray start --head --ray-client-server-port 10001), or check host, port "
            "and firewall",
        ) from error


@contextlib.contextmanager
def _refusals(address: str) -> Iterator[None]:
    """Turn the errors of Ray's connection into AllometryError with the remedy."""
    try:
        yield
    except ConnectionError as error:
        if address == "auto":
            raise
        raise AllometryError(
            f"the cluster at {address} does not let us in: {_first_line(error)}",
            hint="check that it is a Ray cluster, that its Ray client server runs for ray:// addresses, and "
            "that RAY_AUTH_TOKEN holds its token if it wants one",
        ) from error
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if "ersion" in text and "match" in text:
            raise AllometryError(
                f"the cluster at {address} runs other versions of Ray or Python: {text[:300]}",
                hint="install the same versions of Ray and Python here and on every node",
            ) from error
        raise AllometryError(
            f"cannot use {address}: {_first_line(error)}", hint="see `ray status` on the cluster"
        ) from error
    except Exception as error:  # Ray raises bare ones, such as when a busy machine starts it too slowly
        raise AllometryError(
            f"Ray did not start for {address}: {_first_line(error)}",
            hint="try again when the machine is less busy; Ray gives its processes 30 s to start",
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
