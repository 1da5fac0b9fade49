"""What makes a fit fast changes nothing but its speed."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import nn

from ptune.config import Protocol
from ptune.config.systems import SYSTEMS, stream_of
from ptune.errors import ConfigError, FeatureError
from ptune.model.folding import folded
from ptune.model.scorer import build_scorer
from ptune.sample.dataset import protocol_batches, training_batches
from ptune.train.device import Acceleration, _compiled_or_plain, cudnn_problem, speed_problem
from ptune.train.loader import Waiting, _read_ahead
from ptune.train.protocol import score_video, video_scores
from tests.example_features import example_stream, example_videos, write_features

CPU = Acceleration.best("cpu")
SMALL = {"width": 0.125, "crop": 32, "attention_width": 8, "init": "random", "frozen_norm": "none"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("features"), example_videos())


@pytest.mark.parametrize("system", SYSTEMS)
def test_folding_batch_norms_changes_nothing_but_rounding(system):
    torch.manual_seed(0)
    stream = stream_of(system, "rgb", **SMALL)
    scorer = build_scorer(stream, 3)
    for module in scorer.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.3)
            for positive in (module.running_var, module.weight):
                nn.init.uniform_(positive, 0.5, 1.5)
            nn.init.normal_(module.bias)
    scorer.train()
    copy = folded(scorer)
    assert scorer.training
    assert not any(isinstance(module, nn.BatchNorm3d) for module in copy.modules())
    snippets = torch.rand(2, 3, stream.snippet_frames, 32, 32) * 2 - 1
    for ours, reference in zip(copy.snippet_scores(snippets), scorer.eval().snippet_scores(snippets), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def test_frozen_batch_norms_fold_as_well():
    scorer = build_scorer(stream_of("tsn", "flow", crop=32), 3)
    snippet = torch.rand(1, 2, 5, 32, 32)
    expected = scorer.eval().snippet_scores(snippet).logits
    torch.testing.assert_close(folded(scorer).snippet_scores(snippet).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_video_scores_the_same_alone_and_in_batches_that_cut_through_videos(store, monkeypatch):
    stream, protocol = example_stream(), Protocol(snippets=7, frames=8)
    torch.manual_seed(0)
    scorer = build_scorer(stream, 3).eval()
    videos = [store.video(name) for name in store.ids()[:3]]
    alone = [score_video(scorer, features, stream, protocol, CPU) for features in videos]
    monkeypatch.setattr("ptune.train.device.CPU_SNIPPETS", 5)
    sizes = [sum(len(piece.views) for piece in batch.pieces) for batch in protocol_batches(videos, stream, protocol, 5)]
    assert sizes == [5, 5, 5, 5, 1]
    for one, other in zip(alone, video_scores(scorer, videos, stream, protocol, CPU), strict=True):
        assert one.starts == other.starts
        assert one.snippet_probabilities.shape == (7, 3)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        assert one.attention == pytest.approx(other.attention, abs=1e-6)


def test_reading_ahead_keeps_order_passes_errors_on_and_ends_its_thread():
    def numbers():
        yield from range(1, 4)
        raise FeatureError("video 4", "has no features", "a record")

    items = _read_ahead(numbers())
    assert [next(items) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(FeatureError, match="video 4"):
        next(items)
    items = _read_ahead(iter(range(1, 100)))
    assert next(items) == 1
    items.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ptune-reader")]


def test_waiting_for_data_is_measured():
    def slow():
        for number in range(3):
            time.sleep(0.01)
            yield number

    items = Waiting(slow())
    assert list(items) == [0, 1, 2]
    assert 0.03 <= items.seconds < 0.3


def test_a_batch_in_parts_is_the_batch(store):
    stream = example_stream(batch_size=5)
    batch = next(training_batches(example_videos(), store, stream, 0, 0))
    parts = list(batch.parts(2))
    assert [len(part.video_ids) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.network_input(stream) for part in parts]), batch.network_input(stream))
    assert torch.equal(torch.cat([part.labels_B for part in parts]), batch.labels_B)


def test_parts_must_divide_the_batch():
    with pytest.raises(ConfigError, match="accumulate 3 does not divide a batch of 4 videos"):
        example_stream(accumulate=3)


def test_where_compiling_fails_the_step_runs_as_it_is():
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    layer = nn.Linear(2, 2)
    step = _compiled_or_plain(layer, torch.compile(layer, backend=broken))
    x = torch.ones(1, 2)
    with pytest.warns(RuntimeWarning, match="cannot be compiled and runs slower: .*no compiler here"):
        assert torch.equal(step(x), layer(x))
    assert torch.equal(step(x), layer(x))


@pytest.mark.parametrize(
    ("version", "problem"),
    [(None, "no cuDNN"), (90701, ""), (90800, "9.15 or newer"), (91002, "9.15 or newer"), (91500, ""), (92000, "")],
)
def test_versions_of_cudnn_that_are_wrong_are_named(version, problem):
    found = cudnn_problem(version)
    assert problem in found
    assert bool(found) == bool(problem)


def test_half_precision_that_is_no_faster_is_a_slow_path():
    assert speed_problem(0.2, 1.0) == ""
    assert "takes a slow path" in speed_problem(9.0, 1.0)
