"""The scores of one video become the story of its snippets: attention and class probabilities over time, as rows and as
a curve above a film strip.

The plot shows the patient. It is made for whoever asks for it and is part of no report and no upload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptune.config import StreamConfig
from ptune.extract.store import VideoFeatures
from ptune.results.plots import FAINT, STYLE, colour_of
from ptune.sample.snippets import protocol_frames
from ptune.train.protocol import VideoScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Pictures in a film strip; neighbours of 64 snippets would overlap.
PICTURES = 10
#: Width of one, so that ten have room side by side.
PICTURE_POINTS = 50


@dataclass(frozen=True)
class Moment:
    """What one stream says of one snippet.

    Args:
        stream: its name.
        first_frame, centre_frame: in frames of the video; the centre lies in it however short it is.
        centre_seconds: from the video's beginning.
        attention: weight of the snippet; 1 for a stream without attention.
        probabilities: of each class by name.
    """

    stream: str
    first_frame: int
    centre_frame: int
    centre_seconds: float
    attention: float
    probabilities: Mapping[str, float]

    def row(self) -> dict[str, Any]:
        """Returns the moment as one flat row, for tables."""
        named = {f"probability.{name}": value for name, value in self.probabilities.items()}
        return {name: value for name, value in vars(self).items() if name != "probabilities"} | named


def explain(
    streams: Mapping[str, StreamConfig],
    scores: Mapping[str, VideoScore],
    features: VideoFeatures,
    class_names: Sequence[str],
) -> list[Moment]:
    """Returns the snippets of one video, stream after stream, in the order of time.

    Args:
        streams: by name, which is the modality unless a modality has several.
        scores: by the same names, of each stream's test protocol.

    Source: section 3, attention as the weight of a snippet; figures of the paper do not show it for single videos.
    """
    moments = []
    for name, stream in streams.items():
        score = scores[name]
        half = (stream.test.frames - 1) * stream.frame_stride // 2
        for start, attention, values in zip(score.starts, score.attention, score.snippet_probabilities, strict=True):
            centre = min(start + half, features.length(stream.modality) - 1)
            named = dict(zip(class_names, values.tolist(), strict=True))
            moments.append(Moment(name, start, centre, centre / features.fps, float(attention), named))
    return moments


def stored_moments(stream: StreamConfig, attention: NDArray[np.float64], features: VideoFeatures) -> list[Moment]:
    """Returns the snippets of a video whose attention is stored, without the probabilities of each, which are not.

    Args:
        attention: float64 [S], of the snippets of the stream's test protocol in their order.
    """
    length = features.length(stream.modality)
    half = (stream.test.frames - 1) * stream.frame_stride // 2
    starts = protocol_frames(length, stream.test, stream.frame_stride)[:, 0].tolist()
    return [
        Moment(stream.modality, start, centre, centre / features.fps, float(weight), {})
        for start, weight in zip(starts, attention, strict=True)
        for centre in (min(start + half, length - 1),)
    ]


def film_strip(moments: Sequence[Moment], features: VideoFeatures) -> Figure:
    """Draws attention over time, below it the probability of each class where known, then frames at snippet centres.

    Args:
        moments: as `explain` returns them, at least one.

    Returns:
        a figure with pixels of the video; `ptune.results.plots.png` makes bytes of it.
    """
    import matplotlib
    from matplotlib.figure import Figure

    streams = list(dict.fromkeys(moment.stream for moment in moments))
    panels = streams if moments[0].probabilities else []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.8 + 1.3 * len(panels)), layout="constrained")
        heights = [1.6, *[1.0] * len(panels), 0.8]
        rows = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        axes = [figure.add_subplot(rows[0])]
        axes += [figure.add_subplot(rows[index + 1], sharex=axes[0]) for index in range(len(panels))]
        for name in streams:
            own = [moment for moment in moments if moment.stream == name]
            seconds = [moment.centre_seconds for moment in own]
            attention = [moment.attention for moment in own]
            axes[0].plot(seconds, attention, ".-", color=colour_of(name), label=name, linewidth=1.4)
        for name, below in zip(panels, axes[1:], strict=True):
            own = [moment for moment in moments if moment.stream == name]
            seconds = [moment.centre_seconds for moment in own]
            names = list(own[0].probabilities)
            shares = [[moment.probabilities[name] for moment in own] for name in names]
            tones = [str(0.88 - 0.6 * index / max(len(names) - 1, 1)) for index in range(len(names))]
            below.stackplot(seconds, shares, labels=names, colors=tones)
            below.set(ylim=(0, 1), ylabel=name)
        axes[0].set(ylabel="attention", ylim=_limits([moment.attention for moment in moments]))
        axes[0].grid(axis="y", color=FAINT, linewidth=0.6)
        axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
        if panels:
            axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1), title="probability")
        axes[0].set_xlim(0, (len(features.rgb) - 1) / features.fps)
        for upper in axes[:-1]:
            upper.tick_params(labelbottom=False)
        axes[-1].set_xlabel("seconds")
        strip = figure.add_subplot(rows[-1], sharex=axes[0])
        _draw_frames(strip, [moment for moment in moments if moment.stream == streams[0]], features)
    return figure


def _draw_frames(axes: Axes, moments: Sequence[Moment], features: VideoFeatures) -> None:
    """Places the frames at the centres of snippets evenly spread over the video where they are in time."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    axes.set_axis_off()
    axes.set_ylim(-1, 1)
    chosen = np.unique(np.rint(np.linspace(0, len(moments) - 1, min(PICTURES, len(moments)))).astype(int))
    for moment in (moments[index] for index in chosen):
        frame = features.rgb[moment.centre_frame]
        picture = OffsetImage(frame, zoom=PICTURE_POINTS / frame.shape[1])
        axes.add_artist(AnnotationBbox(picture, (moment.centre_seconds, 0), frameon=False, pad=0))


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns limits that show small differences and no noise of rounding."""
    low, high = min(values), max(values)
    margin = max(0.1 * (high - low), 0.02)
    return low - margin, high + margin
