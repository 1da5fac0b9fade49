"""The truth about rendered clips, written beside their manifest, becomes the answer to whether a file is one of them.

Content decides, not names: a copied clip is still a rendered one, a patient's video under a clip's name is none.
"""

from __future__ import annotations

import json
from pathlib import Path

TRUTH = "ground_truth.json"


def rendered_files(folder: Path) -> frozenset[str]:
    """Returns the sha256 of the clips that the truth in `folder` names; none where there is no truth."""
    try:
        clips = json.loads((folder / TRUTH).read_text(encoding="utf-8"))["clips"]
        return frozenset(clip["sha256"] for clip in clips)
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()
