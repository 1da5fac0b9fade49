"""A video's snippets are told in the order of time, at the seconds and frames where they are."""

from __future__ import annotations

import numpy as np
import pytest

from ptune.extract.store import VideoFeatures
from ptune.results.explain import explain, film_strip
from ptune.results.plots import png
from ptune.train.protocol import VideoScore
from tests.example_features import CLASSES, example_stream

STREAMS = {name: example_stream(modality=name) for name in ("rgb", "flow")}


def made_up(frames: int, starts: list[int]) -> tuple[VideoFeatures, dict[str, VideoScore]]:
    """Features whose picture darkens, and scores whose attention rises and falls."""
    shades = np.linspace(255, 40, frames).astype(np.uint8)
    rgb = np.broadcast_to(shades[:, None, None, None], (frames, 32, 40, 3))
    features = VideoFeatures(rgb, np.zeros((frames - 1, 32, 40, 2), np.int16), 25.0)
    phase = np.linspace(0, np.pi, len(starts))
    severe = 0.2 + 0.6 * np.sin(phase)
    probabilities = np.stack([(1 - severe) / 2, (1 - severe) / 2, severe], 1).astype(np.float32)
    scores = {
        modality: VideoScore(
            probabilities.mean(0), probabilities, (0.4 + lift * np.sin(phase)).astype(np.float32), starts
        )
        for modality, lift in (("rgb", 0.1), ("flow", 0.4))
    }
    return features, scores


def test_moments_are_the_snippets_at_their_centres():
    features, scores = made_up(100, [0, 46, 92])
    moments = explain(STREAMS, scores, features, CLASSES)
    assert [moment.stream for moment in moments] == ["rgb"] * 3 + ["flow"] * 3
    assert [moment.first_frame for moment in moments[:3]] == [0, 46, 92]
    assert [moment.centre_frame for moment in moments[:3]] == [3, 49, 95]
    assert moments[1].centre_seconds == pytest.approx(49 / 25)
    row = moments[4].row()
    assert row["attention"] == pytest.approx(0.8)
    assert row["probability.severe"] == pytest.approx(0.8)
    assert sum(value for name, value in row.items() if name.startswith("probability.")) == pytest.approx(1)


def test_a_video_shorter_than_a_snippet_has_its_centre_inside():
    features, scores = made_up(3, [0])
    assert [moment.centre_frame for moment in explain(STREAMS, scores, features, CLASSES)] == [2, 1]


def test_the_plot_has_a_curve_per_stream_and_frames_where_they_are_in_time():
    features, scores = made_up(200, list(range(0, 192, 3)))
    moments = explain(STREAMS, scores, features, CLASSES)
    figure = film_strip(moments, features)
    attention, *_, strip = figure.axes
    assert [line.get_label() for line in attention.get_lines()] == ["rgb", "flow"]
    np.testing.assert_allclose(attention.get_lines()[1].get_ydata(), scores["flow"].attention)
    assert len(strip.artists) == 10
    assert [box.xy[0] for box in strip.artists] == sorted(box.xy[0] for box in strip.artists)
    assert png(figure).startswith(b"\x89PNG")
