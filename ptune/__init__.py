"""ptune: distributed hyperparameter and ablation studies for scoring movement videos.

import ptune
ptune.open("ptune-home").study("hand").trials()        # one row per trial
ptune.open("ptune-home").study("hand").predictions()   # one row per trial and video
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptune.results.view import HomeView

__version__ = "0.1.0"


def open(home: str | Path | None = None) -> HomeView:
    """Returns a view of a home for notebooks; default PTUNE_HOME, else ./ptune-home."""
    from ptune.results.view import HomeView

    return HomeView(home)
