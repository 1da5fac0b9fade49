"""Connects to Ray: the cluster that RAY_ADDRESS names, else a private one on this machine.

The private one keeps its dashboard off, its token and its files readable by their owner only, and sends nothing home.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptune.home import Home
from ptune.progress import progress

#: Set in every ptune process and inherited by Ray's workers: no usage statistics, no telemetry, no pickled models.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
#: A private Ray gives each worker one core.
WORKER = QUIET | {"OMP_NUM_THREADS": "1"}
#: Features and weights go through files, so that Ray's shared memory holds little more than plans and results.
OBJECT_STORE_BYTES = 256 * 2**20


def in_job() -> bool:
    """Returns whether this process is what a Ray Job runs, whoever submitted it."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def stay_quiet() -> None:
    """Switches off every channel by which a library under ptune would report home."""
    os.environ.update(QUIET)


@contextmanager
def ray_session(home: Home, workers: int | None = None) -> Iterator[None]:
    """Runs the body with Ray connected; a private Ray is ended afterwards, a cluster is left alone.

    The logs of a private Ray go with it unless the body raised, or RAY_TMPDIR says where they belong.

    Args:
        home: its folder `ray` holds the token of a private Ray.
        workers: CPU cores of a private Ray; default all.
    """
    stay_quiet()
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        _require_token(home)
    import ray

    if ray.is_initialized():
        yield
        return
    scratch: Path | None = None
    answer = signal.getsignal(signal.SIGTERM)
    if address:
        with _without_core_chatter():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    else:
        scratch = _scratch()
        with _without_core_chatter():
            ray.init(
                num_cpus=workers or os.cpu_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=str(scratch),
                object_store_memory=OBJECT_STORE_BYTES,
                runtime_env={"env_vars": dict(WORKER)},
            )
    if threading.current_thread() is threading.main_thread():
        # Ray has put its own in place, which ends the process with a trace.
        signal.signal(signal.SIGTERM, answer)
    try:
        yield
    finally:
        ray.shutdown()
    if scratch is not None and "RAY_TMPDIR" not in os.environ:
        shutil.rmtree(scratch, ignore_errors=True)


def run_on_cluster(work: Callable[..., object], calls: Sequence[tuple[Any, ...]], title: str) -> None:
    """Calls `work` once with each of the arguments, as Ray tasks that have a GPU each where there are some.

    Ray must be connected. What a call raises is raised here.

    Args:
        work: results go to files.
        title: of the progress.
    """
    import ray

    gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
    remote = ray.remote(num_cpus=1, num_gpus=gpus)(work)
    with progress(title, len(calls)) as bar:
        waiting = [remote.remote(*call) for call in calls]
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)
            bar.advance(len(done))


@contextmanager
def _without_core_chatter() -> Iterator[None]:
    """Hides what Ray's C++ core writes while it starts: a line about the log level that was asked for.

    What goes wrong comes as an exception.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _require_token(home: Home) -> None:
    """Makes the private Ray refuse callers without its token.

    Ray reads these settings once, when it is imported: a process that imported it earlier keeps its own.
    """
    if "ray" in sys.modules:
        return
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = home.ray / "auth_token"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)


def _scratch() -> Path:
    """Returns a short private folder: Ray's socket paths may not exceed 107 bytes, so it cannot lie in a deep home."""
    if "RAY_TMPDIR" in os.environ:
        return Path(os.environ["RAY_TMPDIR"])
    return Path(tempfile.mkdtemp(prefix="ptune-ray-"))
