"""Ray, quietly: a local one that lasts as long as a search, or a cluster that is there already."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nestrec_recbole.errors import NestRecError, first_line

# No usage statistics, no tables of its own, no log files of every trial, paths mean what they mean to the user, and
# trials have the priority of what starts them: at Ray's own niceness, 15, they stand still beside anything else.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails at once has no score, and ends no search
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the search; --resume goes on
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # of Ray's own state, which is not what resuming reads
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_TIMEOUT = 5.0  # seconds


def require_ray() -> None:
    """Import Ray Tune, and have it say nothing of its own.

    Raises
    ------
    NestRecError
        With the command that installs it.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    try:
        import ray.tune  # noqa: F401
    except ImportError as error:
        hint = "pip install 'ray[tune]>=2.40'"
        raise NestRecError(f"tuning needs Ray Tune, which cannot be imported ({first_line(error)}): {hint}") from None


@contextmanager
def running_ray(address: str | None, cpus: float, gpus: float, what: str = "a trial") -> Iterator[None]:
    """Within, this process is connected to a Ray that has the CPUs and GPUs that one trial asks for.

    Parameters
    ----------
    address : str or None
        ``host:port`` of a cluster, or ``auto``; None: one of this machine alone, unless this process has one already.
    cpus, gpus : float
        Of a trial.
    what : str
        Asks for them, where it is no trial.

    Raises
    ------
    NestRecError
        When the cluster does not answer, or no machine has that much.
    """
    import ray

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    own = not ray.is_initialized()
    if own:
        _connect(address)
    try:
        check_resources(machines(), cpus, gpus, what)
        yield
    finally:
        if own:
            ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        _check_reachable(address)
    where = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address is None else {"address": address}
    try:
        ray.init(**where, **quiet)
    except Exception as error:  # Ray raises many kinds
        if address is not None:
            raise _no_cluster(address, error) from None
        raise NestRecError(f"Ray does not start on this machine ({first_line(error)}); is it overloaded?") from None


def _check_reachable(address: str) -> None:
    """Ray itself waits for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdecimal():
        raise NestRecError(f"Ray address {address!r}: expected host:port, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=_TIMEOUT).close()
    except OSError as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> NestRecError:
    return NestRecError(f"no Ray cluster at {address} ({first_line(error)}); `ray start --head` starts one")


def machines() -> list[dict[str, float]]:
    """What each machine of the cluster that this process is connected to has: ``CPU``, ``GPU`` and more."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def check_resources(machines: list[dict[str, float]], cpus: float, gpus: float, what: str = "a trial") -> None:
    """Refuse what no machine has, and Ray would wait for without a word.

    Raises
    ------
    NestRecError
        With what there is.
    """
    if any(one.get("CPU", 0) >= cpus and one.get("GPU", 0) >= gpus for one in machines):
        return
    there = "; ".join(f"{one.get('CPU', 0):g} CPUs and {one.get('GPU', 0):g} GPUs" for one in machines)
    raise NestRecError(f"{what} asks for {cpus:g} CPUs and {gpus:g} GPUs on one machine; there are {there}")
