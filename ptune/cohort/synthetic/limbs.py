"""Limbs become shaded shapes on a canvas: each is a tapered capsule with a dark rim, its colour and a soft sheen.

Knows nothing of hands or walkers, of cameras or of files.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

_ARC = np.linspace(-np.pi / 2, np.pi / 2, 7)
_FIXED_POINT_BITS = 4
#: Canvas pixels per unit of an outline.
FIXED_POINT = 2**_FIXED_POINT_BITS
#: From the rim inwards: share of the radius, shift towards the light as a share of the radius, factor on the colour.
LAYERS = ((1.0, 0.0, 0.62), (0.88, 0.06, 0.90), (0.66, 0.18, 1.0), (0.34, 0.34, 1.09))


@dataclass(frozen=True)
class Part:
    """One limb over time.

    Args:
        name: parts in a row that share a name melt into one shape, others are drawn one over the other.
        start, end: float64 [T,3], or [T,2] where depth does not matter.
        start_radius, end_radius: in the unit of the points.
        colour: RGB.
        shade: factor on the colour, a number or [T].
    """

    name: str
    start: Floats
    end: Floats
    start_radius: float
    end_radius: float
    colour: tuple[float, float, float]
    shade: float | Floats = 1.0


@dataclass(frozen=True)
class Limbs:
    """All limbs of a figure in the image plane, y up.

    Args:
        ends: [T,N,2,2] start and end of each limb, x and y.
        radii: [T,N,2] in the same unit.
        colours: [T,N,3] RGB, shade applied.
        orders: groups of limbs to draw one after another, several such lists; the limbs of a group melt together.
        order_of: [T], which list holds at each frame.
        hands: the limbs that a rest tremor shakes.
    """

    ends: Floats
    radii: Floats
    colours: Floats
    orders: tuple[tuple[tuple[int, ...], ...], ...]
    order_of: npt.NDArray[np.int64]
    hands: tuple[int, ...] = ()

    @classmethod
    def of(cls, parts: list[Part], ends: Floats, nearer: Floats | None = None) -> Limbs:
        """Returns the limbs of `parts`, drawn in their order, at `ends`; `nearer` [T,N,2] scales the radii."""
        frames = len(ends)
        radii = np.broadcast_to(np.array([[part.start_radius, part.end_radius] for part in parts]), ends.shape[:3])
        shades = np.stack([np.broadcast_to(np.asarray(part.shade, np.float64), frames) for part in parts], axis=1)
        colours = shades[..., None] * np.array([part.colour for part in parts])
        groups: list[list[int]] = []
        for index, part in enumerate(parts):
            if groups and parts[groups[-1][-1]].name == part.name:
                groups[-1].append(index)
            else:
                groups.append([index])
        order = tuple(tuple(group) for group in groups)
        return cls(ends, radii * nearer if nearer is not None else radii, colours, (order,), np.zeros(frames, np.int64))


def outlines(ends_px: Floats, radii_px: Floats, light: tuple[float, float]) -> npt.NDArray[np.int32]:
    """Returns the outline of each layer of each limb in fixed point.

    Args:
        ends_px: [T,N,2,2] in canvas pixels, y down.
        radii_px: [T,N,2].
        light: unit vector in the image, towards the light.

    Returns:
        int32 [T,N,layers,14,2].
    """
    along = ends_px[:, :, 1] - ends_px[:, :, 0]
    heading = np.arctan2(along[..., 1], along[..., 0])
    shapes = []
    for share, shift, _ in LAYERS:
        centre = ends_px + (shift * radii_px)[..., None] * np.array(light)
        angle = np.concatenate([heading[..., None] + np.pi + _ARC, heading[..., None] + _ARC], axis=-1)
        arcs = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        middle = np.repeat(centre, len(_ARC), axis=2)
        size = np.repeat(radii_px * share, len(_ARC), axis=2)
        shapes.append(middle + arcs * size[..., None])
    return np.asarray(np.rint(np.stack(shapes, axis=2) * FIXED_POINT), np.int32)


def draw_limbs(
    canvas: Image, shapes: npt.NDArray[np.int32], colours: Floats, order: tuple[tuple[int, ...], ...]
) -> None:
    """Draws the limbs of one frame onto `canvas` in place; `shapes` [N,layers,P,2] and `colours` [N,3]."""
    for group in order:
        for layer, (_, _, factor) in enumerate(LAYERS):
            for limb in group:
                red, green, blue = np.minimum(colours[limb] * factor, 255).tolist()
                cv2.fillConvexPoly(canvas, shapes[limb, layer], (red, green, blue), cv2.LINE_AA, _FIXED_POINT_BITS)
