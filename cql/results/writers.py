r"""Tables as aligned text, Markdown, LaTeX and CSV.

Cells are plain text, and each writer escapes it. Three things in a cell have a form of their own in each format:

- ``±`` is ``+-`` in text and ``$\pm$`` in LaTeX;
- one or two lower-case letters in brackets, ``[a]``, are the mark of a footnote: a superscript in Markdown and LaTeX;
- a :class:`Bold` cell is bold in Markdown and LaTeX.
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from cql.commands import printable

Row = Sequence[str]

_FOOTNOTE = re.compile(r"\[([a-z]{1,2})\]")
_MINUS = re.compile(r"(?<![\w}.])-(?=\d)")
_NARROW, _HEADING = 6, 11  # columns of a LaTeX table in larger letters; letters in a line of its headings


class Bold(str):
    """A cell that stands out."""

    __slots__ = ()


def text_table(header: Row, rows: Sequence[Row], footer: Sequence[Row] = ()) -> str:
    """Write aligned columns for a terminal: the first to the left, the others to the right.

    Args:
        header: one heading per column.
        rows: one cell per column.
        footer: rows below a second rule, such as averages.
    """
    everything = [[printable(text.replace("±", "+-")) for text in row] for row in (header, *rows, *footer)]
    widths = [max(map(len, column)) for column in zip(*everything, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in everything]
    rule = "-" * sum(widths, 2 * (len(widths) - 1))
    first = len(rows) + 1
    return "\n".join([lines[0], rule, *lines[1:first], *([rule, *lines[first:]] if footer else [])]) + "\n"


def markdown_table(header: Row, rows: Sequence[Row], footer: Sequence[Row] = ()) -> str:
    """Write a Markdown table, with the columns after the first to the right.

    Args:
        header: one heading per column.
        rows: one cell per column.
        footer: rows at the end, in bold.
    """
    lines = [
        map(escape_markdown, header),
        *(map(_markdown_cell, row) for row in rows),
        *(map(_markdown_cell, map(Bold, row)) for row in footer),
    ]
    written = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([written[0], "|---" + "|---:" * (len(header) - 1) + "|", *written[1:]]) + "\n"


def latex_table(
    header: Row, rows: Sequence[Row], footer: Sequence[Row] = (), *, caption: str, label: str | None = None
) -> str:
    r"""Write a LaTeX ``table``, which needs ``\usepackage{booktabs}``.

    Tables of many columns have smaller letters, and long headings have several lines.

    Args:
        header: one heading per column.
        rows: one cell per column.
        footer: rows below a second rule, such as averages.
        caption: plain text.
        label: for ``\ref``, written as it is.
    """
    is_wide = len(header) > _NARROW
    lines = [
        r"\begin{table}[htbp]",
        r"  \centering",
        rf"  \caption{{{escape_latex(caption)}}}",
        *([] if label is None else [rf"  \label{{{label}}}"]),
        r"  \scriptsize" if is_wide else r"  \footnotesize",
        rf"  \setlength{{\tabcolsep}}{{{2 if is_wide else 4}pt}}",
        rf"  \begin{{tabular}}{{@{{}}l{'r' * (len(header) - 1)}@{{}}}}",
        r"    \toprule",
        _latex_row(map(_latex_heading, header)),
        r"    \midrule",
        *(_latex_row(map(_latex_cell, row)) for row in rows),
        *([r"    \midrule"] if footer else []),
        *(_latex_row(map(_latex_cell, row)) for row in footer),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def csv_text(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> str:
    """Write rows as CSV, with a header; a value that is None or absent is empty, and floats have all their digits.

    Args:
        rows: values by column.
        columns: in their order; None takes all that occur, in the order in which they do.

    Raises:
        ValueError: a row has a column that is not in ``columns``.
    """
    if columns is None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def escape_markdown(text: str) -> str:
    """Escape what Markdown reads as markup; a line break becomes a space."""
    return re.sub(r"([\\|*_<>&`])", r"\\\1", printable(" ".join(text.splitlines())))


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
    '"': "''", "\n": " ",
})  # fmt: skip


def escape_latex(text: str) -> str:
    r"""Escape what LaTeX reads as markup, also a bracket at the start, which ``\\`` and ``\item`` would take."""
    text = printable(text).translate(_LATEX)
    return f"{{}}{text}" if text.startswith("[") else text


def _markdown_cell(text: str) -> str:
    written = _FOOTNOTE.sub(r"<sup>\1</sup>", escape_markdown(text))
    return f"**{written}**" if isinstance(text, Bold) else written


def _latex_row(cells: Iterable[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _latex_heading(text: str) -> str:
    lines = textwrap.wrap(text, _HEADING, break_long_words=False, break_on_hyphens=False)
    if len(lines) <= 1:
        return escape_latex(text)
    stacked = r" \\ ".join(map(escape_latex, lines))
    return rf"\shortstack[r]{{{stacked}}}"


def _latex_cell(text: str) -> str:
    marked = _FOOTNOTE.sub(r"\\textsuperscript{\1}", escape_latex(text))
    written = _MINUS.sub("$-$", marked)  # a minus, not a hyphen
    return rf"\textbf{{{written}}}" if isinstance(text, Bold) else written
