"""A hand's opening over time becomes limbs: forearm, palm and five fingers that curl towards the viewer.

Lengths are in palm lengths, x to the right, y up, z towards the viewer; a left hand is the mirror image of a right one.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ptune.cohort.synthetic.kinematics import Floats
from ptune.cohort.synthetic.limbs import Limbs, Part
from ptune.cohort.synthetic.plan import Look, Subject

#: Knuckle x, y; three phalanx lengths; radius at the knuckle; degrees of spread of the open hand. Palm view, right hand
#: with its thumb on the left of the image.
FINGERS = (
    ("little", 0.34, 0.84, (0.38, 0.24, 0.20), 0.095, 15.0),
    ("ring", 0.13, 0.95, (0.48, 0.31, 0.23), 0.108, 5.0),
    ("middle", -0.10, 1.00, (0.53, 0.35, 0.24), 0.113, -3.0),
    ("index", -0.33, 0.94, (0.48, 0.30, 0.23), 0.112, -12.0),
)
#: Degrees of flexion of the three joints of a finger, hand open and closed.
FLEXION_OPEN, FLEXION_CLOSED = (4.0, 8.0, 5.0), (84.0, 100.0, 62.0)
THUMB_LENGTHS, THUMB_RADII = (0.44, 0.36, 0.28), (0.17, 0.125, 0.115, 0.09)
THUMB_OPEN_DEG, THUMB_CLOSED_DEG = (-58.0, -46.0, -40.0), (-26.0, 28.0, 72.0)
#: Fingers start and end one after another, as a fraction of the movement.
STAGGER = 0.05
NEAR_FACTOR = 0.09


def hand_limbs(opening: Floats, subject: Subject, look: Look, side: str) -> Limbs:
    """Returns the limbs of a hand.

    Args:
        opening: [T], 0 a fist and 1 all fingers stretched.
        subject: proportions and colours.
        look: how the hand is turned.
        side: left or right.
    """
    frames = len(opening)
    parts: list[Part] = []

    def fixed(*point: float) -> Floats:
        return np.broadcast_to(np.array(point, np.float64), (frames, 3))

    slender = subject.slenderness
    sleeve, skin = subject.top, subject.skin
    parts.append(Part("arm", fixed(0.02, -1.3, 0), fixed(0, 0.02, 0), 0.30 * slender, 0.235 * slender, skin))
    parts.append(Part("sleeve", fixed(0.04, -3.2, 0), fixed(0.015, -0.62, 0), 0.52, 0.40, sleeve))
    palm = [
        Part("palm", fixed(x * 0.55, 0.16, 0), fixed(x * 0.98, y - 0.10, 0), 0.19 * slender, 0.145 * slender, skin)
        for _, x, y, _, _, _ in FINGERS
    ]
    parts += [*palm, Part("palm", fixed(0.0, 0.3, 0), fixed(0.0, 0.72, 0), 0.3 * slender, 0.3 * slender, skin)]
    parts.append(Part("heel", fixed(0.27, 0.28, 0.1), fixed(0.30, 0.5, 0.1), 0.13, 0.11, skin, 1.02))
    for order, finger in enumerate(FINGERS):
        parts += _finger(finger, np.clip(opening * (1 + STAGGER) - STAGGER * order / 3, 0, 1), subject)
    parts += _thumb(opening, subject)
    return _turned(parts, look, mirror=side == "left")


def _finger(
    finger: tuple[str, float, float, tuple[float, float, float], float, float], opening: Floats, subject: Subject
) -> list[Part]:
    name, x, y, lengths, radius, spread = finger
    slant = np.radians(spread * opening)
    bend = np.zeros_like(opening)
    joint = np.stack([np.full_like(opening, x), np.full_like(opening, y), np.zeros_like(opening)], axis=1)
    parts = []
    for index, length in enumerate(lengths):
        closed, opened = FLEXION_CLOSED[index], FLEXION_OPEN[index]
        bend = bend + np.radians(closed + (opened - closed) * opening)
        reach = length * subject.finger_length
        step = np.stack([np.sin(slant) * np.cos(bend), np.cos(slant) * np.cos(bend), np.sin(bend)], axis=1) * reach
        tip = joint + step
        thick = radius * subject.slenderness * (1 - 0.09 * index)
        shade = 1.0 - 0.13 * np.clip(np.sin(bend), 0, 1) + 0.07 * tip[:, 2] - 0.06 * (np.cos(bend) < 0)
        parts.append(Part(name + str(index), joint, tip, thick, thick * 0.9, subject.skin, shade))
        joint = tip
    return parts


def _thumb(opening: Floats, subject: Subject) -> list[Part]:
    joint = np.tile(np.array([-0.20, 0.24, 0.05]), (len(opening), 1))
    parts = []
    for index, length in enumerate(THUMB_LENGTHS):
        closed, opened = THUMB_CLOSED_DEG[index], THUMB_OPEN_DEG[index]
        angle = np.radians(closed + (opened - closed) * opening)
        lift = (1 - opening) * (0.30, 0.22, 0.05)[index]
        step = np.stack([np.sin(angle) * length, np.cos(angle) * length, lift], axis=1)
        tip = joint + step
        radii = np.array(THUMB_RADII[index : index + 2]) * subject.slenderness
        shade = 1.0 + 0.05 * (1 - opening)
        parts.append(Part(f"thumb{index}", joint, tip, radii[0], radii[1], subject.skin, shade))
        joint = tip
    return parts


def _turned(parts: list[Part], look: Look, mirror: bool) -> Limbs:
    """Turns the hand about its long axis and in the image, and brings what is nearer a little larger to the image."""
    yaw, roll = math.radians(look.yaw_deg), math.radians(look.roll_deg)
    points = np.stack([np.stack([part.start, part.end], axis=1) for part in parts], axis=1)
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    x, z = x * math.cos(yaw) + z * math.sin(yaw), z * math.cos(yaw) - x * math.sin(yaw)
    nearer = 1 + NEAR_FACTOR * z
    x, y = x * nearer, y * nearer
    x, y = x * math.cos(roll) + y * math.sin(roll), y * math.cos(roll) - x * math.sin(roll)
    if mirror:
        x = -x
    limbs = Limbs.of(parts, np.stack([x, y], axis=-1), nearer)
    return replace(limbs, hands=tuple(range(len(parts))))
