"""Where and how a fit computes: speed only, never part of what determines a result's identity."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Acceleration:
    """How a device is used best.

    Args:
        device: where tensors live.
        half: autocast to bfloat16.
        channels_last: keep 3-D activations in channels-last layout.
        compiled: compile the backbone.
    """

    device: torch.device
    half: bool
    channels_last: bool
    compiled: bool

    @classmethod
    def best(cls, device: str | None = None) -> Acceleration:
        """Returns the settings for `device`, by default the first GPU, else the CPU in float32."""
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        gpu = chosen.type == "cuda"
        return cls(chosen, half=gpu, channels_last=True, compiled=gpu)

    def autocast(self) -> AbstractContextManager[object]:
        """Returns the context in which a forward pass runs."""
        if not self.half:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def place(self, module: nn.Module) -> nn.Module:
        """Moves a module to the device in the layout that suits it."""
        module = module.to(self.device)
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return module
