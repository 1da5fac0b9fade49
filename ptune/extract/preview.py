"""Videos become a picture to look at: a row of frames for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ptune.config import ExtractConfig
from ptune.extract.decode import decode
from ptune.home import write_bytes

FRAMES = 8
TILE = ExtractConfig(width=160, height=120)


def contact_sheet(videos: Sequence[Path], path: Path) -> Path:
    """Writes a PNG with eight frames from the beginning to the end of each video, one video a row.

    Raises:
        VideoError: a video cannot be read.
    """
    rows = []
    for video in videos:
        frames = decode(video, TILE).frames
        chosen = np.rint(np.linspace(0, len(frames) - 1, FRAMES)).astype(int)
        rows.append(np.hstack([frames[index] for index in chosen]))
    sheet = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", sheet)
    assert done
    write_bytes(path, encoded.tobytes())
    return path
