"""A trained network becomes its copy for scoring: every batch norm is part of the convolution before it."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def folded(network: Network) -> Network:
    """Returns a copy in evaluation whose batch norms are folded into the weights and biases of their convolutions.

    Its outputs are the network's but for rounding. It cannot be trained. What has no batch norm comes back as it is.
    """
    if not any(isinstance(module, nn.BatchNorm3d) for module in network.modules()):
        return network.eval()
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for parent in list(network.modules()):
        for (name, layer), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(layer, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, norm_name, nn.Identity())
    assert not any(isinstance(module, nn.BatchNorm3d) for module in network.modules())
    return network
