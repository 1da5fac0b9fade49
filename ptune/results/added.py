"""A fusion and its members become a table of what each stream adds: the score with it and without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.results import plots
from ptune.results.fusion import Fusion, fuse_members
from ptune.results.stats import Difference, Member, paired_bootstrap
from ptune.results.table import Line, Table
from ptune.results.tables import COLUMNS, decimal

if TYPE_CHECKING:
    import pandas as pd

#: Metrics that tables do not give in percent.
UNITS = {metric: 100 if write is not decimal else 1 for _, metric, write in COLUMNS}
NOTES = (
    "Without a stream, the others keep their weights in proportion; nothing is chosen anew.",
    "The difference favours every member, because the fusion was chosen for scoring best here.",
    "Intervals: 95 %, paired, over resampled subjects.",
)


@dataclass(frozen=True)
class Added:
    """What one member adds.

    Args:
        difference: the fusion with it minus the fusion without it.
    """

    member: Member
    metric: str
    difference: Difference

    def facts(self) -> dict[str, Any]:
        """Returns plain values."""
        found = self.difference
        return self.member.facts() | {
            "metric": self.metric,
            "with": found.one,
            "without": found.other,
            "difference": found.difference,
            "interval": found.interval,
        }


def added_by_each(frames: Mapping[Any, pd.DataFrame], fusion: Fusion, class_names: Sequence[str]) -> tuple[Added, ...]:
    """Returns what each member of a fusion adds; nothing for a single stream, which leaves nothing to compare with.

    Args:
        frames: out-of-fold tables under the members' keys.
    """
    if len(fusion.members) == 1:
        return ()
    found = []
    for member in fusion.members:
        others = fuse_members(frames, [other for other in fusion.members if other != member])
        difference = paired_bootstrap(fusion.frame, others, fusion.metric, class_names)
        found.append(Added(member, fusion.metric, difference))
    return tuple(found)


def added_table(added: Sequence[Added]) -> Table:
    """Returns the table of at least one member."""
    metric = added[0].metric
    unit = UNITS.get(metric, 1)
    digits = 1 if unit == 100 else 2
    lines = []
    for item in added:
        found = item.difference
        low, high = (f"{unit * bound:+.{digits}f}" for bound in found.interval)
        values = [f"{unit * found.one:.{digits}f}", f"{unit * found.other:.{digits}f}"]
        gain = f"{unit * found.difference:+.{digits}f}"
        lines.append(
            Line((item.member.name, item.member.title, f"{item.member.weight:.2f}", *values, gain, f"{low} to {high}"))
        )
    headings = ("stream", "trial", "weight", "with", "without", "difference", "95 % interval")
    word, subjects = plots.WORDS.get(metric, metric), added[0].difference.subjects
    caption = f"What each stream adds to the fusion: {word}, {subjects} subjects."
    return Table(caption, tuple(("", name) for name in headings), tuple(lines), NOTES, frozenset({1}))
