"""Videos become the paper's table 1: videos, lengths and subjects per task and class.

Knows nothing of how frames are counted; the counts are given.

Source: table 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptune.cohort.manifest import Manifest


@dataclass(frozen=True)
class TableRow:
    """One line of the table; frames are None where no length is known."""

    task: str
    class_name: str
    videos: int
    frames_min: int | None
    frames_max: int | None
    subjects: int


def cohort_table(manifest: Manifest, frames: Mapping[str, int | None]) -> list[TableRow]:
    """Returns a row per task and class, also for classes without videos.

    Args:
        manifest: the cohort.
        frames: video id to number of frames as its header states it; absent or None where it states none.
    """
    rows = []
    for task in manifest.tasks():
        part = manifest.for_task(task)
        for index, name in enumerate(manifest.grouping.names):
            videos = [video for video in part.videos if part.label(video) == index]
            known = [count for video in videos if (count := frames.get(video.id)) is not None]
            subjects = len({video.subject for video in videos})
            rows.append(TableRow(task, name, len(videos), min(known, default=None), max(known, default=None), subjects))
    return rows


def format_table(rows: Sequence[TableRow]) -> str:
    """Returns the rows as aligned text; '-' stands for an unknown length."""
    lines = [["task", "class", "videos", "frames min", "frames max", "subjects"]]
    for row in rows:
        counts = (row.videos, row.frames_min, row.frames_max, row.subjects)
        lines.append([row.task, row.class_name, *("-" if count is None else str(count) for count in counts)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        padded = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        text.append("  ".join([line[0].ljust(widths[0]), line[1].ljust(widths[1]), *padded[2:]]))
    return "\n".join([*text, "Frames are those that the files' headers state; '-' where they state none."])
