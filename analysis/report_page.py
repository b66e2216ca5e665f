"""One self-contained HTML page from facts, figures and tables: no network, no script; it opens from
a file.
"""

import base64
import re
from html import escape
from typing import NamedTuple

import pandas as pd

from analysis.markdown import MISSING

ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # nothing from elsewhere
NUMBER = re.compile(r"\**[-+−<]?[\d.]+")
STYLE = """
body { font: 16px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif;
  color: #1a1a1a; background: #fff; max-width: 64rem; margin: 0 auto; padding: 1rem;
  overflow-wrap: break-word; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.5rem; padding-top: .5rem; border-top: 1px solid #ccc; }
a { color: #0b5394; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; }
.wide { overflow-x: auto; }
img { display: block; max-width: max(100%, 40rem); height: auto; margin: 0 auto; }
figcaption, caption, .notes { color: #444; font-size: .9rem; }
caption { text-align: left; padding-bottom: .4rem; }
table { font-size: .92rem; border-collapse: collapse; margin: 1rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; text-align: left; border-bottom: 1px solid #ccc;
  vertical-align: baseline; }
thead th { border-bottom: 2px solid #444; vertical-align: bottom; }
tbody th { font-weight: 400; }
.number { text-align: right; }
td.number { white-space: nowrap; }
@media (max-width: 35rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  .wide { overflow: visible; }
  img { max-width: 100%; max-height: 23cm; }
  figure, tr { break-inside: avoid; }
  h2, caption, thead { break-after: avoid; }
}
"""


class Section(NamedTuple):
    """A heading of the page and what stands below it; all is text, except the figures' SVG."""

    title: str
    text: str  # one or two sentences
    figures: list  # of (alt, svg as bytes, caption)
    tables: list  # of (DataFrame, caption)
    notes: list  # sentences: what is missing, and why


def page(title, facts, sections):
    """The page as a string. facts: pairs (term, text) at its top, such as teacher, task and
    command.
    """
    terms = "".join(
        f"<dt>{escape(term)}</dt><dd>{escape(str(text))}</dd>\n" for term, text in facts
    )
    contents = "".join(
        f'<li><a href="#section-{i}">{escape(section.title)}</a></li>\n'
        for i, section in enumerate(sections, 1)
    )
    body = "".join(section_html(i, section) for i, section in enumerate(sections, 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{ALLOWED}">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<dl>
{terms}</dl>
</header>
<nav aria-label="Contents">
<ol>
{contents}</ol>
</nav>
<main>
{body}</main>
</body>
</html>
"""


def section_html(number, section):
    figures = "".join(figure_html(*figure) for figure in section.figures)
    tables = "".join(table_html(*table) for table in section.tables)
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in section.notes)
    notes = f'<ul class="notes">\n{notes}</ul>\n' if notes else ""
    heading = f"<h2>{escape(section.title)}</h2>\n<p>{escape(section.text)}</p>"
    return f'<section id="section-{number}">\n{heading}\n{figures}{tables}{notes}</section>\n'


def figure_html(alt, svg, caption):
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    image = f'<img alt="{escape(alt)}" src="{source}">'
    return (
        f'<figure>\n<div class="wide" tabindex="0">{image}'
        f"</div>\n<figcaption>{escape(caption)}</figcaption>\n</figure>\n"
    )


def table_html(table, caption):
    """A table with the first column as the rows' names; columns of numbers are aligned to the
    right.
    """
    texts = [[cell_text(cell) for cell in row] for row in table.itertuples(index=False)]
    numeric = list(map(is_numeric, zip(*texts, strict=True))) or [False] * table.shape[1]
    classes = [' class="number"' if right else "" for right in [False, *numeric[1:]]]
    head = "".join(
        f'<th scope="col"{right}>{escape(str(name))}</th>'
        for name, right in zip(table.columns, classes, strict=True)
    )
    rows = "".join(row_html(row, classes) for row in texts)
    return (
        f'<div class="wide" tabindex="0"><table>\n<caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )


def row_html(texts, classes):
    """A row of a table. texts: of its cells. classes: the HTML attribute of each cell, or ""."""
    first, *rest = texts
    cells = "".join(
        f"<td{right}>{bold_html(text)}</td>" for text, right in zip(rest, classes[1:], strict=True)
    )
    return f'<tr><th scope="row">{bold_html(first)}</th>{cells}</tr>\n'


def is_numeric(texts):
    """True for a column of numbers, some of which may be missing."""
    return all(text == MISSING or NUMBER.match(text) for text in texts)


def cell_text(cell):
    """A cell as text."""
    if pd.isna(cell):
        return MISSING
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def bold_html(text):
    """The text with HTML's signs escaped and **bold** as <strong>."""
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(text))
