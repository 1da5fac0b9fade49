"""A severity becomes the numbers of a movement, and those become signals over time.

The clinical scale watches ten movements, a clip may show one to five. What the scale counts per ten movements is
therefore thinned to the movements that fit into the clip (at least one interruption where there is any), onsets are
fractions of the clip, and no pause takes much more than a third of it. Knows nothing of pixels.

Source: MDS-UPDRS items 3.4 to 3.6 ("any of the following") and 3.10; rates as in table 1 at ten movements a clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Spread of rates, speeds and amplitudes within one grade: its share between persons and within a person.
SPREAD_SUBJECT, SPREAD_CLIP = 0.08, 0.07
PAUSE_SHARE = 0.35
MOVEMENTS_OF_SCALE = 10


@dataclass(frozen=True)
class HandGrade:
    """What one grade of item 3.5 means; interruptions are per ten movements, onset is a fraction of the clip."""

    rate_hz: float
    amplitude_start: float
    end_over_start: float
    onset_fraction: float
    interruptions: tuple[int, int]
    freezes: tuple[int, int]


@dataclass(frozen=True)
class GaitGrade:
    """What one grade of item 3.10 means."""

    speed_mps: float
    stride_m: float
    arm_swing_deg: float
    asymmetry: float
    turn_dps: float
    freezes: tuple[int, int]


HAND = (
    HandGrade(1.6, 1.00, 1.00, 0.8, (0, 0), (0, 0)),
    HandGrade(1.2, 0.95, 0.85, 0.8, (1, 2), (0, 0)),
    HandGrade(0.9, 0.85, 0.70, 0.5, (3, 5), (0, 0)),
    HandGrade(0.55, 0.70, 0.50, 0.2, (6, 8), (0, 1)),
    HandGrade(0.3, 0.40, 0.30, 0.1, (6, 9), (1, 1)),
)
GAIT = (
    GaitGrade(1.0, 1.20, 42, 0.10, 88, (0, 0)),
    GaitGrade(0.85, 1.05, 32, 0.25, 80, (0, 0)),
    GaitGrade(0.65, 0.85, 22, 0.35, 70, (0, 0)),
    GaitGrade(0.4, 0.60, 12, 0.40, 55, (0, 1)),
    GaitGrade(0.2, 0.35, 5, 0.40, 40, (0, 1)),
)
CRITERIA = ("rate", "decrement", "interruptions")


@dataclass(frozen=True)
class Pause:
    """A hesitation or a freeze: the movement stands still from `start_seconds` on for `seconds`."""

    start_seconds: float
    seconds: float
    freeze: bool


@dataclass(frozen=True)
class HandMotion:
    """How one hand opens and closes in one clip.

    Args:
        grades: grade of each of CRITERIA; their maximum is the severity.
        rate_hz: cycles per second between pauses.
        amplitude_start, amplitude_end: fraction of the full range from fist to open hand.
        onset_fraction: when the amplitude starts to fall, as a fraction of the clip.
        centre: -1 to 1, where within the full range a reduced movement lies; drawn without regard to severity and
            spread as a full movement is over time, so that small movements are as open on average as large ones.
        phase: radians at the start; 0 is the closed end of the movement.
    """

    grades: dict[str, int]
    rate_hz: float
    amplitude_start: float
    amplitude_end: float
    onset_fraction: float
    interruptions_per_ten: int
    pauses: tuple[Pause, ...]
    centre: float
    phase: float


@dataclass(frozen=True)
class GaitMotion:
    """How one person walks in one clip.

    Args:
        arm_swing_deg: range of the better arm from front to back.
        asymmetry: share of the swing that the worse arm lacks; `worse_side` is left or right.
        start: -1 to 1, where between the turning points the walk begins.
        heading: 1 walks to the right first, -1 to the left.
        phase: radians within the stride at the start.
    """

    speed_mps: float
    stride_m: float
    cadence_spm: float
    arm_swing_deg: float
    asymmetry: float
    worse_side: str
    turn_dps: float
    pauses: tuple[Pause, ...]
    start: float
    heading: int
    phase: float


def draw_hand(severity: int, seconds: float, tempo: float, rng: np.random.Generator) -> HandMotion:
    """Draws a hand movement of a severity.

    Any single criterion suffices for a score, so one or more are drawn to have the grade of the severity; the others
    lie one or two grades lower. Grade 4, cannot or barely, shows in all of them.

    Args:
        severity: 0 to 4.
        seconds: length of the clip.
        tempo: the person's own factor on rates, near 1.
        rng: source of the draws.
    """
    grades = _grades(severity, rng)
    rate_hz = HAND[grades["rate"]].rate_hz * tempo * _spread(rng)
    decrement = HAND[grades["decrement"]]
    start = float(np.clip(decrement.amplitude_start * _spread(rng), 0.1, 1.0))
    low, high = HAND[grades["interruptions"]].interruptions
    per_ten = int(rng.integers(low, high + 1))
    shown = per_ten * rate_hz * seconds / MOVEMENTS_OF_SCALE
    count = max(1, round(shown)) if per_ten else 0
    low, high = HAND[grades["interruptions"]].freezes
    freezes = int(rng.integers(low, high + 1))
    return HandMotion(
        grades=grades,
        rate_hz=rate_hz,
        amplitude_start=start,
        amplitude_end=start * decrement.end_over_start,
        onset_fraction=decrement.onset_fraction,
        interruptions_per_ten=per_ten,
        pauses=_pauses(count, freezes, seconds, rng),
        centre=math.cos(rng.uniform(0, 2 * math.pi)),
        phase=float(rng.uniform(0, 2 * math.pi)),
    )


def draw_gait(severity: int, seconds: float, tempo: float, worse_side: str, rng: np.random.Generator) -> GaitMotion:
    """Draws a walk of a severity; each trait may lie up to one grade lower, never all of them.

    Args:
        severity: 0 to 4.
        seconds: length of the clip.
        tempo: the person's own factor on speed, near 1.
        worse_side: left or right, the arm that swings less.
        rng: source of the draws.
    """
    milder = [max(0, severity - int(rng.random() < 0.2)) for _ in range(3)]
    milder[int(rng.integers(3))] = severity
    pace, arms, turn = (GAIT[grade] for grade in milder)
    speed = pace.speed_mps * tempo * _spread(rng)
    stride = pace.stride_m * math.sqrt(tempo) * _spread(rng)
    low, high = GAIT[severity].freezes
    start = float(rng.uniform(-0.95, 0.95))
    inward = -1 if start > 0 else 1
    heading = inward if rng.random() < 0.8 else -inward
    return GaitMotion(
        speed_mps=speed,
        stride_m=stride,
        cadence_spm=120 * speed / stride,
        arm_swing_deg=arms.arm_swing_deg * _spread(rng),
        asymmetry=float(np.clip(arms.asymmetry + rng.normal(0, 0.05), 0, 0.9)),
        worse_side=worse_side,
        turn_dps=turn.turn_dps * _spread(rng),
        pauses=_pauses(0, int(rng.integers(low, high + 1)), seconds, rng),
        start=start,
        heading=heading,
        phase=float(rng.uniform(0, 2 * math.pi)),
    )


def hand_opening(motion: HandMotion, seconds: float, frames: int, fps: float) -> Floats:
    """Returns how far the hand is open at each frame [T], 0 a fist and 1 all fingers stretched."""
    time = np.arange(frames) / fps
    phase = motion.phase + 2 * math.pi * motion.rate_hz * _moving_time(time, motion.pauses)
    onset = motion.onset_fraction * seconds
    fallen = np.clip((time - onset) / max(seconds - onset, 1e-6), 0, 1)
    amplitude = motion.amplitude_start + (motion.amplitude_end - motion.amplitude_start) * fallen
    centre = 0.5 + motion.centre * (1 - amplitude) / 2
    return np.asarray(np.clip(centre - amplitude / 2 * np.cos(phase), 0, 1))


@dataclass(frozen=True)
class GaitSignals:
    """A walk over time, each [T].

    Args:
        position_m: of the body between the turning points, 0 in their middle.
        yaw_rad: 0 faces right, pi faces left.
        phase_rad: within the stride; the left leg leads the right one by pi.
        stride: factor on the stride, under 1 while turning.
        frozen: 1 within a freeze.
    """

    position_m: Floats
    yaw_rad: Floats
    phase_rad: Floats
    stride: Floats
    frozen: Floats


def gait_signals(motion: GaitMotion, seconds: float, frames: int, fps: float, reach_m: float) -> GaitSignals:
    """Returns the walk between turning points at -reach_m and reach_m.

    A half turn takes 180 degrees by its rate, but at most a third of the clip, so that short clips show walking too.
    """
    turn_seconds = min(180 / motion.turn_dps, PAUSE_SHARE * seconds)
    time = np.arange(frames) / fps
    moving = _moving_time(time, motion.pauses)
    position, facing, turning, phase = motion.start * reach_m, float(motion.heading), 0.0, motion.phase
    rows = np.zeros((frames, 5))
    for index in range(frames):
        step = moving[index] - (moving[index - 1] if index else 0.0)
        frozen = float(index > 0 and step < 0.5 / fps)
        turns = turning > 0 or facing * position >= reach_m
        if turns:
            turning += step / turn_seconds
        else:
            position += facing * motion.speed_mps * step
        phase += math.pi * motion.cadence_spm / 60 * step
        angle = math.pi * _smooth(min(turning, 1.0))
        yaw = angle if facing > 0 else math.pi + angle
        rows[index] = position, yaw, phase, 0.45 if turns else 1.0, frozen
        if turning >= 1:
            turning, facing = 0.0, -facing
    eased = np.convolve(np.pad(rows[:, 3], 2, mode="edge"), np.ones(5) / 5, mode="valid")
    return GaitSignals(rows[:, 0], rows[:, 1], rows[:, 2], eased, rows[:, 4])


def _grades(severity: int, rng: np.random.Generator) -> dict[str, int]:
    triggers = rng.random(len(CRITERIA)) < 0.65
    triggers[int(rng.integers(len(CRITERIA)))] = True
    lower = np.where(rng.random(len(CRITERIA)) < 0.75, 1, 2)
    return {
        name: severity if severity == 4 or triggers[index] else max(0, severity - int(lower[index]))
        for index, name in enumerate(CRITERIA)
    }


def _pauses(hesitations: int, freezes: int, seconds: float, rng: np.random.Generator) -> tuple[Pause, ...]:
    longest = PAUSE_SHARE * seconds
    kinds = rng.permutation(np.array([False] * hesitations + [True] * freezes))
    lengths = [rng.uniform(min(0.5, longest), min(2.0, longest)) if kind else rng.uniform(0.15, 0.35) for kind in kinds]
    total = sum(lengths)
    shrink = min(1.0, 0.6 * seconds / total) if total else 1.0
    gaps = rng.dirichlet(np.ones(len(kinds) + 1)) * (seconds - total * shrink)
    pauses, clock = [], 0.0
    for kind, length, gap in zip(kinds, lengths, gaps, strict=False):
        clock += gap
        pauses.append(Pause(float(clock), float(length * shrink), bool(kind)))
        clock += length * shrink
    return tuple(pauses)


def _moving_time(time: Floats, pauses: tuple[Pause, ...]) -> Floats:
    """Returns the seconds [T] spent moving until each time: the clock stands still within pauses."""
    lost = np.zeros_like(time)
    for pause in pauses:
        lost += np.clip(time - pause.start_seconds, 0, pause.seconds)
    return time - lost


def _spread(rng: np.random.Generator) -> float:
    return float(np.exp(rng.normal(0, SPREAD_CLIP)))


def _smooth(fraction: float) -> float:
    return fraction * fraction * (3 - 2 * fraction)
