"""What became of each video of an extraction, and what an extraction would take, as facts and as text.

Knows nothing of Ray.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ptune.cohort.manifest import Video
from ptune.extract.quality import duplicates
from ptune.extract.store import FeatureStore

QUARANTINE = "quarantine.json"


class Quarantined(NamedTuple):
    """Why one video has no features.

    Args:
        line: where the manifest names it.
        reason: a word of `VideoError`.
        detail: what was seen; carries no path.
    """

    line: int
    reason: str
    detail: str


@dataclass(frozen=True)
class ExtractReport:
    """What became of each video.

    Args:
        done: ids extracted now.
        reused: ids whose records were there.
        quarantined: id to reason.
        pairs: pairs of frames solved now.
        seconds: wall time.
        notes: what a reader of the features should know, a line each.
    """

    done: tuple[str, ...]
    reused: tuple[str, ...]
    quarantined: dict[str, Quarantined] = field(default_factory=dict)
    pairs: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "done": len(self.done),
            "reused": len(self.reused),
            "quarantined": {video_id: item._asdict() for video_id, item in self.quarantined.items()},
            "pairs": self.pairs,
            "seconds": round(self.seconds, 1),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """Returns one line of counts, and one for each quarantined video and each note."""
        counts = f"{len(self.done)} videos extracted, {len(self.reused)} reused, {len(self.quarantined)} quarantined"
        lines = [f"{counts} ({self.pairs} pairs of frames in {self.seconds:.0f} s)"]
        lines += [
            f"quarantined: line {item.line} of the manifest: {item.reason.replace('_', ' ')}, {item.detail}"
            for item in sorted(self.quarantined.values())
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def notes_on(videos: Sequence[Video], store: FeatureStore) -> tuple[str, ...]:
    """Returns what the records say that a reader should know: copies under two subjects, resampling, damage."""
    extra = {video.id: store.metadata(video.id)["extra"] for video in videos if store.has(video.id)}
    lines = {video.id: video.line for video in videos}
    facts = {video_id: found["video"] for video_id, found in extra.items() if "video" in found}
    prints = {video_id: found["fingerprint"] for video_id, found in extra.items() if "fingerprint" in found}
    subjects = {video.id: video.subject for video in videos}
    notes = [
        f"lines {min(lines[one], lines[other])} and {max(lines[one], lines[other])} of the manifest show the same "
        "recording under two subjects"
        for one, other in duplicates(prints, {video_id: subjects[video_id] for video_id in prints})
    ]
    notes += [
        f"line {lines[video_id]} of the manifest is damaged and was allowed: {found['damage']}"
        for video_id, found in facts.items()
        if found["damage"]
    ]
    resampled = [found for found in facts.values() if found["repeated"] or found["dropped"]]
    if resampled:
        repeated, dropped = (sum(found[name] for found in resampled) for name in ("repeated", "dropped"))
        notes.append(f"{len(resampled)} videos were resampled in time: {repeated} frames repeated, {dropped} dropped")
    interlaced = sum(found["interlaced"] for found in facts.values())
    if interlaced:
        notes.append(f"{interlaced} videos are interlaced")
    return tuple(notes)


def remember(store: FeatureStore, asked: set[str], quarantined: dict[str, Quarantined]) -> None:
    """Brings the store's list of quarantined videos up to date; what was not asked for stays."""
    before = load_quarantine(store)
    after = {video_id: entry for video_id, entry in before.items() if video_id not in asked}
    after |= {video_id: {"reason": item.reason, "detail": item.detail} for video_id, item in quarantined.items()}
    if after != before:
        store.keep(QUARANTINE, (json.dumps(after, sort_keys=True, indent=1) + "\n").encode())


def load_quarantine(store: FeatureStore) -> dict[str, dict[str, str]]:
    """Returns id to reason and detail of the videos that the last extraction could not use."""
    try:
        found = json.loads(store.kept(QUARANTINE) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
