"""Labelled videos of a moving hand or a walking figure, rendered from the kinematics of the clinical scale.

One direction: `config` -> `plan` (who, which score) -> `kinematics` (how they move) -> `hand` or `gait` (where each
limb is) -> `scene` (room, light, camera) -> `render` (frames, files, manifest, ground truth).
"""

from ptune.cohort.synthetic.config import BALANCED_WEIGHTS, SyntheticConfig
from ptune.cohort.synthetic.kinematics import (
    GAIT,
    HAND,
    GaitMotion,
    HandMotion,
    Pause,
    draw_gait,
    draw_hand,
    gait_signals,
    hand_opening,
)
from ptune.cohort.synthetic.plan import ClipPlan, Subject, plan_cohort, rated
from ptune.cohort.synthetic.render import ClipFrames, render_clip, render_cohort

__all__ = [
    "BALANCED_WEIGHTS",
    "GAIT",
    "HAND",
    "ClipFrames",
    "ClipPlan",
    "GaitMotion",
    "HandMotion",
    "Pause",
    "Subject",
    "SyntheticConfig",
    "draw_gait",
    "draw_hand",
    "gait_signals",
    "hand_opening",
    "plan_cohort",
    "rated",
    "render_clip",
    "render_cohort",
]
