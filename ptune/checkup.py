"""The nodes of a cluster become a list of findings: what each can do in the home that they share, and what it has.

A node's part runs there as a Ray task. Nodes are told apart by their host names.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import socket
import time
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ptune.cluster import ray_session
from ptune.doctor import FREE_BYTES, Finding
from ptune.errors import BadInput, PtuneError
from ptune.home import Home, network_filesystem, sync_folder
from ptune.ledger.store import store_at

#: Where a difference between nodes changes results or stops them.
VERSIONS = ("ptune", "ray", "torch", "numba", "numpy", "opencv-contrib-python", "av", "pyarrow")
#: A lease is stale after 60 s by the store's clock; clocks that differ by less do no harm.
CLOCK_SECONDS = 5.0
#: A node that has not answered for so long is hung.
PATIENCE_SECONDS = 120.0
DRIVER = "driver"

Facts = dict[str, Any]


def examine_cluster(home: Home) -> list[Finding]:
    """Looks at every node of the cluster that RAY_ADDRESS names, at MLflow's server and at Ray's own door.

    Raises:
        BadInput: there is no cluster.
    """
    if not os.environ.get("RAY_ADDRESS"):
        remedy = "Run it there (`ptune submit doctor --cluster`), or set RAY_ADDRESS on one of its hosts."
        raise BadInput("--cluster", "RAY_ADDRESS names no cluster", "a cluster", remedy)
    folder = home.root / f".checkup-{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o700)
    try:
        with ray_session(home):
            (folder / DRIVER).write_text(socket.gethostname())
            nodes = _ask_nodes(home, folder)
            door = _door()
        kind = network_filesystem(home.root)
        return [
            Finding("home", True, f"on {kind or 'a file system that this host takes for its own'}"),
            *(finding for node in nodes for finding in _judged(node, nodes, folder)),
            _race(nodes),
            door,
            _tracking(home),
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def look(folder: Path, places: tuple[str, ...]) -> Facts:
    """Returns what is found on the node where it runs; writes a file of its own into `folder`.

    Args:
        folder: in the home, new, with what the driver wrote.
        places: of ledger and features, where they are URIs.
    """
    name = f"{socket.gethostname()}-{os.getpid()}"
    facts: Facts = {
        "host": socket.gethostname(),
        "file": name,
        "time": time.time(),
        "python": platform.python_version(),
    }
    facts["versions"] = {package: _version(package) for package in VERSIONS}
    facts["gpus"], facts["cudnn"] = _gpus()
    facts["free"] = shutil.disk_usage(os.environ.get("PTUNE_CACHE") or Path.home()).free
    facts["home"] = _use(folder, name)
    facts["driver"] = _read(folder / DRIVER)
    facts["won"] = _first(folder / "race")
    facts["places"] = {place.partition("?")[0]: _reach(place) for place in places}
    return facts


def _use(folder: Path, name: str) -> str:
    """Writes, syncs, renames and locks a file as the ledger does; returns what refused, or ""."""
    part, whole = folder / f".{name}.part", folder / name
    doing = "write"
    try:
        with open(part, "w") as handle:
            handle.write(name)
            handle.flush()
            doing = "fsync"
            os.fsync(handle.fileno())
            doing = "lock"
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        doing = "rename"
        os.replace(part, whole)
        doing = "fsync of the folder"
        sync_folder(folder)
        doing = "read"
        return "" if whole.read_text() == name else "read: other bytes than were written"
    except OSError as error:
        return f"{doing}: {error.strerror}"


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""


def _first(path: Path) -> bool | None:
    """Returns whether this node made a file that all of them try to make; None where none could."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        return True
    except OSError as error:
        return False if error.errno == errno.EEXIST else None


def _reach(place: str) -> str:
    """Returns what keeps the node from writing to an object store, or ""."""
    try:
        store_at(place).now()
    except PtuneError as error:
        return error.found
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _gpus() -> tuple[list[str], str]:
    import torch

    # Ray hides GPUs from a task that has asked for none.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if not torch.cuda.is_available():
        return [], ""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return names, str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]


def _ask_nodes(home: Home, folder: Path) -> list[Facts]:
    """Returns each living node's facts; those of one that does not answer have its name and a problem."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    places = tuple(place for place in (home.ledger, home.features) if isinstance(place, str))
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[task.options(scheduling_strategy=pinned).remote(folder, places)] = node, time.time()
    found, waiting = [], list(asked)
    until = time.monotonic() + PATIENCE_SECONDS
    while waiting:
        done, waiting = ray.wait(waiting, timeout=max(0.0, until - time.monotonic()))
        for answer in done or waiting:
            node, sent = asked[answer]
            registered: Facts = {
                "name": node["NodeManagerHostname"],
                "registered": int(node["Resources"].get("GPU", 0)),
            }
            try:
                facts: Facts = ray.get(answer, timeout=0) if done else {"problem": "does not answer"}
            except Exception as error:
                facts = {"problem": f"cannot run a task ({type(error).__name__})"}
            # By how much its clock is certainly wrong: it looked between sending and now.
            if "time" in facts:
                facts["off"] = max(sent - facts["time"], facts["time"] - time.time(), 0.0)
            found.append(registered | facts)
        if not done:
            break
    return sorted(found, key=lambda facts: str(facts["name"]))


def _judged(node: Facts, nodes: list[Facts], folder: Path) -> list[Finding]:
    name = str(node["name"])
    if "problem" in node:
        return [Finding(name, False, node["problem"], "Look at that host's Ray log and its home.")]
    sees = node["driver"] == socket.gethostname() and _read(folder / node["file"]) == node["file"]
    here = {package: _version(package) for package in VERSIONS} | {"Python": platform.python_version()}
    there = node["versions"] | {"Python": node["python"]}
    others = ", ".join(f"{key} {there[key]} (here {here[key]})" for key in here if there[key] != here[key])
    gpus = ", ".join(node["gpus"]) + (f", cuDNN {node['cudnn']}" if node["gpus"] else "none")
    shared = "reads, writes, renames, syncs and locks; sees the driver's bytes and is seen"
    problem = node["home"] or ("" if sees else "does not see the same files as the driver")
    return [
        Finding(
            f"{name}: home",
            not problem,
            problem or shared,
            "Mount the same file system at the same path on every host.",
        ),
        Finding(f"{name}: versions", not others, others or "as here", "Install ptune from one lock on every host."),
        Finding(
            f"{name}: gpu",
            node["registered"] <= len(node["gpus"]),
            f"{gpus}; Ray offers {node['registered']}",
            "Ray offers GPUs that PyTorch does not find: install NVIDIA's driver and a CUDA build of PyTorch.",
        ),
        Finding(
            f"{name}: clock",
            node["off"] <= CLOCK_SECONDS,
            f"differs by {node['off']:.1f} s or more" if node["off"] > 0.1 else "as here",
            "Let a time service set the clock.",
        ),
        Finding(
            f"{name}: disk",
            node["free"] > FREE_BYTES,
            f"{node['free'] / 2**30:.0f} GiB free for its cache",
            "Free some space, or put PTUNE_CACHE elsewhere.",
        ),
        *(
            Finding(f"{name}: {place}", not refused, refused or "writable", "Give the host credentials of its own.")
            for place, refused in node["places"].items()
        ),
    ]


def _race(nodes: list[Facts]) -> Finding:
    """Judges who made the file that one only may have made: leases are made of this."""
    winners = sum(node.get("won") is True for node in nodes)
    remedy = "The file system's exclusive creation does not hold: put the ledger on NFS 4 or in an object store."
    return Finding("exclusive creation", winners == 1, f"{winners} of {len(nodes)} nodes made the same file", remedy)


def _door() -> Finding:
    """Asks Ray's dashboard, which takes jobs, without a token."""
    import ray._private.worker as rays

    node = rays._global_node
    address = node.webui_url if node is not None else ""
    if not address:
        return Finding("token", True, "there is no dashboard, so that nobody submits jobs")
    try:
        urllib.request.urlopen(f"http://{address}/api/jobs/", timeout=10).close()
    except urllib.error.HTTPError as error:
        return Finding("token", error.code in (401, 403), f"Ray's dashboard answers {error.code} without one")
    except OSError as error:
        return Finding("token", True, f"Ray's dashboard is not reached from here ({type(error).__name__})")
    remedy = "Set RAY_AUTH_MODE=token wherever Ray is started: as it is, whoever reaches it runs any program."
    return Finding("token", False, "Ray's dashboard takes jobs from anybody", remedy)


def _tracking(home: Home) -> Finding:
    try:
        place = home.tracking_uri
    except PtuneError as error:
        return Finding("tracking", False, error.found, error.remedy)
    if not place.startswith("http"):
        return Finding("tracking", True, "no server: the database that MLFLOW_TRACKING_URI or the home names")
    from ptune.track.server import ask_server

    answer = ask_server(place)
    return Finding("tracking", not answer.problem, answer.problem or f"MLflow {answer.version}", answer.remedy)
