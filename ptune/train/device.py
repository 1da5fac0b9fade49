"""Where and how a fit computes: speed only, never part of what determines a result's identity."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

#: cuDNN from the first to before the second computes 3-D convolutions in bfloat16 wrongly; PyTorch avoids it, slowly.
WRONG_CUDNN = (90800, 91500)
#: Bytes that one pixel of a snippet (frames x crop x crop) takes at most while it is scored, all layers included.
BYTES_PER_PIXEL = 256
#: More snippets at once are no faster.
MOST_SNIPPETS = 256
CPU_SNIPPETS = 16


@dataclass(frozen=True)
class Acceleration:
    """How a device is used best.

    Args:
        device: where tensors live.
        half: autocast to bfloat16.
        channels_last: keep 3-D activations in channels-last layout.
        compiled: compile the training step.
        prefetch: read batches ahead in a thread. On a GPU they always are; on a CPU reading takes under one percent of
            a step and the cores are busy.
    """

    device: torch.device
    half: bool
    channels_last: bool
    compiled: bool
    prefetch: bool = False

    @classmethod
    def best(cls, device: str | None = None) -> Acceleration:
        """Returns the settings for `device`, by default the first GPU, else the CPU in float32.

        Warns where a GPU's 3-D convolutions are wrong or slow in bfloat16 and takes float32 there.
        """
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if chosen.type != "cuda":
            return cls(chosen, half=False, channels_last=True, compiled=False)
        problem = convolution_problem(chosen)
        if problem:
            warnings.warn(f"float32 is used: {problem}", RuntimeWarning, stacklevel=2)
        return cls(chosen, half=not problem, channels_last=True, compiled=True, prefetch=True)

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

    def step_of(self, module: nn.Module) -> Callable[..., Any]:
        """Returns the module's forward pass in training, compiled and replayed as one graph where the settings say so.

        Batches of a fit have one shape, the last of an epoch maybe another. Where compiling fails, a warning says why
        and the module runs as it is.
        """
        if not self.compiled:
            return module
        # The graphs of CUDA, which this mode records, are for fixed shapes.
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        return _compiled_or_plain(module, torch.compile(module, mode=mode, dynamic=False))

    def snippets_at_once(self, frames: int, crop: int) -> int:
        """Returns how many snippets are scored at once: what half of the free memory holds."""
        if self.device.type != "cuda":
            return CPU_SNIPPETS
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, min(MOST_SNIPPETS, free // 2 // (BYTES_PER_PIXEL * frames * crop * crop)))


def _compiled_or_plain(module: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
    from torch._dynamo.exc import TorchDynamoException

    chosen: Callable[..., Any] = compiled

    def forward(*inputs: Tensor) -> Any:
        nonlocal chosen
        if chosen is module:
            return module(*inputs)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        try:
            return chosen(*inputs)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split("\n")[:2])
            warnings.warn(f"the training step cannot be compiled and runs slower: {reason}", RuntimeWarning, 2)
            chosen = module
            return module(*inputs)

    return forward


@cache
def convolution_problem(device: torch.device) -> str:
    """Returns why a GPU should not compute 3-D convolutions in bfloat16, with a remedy; "" where it should.

    Takes some milliseconds, once a process: a convolution of I3D's middle layers is timed, because a slow path says
    nothing.
    """
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU has no bfloat16. A newer one trains several times faster."
    version = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None  # type: ignore[no-untyped-call]
    return cudnn_problem(version) or speed_problem(
        *(_milliseconds(device, kind) for kind in (torch.bfloat16, torch.float))
    )


def cudnn_problem(version: int | None) -> str:
    """Returns what is wrong with 3-D convolutions in this version of cuDNN (91501 is 9.15.1), "" where nothing is."""
    first, fixed = WRONG_CUDNN
    if version is None:
        return "there is no cuDNN, 3-D convolutions take a slow path. Install a build of torch that has it."
    if first <= version < fixed:
        return f"cuDNN {version} computes 3-D convolutions in bfloat16 wrongly or slowly. Install cuDNN 9.15 or newer."
    return ""


def speed_problem(half_ms: float, full_ms: float) -> str:
    """Returns that bfloat16 is no faster than float32, where it is not: tensor cores are at least twice as fast."""
    if half_ms < full_ms:
        return ""
    return (
        f"a 3-D convolution takes {half_ms:.2f} ms in bfloat16 and {full_ms:.2f} ms in float32: it takes a "
        f"slow path. Install another build of torch and cuDNN."
    )


def _milliseconds(device: torch.device, kind: torch.dtype, runs: int = 5) -> float:
    """Returns how long one convolution of Mixed_3c on eight snippets takes."""
    x = torch.randn(8, 128, 8, 28, 28, device=device, dtype=kind).contiguous(memory_format=torch.channels_last_3d)
    layer = nn.Conv3d(128, 192, 3, padding=1, bias=False, device=device, dtype=kind)
    layer = layer.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    with torch.inference_mode():
        for _ in range(2):
            layer(x)
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(runs):
            layer(x)
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / runs * 1000
