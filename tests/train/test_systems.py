"""Every system of the paper's comparison trains and scores; published weights start what can start from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file
from safetensors.torch import load_file

from ptune.config import StreamConfig
from ptune.config.systems import SYSTEMS, stream_of
from ptune.errors import ConfigError, WeightsError
from ptune.ledger import Ledger
from ptune.model import weights
from ptune.model.inflation import fitted
from ptune.train.device import Acceleration
from ptune.train.fit import run_fit
from tests.example_features import example_spec, example_videos, write_features
from tests.model.example_weights import example_state

CPU = Acceleration.best("cpu")
#: A network that trains in a second, from random weights, none of which is frozen.
TINY = {
    "width": 0.125,
    "crop": 24,
    "epochs": 1,
    "batch_size": 4,
    "attention_width": 8,
    "init": "random",
    "frozen_norm": "none",
}
LENGTHS = {"two_stream": {"rgb": 1, "flow": 10, "mb": 10}, "tsn": {"rgb": 1, "flow": 5, "mb": 5}}


@pytest.fixture(scope="module")
def videos():
    return example_videos(subjects=4, clips=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory, videos):
    return write_features(tmp_path_factory.mktemp("features"), videos)


def tiny(system: str, modality: str) -> StreamConfig:
    """The system with small channels, crop and snippets; its own stack of frames where it has one."""
    frames = LENGTHS.get(system, {}).get(modality, 8)
    protocol = {"snippets": 2, "frames": frames}
    return stream_of(system, modality, **TINY, snippet_frames=frames, validation=protocol, test=protocol)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_trains_and_scores_every_modality_it_takes(system, store, videos, tmp_path):
    for modality in SYSTEMS[system].streams:
        spec = example_spec(videos, {"S04"}).model_copy(update={"stream": tiny(system, modality)})
        record = run_fit(spec, store, Ledger(tmp_path / modality), CPU)
        (row,) = record.predictions().to_pylist()
        assert np.isfinite(record.history[0]["loss"])
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert len(row["attention"]) == 2
        learned_weights = system in ("proposed", "proposed_without_focal")
        assert (row["attention"] == [1, 1]) != learned_weights


def test_systems_are_what_the_text_and_their_authors_say():
    assert stream_of("proposed", "mb") == StreamConfig(modality="mb")
    assert stream_of("proposed_without_focal", "mb").focal.model_dump() == {"alpha": 1.0, "gamma": 0.0}
    assert not stream_of("proposed_without_attention", "rgb").attention
    for modality, frames in LENGTHS["tsn"].items():
        tsn = stream_of("tsn", modality)
        assert (tsn.segments, tsn.snippet_frames, tsn.frozen_norm) == (3, frames, "partial")
        assert tsn.dropout == (0.8 if modality == "rgb" else 0.7)
    slow = stream_of("slowfast", "rgb")
    assert (slow.snippet_frames, slow.frame_stride, slow.init, slow.segments) == (32, 2, "random", 1)
    assert stream_of("tsn_slowfast", "rgb", segments=1) == slow
    for system, parts in SYSTEMS.items():
        assert set().union(*parts.table_3) <= set(parts.streams)
        for modality in parts.streams:
            stream = stream_of(system, modality)
            assert stream.focal.gamma == (0 if system == "proposed_without_focal" else 2)
            assert stream.init == ("random" if "slowfast" in system else "kinetics")


def test_unknown_systems_and_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"'tns' \(did you mean 'tsn'\?\)"):
        stream_of("tns", "rgb")
    with pytest.raises(ConfigError, match="modality 'depth'; expected one of rgb, flow, mb"):
        stream_of("tsn", "depth")
    with pytest.raises(ConfigError, match="frozen_norm: partial keeps layers as they start"):
        stream_of("tsn", "rgb", init="random")


@pytest.fixture
def published(tmp_path) -> Path:
    """A folder with made-up flow weights in the place of published ones."""
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(example_state(channels=2), folder / weights.FLOW_FILE)
    return folder


def test_a_fit_starts_from_the_weights_it_names_and_keeps_what_is_frozen(store, videos, published, tmp_path):
    file = published / weights.FLOW_FILE
    stream = stream_of("tsn", "mb", crop=32, epochs=1, learning_rate=1e-3, test={"snippets": 1, "frames": 5})
    assert weights.initial_file(published, stream) == file
    spec = example_spec(videos, {"S04"}).model_copy(
        update={"stream": stream, "initial_weights": weights.weights_hash(file)}
    )
    trained = load_file(run_fit(spec, store, Ledger(tmp_path / "ledger"), CPU, published).weights)
    start = load_arrays(file)
    norm = "trunk.{}.norm.running_mean"
    kept, learnt = norm.format("Mixed_5c.Branch_0.Conv3d_0a_1x1"), norm.format("Conv3d_1a_7x7")
    np.testing.assert_array_equal(trained[f"backbone.{kept}"], start[kept])
    assert not np.array_equal(trained[f"backbone.{learnt}"], start[learnt])
    first = "trunk.Conv3d_1a_7x7.conv.weight"
    expected = torch.from_numpy(fitted(start[first], 2, 5).sum(axis=2, keepdims=True))
    difference = (trained[f"backbone.{first}"] - expected).abs()
    assert 0 < difference.max() < 2.1e-3, "two steps of Adam move a weight by the learning rate each"


def test_a_fit_refuses_to_start_without_the_weights_it_names(store, videos, published, tmp_path):
    spec = example_spec(videos, {"S04"}).model_copy(update={"stream": stream_of("proposed", "flow", crop=32)})
    for named, folder in (("", published), ("ab" * 32, published), ("ab" * 32, None)):
        with pytest.raises(WeightsError, match="ptune weights add"):
            run_fit(spec.model_copy(update={"initial_weights": named}), store, Ledger(tmp_path / "ledger"), CPU, folder)
