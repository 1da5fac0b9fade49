"""Extracted features become pictures to look at: a film of frames, flow and boundaries side by side, a contact sheet,
and a page that lists every video.

Knows videos by their ids only; draws from records, not from the videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace

from ptune import page
from ptune.config import ExtractConfig
from ptune.extract.boundary import motion_boundaries
from ptune.extract.decode import decode
from ptune.extract.flow import dequantize
from ptune.extract.store import VideoFeatures
from ptune.home import write_atomic

Picture = npt.NDArray[np.uint8]

FRAMES = 8
TILE = ExtractConfig(width=160, height=120)
#: Of a contact sheet, in pixels: the longer side of a tile, and room for words at the left and on top.
TILE_SIDE, MARGIN, TOP = 152, 104, 18
#: Of a film, in pixels: least and largest width of a panel, so that the words below fit and large records stay small.
PANEL_WIDTHS = (240, 480)
LEGEND, GAP = 48, 4
USUAL_FPS = 25.0
#: Least speed and boundary that fill the colour scale, so that noise in a still video stays pale.
LEAST_SPEED, LEAST_BOUNDARY = 1.0, 0.1
STEPS = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
#: The first that the library was built with is taken. Browsers play all but the last, which every build has.
ENCODERS = {"libx264": {"crf": "23", "preset": "veryfast"}, "libopenh264": {"b": "2M"}, "mpeg4": {"b": "4M"}}
INK, SOFT, PAPER = (34, 48, 60), (93, 107, 119), 255
#: Figures of the page: heading and format.
FIGURES = {
    "flow_mean": ("flow px/frame", ".3f"),
    "clipped_share": ("clipped", ".2%"),
    "camera_speed_p95": ("camera px/frame", ".3f"),
    "camera_zoom_p95": ("zoom /frame", ".2%"),
    "camera_roll_p95": ("roll rad/frame", ".4f"),
    "camera_shake": ("shake px/frame", ".3f"),
    "sharpness_median": ("sharpness", ".0f"),
    "brightness_mean": ("gray", ".0f"),
    "repeated_share": ("repeated", ".1%"),
}
STYLE = """<style>main { max-width: 1480px; } figure { margin: 18px 0 34px; } figcaption { font-weight: 600; }
img, video { max-width: 100%; display: block; margin: 6px 0; }</style>"""


class Scale(NamedTuple):
    """What fills the colour scale: speed in px/frame and boundary in px/frame per px."""

    speed: float
    boundary: float


def scale_of(quality: Mapping[str, float]) -> Scale:
    """Returns the colour scale that suits a video, from its figures: round numbers, for the legend."""
    return Scale(
        _round_up(max(quality["flow_p999"] / 2, LEAST_SPEED)),
        _round_up(max(quality["boundary_p999"] / 2, LEAST_BOUNDARY)),
    )


def flow_colours(flow: npt.NDArray[Any], speed: float) -> Picture:
    """Returns a picture of a flow field: the hue is its direction, the saturation its speed; white stands still.

    Rightward is red, downward yellow-green, leftward cyan, upward violet.

    Args:
        flow: float [H,W,2] in px/frame.
        speed: px/frame from which colours are full.

    Returns:
        uint8 [H,W,3] RGB.

    Source: the wheel around white of Baker et al. 2011, "A database and evaluation methodology for optical flow".
    Differs: hues are equally spaced, so that a turned flow turns its hues by as much.
    """
    u, v = flow[..., 0].astype(np.float32), flow[..., 1].astype(np.float32)
    size, hue = cv2.cartToPolar(u, v, angleInDegrees=True)
    colours = cv2.cvtColor(np.dstack([hue, np.minimum(size / speed, 1), np.ones_like(u)]), cv2.COLOR_HSV2RGB)
    return np.asarray(np.rint(colours * 255), np.uint8)


def boundary_colours(boundaries: npt.NDArray[Any], full: float) -> Picture:
    """Returns a picture of the strength of motion boundaries, dark to bright.

    Args:
        boundaries: float [H,W,2] in px/frame per px.
        full: strength that is brightest.

    Returns:
        uint8 [H,W,3] RGB.
    """
    strength = np.clip(np.hypot(boundaries[..., 0], boundaries[..., 1]) / full, 0, 1)
    bright = cv2.applyColorMap(np.rint(strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(bright, cv2.COLOR_BGR2RGB))


def draw_film(features: VideoFeatures, scale: Scale, path: Path) -> None:
    """Writes frames, flow and boundaries side by side as MP4, at the video's rate, without any title or date.

    One pair of frames is in memory at a time.
    """
    encoder = next(name for name in ENCODERS if name in av.codecs_available)
    rate = Fraction(features.fps or USUAL_FPS).limit_denominator(1001)

    def write(temporary: Path) -> None:
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(str(temporary), "w", format="mp4", options=options) as container:
            stream: Any = container.add_stream(encoder, rate=rate, options=dict(ENCODERS[encoder]))
            stream.pix_fmt = "yuv420p"
            stream.thread_count = 1
            # Stated, because players guess it from the size, and differ.
            stream.codec_context.colorspace = Colorspace.ITU601
            stream.codec_context.color_range = ColorRange.MPEG
            for number, picture in enumerate(_film(features, scale)):
                if not number:
                    stream.height, stream.width = picture.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))

    _write(path, write)


def draw_sheet(features: VideoFeatures, scale: Scale, path: Path) -> None:
    """Writes a PNG: eight moments from beginning to end, a row each of frames, flow and boundaries."""
    height, width = (max(2, round(side * TILE_SIDE / max(features.rgb.shape[1:3]))) for side in features.rgb.shape[1:3])
    lefts = [MARGIN + number * (width + GAP) for number in range(FRAMES)]
    # Flat tiles still leave room for the words beside them.
    tops = [TOP + number * (max(height, TILE_SIDE // 2) + GAP) for number in range(3)]
    sheet = np.full((tops[-1] + max(height, TILE_SIDE // 2), lefts[-1] + width, 3), PAPER, np.uint8)
    for left, moment in zip(lefts, _moments(len(features.flow)), strict=True):
        _words(sheet, f"{moment / (features.fps or USUAL_FPS):.2f} s", left + 1, 13, SOFT)
        for top, picture in zip(tops, _pictures(features, scale, moment), strict=True):
            sheet[top : top + height, left : left + width] = _resized(picture, height, width)
    for top, title in zip(tops, ("frames", "flow", "boundaries"), strict=True):
        _words(sheet, title, 2, top + 13)
    _words(sheet, f"full {scale.speed:g} px/frame", 2, tops[1] + 29, SOFT, 11)
    _wheel(sheet[tops[1] + 35 :, 2:], 36)
    _words(sheet, f"full {scale.boundary:g}", 2, tops[2] + 29, SOFT, 11)
    _words(sheet, "px/frame per px", 2, tops[2] + 43, SOFT, 11)
    _write_png(sheet, path)


def write_index(folder: Path, entries: Mapping[str, Mapping[str, Any]], notes: Sequence[str]) -> Path:
    """Writes the page that lists films and sheets in `folder`.

    Args:
        folder: where `draw_film` and `draw_sheet` wrote ID.mp4 and ID.png.
        entries: id to the metadata's `extra`, or to `reason` and `detail` of a quarantined video.
        notes: what a reader should know.
    """
    used = {video_id: extra for video_id, extra in entries.items() if "quality" in extra}
    refused = {video_id: extra for video_id, extra in entries.items() if "quality" not in extra}
    headings = ["video", "frames", "fps", "codec", "interlaced", *(heading for heading, _ in FIGURES.values())]
    rows = [[video_id, *_facts(extra)] for video_id, extra in used.items()]
    films = "".join(
        f'<figure id="{video_id}"><figcaption>{video_id}</figcaption>'
        f'<a href="{video_id}.png"><img src="{video_id}.png" alt="contact sheet" loading="lazy"></a>'
        f'<video src="{video_id}.mp4" controls muted loop preload="metadata"></video></figure>'
        for video_id in used
    )
    privacy = "This page shows people; keep it where their recordings may lie."
    sections = [("", STYLE + page.paragraph(privacy, "soft") + page.bullets(notes, "warnings"))]
    if refused:
        cells = [[video_id, item["reason"].replace("_", " "), item["detail"]] for video_id, item in refused.items()]
        sections.append(("Quarantined", page.table(["video", "reason", "found"], cells, (1, 2))))
    meaning = (
        "Camera, zoom and roll are 95th percentiles over pairs of frames; shake is the change of the camera's speed. "
        "Sharpness is the variance of the Laplacian at the working size, gray the mean brightness of 0 to 255."
    )
    sections.append(("Figures", page.table(headings, rows, (3, 4)) + page.paragraph(meaning, "caption")))
    sections.append(("Frames, flow and motion boundaries", films))
    text = page.page("Extracted features", f"{len(used)} videos, {len(refused)} quarantined", sections)
    _write(folder / "index.html", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return folder / "index.html"


def contact_sheet(videos: Sequence[Path], path: Path) -> Path:
    """Writes a PNG with eight frames from the beginning to the end of each video, one video a row.

    Raises:
        VideoError: a video cannot be read.
    """
    rows = []
    for video in videos:
        frames = decode(video, TILE).frames
        rows.append(np.hstack([frames[index] for index in _moments(len(frames))]))
    _write_png(np.vstack(rows), path)
    return path


def _facts(extra: Mapping[str, Any]) -> list[str]:
    video, quality = extra["video"], extra["quality"]
    named = [str(video["frames"]), f"{video['fps']:.4g}", video["codec"], "yes" if video.get("interlaced") else "no"]
    return named + [format(quality[name], style) if name in quality else "" for name, (_, style) in FIGURES.items()]


def _film(features: VideoFeatures, scale: Scale) -> Iterator[Picture]:
    """Yields a picture of even sides for each pair of frames: three panels, with words below."""
    record_height, record_width = features.rgb.shape[1:3]
    width = min(max(record_width, PANEL_WIDTHS[0]), PANEL_WIDTHS[1])
    height = round(record_height * width / record_width)
    lefts = [number * (width + GAP) for number in range(3)]
    blank = np.full((_even(height + LEGEND), _even(lefts[2] + width), 3), PAPER, np.uint8)
    below = blank[height:]
    _wheel(below[4:, lefts[1] + 4 :], LEGEND - 8)
    for left, title, full in (
        (lefts[1] + LEGEND + 4, "flow", f"full colour: {scale.speed:g} px/frame"),
        (lefts[2] + 4, "motion boundaries", f"brightest: {scale.boundary:g} px/frame per px"),
    ):
        _words(below, title, left, 19)
        _words(below, full, left, 36, SOFT)
    for index in range(len(features.flow)):
        picture = blank.copy()
        for left, panel in zip(lefts, _pictures(features, scale, index), strict=True):
            picture[:height, left : left + width] = _resized(panel, height, width)
        _words(picture[height:], f"{index / (features.fps or USUAL_FPS):.2f} s", 4, 19)
        _words(picture[height:], f"frame {index + 1} of {len(features.rgb)}", 4, 36, SOFT)
        yield picture


def _pictures(features: VideoFeatures, scale: Scale, index: int) -> tuple[Picture, Picture, Picture]:
    flow = dequantize(features.flow[index])
    return (
        features.rgb[index],
        flow_colours(flow, scale.speed),
        boundary_colours(motion_boundaries(flow), scale.boundary),
    )


def _moments(count: int) -> list[int]:
    return [round(index) for index in np.linspace(0, count - 1, FRAMES).tolist()]


def _resized(picture: Picture, height: int, width: int) -> Picture:
    if picture.shape[:2] == (height, width):
        return picture
    kind = cv2.INTER_AREA if height < len(picture) else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, (width, height), interpolation=kind))


def _wheel(picture: Picture, side: int) -> None:
    """Draws the directions' colours into the upper left corner; the rim is the full colour."""
    y, x = (np.indices((side, side), np.float32) - (side - 1) / 2) / (side / 2)
    disc = np.hypot(x, y) <= 1
    picture[:side, :side][disc] = flow_colours(np.stack([x, y], -1), 1.0)[disc]


def _words(
    picture: Picture, text: str, left: int, line: int, colour: tuple[int, int, int] = INK, size: int = 13
) -> None:
    cv2.putText(picture, text, (left, line), colour, cv2.FontFace("sans"), size)


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return float(f"{next(step for step in STEPS if step * power >= value * 0.999) * power:.2g}")


def _even(length: int) -> int:
    return length + length % 2


def _write_png(picture: Picture, path: Path) -> None:
    done, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    _write(path, lambda temporary: temporary.write_bytes(encoded.tobytes()))


def _write(path: Path, fill: Callable[[Path], object]) -> None:
    """Makes a file appear whole, readable by its owner only from its first byte on: it shows people."""

    def write(temporary: Path) -> None:
        temporary.touch(mode=0o600)
        fill(temporary)

    write_atomic(path, write)
