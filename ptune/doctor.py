"""This machine becomes a list of findings: what is there, whether it will do, what to do where not."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from ptune.errors import HomeError, PtuneError
from ptune.home import Home
from ptune.ledger import Ledger
from ptune.ledger.store import store_at

PACKAGES = ("torch", "ray", "mlflow", "optuna", "opencv-contrib-python", "av", "pyarrow")
FREE_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    ok: bool
    found: str
    remedy: str = ""


def examine(home: Home) -> list[Finding]:
    """Looks at Python, packages, home, ledger, disk, OpenCV's flow, the tracking store and the accelerator."""
    return [
        Finding("python", True, platform.python_version()),
        *(_package(name) for name in PACKAGES),
        Finding("home", True, "writable"),
        _ledger(home),
        _disk(home),
        _flow(),
        _tracking(home),
        _accelerator(),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "not installed", "Run `make setup`.")


def _disk(home: Home) -> Finding:
    if isinstance(home.features, str):
        return _shared_features(home)
    free = shutil.disk_usage(home.features).free
    text = f"{free / 2**30:.0f} GiB free for features (0.61 MB a frame at 340x256)"
    return Finding("disk", free > FREE_BYTES, text, "Free some space, or put features elsewhere with --features.")


def _shared_features(home: Home) -> Finding:
    try:
        store_at(home.features).now()
    except PtuneError as error:
        return Finding("features", False, f"in an object store, {error.found}", "Check bucket, region and credentials.")
    return Finding("features", True, "in an object store, writable")


def _ledger(home: Home) -> Finding:
    where = "in the home" if home.ledger == home.root / "ledger" else "elsewhere"
    try:
        Ledger(home.ledger).store.now()
    except PtuneError as error:
        return Finding("ledger", False, f"{where}, {error.found}", error.remedy)
    return Finding("ledger", True, f"{where}, writable")


def _flow() -> Finding:
    try:
        import cv2

        getattr(cv2, "optflow").DualTVL1OpticalFlow_create()  # noqa: B009 (absent from its type hints)
    except (ImportError, AttributeError) as error:
        remedy = "Install opencv-contrib-python; on a bare Linux also the package libgl1."
        return Finding("tv-l1", False, f"not there ({type(error).__name__})", remedy)
    return Finding("tv-l1", True, f"OpenCV {cv2.__version__}")


def _tracking(home: Home) -> Finding:
    try:
        place = home.tracking_uri
    except HomeError as error:
        return Finding("tracking", False, error.found, error.remedy)
    if not place.startswith("sqlite:"):
        return Finding("tracking", True, "the server that MLFLOW_TRACKING_URI names (not contacted)")
    with sqlite3.connect(":memory:") as connection:
        found = connection.execute("select sqlite_version()").fetchone()[0]
    return Finding("tracking", home.root.exists(), f"embedded SQLite {found}")


def _accelerator() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", True, f"none; {os.cpu_count()} CPU cores")
    from ptune.train.device import convolution_problem

    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    found = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, cuDNN {cudnn}"
    problem = convolution_problem(torch.device("cuda"))
    return Finding("gpu", not problem, found, problem)
