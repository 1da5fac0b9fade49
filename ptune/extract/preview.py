"""Extracted features become pictures to look at: a film of frames, flow and boundaries side by side, a contact sheet,
and a page that lists every video.

Knows videos by their ids only; draws from records, not from the videos.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt

from ptune import page
from ptune.config import ExtractConfig
from ptune.extract.boundary import motion_boundaries
from ptune.extract.decode import decode
from ptune.extract.flow import dequantize
from ptune.extract.store import VideoFeatures
from ptune.home import write_atomic, write_bytes

Picture = npt.NDArray[np.uint8]

FRAMES = 8
TILE = ExtractConfig(width=160, height=120)
#: Frames drawn at a time.
DRAWN = 16
USUAL_FPS = 25
#: Least speed and boundary that fill the colour scale, so that noise in a still video stays pale.
LEAST_SPEED, LEAST_BOUNDARY = 1.0, 0.1
#: Figures of the page: heading and format.
FIGURES = {
    "flow_mean": ("flow px/frame", ".3f"),
    "clipped_share": ("clipped", ".2%"),
    "camera_speed_p95": ("camera px/frame", ".3f"),
    "camera_shake": ("shake px/frame", ".3f"),
    "sharpness_median": ("sharpness", ".0f"),
    "brightness_mean": ("gray", ".0f"),
}


class Scale(NamedTuple):
    """What fills the colour scale: speed in px/frame and boundary in px/frame per px."""

    speed: float
    boundary: float


def flow_colours(flow: npt.NDArray[Any], speed: float) -> Picture:
    """Returns a picture of a flow field: the hue is its direction, the saturation its speed; white stands still.

    Rightward is red, downward yellow-green, leftward cyan, upward violet.

    Args:
        flow: float [H,W,2] in px/frame.
        speed: px/frame from which colours are full.

    Returns:
        uint8 [H,W,3] RGB.
    """
    u, v = flow[..., 0].astype(np.float32), flow[..., 1].astype(np.float32)
    hue = np.rad2deg(np.arctan2(v, u)) % 360
    fullness = np.clip(np.hypot(u, v) / speed, 0, 1)
    colours = cv2.cvtColor(np.stack([hue, fullness, np.ones_like(u)], -1), cv2.COLOR_HSV2RGB)
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
    """Writes frames, flow and boundaries side by side as H.264, at the video's rate, without any title or date."""
    height, width = features.rgb.shape[1:3]
    size = (3 * width // 2 * 2, height // 2 * 2)

    def write(temporary: Path) -> None:
        rate = round(features.fps) or USUAL_FPS
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "23", "preset": "veryfast"})
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.thread_count = 1
            for picture in _strips(features, scale):
                frame = np.ascontiguousarray(picture[: size[1], : size[0]])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        os.chmod(temporary, 0o600)

    write_atomic(path, write)


def draw_sheet(features: VideoFeatures, scale: Scale, path: Path) -> None:
    """Writes a PNG: eight moments from beginning to end, a row each of frames, flow and boundaries."""
    moments = np.rint(np.linspace(0, len(features.flow) - 1, FRAMES)).astype(int)
    rows: tuple[list[Picture], ...] = ([], [], [])
    for moment in moments:
        for row, picture in zip(rows, _pictures(features, scale, int(moment)), strict=True):
            row.append(_tile(picture))
        seconds = moment / (features.fps or USUAL_FPS)
        _caption(rows[0][-1], f"{seconds:.1f} s")
    _caption(rows[1][0], f"full colour {scale.speed:.2g} px/frame")
    _wheel(rows[1][0])
    _caption(rows[2][0], f"brightest {scale.boundary:.2g} px/frame/px")
    _write_png(np.vstack([np.hstack(row) for row in rows]), path)


def scale_of(quality: Mapping[str, float]) -> Scale:
    """Returns the colour scale that suits a video, from its figures."""
    return Scale(max(quality["flow_p999"], LEAST_SPEED), max(quality["boundary_p999"] / 2, LEAST_BOUNDARY))


def write_index(folder: Path, entries: Mapping[str, Mapping[str, Any]], notes: Sequence[str]) -> Path:
    """Writes the page that lists films and sheets in `folder`.

    Args:
        folder: where `draw_film` and `draw_sheet` wrote ID.mp4 and ID.png.
        entries: id to the metadata's `extra`, or to `reason` and `detail` of a quarantined video.
        notes: what a reader should know.
    """
    used = {video_id: extra for video_id, extra in entries.items() if "quality" in extra}
    refused = {video_id: extra for video_id, extra in entries.items() if "quality" not in extra}
    rows = [
        [
            video_id,
            str(extra["video"]["frames"]),
            f"{extra['video']['fps']:.4g}",
            extra["video"]["codec"],
            *(format(extra["quality"][name], style) for name, (_, style) in FIGURES.items()),
        ]
        for video_id, extra in used.items()
    ]
    films = "".join(
        f"<figure><figcaption>{video_id}</figcaption>"
        f'<a href="{video_id}.png"><img src="{video_id}.png" alt="contact sheet" loading="lazy"></a>'
        f'<video src="{video_id}.mp4" controls muted loop preload="metadata"></video></figure>'
        for video_id in used
    )
    style = "<style>figure { margin: 18px 0 34px; } img, video { width: 100%; display: block; margin: 4px 0; }</style>"
    sections = [("", page.bullets(notes, "warnings"))]
    if refused:
        cells = [[video_id, item["reason"].replace("_", " "), item["detail"]] for video_id, item in refused.items()]
        sections.append(("Quarantined", page.table(["video", "reason", "found"], cells, (1, 2))))
    sections.append(
        (
            "Figures",
            page.table(["video", "frames", "fps", "codec", *(heading for heading, _ in FIGURES.values())], rows, (3,)),
        )
    )
    sections.append(("Frames, flow and motion boundaries", style + films))
    text = page.page("Extracted features", f"{len(used)} videos, {len(refused)} quarantined", sections)
    write_bytes(folder / "index.html", text.encode())
    return folder / "index.html"


def contact_sheet(videos: Sequence[Path], path: Path) -> Path:
    """Writes a PNG with eight frames from the beginning to the end of each video, one video a row.

    Raises:
        VideoError: a video cannot be read.
    """
    rows = []
    for video in videos:
        frames = decode(video, TILE).frames
        chosen = np.rint(np.linspace(0, len(frames) - 1, FRAMES)).astype(int)
        rows.append(np.hstack([frames[index] for index in chosen]))
    _write_png(np.vstack(rows), path)
    return path


def _strips(features: VideoFeatures, scale: Scale) -> Iterator[Picture]:
    for index in range(len(features.flow)):
        strip = np.hstack(_pictures(features, scale, index))
        _wheel(strip[:, features.rgb.shape[2] :])
        yield strip


def _pictures(features: VideoFeatures, scale: Scale, index: int) -> tuple[Picture, Picture, Picture]:
    flow = dequantize(features.flow[index])
    return (
        features.rgb[index],
        flow_colours(flow, scale.speed),
        boundary_colours(motion_boundaries(flow), scale.boundary),
    )


def _tile(picture: Picture) -> Picture:
    height = round(picture.shape[0] * TILE.width / picture.shape[1])
    return np.asarray(cv2.resize(picture, (TILE.width, height), interpolation=cv2.INTER_AREA))


def _wheel(picture: Picture, radius: int = 14) -> None:
    """Draws the directions' colours into the upper left corner."""
    side = 2 * radius + 1
    if min(picture.shape[:2]) < 2 * side:
        return
    y, x = np.indices((side, side), np.float32) - radius
    disc = np.hypot(x, y) <= radius
    picture[2 : 2 + side, 2 : 2 + side][disc] = flow_colours(np.stack([x, y], -1), radius)[disc]


def _caption(picture: Picture, text: str) -> None:
    place = (3, picture.shape[0] - 5)
    for colour, thickness in (((0, 0, 0), 2), ((255, 255, 255), 1)):
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour, thickness, cv2.LINE_AA)


def _write_png(picture: Picture, path: Path) -> None:
    done, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    write_bytes(path, encoded.tobytes())
