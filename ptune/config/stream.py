"""What determines one fit: a stream's settings, the videos it sees, its initial weights and its seed."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ptune.config.base import STAGE_VERSIONS, Strict, signature_of

Modality = Literal["rgb", "flow", "mb"]
Initial = Literal["random", "kinetics"]


class ClassGrouping(Strict):
    """How clinicians' scores become classes, ordered from mild to severe.

    Source: section 3, "Class imbalance": 0 normal, 1-2 mild, 3-4 severe.
    """

    names: tuple[str, ...] = ("normal", "mild", "severe")
    scores: tuple[tuple[int, ...], ...] = ((0,), (1, 2), (3, 4))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        flat = [score for group in self.scores for score in group]
        if len(self.names) != len(self.scores) or len(self.names) < 2:
            raise ValueError("needs one list of scores per class name and at least two classes")
        if len(set(flat)) != len(flat) or not all(self.scores):
            raise ValueError("each score belongs to exactly one class and no class is empty")
        if len(set(self.names)) != len(self.names):
            raise ValueError("class names must differ")
        return self

    @property
    def scale(self) -> tuple[int, ...]:
        """All scores of the scale, ascending."""
        return tuple(sorted(score for group in self.scores for score in group))

    def class_of(self, score: int) -> int:
        """Returns the index of the class that holds `score`."""
        return next(index for index, group in enumerate(self.scores) if score in group)


class FocalConfig(Strict):
    """Focal loss -alpha (1 - p)^gamma log p.

    Args:
        alpha: one factor for all classes, or one per class. A single factor only scales the loss and is
            nearly inert under Adam; per-class factors balance classes.
        gamma: 0 gives cross-entropy.

    Source: equation 4; section 4.1 for the defaults.
    """

    alpha: float | tuple[float, ...] = 0.5
    gamma: float = Field(2.0, ge=0)

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        values = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)
        if not values or any(not 0 < value <= 1 for value in values):
            raise ValueError("alpha must lie in (0, 1]")
        return self


class AugmentConfig(Strict):
    """Training augmentation, one draw per snippet.

    Args:
        scales: crop sizes relative to the shorter side; `None` takes TSN's lists (RGB 1, .875, .75, .66;
            flow and boundaries 1, .875, .75).
        mirror: mirror half of the snippets.

    Source: section 4.1; Differs: none known, the lists are those of the public TSN code.
    """

    scales: tuple[float, ...] | None = None
    mirror: bool = True


class Protocol(Strict):
    """Test-time sampling: `snippets` uniform snippets of `frames` consecutive frames, scores averaged."""

    snippets: int = Field(64, ge=1)
    frames: int = Field(16, ge=1)


class StreamConfig(Strict):
    """One stream: a network on one modality with its training settings. The defaults are the paper's.

    Args:
        width: factor on all channel counts of the network, for small machines.
        crop: side of the square network input in pixels.
        flow_bound, boundary_bound: px/frame (px/frame/px) mapped to +-1; larger values saturate.
        validation: the cheap protocol after each epoch.
        test: the protocol after the last epoch.

    Source: section 4.1 and 4.2; bounds are not stated there.
    """

    modality: Modality = "rgb"
    segments: int = Field(4, ge=1)
    snippet_frames: int = Field(32, ge=1)
    attention: bool = True
    attention_width: int = Field(256, ge=1)
    focal: FocalConfig = FocalConfig()
    learning_rate: float = Field(1e-5, gt=0)
    epochs: int = Field(120, ge=1)
    batch_size: int = Field(2, ge=1)
    dropout: float = Field(0.7, ge=0, lt=1)
    width: float = Field(1.0, gt=0, le=1)
    crop: int = Field(224, ge=16)
    flow_bound: float = Field(20.0, gt=0)
    boundary_bound: float = Field(10.0, gt=0)
    augment: AugmentConfig = AugmentConfig()
    validation: Protocol = Protocol(snippets=4, frames=16)
    test: Protocol = Protocol()
    init: Initial = "kinetics"

    @model_validator(mode="after")
    def _kinetics_fits(self) -> Self:
        if self.init == "kinetics" and self.width != 1:
            raise ValueError(f"width {self.width} cannot start from Kinetics weights, set init: random")
        return self


class FitVideo(Strict):
    """One video as a fit sees it."""

    video_id: str
    subject: str
    score: int
    label: int


class FitSpec(Strict):
    """Everything that determines one fit.

    Args:
        fold: index of the held-out fold; -1 when all videos train and none validates.
        initial_weights: sha256 of the starting weights, "" for random ones.
    """

    stream: StreamConfig
    classes: tuple[str, ...]
    fold: int
    train: tuple[FitVideo, ...]
    held_out: tuple[FitVideo, ...]
    extraction: str
    initial_weights: str = ""
    seed: int = 0

    @model_validator(mode="after")
    def _subjects_are_disjoint(self) -> Self:
        trained = {video.subject: video for video in self.train}
        for video in self.held_out:
            if video.subject in trained:
                raise ValueError(
                    f"subject {video.subject} is in train and validation of fold {self.fold} "
                    f"({trained[video.subject].video_id}, {video.video_id}); folds must be subject-disjoint"
                )
        if not self.train:
            raise ValueError(f"fold {self.fold} leaves no video to train on")
        return self

    def signature(self) -> str:
        """Returns the identity of the fit; the fold's number is not part of it, its videos are."""
        versions = {stage: STAGE_VERSIONS[stage] for stage in ("extract", "train", "protocol")}
        content = self.model_dump(mode="json", exclude={"fold"})
        return signature_of({"fit": content, "versions": versions})
