"""A walk over time becomes limbs: a person seen from the side who walks to and fro and turns at the ends.

Lengths are in metres, x to the right, y up from the floor, z towards the viewer.
"""

from __future__ import annotations

import math

import numpy as np

from ptune.cohort.synthetic.kinematics import Floats, GaitMotion, GaitSignals
from ptune.cohort.synthetic.limbs import Limbs, Part
from ptune.cohort.synthetic.plan import Subject

HEIGHT_M = 1.74
THIGH_M, SHANK_M, FOOT_M = 0.44, 0.42, 0.18
UPPER_ARM_M, FOREARM_M, TRUNK_M = 0.30, 0.26, 0.50
HIP_HALF_M, SHOULDER_HALF_M = 0.09, 0.18
FREEZE_TREMBLE_HZ, FREEZE_TREMBLE_DEG = 5.0, 3.0
FAR_SHADE = 0.82


def gait_limbs(signals: GaitSignals, motion: GaitMotion, subject: Subject, fps: float) -> Limbs:
    """Returns the limbs of a walker; the far limbs are darker and drawn first."""
    frames = len(signals.position_m)
    time = np.arange(frames) / fps
    stoop = math.radians(subject.stoop_deg)
    tremble = np.radians(FREEZE_TREMBLE_DEG) * signals.frozen * np.sin(2 * math.pi * FREEZE_TREMBLE_HZ * time)
    hip_swing = np.arcsin(np.clip(motion.stride_m / 4 / (THIGH_M + SHANK_M), 0, 0.9)) * signals.stride
    legs = {
        "left": _leg(signals.phase_rad, hip_swing, tremble),
        "right": _leg(signals.phase_rad + math.pi, hip_swing, -tremble),
    }
    soles = np.stack([np.minimum(ankle[:, 1], toe[:, 1]) for _, ankle, toe in legs.values()], axis=1)
    hip_height = 0.05 - soles.min(axis=1)
    shoulder = np.stack([np.full(frames, TRUNK_M * math.sin(stoop)), TRUNK_M * math.cos(stoop) + hip_height], axis=1)
    neck = shoulder + np.array([0.06 * math.sin(stoop) + 0.02, 0.09])
    head = neck + np.array([0.05 + 0.09 * math.sin(stoop), 0.12])
    hip = np.stack([np.zeros(frames), hip_height], axis=1)
    slim, cos, sin = subject.slenderness, np.cos(signals.yaw_rad), np.sin(signals.yaw_rad)

    def placed(point: Floats, lateral: float | Floats) -> Floats:
        x = signals.position_m + point[:, 0] * cos + lateral * sin
        return np.stack([x, point[:, 1]], axis=1)

    parts: list[Part] = []
    for side, sign in (("left", 1.0), ("right", -1.0)):
        shade = np.where(sign * cos > 0.3, FAR_SHADE, 1.0)
        knee, ankle, toe = (placed(hip + joint, sign * HIP_HALF_M) for joint in legs[side])
        socket = placed(hip, sign * HIP_HALF_M)
        trousers, shoe = subject.trousers, (45.0, 40.0, 38.0)
        parts += [
            Part(f"foot {side}", ankle + np.array([0, -0.01]), toe, 0.05, 0.038, shoe, shade),
            Part(f"leg {side}", socket, knee, 0.098 * slim, 0.066 * slim, trousers, shade),
            Part(f"leg {side}", knee, ankle, 0.066 * slim, 0.046 * slim, trousers, shade),
        ]
        lag = motion.asymmetry if side == motion.worse_side else 0.0
        swing = np.radians(motion.arm_swing_deg / 2 * (1 - lag)) * (0.4 + 0.6 * signals.stride)
        leg_phase = signals.phase_rad + (0 if side == "left" else math.pi)
        upper = -swing * np.sin(leg_phase) + 0.04
        lower = upper + np.radians(14) + 0.5 * np.clip(upper, 0, None)
        elbow = shoulder - np.array([0, 0.04]) + UPPER_ARM_M * np.stack([np.sin(upper), -np.cos(upper)], axis=1)
        wrist = elbow + FOREARM_M * np.stack([np.sin(lower), -np.cos(lower)], axis=1)
        tip = wrist + 0.07 * np.stack([np.sin(lower), -np.cos(lower)], axis=1)
        top, elbow_at, wrist_at, tip_at = (
            placed(joint, sign * SHOULDER_HALF_M) for joint in (shoulder - np.array([0, 0.04]), elbow, wrist, tip)
        )
        parts += [
            Part(f"hand {side}", wrist_at, tip_at, 0.042 * slim, 0.036 * slim, subject.skin, shade),
            Part(f"arm {side}", top, elbow_at, 0.068 * slim, 0.052 * slim, subject.top, shade * 0.94),
            Part(f"arm {side}", elbow_at, wrist_at, 0.052 * slim, 0.04 * slim, subject.top, shade * 0.94),
        ]
    width, waist = 0.03 + 0.05 * np.abs(sin), hip + np.array([0, 0.02])
    crown, brow, chin = (head + np.array(offset) for offset in ((-0.01, 0.045), (0.035, 0.02), (0.03, -0.045)))
    parts += [
        Part("trunk", placed(waist, width), placed(shoulder, width), 0.115, 0.115, subject.top),
        Part("trunk", placed(waist, -width), placed(shoulder, -width), 0.115, 0.115, subject.top),
        Part("neck", placed(shoulder, 0), placed(neck, 0), 0.06, 0.055, subject.skin, 0.93),
        Part("hair", placed(head + np.array([-0.03, 0.025]), 0), placed(crown, 0), 0.115, 0.105, subject.hair),
        Part("face", placed(chin, 0), placed(brow, 0), 0.078, 0.082, subject.skin),
    ]
    return _ordered(parts, signals.yaw_rad)


def _leg(phase: Floats, swing: Floats, tremble: Floats) -> tuple[Floats, Floats, Floats]:
    """Returns knee, ankle and toe [T,2] relative to the hip; the leg swings forward where sin(phase) grows."""
    thigh = swing * np.sin(phase) + 0.25 * swing + tremble
    lift = np.clip(np.cos(phase + 0.35), 0, None)
    bend = 0.08 + 2.1 * swing * lift + np.abs(tremble)
    shank = thigh - bend
    knee = THIGH_M * np.stack([np.sin(thigh), -np.cos(thigh)], axis=1)
    ankle = knee + SHANK_M * np.stack([np.sin(shank), -np.cos(shank)], axis=1)
    pitch = shank * 0.55 + 0.3 * swing * np.clip(np.sin(phase), 0, None)
    toe = ankle + FOOT_M * np.stack([np.cos(pitch), np.sin(pitch)], axis=1) + np.array([0, -0.02])
    return knee, ankle, toe


def _ordered(parts: list[Part], yaw_rad: Floats) -> Limbs:
    """The side nearer to the viewer is drawn last: the right one of who walks right; who faces away shows hair."""
    ends = np.stack([np.stack([part.start, part.end], axis=1) for part in parts], axis=1)
    limbs = Limbs.of(parts, ends)
    index: dict[str, tuple[int, ...]] = {}
    for number, part in enumerate(parts):
        index[part.name] = (*index.get(part.name, ()), number)

    def order(far: str, near: str, head: tuple[str, str]) -> tuple[tuple[int, ...], ...]:
        behind = [f"{kind} {far}" for kind in ("hand", "arm", "foot", "leg")]
        front = [f"foot {near}", f"leg {near}", "neck", "trunk", *head, f"hand {near}", f"arm {near}"]
        return tuple(index[name] for name in (*behind, *front))

    sides = (("left", "right"), ("right", "left"))
    orders = tuple(order(*pair, head) for head in (("hair", "face"), ("face", "hair")) for pair in sides)
    chosen = (np.cos(yaw_rad) < 0).astype(np.int64) + 2 * (np.sin(yaw_rad) < -0.6)
    hands = index["hand left"] + index["hand right"]
    return Limbs(limbs.ends, limbs.radii, limbs.colours, orders, chosen, hands)
