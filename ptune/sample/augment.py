"""One snippet of stored features becomes the network's input, cropped, mirrored and scaled on the device.

Boundaries are taken from the whole flow field before any crop or resize. Mirroring is exact: what a mirrored
flow field would give, not a mirrored picture of what the original gave.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ptune.config import StreamConfig
from ptune.extract.store import FLOW_UNIT

RGB_SCALES = (1.0, 0.875, 0.75, 0.66)
MOTION_SCALES = (1.0, 0.875, 0.75)


@dataclass(frozen=True)
class View:
    """The part of a frame that the network sees, in pixels of the stored frame."""

    top: int
    left: int
    height: int
    width: int
    mirror: bool = False


def random_view(height: int, width: int, stream: StreamConfig, generator: np.random.Generator) -> View:
    """Draws a crop of jittered scale at one of 13 fixed positions, mirrored half of the time.

    Source: section 4.1, "scale jittering, corner cropping, and horizontal flipping"; the 13 positions and
    the limit on distortion (sides at most one scale apart) are TSN's.
    """
    scales = stream.augment.scales or (RGB_SCALES if stream.modality == "rgb" else MOTION_SCALES)
    base = min(height, width)
    first = int(generator.integers(len(scales)))
    near = [index for index in range(len(scales)) if abs(index - first) <= 1]
    second = int(generator.choice(near))
    crop_height, crop_width = (max(1, round(base * scales[index])) for index in (first, second))
    row, column = POSITIONS[int(generator.integers(len(POSITIONS)))]
    top = round((height - crop_height) * row / 4)
    left = round((width - crop_width) * column / 4)
    mirror = stream.augment.mirror and bool(generator.integers(2))
    return View(top, left, crop_height, crop_width, mirror)


#: Corners, centre, edge middles and quarter points, in quarters of the free space (row, column).
POSITIONS = (
    (0, 0), (0, 4), (4, 0), (4, 4), (2, 2),
    (2, 0), (2, 4), (4, 2), (0, 2),
    (1, 1), (1, 3), (3, 1), (3, 3),
)  # fmt: skip


def centre_view(height: int, width: int, crop: int) -> View:
    """Returns the central square of `crop` pixels, or the largest there is in a smaller frame."""
    side = min(crop, height, width)
    return View((height - side) // 2, (width - side) // 2, side, side)


def network_input(stored: Tensor, view: View, stream: StreamConfig) -> Tensor:
    """Turns stored frames into input of one snippet.

    Args:
        stored: uint8 [T,H,W,3] RGB, or int16 [T,H,W,2] fixed-point flow for both motion modalities.

    Returns:
        float32 [C,T,crop,crop] in [-1, 1].
    """
    field_THWC = stored
    if stream.modality == "mb":
        field_THWC = motion_boundaries(stored.float() * FLOW_UNIT, view.mirror)
    rows = slice(view.top, view.top + view.height)
    columns = slice(view.left, view.left + view.width)
    field_TCHW = field_THWC[:, rows, columns].permute(0, 3, 1, 2).float()
    if (view.height, view.width) != (stream.crop, stream.crop):
        field_TCHW = interpolate(field_TCHW, (stream.crop, stream.crop), mode="bilinear", align_corners=False)
    if view.mirror:
        field_TCHW = field_TCHW.flip(-1)
    if stream.modality == "rgb":
        scaled = field_TCHW / 127.5 - 1
    elif stream.modality == "flow":
        scaled = (field_TCHW * (FLOW_UNIT / stream.flow_bound)).clamp(-1, 1)
        if view.mirror:
            scaled = scaled * torch.tensor([-1.0, 1.0], device=scaled.device).view(1, 2, 1, 1)
    else:
        scaled = (field_TCHW / stream.boundary_bound).clamp(-1, 1)
    return scaled.transpose(0, 1)


def motion_boundaries(flow_THW2: Tensor, mirror: bool = False) -> Tensor:
    """Returns the motion boundaries of a flow field, or those of its mirror image, mirrored back.

    The mirror image negates u and reverses x: du'/dx is du/dx reversed and du'/dy is -du/dy reversed, so
    Bu' = du/dx - du/dy and Bv' = dv/dy - dv/dx, reversed. The reversal itself is left to the caller.

    Args:
        flow_THW2: float [T,H,W,2] px/frame.

    Returns:
        float [T,H,W,2] px/frame/px.

    Source: equation 3, the sum of both derivatives; the same stencil as `ptune.extract.boundary`.
    """
    right = torch.cat((flow_THW2[:, :, 1:], flow_THW2[:, :, -1:]), 2)
    left = torch.cat((flow_THW2[:, :, :1], flow_THW2[:, :, :-1]), 2)
    below = torch.cat((flow_THW2[:, 1:], flow_THW2[:, -1:]), 1)
    above = torch.cat((flow_THW2[:, :1], flow_THW2[:, :-1]), 1)
    along_x, along_y = (right - left) * 0.5, (below - above) * 0.5
    if not mirror:
        return along_x + along_y
    return torch.stack((along_x[..., 0] - along_y[..., 0], along_y[..., 1] - along_x[..., 1]), -1)
