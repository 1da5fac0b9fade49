"""A configuration becomes the persons and clips of a cohort: who is shown, how severe, how rated, in what light.

Severity is decided first, everything that could betray it without movement is drawn without regard to it: clip length,
room, light, exposure, framing, tremor, order of the files. Knows nothing of drawing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ptune.cohort.synthetic.config import SyntheticConfig
from ptune.cohort.synthetic.kinematics import (
    SPREAD_SUBJECT,
    GaitMotion,
    HandMotion,
    draw_gait,
    draw_hand,
)

Colour = tuple[float, float, float]

#: Shares of the variance of latent severity: between persons, between a person's sides, between visits.
VARIANCE_SUBJECT, VARIANCE_SIDE, VARIANCE_VISIT = 0.6, 0.2, 0.2
SIDES = ("left", "right")
#: Light to dark, RGB.
SKINS: tuple[Colour, ...] = (
    (238, 205, 182),
    (224, 182, 150),
    (203, 156, 120),
    (172, 122, 86),
    (132, 88, 60),
    (96, 64, 46),
)


@dataclass(frozen=True)
class Subject:
    """A person's constant traits.

    Args:
        tempo: factor on rates of both hands or of the walk.
        size: factor on all lengths; `slenderness` on widths only.
        tremor_hz: of the rest tremor, 0 for none; `tremor_px` is its range at a video width of 340 pixels.
        worse_side: the side with the higher latent severity.
    """

    number: int
    name: str
    skin: Colour
    top: Colour
    trousers: Colour
    hair: Colour
    size: float
    slenderness: float
    finger_length: float
    stoop_deg: float
    tempo: float
    tremor_hz: float
    tremor_px: float
    worse_side: str


@dataclass(frozen=True)
class Look:
    """What a clip looks like apart from its movement.

    Args:
        room_seed: of the background's texture and colours.
        exposure: factor on all light; `warmth` shifts it from blue (-1) to red (1).
        light_deg: direction the light comes from; `light_fall` is the share of light lost across the frame.
        noise: standard deviation of the sensor's noise in grey levels.
        scale: factor on the figure's size; centre_x, centre_y are its place as fractions of the frame.
        roll_deg, yaw_deg: how the hand is turned in and out of the image plane.
    """

    room_seed: int
    exposure: float
    warmth: float
    light_deg: float
    light_fall: float
    noise: float
    scale: float
    centre_x: float
    centre_y: float
    roll_deg: float
    yaw_deg: float
    tremor_phase: float
    camera_seed: int


@dataclass(frozen=True)
class ClipPlan:
    """One clip before it is drawn; `score` is the rated one, `severity` the true one."""

    file: str
    subject: Subject
    side: str
    visit: int
    severity: int
    score: int
    frames: int
    fps: float
    motion: HandMotion | GaitMotion
    look: Look

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return self.frames / self.fps


def plan_cohort(config: SyntheticConfig) -> tuple[ClipPlan, ...]:
    """Returns all clips in the order of their files.

    True severities meet the configured frequencies as nearly as whole clips can: latent severities, correlated within a
    person, are ranked, and the ranks are cut at the frequencies.
    """
    count = config.subjects * config.clips_per_subject
    numbers = range(config.first_subject, config.first_subject + config.subjects)
    latents, subjects = [], []
    for number in numbers:
        rng = np.random.default_rng([config.seed, number])
        person = rng.normal(0, math.sqrt(VARIANCE_SUBJECT))
        sides = rng.normal(0, math.sqrt(VARIANCE_SIDE), 2)
        subjects.append(_draw_subject(number, SIDES[int(np.argmax(sides))], rng))
        visits = rng.normal(0, math.sqrt(VARIANCE_VISIT), config.clips_per_subject)
        latents += [person + sides[clip % 2] + visits[clip] for clip in range(config.clips_per_subject)]
    severities = np.empty(count, np.int64)
    severities[np.argsort(latents, kind="stable")] = np.repeat(np.arange(5), _quotas(config.weights, count))
    order = np.random.default_rng([config.seed, 0, config.first_subject]).permutation(count)
    places = np.empty(count, np.int64)
    places[order] = np.arange(count)
    clips = [
        _draw_clip(
            config, subjects[index // config.clips_per_subject], index % config.clips_per_subject, severity, place
        )
        for index, (severity, place) in enumerate(zip(severities.tolist(), places.tolist(), strict=True))
    ]
    return tuple(clips[index] for index in order)


def rated(severity: int, noise: float, rng: np.random.Generator) -> int:
    """Returns the rater's score: the severity, or with probability `noise` a neighbour of it on the scale."""
    if rng.random() >= noise:
        return severity
    return int(rng.choice([score for score in (severity - 1, severity + 1) if 0 <= score <= 4]))


def _draw_clip(config: SyntheticConfig, subject: Subject, clip: int, severity: int, place: int) -> ClipPlan:
    rng = np.random.default_rng([config.seed, subject.number, 1 + clip])
    look = Look(
        room_seed=int(rng.integers(2**31)),
        exposure=float(rng.uniform(0.68, 1.12)),
        warmth=float(rng.uniform(-1, 1)),
        light_deg=float(rng.uniform(0, 360)),
        light_fall=float(rng.uniform(0.05, 0.35)),
        noise=float(rng.uniform(1.5, 4.5)),
        scale=float(np.exp(rng.normal(0, 0.05))),
        centre_x=float(rng.uniform(0.45, 0.55)),
        centre_y=float(rng.uniform(-0.03, 0.03)),
        roll_deg=float(rng.normal(0, 7)),
        yaw_deg=float(rng.uniform(-30, 30)),
        tremor_phase=float(rng.uniform(0, 2 * math.pi)),
        camera_seed=int(rng.integers(2**31)),
    )
    shortest, longest = config.seconds
    frames = max(2, round(float(rng.uniform(shortest, longest)) * config.fps))
    seconds = frames / config.fps
    score = rated(severity, config.rater_noise, rng)
    motion: HandMotion | GaitMotion
    if config.task == "hand":
        motion = draw_hand(severity, seconds, subject.tempo, rng)
    else:
        motion = draw_gait(severity, seconds, subject.tempo, subject.worse_side, rng)
    return ClipPlan(
        file=f"clip_{place + 1:04d}.mp4",
        subject=subject,
        side=SIDES[clip % 2],
        visit=clip // 2 + 1,
        severity=severity,
        score=score,
        frames=frames,
        fps=config.fps,
        motion=motion,
        look=look,
    )


def _draw_subject(number: int, worse_side: str, rng: np.random.Generator) -> Subject:
    skin = np.array(SKINS[int(rng.integers(len(SKINS)))]) * rng.uniform(0.94, 1.05) + rng.normal(0, 3, 3)
    return Subject(
        number=number,
        name=f"S{number:03d}",
        skin=_colour(np.clip(skin, 0, 255)),
        top=_colour(rng.uniform(40, 185) + rng.uniform(-38, 38, 3)),
        trousers=_colour(rng.uniform(20, 80) + rng.uniform(-15, 60, 3)),
        hair=_colour(np.array([1.0, 0.93, 0.85]) * rng.uniform(25, 200)),
        size=float(np.exp(rng.normal(0, 0.05))),
        slenderness=float(rng.uniform(0.88, 1.12)),
        finger_length=float(rng.uniform(0.92, 1.08)),
        stoop_deg=float(rng.uniform(2, 16)),
        tempo=float(np.exp(rng.normal(0, SPREAD_SUBJECT))),
        tremor_hz=float(rng.uniform(4, 6)) if rng.random() < 0.4 else 0.0,
        tremor_px=float(rng.uniform(1, 4)),
        worse_side=worse_side,
    )


def _colour(values: np.ndarray) -> Colour:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _quotas(weights: tuple[float, ...], count: int) -> list[int]:
    """Returns whole numbers in proportion to `weights` that sum to `count`; the largest remainders round up."""
    exact = np.array(weights) / sum(weights) * count
    whole = np.floor(exact).astype(np.int64)
    for index in np.argsort(whole - exact, kind="stable")[: count - int(whole.sum())]:
        whole[index] += 1
    return [int(number) for number in whole]
