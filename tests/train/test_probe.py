"""Timing a stream: it measures work, leaves no trace, and its small step stands for a whole one."""

import pytest
import torch

from ptune.train.device import Acceleration
from ptune.train.probe import Speed, measure
from tests.example_features import example_stream

CPU = Acceleration.best("cpu")


def test_an_epoch_trains_and_validates_and_a_fit_also_tests():
    stream = example_stream(
        epochs=3, validation={"snippets": 1, "frames": 8}, test={"snippets": 2, "frames": 8}, segments=2
    )
    speed = Speed(train_seconds=2.0, score_seconds=0.5, scaled=False, device="cpu")
    # Ten videos at 2 s, and five with one snippet of eight frames at 0.5 s.
    assert speed.epoch_seconds(stream, 10, 5) == 10 * 2 + 5 * 8 * 0.5
    assert speed.fit_seconds(stream, 10, 5) == 3 * (20 + 20) + 5 * 2 * 8 * 0.5


def test_a_larger_network_input_takes_longer():
    small = measure(example_stream(crop=24), 32, 40, CPU)
    large = measure(example_stream(crop=160), 160, 160, CPU)
    assert large.train_seconds > small.train_seconds
    assert large.score_seconds > small.score_seconds


@pytest.mark.parametrize("modality", ["rgb", "flow", "mb"])
def test_a_step_that_takes_too_long_is_replaced_by_a_small_one(modality):
    stream = example_stream(modality=modality, segments=8, snippet_frames=16, crop=64)
    ratios = []
    # A busy machine may be slow for a moment, so that the nearest of some tries counts.
    for _ in range(2):
        whole, scaled = (measure(stream, 64, 64, CPU, limit) for limit in (1e9, 0.0))
        assert not whole.scaled
        assert scaled.scaled
        ratios.append(scaled.train_seconds / whole.train_seconds)
    # A factor that was forgotten, segments or frames, leaves eight.
    assert min(max(ratio, 1 / ratio) for ratio in ratios) < 4


def test_timing_changes_neither_random_numbers_nor_threads():
    torch.manual_seed(7)
    expected = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    measure(example_stream(), 32, 40, CPU)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
