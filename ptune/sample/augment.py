"""One snippet of stored features becomes the network's input, cropped, mirrored and scaled on the device.

Boundaries are taken from the whole flow field before any crop or resize. Mirroring is exact unless the stream says
otherwise: what a mirrored flow field would give, not a mirrored picture of what the original gave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ptune.config import Boundary, StreamConfig
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

    Without scales it is the view of tests.

    Source: section 4.1, "scale jittering, corner cropping, and horizontal flipping"; the 13 positions and
    the limit on distortion (sides at most one scale apart) are TSN's.
    """
    scales = stream.augment.scales
    if scales is None:
        scales = RGB_SCALES if stream.modality == "rgb" else MOTION_SCALES
    mirrored = stream.augment.mirror != "none"
    if not scales:
        return replace(centre_view(height, width, stream.crop), mirror=mirrored and bool(generator.integers(2)))
    base = min(height, width)
    first = int(generator.integers(len(scales)))
    near = [index for index in range(len(scales)) if abs(index - first) <= 1]
    second = int(generator.choice(near))
    crop_height, crop_width = (max(1, round(base * scales[index])) for index in (first, second))
    row, column = POSITIONS[int(generator.integers(len(POSITIONS)))]
    top = round((height - crop_height) * row / 4)
    left = round((width - crop_width) * column / 4)
    return View(top, left, crop_height, crop_width, mirrored and bool(generator.integers(2)))


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


def network_input(stored_THWC: Tensor, view: View, stream: StreamConfig) -> Tensor:
    """Turns stored frames into input of one snippet.

    Args:
        stored_THWC: uint8 [T,H,W,3] RGB, or int16 [T,H,W,2] fixed-point flow for both motion modalities.

    Returns:
        float32 [C,T,crop,crop] in [-1, 1]; C is `stream.channels`.

    Differs: the paper does not state the bounds of motion.
    """
    exact = view.mirror and stream.augment.mirror == "exact"
    if stream.modality == "rgb":
        return (_seen(stored_THWC, view, stream.crop) / 127.5 - 1).transpose(0, 1)
    if stream.modality == "flow":
        seen_TCHW = (_seen(stored_THWC, view, stream.crop) * (FLOW_UNIT / stream.flow_bound)).clamp_(-1, 1)
        if exact:
            seen_TCHW[:, 0].neg_()
        return seen_TCHW.transpose(0, 1)
    field_THWC = motion_boundaries(stored_THWC.float() * FLOW_UNIT, stream.boundary, exact)
    return (_seen(field_THWC, view, stream.crop) / stream.boundary_bound).clamp(-1, 1).transpose(0, 1)


def motion_boundaries(flow_THW2: Tensor, kind: Boundary = "sum", mirrored: bool = False) -> Tensor:
    """Returns the motion boundaries of a flow field, or those of its mirror image, mirrored back.

    The mirror image negates u and reverses x. Of its derivatives, du/dx and dv/dy are the reversed ones, du/dy and
    dv/dx are the reversed ones negated. Every kind follows from these; absolute sum and magnitude do not see the sign.
    The reversal itself is left to the caller.

    Args:
        flow_THW2: float [T,H,W,2] px/frame.
        kind: `sum`, `absolute_sum` and `magnitude` of (du/dx, du/dy) and of (dv/dx, dv/dy), or the four `components`
            in this order.

    Returns:
        float [T,H,W,2] or, for components, [T,H,W,4], px/frame/px.

    Source: equation 3, f the sum; the same stencil as `ptune.extract.boundary`.
    """
    along_x, along_y = _central(flow_THW2, 2), _central(flow_THW2, 1)
    if kind == "absolute_sum":
        return along_x.abs() + along_y.abs()
    if kind == "magnitude":
        return (along_x.square() + along_y.square()).sqrt()
    if mirrored:
        along_x[..., 1].neg_()
        along_y[..., 0].neg_()
    if kind == "sum":
        return along_x + along_y
    return torch.stack((along_x, along_y), -1).flatten(-2)


def _central(field: Tensor, axis: int) -> Tensor:
    last = field.shape[axis] - 1
    index = torch.arange(last + 1, device=field.device)
    after = field.index_select(axis, (index + 1).clamp_max(last))
    return after.sub_(field.index_select(axis, (index - 1).clamp_min(0))).mul_(0.5)


def _seen(field_THWC: Tensor, view: View, crop: int) -> Tensor:
    """Returns the view as float32 [T,C,crop,crop], reversed where it is mirrored."""
    rows = slice(view.top, view.top + view.height)
    columns = slice(view.left, view.left + view.width)
    seen_TCHW = field_THWC[:, rows, columns].permute(0, 3, 1, 2).float()
    if (view.height, view.width) != (crop, crop):
        seen_TCHW = interpolate(seen_TCHW, (crop, crop), mode="bilinear", align_corners=False)
    return seen_TCHW.flip(-1) if view.mirror else seen_TCHW
