"""What determines extracted features: the working size and the flow solver's settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ptune.config.base import STAGE_VERSIONS, Strict, signature_of


class TVL1Config(Strict):
    """Parameters of TV-L1 optical flow under OpenCV's names; the defaults are OpenCV's.

    Source: section 4.1 names TV-L1 only; OpenCV's `DualTVL1OpticalFlow` is the common implementation.
    """

    tau: float = Field(0.25, gt=0)
    lambda_: float = Field(0.15, gt=0)
    theta: float = Field(0.3, gt=0)
    scales: int = Field(5, ge=1)
    warps: int = Field(5, ge=1)
    epsilon: float = Field(0.01, gt=0)
    inner_iterations: int = Field(30, ge=1)
    outer_iterations: int = Field(10, ge=1)
    scale_step: float = Field(0.8, gt=0, lt=1)
    median_size: Literal[1, 3, 5] = 5


class ExtractConfig(Strict):
    """Settings of extraction.

    Args:
        width, height: working size in pixels. The paper's 340x256 squeezes 16:9 video anisotropically.
        keep_aspect: scale the shorter side to `height` and keep the other in proportion instead.
        fps: frames per second that every video is resampled to. Without it, videos of a constant rate keep their
            frames, and others are resampled to the rate that their file states.
        deinterlace: "auto" turns interlaced frames into whole ones, "off" leaves them combed.
        flow: the solver's parameters.

    Source: section 4.1, "reduced to a resolution of 340 x 256 pixels".
    """

    width: int = Field(340, ge=16)
    height: int = Field(256, ge=16)
    keep_aspect: bool = False
    fps: float | None = Field(None, gt=0, le=1000, allow_inf_nan=False)
    deinterlace: Literal["auto", "off"] = "auto"
    flow: TVL1Config = TVL1Config()

    def signature(self) -> str:
        """Returns the identity of the features that these settings give."""
        return signature_of({"settings": self.model_dump(mode="json"), "version": STAGE_VERSIONS["extract"]})
