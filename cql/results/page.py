"""Pages that are one file: they open from the disk, ask for nothing, and read well in light, in dark and on a phone."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Told apart by readers with any form of colour vision: those of the figures, and their like on a dark ground.
_SERIES = (
    ("#2166ac", "#6fb1ee"), ("#d6732a", "#f0985a"), ("#4a9b6e", "#74c798"), ("#b2375b", "#ec7d9c"),
    ("#7b5ba6", "#b79be0"), ("#35a3b8", "#5cc7da"), ("#8a6a3b", "#c6a36d"), ("#d4b13f", "#e3c765"),
    ("#767676", "#a8a8a8"), ("#e08fb5", "#f0b2ce"), ("#1f2f52", "#8fa6dc"), ("#9cb83c", "#bcd769"),
)  # fmt: skip

_LIGHT = (
    "--ink:#222222;--pale:#6b6b6b;--grid:#e3e3e3;--paper:#ffffff;--panel:#f6f7f9;--link:#1a5fa8;--warn:#9a3b00;--up:#1a7f37;--down:#b35900;"
    + "".join(f"--c{index}:{light};" for index, (light, _) in enumerate(_SERIES))
)
_DARK = (
    "--ink:#e6e6e6;--pale:#a0a0a0;--grid:#3a3f46;--paper:#16191d;--panel:#1f2429;--link:#7db8f5;--warn:#ffb27a;--up:#6fd08c;--down:#ffb27a;"
    + "".join(f"--c{index}:{dark};" for index, (_, dark) in enumerate(_SERIES))
)

_STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
  font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:1.2rem 1.2rem 4rem}
h1{font-size:1.6rem;line-height:1.2;margin:.4rem 0 .2rem}
h2{font-size:1.2rem;margin:2.4rem 0 .5rem;padding-top:.6rem;border-top:1px solid var(--grid)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{max-width:46rem;margin:.4rem 0}
a{color:var(--link)}
code{font:.87em ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
code.word{white-space:nowrap}
pre{background:var(--panel);padding:.6rem .8rem;border-radius:6px;overflow-x:auto;font-size:.85rem;white-space:pre-wrap}
.pale{color:var(--pale)}
.warn{color:var(--warn)}
.lead{font-size:1.08rem}
.tiles{display:flex;flex-wrap:wrap;gap:.6rem;margin:.8rem 0}
.tile{background:var(--panel);border-radius:8px;padding:.5rem .9rem;min-width:7rem}
.tile b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
nav{margin:.6rem 0;font-size:.92rem;display:flex;flex-wrap:wrap;gap:.1rem 1rem}
figure{margin:.6rem 0 1rem}
figcaption{color:var(--pale);font-size:.9rem;max-width:46rem}
svg{width:100%;height:auto;display:block}
svg text{font-family:inherit!important;pointer-events:none}
svg a text{pointer-events:auto}
svg a:hover path{stroke:var(--ink)!important;stroke-width:1.5!important}
.scroll{overflow-x:auto}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));gap:0 1.6rem;align-items:start}
.side figure{min-width:0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.5rem 0}
th,td{padding:.28rem .7rem;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap}
th.text,td.text{text-align:left}
th.text{white-space:normal}
th .narrow{white-space:normal;display:inline-block;max-width:9em}
th .narrow span{white-space:nowrap}
tr.sum td{border-top:2px solid var(--grid)}
.same::after{content:" ▲";visibility:hidden;font-size:.8em}
.up::after{content:" ▲";color:var(--up);font-size:.8em}
.down::after{content:" ▼";color:var(--down);font-size:.8em}
th{position:sticky;top:0;background:var(--paper);font-weight:600;vertical-align:bottom}
th button{all:unset;cursor:pointer}
th button:focus-visible{outline:2px solid var(--link);outline-offset:2px}
th button::after{content:"";display:inline-block;width:1em;text-align:center;color:var(--pale)}
th[aria-sort=ascending] button::after{content:"▴"}
th[aria-sort=descending] button::after{content:"▾"}
tbody tr:hover{background:var(--panel)}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.45em;vertical-align:-.05em;
background:var(--colour)}
.key.dashed{background:repeating-linear-gradient(90deg,var(--colour) 0 .32em,transparent .32em .48em)}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:.3rem 0;font-size:.9rem}
details{margin:.3rem 0}
summary{cursor:pointer}
details:target,tr:target{outline:2px solid var(--link);outline-offset:3px;border-radius:3px}
.films{display:flex;flex-wrap:wrap;gap:.9rem}
.films figure{margin:0;width:150px}
.films figcaption{overflow-wrap:break-word}
.films img{width:150px;height:auto;border-radius:6px;display:block}
ul{padding-left:1.2rem;max-width:52rem}
@media (max-width:640px){
  main{padding:.8rem .7rem 3rem}th,td{padding:.25rem .45rem}h1{font-size:1.3rem}
}
@media print{nav{display:none}}
"""

# Sorting by a click on a column's head; and what an address leads to is opened.
_SCRIPT = """
(function () {
  "use strict";
  function value(cell) {
    var given = cell.getAttribute("data-value");
    return given === null ? cell.textContent.trim() : given;
  }
  function compare(a, b) {
    var x = parseFloat(a), y = parseFloat(b), numbers = !isNaN(x) && !isNaN(y) && isFinite(a) && isFinite(b);
    return numbers ? x - y : a.localeCompare(b, undefined, {numeric: true});
  }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    table.querySelectorAll("thead th").forEach(function (head, column) {
      head.querySelector("button").addEventListener("click", function () {
        var up = head.getAttribute("aria-sort") === "descending" ||
          (head.getAttribute("aria-sort") === null && head.classList.contains("text"));
        table.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        var body = table.tBodies[0], rows = Array.prototype.slice.call(body.rows);
        rows.map(function (row, place) { return {row: row, place: place, value: value(row.cells[column])}; })
          .sort(function (a, b) {
            // What has no value stands last, whichever way.
            if (a.value === "" || b.value === "") {
              return (a.value === "") - (b.value === "") || a.place - b.place;
            }
            return (up ? 1 : -1) * compare(a.value, b.value) || a.place - b.place;
          })
          .forEach(function (each) { body.appendChild(each.row); });
      });
    });
  });
  function reveal() {
    var found = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (var each = found; each; each = each.parentElement) {
      if (each.tagName === "DETAILS") { each.open = true; }
    }
    if (found) { found.scrollIntoView({block: "center"}); }
  }
  window.addEventListener("hashchange", reveal);
  reveal();
})();
"""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what is read; it is HTML where `is_html`, else plain.
        value: what it is sorted by; None is its text.
        is_html: whether the text is HTML already.
        is_text: whether it begins at the left.
    """

    text: str
    value: float | str | None = None
    is_html: bool = False
    is_text: bool = False


def document(title: str, body: str) -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        # Without an icon of its own a browser asks for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>:root{{{_LIGHT}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def table(
    heads: Sequence[Cell],
    rows: Sequence[Sequence[Cell]],
    *,
    sortable: bool = True,
    ids: Sequence[str] = (),
    sums: bool = False,
) -> str:
    """A table that scrolls by itself where the screen is narrow.

    Args:
        heads: of the columns.
        rows: of cells, as many as there are heads.
        sortable: by a click on a head.
        ids: of the rows.
        sums: the last row is of all others together.
    """
    head = "".join(
        f"<th{_class(cell)} scope=col>{f'<button type=button>{_html(cell)}</button>' if sortable else _html(cell)}</th>"
        for cell in heads
    )
    lines = []
    for index, row in enumerate(rows):
        identity = f' id="{ids[index]}"' if ids else ""
        cells = "".join(f"<td{_class(cell)}{_value(cell)}>{_html(cell)}</td>" for cell in row)
        kind = " class=sum" if sums and index == len(rows) - 1 else ""
        lines.append(f"<tr{identity}{kind}>{cells}</tr>")
    kind = ' class="sortable"' if sortable else ""
    body = "\n".join(lines)
    return f'<div class="scroll"><table{kind}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def breakable(text: str) -> str:
    """HTML of a long name that may be broken behind its dots and underscores."""
    return re.sub(r"([._])(?=\w)", r"\1<wbr>", html.escape(text))


def figure(element: str, caption: str) -> str:
    """An SVG element with its caption.

    Args:
        element: SVG.
        caption: plain text.
    """
    return f'<figure><div class="scroll">{element}</div><figcaption>{html.escape(caption)}</figcaption></figure>'


def beside(figures: Sequence[str]) -> str:
    """Figures beside each other where there is room, below each other where there is none.

    Args:
        figures: HTML of each, empty for one that is not there.
    """
    shown = "".join(figures)
    return f'<div class="side">{shown}</div>' if shown else ""


def write(path: Path, text: str) -> Path:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(path)


def _class(cell: Cell) -> str:
    return " class=text" if cell.is_text else ""


def _value(cell: Cell) -> str:
    return "" if cell.value is None else f' data-value="{html.escape(str(cell.value))}"'


def _html(cell: Cell) -> str:
    return cell.text if cell.is_html else html.escape(cell.text)
