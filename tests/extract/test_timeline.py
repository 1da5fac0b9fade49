from itertools import pairwise

import numpy as np
import pytest

from ptune.extract.timeline import Resampler, plan

TICK = 1e-4


def resampled(times, fps, hold):
    resampler = Resampler(fps, hold)
    kept = list(resampler((time, index) for index, time in enumerate(times)))
    return kept, resampler


@pytest.mark.parametrize(
    "times",
    [
        np.arange(300) / 30,
        np.round(np.arange(300) / 29.97, 3),
        np.arange(300) / 30 - 7,
        np.delete(np.arange(300), 150) / 30,
        np.arange(300) / 30 + 0.03 * (np.arange(300) == 100),
        np.arange(300) / 30 + np.random.default_rng(0).uniform(-0.2, 0.2, 300) / 30,
    ],
    ids=["exact", "rounded to milliseconds", "negative", "one frame lost", "one frame late", "jitter"],
)
def test_a_nearly_constant_rate_is_constant(times):
    timeline = plan(np.random.default_rng(1).permutation(times), [30], 1e-3, None)
    assert not timeline.variable
    assert timeline.target_fps is None
    assert timeline.fps == pytest.approx(30, rel=0.01)


@pytest.mark.parametrize(
    ("intervals", "stated", "target"),
    [
        pytest.param([1 / 30] * 150 + [2 / 30, 1 / 30, 2 / 30] * 10, [25.9, 30], 30, id="a camera that loses frames"),
        pytest.param([0.1] * 20 + [2] + [0.1] * 20, [100, 10], 10, id="a picture held for two seconds"),
        pytest.param([0.04] * 50 + [0.08, 0.12] * 10, [], 25, id="a file that states no rate"),
        pytest.param([0.02] * 30 + [0.06] * 30, [25, 1000], 25, id="two rates of which neither is the camera's"),
        pytest.param([0.001] * 90 + [1.5] * 10, [1000], 1 / 0.1509, id="bursts, which would be repeated too often"),
    ],
)
def test_a_variable_rate_becomes_the_camera_s(intervals, stated, target):
    timeline = plan(np.cumsum(intervals), stated, TICK, None)
    assert timeline.variable
    assert timeline.target_fps == pytest.approx(target, rel=0.01)


def test_a_user_s_rate_goes_before_all_others():
    assert plan(np.arange(90) / 30, [30], TICK, 15).target_fps == 15
    assert plan(np.cumsum([0.04] * 50 + [0.08, 0.12] * 10), [25], TICK, 15).target_fps == 15


def test_ten_hours_without_a_picture_are_a_broken_clock():
    times = np.arange(300) / 30
    times[200:] += 36_000
    timeline = plan(times, [30], TICK, None)
    assert timeline.gap == "36000 seconds without a picture after frame 199"
    assert timeline.target_fps is None
    assert timeline.interval == pytest.approx(1 / 30)


def test_a_slide_show_is_no_broken_clock():
    times = np.cumsum([20, 30, 15, 40, 20, 20, 25, 30, 20, 10])
    assert plan(times, [], TICK, None).gap == ""


@pytest.mark.parametrize(("times", "rate"), [([], 25), ([3.0], 25)])
def test_a_file_without_times_has_the_stated_rate(times, rate):
    timeline = plan(times, [0.0, rate], TICK, None)
    assert (timeline.fps, timeline.variable, timeline.target_fps) == (rate, False, None)


@pytest.mark.parametrize(("source", "target", "frames"), [(30, 30, 60), (30, 60, 120), (30, 15, 30), (25, 30, 72)])
def test_resampling_keeps_the_duration_and_counts(source, target, frames):
    times = np.round(np.arange(60) / source, 3)
    kept, resampler = resampled(times, target, 1 / source)
    assert len(kept) == frames
    assert np.all(np.diff(kept) >= 0)
    assert resampler.repeated == sum(a == b for a, b in pairwise(kept))
    assert resampler.dropped == 60 - len(set(kept))


def test_each_moment_gets_the_nearest_frame():
    times = np.cumsum(np.random.default_rng(0).choice([0.01, 0.04, 0.11], 100))
    kept, _ = resampled(times, 25, 0.04)
    for moment, index in enumerate(kept[:-1]):
        distances = abs(times - times[0] - moment / 25)
        assert distances[index] <= distances.min() + 1e-3


def test_a_frame_whose_time_runs_backwards_is_passed_over():
    kept, resampler = resampled([0, 0.1, 0.05, 0.2, 0.3], 10, 0.1)
    assert len(kept) == 4
    assert resampler.dropped == 1
