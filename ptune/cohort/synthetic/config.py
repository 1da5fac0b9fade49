"""What determines a synthetic cohort: equal settings, equal frames."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ptune.config import Strict

Task = Literal["hand", "gait"]
Weights = tuple[float, float, float, float, float]

#: Videos per class in table 1, a class shared equally among its scores 0 / 1, 2 / 3, 4.
PAPER_WEIGHTS: dict[str, Weights] = {"hand": (180, 250, 250, 12, 12), "gait": (171, 90, 90, 1.5, 1.5)}
#: As many videos in each class of the default grouping.
BALANCED_WEIGHTS: Weights = (1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6)


class SyntheticConfig(Strict):
    """One synthetic cohort.

    Args:
        task: `hand`, opening and closing one hand, or `gait`, walking to and fro seen from the side.
        subjects: how many persons; their pseudonyms count up from `first_subject`.
        clips_per_subject: clips alternate between left and right side of the person.
        score_weights: relative frequency of the true severities 0 to 4; None takes table 1's for the task.
        fps: frames per second.
        seconds: shortest and longest clip; lengths are drawn without regard to the score.
        width, height: size of the video in pixels, both even.
        pan: the camera sways sideways, in gait also following the walker in part.
        shake: the camera is held by hand.
        zoom: the camera zooms slowly in and out.
        rater_noise: probability that the rated score is one off the true severity.
        first_subject: number of the first person; disjoint ranges give disjoint persons under one seed.
        seed: of everything that is drawn.

    Source: section 3 and table 1 for task and class frequencies; the rest is not of the paper.
    """

    task: Task = "hand"
    subjects: int = Field(24, ge=1, le=9999)
    clips_per_subject: int = Field(3, ge=1)
    score_weights: Weights | None = None
    fps: float = Field(25.0, ge=5, le=120)
    seconds: tuple[float, float] = (3.0, 5.0)
    width: int = Field(340, ge=48, le=1920, multiple_of=2)
    height: int = Field(256, ge=48, le=1080, multiple_of=2)
    pan: bool = False
    shake: bool = False
    zoom: bool = False
    rater_noise: float = Field(0.15, ge=0, le=1)
    first_subject: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        shortest, longest = self.seconds
        if not 1.0 <= shortest <= longest:
            raise ValueError(f"seconds {self.seconds} must ascend and start at 1 or above")
        if self.score_weights is not None and (min(self.score_weights) < 0 or sum(self.score_weights) <= 0):
            raise ValueError("score_weights must be 0 or above and not all 0")
        return self

    @property
    def weights(self) -> Weights:
        """Relative frequency of the true severities 0 to 4."""
        return self.score_weights or PAPER_WEIGHTS[self.task]
