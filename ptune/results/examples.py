"""Videos of each class that the best fusion is surest about, right or wrong, as attention above their frames.

These pictures show people. They are made on request, for a page that stays in the home and is uploaded nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ptune import page
from ptune.extract.store import FeatureStore
from ptune.metrics import stacked
from ptune.replay import StudyFacts
from ptune.results import plots
from ptune.results.explain import film_strip, stored_moments
from ptune.results.fusion import Fusion

if TYPE_CHECKING:
    import pandas as pd

WARNING = (
    "This page shows people's videos. It belongs to this home: do not send it on, and do not put it into a registry."
)


def examples_section(facts: StudyFacts, frames: Mapping[int, pd.DataFrame], fusion: Fusion, store: FeatureStore) -> str:
    """Returns for each class the video that is most certainly recognised, and the one most certainly not.

    Args:
        frames: out-of-fold tables by trial number, with the column attention.
    """
    names = facts.config.grouping.names
    frame = fusion.frame.reset_index(drop=True)
    labels = frame["label"].to_numpy(np.int64)
    own = stacked(frame)[np.arange(len(frame)), labels]
    parts = [page.bullets([WARNING], "warnings")]
    for index, name in enumerate(names):
        places = np.flatnonzero(labels == index)
        if len(places) == 0:
            continue
        for place, word in dict.fromkeys(
            [(int(places[own[places].argmax()]), "highest"), (int(places[own[places].argmin()]), "lowest")]
        ):
            video = str(frame["video_id"][place])
            title = f"Clip {video}, {name}: {word} probability of its class, {own[place]:.2f}"
            parts.append(page.paragraph(title) + _strip(facts, frames, fusion, store, video))
    return "".join(parts)


def _strip(
    facts: StudyFacts, frames: Mapping[int, pd.DataFrame], fusion: Fusion, store: FeatureStore, video: str
) -> str:
    features, moments = store.video(video), []
    for member in fusion.members:
        table = frames[member.trial].set_index("video_id")
        stream = facts.stream(facts.trials[member.trial])
        moments += stored_moments(stream, np.asarray(table.loc[video, "attention"], np.float64), features)
    return page.picture(plots.png(film_strip(moments, features)), f"clip {video}")
