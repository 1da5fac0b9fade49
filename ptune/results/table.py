"""Lines of text under headings become a table in whatever form is asked for. Knows nothing of what it shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ptune import page

SPECIAL = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"\textdagger{}",
    "±": r"$\pm$",
    "−": "$-$",
}


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Args:
        kind: `base` for what others are compared with.
        bold: columns whose cell is marked.
    """

    cells: tuple[str, ...]
    kind: str = ""
    bold: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Table:
    """A table that says what it rests on.

    Args:
        caption: above it.
        headings: of each column its group, "" for none, and its name; neighbours of one group share its heading.
        notes: below it, one sentence each.
        words: columns of text, which are aligned to the left as the first is.
    """

    caption: str
    headings: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    words: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for line in self.lines:
            if len(line.cells) != len(self.headings):
                raise ValueError(f"{len(line.cells)} cells under {len(self.headings)} headings: {line.cells}")

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Heading of each group and how many columns it spans; empty where no column has one."""
        found = [(name, len(list(members))) for name, members in groupby(group for group, _ in self.headings)]
        return found if any(name for name, _ in found) else []

    def text(self) -> str:
        """Returns the table for a terminal: aligned columns under the caption."""
        names = tuple(name for _, name in self.headings)
        columns = list(zip(names, *(line.cells for line in self.lines), strict=True))
        widths = [max(map(len, column)) for column in columns]
        above, start = "", 0
        for group, count in self.groups:
            span = sum(widths[start : start + count]) + 2 * (count - 1)
            widths[start] += max(0, len(group) - span)
            above += group.ljust(max(span, len(group)) + 2)
            start += count
        written = [
            "  ".join(
                cell.ljust(width) if self._is_text(index) else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in (names, *(line.cells for line in self.lines))
        ]
        rule = "-" * (sum(widths) + 2 * len(widths) - 2)
        head = [above.rstrip(), written[0]] if above else [written[0]]
        notes = ["", *self.notes] if self.notes else []
        return "\n".join([self.caption, "", *head, rule, *written[1:], *notes]) + "\n"

    def markdown(self) -> str:
        """Returns the table as Markdown; marked cells are bold."""
        lines = [[_joined(heading) for heading in self.headings]]
        lines.append(["---" if self._is_text(index) else "---:" for index in range(len(self.headings))])
        lines += [
            [f"**{cell}**" if index in line.bold else cell for index, cell in enumerate(line.cells)]
            for line in self.lines
        ]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return "\n\n".join([self.caption, body, *self.notes]) + "\n"

    def latex(self) -> str:
        r"""Returns a table environment for LaTeX with the package booktabs; marked cells are \textbf."""
        align = "".join("l" if self._is_text(index) else "r" for index in range(len(self.headings)))
        head = [" & ".join(_escaped(name) for _, name in self.headings) + r" \\"]
        if self.groups:
            spans = [rf"\multicolumn{{{count}}}{{c}}{{{_escaped(name)}}}" for name, count in self.groups]
            head = [" & ".join(spans) + r" \\", *self._rules(), *head]
        body: list[str] = []
        for number, line in enumerate(self.lines):
            if line.kind == "base" and number and self.lines[number - 1].kind != "base":
                body.append(r"\midrule")
            cells = [
                rf"\textbf{{{_escaped(cell)}}}" if index in line.bold else _escaped(cell)
                for index, cell in enumerate(line.cells)
            ]
            body.append(" & ".join(cells) + r" \\")
        notes = [rf"\par\smallskip\footnotesize {_escaped(' '.join(self.notes))}"] if self.notes else []
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}",
                r"\begin{table}[htbp]",
                r"\centering",
                rf"\caption{{{_escaped(self.caption)}}}",
                rf"\begin{{tabular}}{{{align}}}",
                r"\toprule",
                *head,
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                *notes,
                r"\end{table}",
                "",
            ]
        )

    def csv(self) -> str:
        """Returns headings and lines as CSV, without caption and notes."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([_joined(heading) for heading in self.headings])
        writer.writerows(line.cells for line in self.lines)
        return buffer.getvalue()

    def html(self) -> str:
        """Returns the table, its caption and its notes for `ptune.page`."""
        drawn = page.table(
            [name for _, name in self.headings],
            [line.cells for line in self.lines],
            sorted(self.words),
            [line.kind for line in self.lines],
            self.groups,
            [line.bold for line in self.lines],
        )
        below = " ".join([self.caption, *self.notes])
        return drawn + page.paragraph(below, "caption")

    def _is_text(self, column: int) -> bool:
        return column == 0 or column in self.words

    def _rules(self) -> list[str]:
        """Returns the thin rules below the headings of groups."""
        found, start = [], 1
        for name, count in self.groups:
            if name:
                found.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
            start += count
        return found


def _joined(heading: Sequence[str]) -> str:
    return " ".join(part for part in heading if part)


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(sign, sign) for sign in text)
