"""Text, tables and figures become one HTML page that needs nothing from anywhere else."""

from __future__ import annotations

import base64
from collections.abc import Sequence, Set
from html import escape

CSS = """
:root { --ink: #22303c; --soft: #5d6b77; --line: #d9dfe4; --accent: #0072b2; --paper: #ffffff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 36px 60px; background: var(--paper); min-height: 100vh; }
h1 { font-size: 26px; margin: 8px 0 2px; letter-spacing: -0.01em; }
h2 { font-size: 18px; margin: 38px 0 10px; padding-bottom: 5px; border-bottom: 1px solid var(--line); }
p { margin: 8px 0; max-width: 78ch; }
.caption, .soft { color: var(--soft); font-size: 13px; max-width: 100ch; }
.summary { font-size: 17px; line-height: 1.5; border-left: 4px solid var(--accent); padding: 4px 0 4px 16px;
  margin: 18px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 12px 0; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #edf0f2; }
th { color: var(--soft); font-weight: 600; border-bottom: 1px solid #9aa5ae; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
th.group { text-align: center; border-bottom: none; }
td.text { white-space: normal; }
td.text:last-child { min-width: 26ch; }
tr.base td { color: var(--soft); border-top: 1px solid #9aa5ae; font-style: italic; }
tr.lead td { font-weight: 650; }
ul.warnings { margin: 14px 0; padding: 12px 16px 12px 34px; background: #fff7e8; border: 1px solid #f0dcae;
  border-radius: 6px; font-size: 14px; }
ul.warnings li { margin: 3px 0; }
svg { max-width: 100%; height: auto; display: block; margin: 10px 0; }
svg.full, img.full { width: 100%; }
.pair { display: flex; gap: 40px; align-items: flex-start; }
.pair > div + div { flex: 1; min-width: 0; }
.pair.wrap { flex-wrap: wrap; } .pair.wrap > div + div { flex: none; }
.pair svg { margin-top: -14px; }
nav { font-size: 13px; margin: 10px 0 0; } nav a { color: var(--accent); text-decoration: none; margin-right: 16px; }
@media print { body { background: white; } main { padding: 0; } nav { display: none; } svg { break-inside: avoid; } }
"""


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """Returns a whole HTML document.

    Args:
        title, subtitle: plain text.
        sections: heading (plain text, empty for none) and body (HTML) of each.
    """
    links, bodies = [], []
    for number, (heading, body) in enumerate(sections):
        if heading:
            links.append(f'<a href="#s{number}">{escape(heading)}</a>')
            bodies.append(f'<section id="s{number}"><h2>{escape(heading)}</h2>{body}</section>')
        else:
            bodies.append(f"<section>{body}</section>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>"
        f'<h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p><nav>{"".join(links)}</nav>\n'
        + "\n".join(bodies)
        + "\n</main></body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Returns plain text as a paragraph of an optional CSS class."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def picture(png: bytes, described: str) -> str:
    """Returns PNG bytes as a picture inside the page."""
    data = base64.b64encode(png).decode()
    return f'<img class="full" alt="{escape(described)}" src="data:image/png;base64,{data}">'


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: Sequence[int] = (),
    classes: Sequence[str] = (),
    groups: Sequence[tuple[str, int]] = (),
    bold: Sequence[Set[int]] = (),
) -> str:
    """Returns an HTML table of plain cells; the first column and `text_columns` are left-aligned.

    Args:
        classes: CSS class of each row, where not all are plain.
        groups: headings above the headings, each with the number of columns that it spans.
        bold: columns of each row whose cell is marked, where any is.
    """
    mark = [' class="text"' if index in text_columns else "" for index in range(len(headings))]
    head = "".join(f"<th{mark[index]}>{escape(cell)}</th>" for index, cell in enumerate(headings))
    lines = []
    for number, row in enumerate(rows):
        kind = f' class="{classes[number]}"' if classes and classes[number] else ""
        marked = bold[number] if bold else ()
        shown = [f"<b>{escape(cell)}</b>" if index in marked else escape(cell) for index, cell in enumerate(row)]
        cells = "".join(f"<td{mark[index]}>{cell}</td>" for index, cell in enumerate(shown))
        lines.append(f"<tr{kind}>{cells}</tr>")
    above = "".join(f'<th class="group" colspan="{count}">{escape(name)}</th>' for name, count in groups)
    heads = (f"<tr>{above}</tr>" if above else "") + f"<tr>{head}</tr>"
    return f'<div class="wide"><table><thead>{heads}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def bullets(items: Sequence[str], kind: str) -> str:
    """Returns plain sentences as a list of a CSS class, or nothing when there are none."""
    if not items:
        return ""
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
