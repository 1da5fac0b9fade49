"""I3D's published arrays become those of a network with another input, or of one without time."""

from __future__ import annotations

import numpy as np

from ptune.model.checkpoints import FIRST_KERNEL, Array
from ptune.model.inception import InceptionTrunk


def for_network(arrays: dict[str, Array], network: InceptionTrunk) -> dict[str, Array]:
    """Returns I3D's arrays as `network` takes them.

    The first convolution is fitted to the input. A 2-D network gets each kernel summed over time, the inverse of
    inflation: its feature maps of a frame are those of I3D when that frame stands still, at each time step of Mixed_5c
    whose 99 frames (8t - 44 to 8t + 54) all lie in the clip; the others see the zeros around it.

    Source: Carreira and Zisserman 2017, who inflate a 2-D kernel by repeating it over time, divided by its length.
    """
    arrays = arrays | {FIRST_KERNEL: fitted(arrays[FIRST_KERNEL], network.in_channels, network.stack)}
    if network.inflated:
        return arrays
    return {name: array.sum(axis=2, keepdims=True) if array.ndim == 5 else array for name, array in arrays.items()}


def fitted(kernel_OCTHW: Array, channels: int, stack: int = 1) -> Array:
    """Returns the first convolution's kernel for another input; its response to equal channels stays the same.

    RGB kernels are averaged over colour for each channel of flow or boundaries. Flow kernels serve the two boundaries
    as they are, and each of the four components gets that of the flow it is a derivative of. A stack of frames has the
    kernel of one frame for each.

    Args:
        kernel_OCTHW: float32 [O,C,T,H,W] with C = 3 (RGB) or 2 (flow).
        channels: channels of one frame.
        stack: frames stacked as channels.

    Returns:
        float32 [O, stack * channels, T, H, W].

    Source: Wang et al. 2016 (TSN), cross-modality initialisation: the mean over colour, repeated.
    Differs: TSN does not divide by the number of copies; without that the first batch norm's published statistics would
        not fit.
    """
    published = kernel_OCTHW.shape[1]
    if (published, channels) == (2, 4):
        kernel_OCTHW = kernel_OCTHW[:, [0, 0, 1, 1]]
    elif published != channels:
        kernel_OCTHW = np.repeat(kernel_OCTHW.mean(axis=1, keepdims=True), channels, axis=1)
    copies = np.tile(kernel_OCTHW, (1, stack, 1, 1, 1))
    return np.ascontiguousarray(copies * np.float32(published / (channels * stack)))
