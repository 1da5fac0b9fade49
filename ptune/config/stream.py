"""What determines one fit: a stream's settings, the videos it sees, its initial weights and its seed."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ptune.config.base import STAGE_VERSIONS, Strict, signature_of

Modality = Literal["rgb", "flow", "mb"]
Initial = Literal["random", "kinetics"]
Backbone = Literal["i3d", "inception2d", "slowfast_4x16", "slowfast_8x8"]
Boundary = Literal["sum", "absolute_sum", "magnitude", "components"]

#: Frames that SlowFast's fast pathway sees for each one of the slow pathway.
SLOWFAST_ALPHA: dict[Backbone, int] = {"slowfast_4x16": 8, "slowfast_8x8": 4}


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
        gamma: how strongly easy videos are weighted down. With alpha 1, gamma 0 is cross-entropy.

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
            flow and boundaries 1, .875, .75); an empty list crops the centre, as tests do.
        mirror: half of the snippets are mirrored: `exact` gives what a mirrored flow field would give, `image` mirrors
            the stored picture without the change of sign that motion needs, `none` mirrors nothing.

    Source: section 4.1; the lists are those of the public TSN code.
    Differs: the paper does not say how motion was mirrored; `image` is there to measure what the plain way costs.
    """

    scales: tuple[float, ...] | None = None
    mirror: Literal["exact", "image", "none"] = "exact"


class Protocol(Strict):
    """Test-time sampling: `snippets` uniform snippets of `frames` consecutive frames, scores averaged.

    The stream's `frame_stride` applies.
    """

    snippets: int = Field(64, ge=1)
    frames: int = Field(16, ge=1)


class StreamConfig(Strict):
    """One stream: a network on one modality with its training settings. The defaults are the paper's.

    Args:
        backbone: the network that encodes a snippet. `inception2d` sees the frames of a snippet stacked as channels.
        segments: K, snippets per video in training.
        snippet_frames: T, frames of a snippet that the network sees.
        frame_stride: frames of the video from one frame of a snippet to the next.
        sampling: T consecutive frames at a random start, or T random frames of the segment in order.
        boundary: f of equation 3: du/dx + du/dy; |du/dx| + |du/dy|; the length of the gradient; or all four
            derivatives as channels.
        attention_weights: `sigmoid` weights in (0, 1), their weighted sum divided by K; `normalised` divides it by the
            sum of the weights; `softmax` weights sum to 1.
        attention_on: weigh the snippets' features before the output layer, or their logits after it.
        focal: `{alpha: 1, gamma: 0}` is cross-entropy.
        accumulate: parts of a batch that go through the network one after the other, their gradients added: as many
            times less memory. It is no mere setting of speed, because batch norm takes its statistics over a part.
        width: factor on all channel counts of the network, for small machines.
        crop: side of the square network input in pixels.
        flow_bound, boundary_bound: px/frame (px/frame/px) mapped to +-1; larger values saturate.
        trainable: the layers that learn: all; Mixed_5 and what follows; or attention and output layer alone.
        frozen_norm: batch norms of the backbone that keep their published statistics, scale and shift: none, all, or
            all but the first (TSN's partial batch norm).
        validation: the cheap protocol after each epoch.
        test: the protocol after the last epoch.

    Source: section 4.1 and 4.2; bounds are not stated there.
    Differs: none known in the defaults; where the text is open, they are its likeliest reading and the other readings
        are the other values.
    """

    modality: Modality = "rgb"
    backbone: Backbone = "i3d"
    segments: int = Field(4, ge=1)
    snippet_frames: int = Field(32, ge=1)
    frame_stride: int = Field(1, ge=1)
    sampling: Literal["consecutive", "sorted_random"] = "consecutive"
    boundary: Boundary = "sum"
    attention: bool = True
    attention_width: int = Field(256, ge=1)
    attention_weights: Literal["sigmoid", "normalised", "softmax"] = "sigmoid"
    attention_on: Literal["features", "logits"] = "features"
    focal: FocalConfig = FocalConfig()
    learning_rate: float = Field(1e-5, gt=0)
    epochs: int = Field(120, ge=1)
    batch_size: int = Field(2, ge=1)
    accumulate: int = Field(1, ge=1)
    dropout: float = Field(0.7, ge=0, lt=1)
    width: float = Field(1.0, gt=0, le=1)
    crop: int = Field(224, ge=16)
    flow_bound: float = Field(20.0, gt=0)
    boundary_bound: float = Field(10.0, gt=0)
    augment: AugmentConfig = AugmentConfig()
    trainable: Literal["all", "mixed_5", "head"] = "all"
    frozen_norm: Literal["none", "partial", "all"] = "none"
    validation: Protocol = Protocol(snippets=4, frames=16)
    test: Protocol = Protocol()
    init: Initial = "kinetics"

    @model_validator(mode="after")
    def _weights_exist(self) -> Self:
        if self.init == "kinetics":
            if self.width != 1:
                raise ValueError(f"width {self.width} cannot start from Kinetics weights, set init: random")
            if self.backbone in SLOWFAST_ALPHA:
                raise ValueError(f"{self.backbone} is trained from scratch, set init: random")
        else:
            for name in ("trainable", "frozen_norm"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name}: {getattr(self, name)} keeps layers as they start, which random ones must not; "
                        f"set init: kinetics or leave {name} out"
                    )
        return self

    @model_validator(mode="after")
    def _parts_hold_videos(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} does not divide a batch of {self.batch_size} videos")
        return self

    @model_validator(mode="after")
    def _frames_fit(self) -> Self:
        if self.sampling == "sorted_random" and self.frame_stride > 1:
            raise ValueError("frame_stride is for consecutive frames, sorted_random draws its own distances")
        seen = {"snippet_frames": self.snippet_frames}
        seen |= {"validation.frames": self.validation.frames, "test.frames": self.test.frames}
        for name, frames in seen.items():
            if self.backbone == "inception2d" and frames != self.snippet_frames:
                raise ValueError(
                    f"{name} is {frames}, but inception2d stacks {self.snippet_frames} frames (snippet_frames) "
                    f"in training and takes no other number"
                )
            alpha = SLOWFAST_ALPHA.get(self.backbone, 1)
            if frames % alpha:
                raise ValueError(f"{name} is {frames}, but {self.backbone} takes multiples of {alpha} frames")
        return self

    @property
    def channels(self) -> int:
        """Channels of one frame of the network's input."""
        if self.modality == "rgb":
            return 3
        return 4 if self.modality == "mb" and self.boundary == "components" else 2


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

    @model_validator(mode="after")
    def _classes_have_alphas(self) -> Self:
        alpha = self.stream.focal.alpha
        if isinstance(alpha, tuple) and len(alpha) != len(self.classes):
            raise ValueError(f"focal.alpha has {len(alpha)} values for {len(self.classes)} classes")
        return self

    def signature(self) -> str:
        """Returns the identity of the fit; the fold's number is not part of it, its videos are."""
        versions = {stage: STAGE_VERSIONS[stage] for stage in ("extract", "train", "protocol")}
        content = self.model_dump(mode="json", exclude={"fold"})
        return signature_of({"fit": content, "versions": versions})
