"""Self-contained HTML pages, rendered from the Jinja2 templates in ``templates/``.

A page is one file: it opens from the disk, makes no request, and is readable in light, in dark and on a phone.

``base.html``     the frame: a page extends it, sets ``sections`` and fills a block for each
``macros.html``   figure, side, tiles, table, number, text, details, list
``page.css``, ``page.js``  included into every page

A small page, ``templates/example.html``::

    {% extends "base.html" %}
    {% import "macros.html" as ui %}
    {% set sections = [("returns", "Returns")] %}
    {% block summary %}{{ ui.tiles([(n_episodes, "episodes")]) }}{% endblock %}
    {% block returns %}
      {{ ui.figure(figures.returns, "Returns of the episodes.") }}
      {% call ui.table(["name", "mean"], left=["name"]) %}
        {% for name, mean in rows %}<tr>{{ ui.text(name) }}{{ ui.number("%.1f" % mean, mean) }}</tr>{% endfor %}
      {% endcall %}
    {% endblock %}

is rendered by ``render("example.html", title="...", figures={"returns": svg}, n_episodes=3, rows=[...])``, where
``svg`` is what :func:`cql.results.figures.svg` returns. All text is escaped; a missing variable is an error. Filters
beyond Jinja2's own: ``themed`` (an SVG element in the page's colours), ``breakable`` (a long name that may break after
its dots and underscores), ``code`` (text whose words between backticks are code).
"""

from __future__ import annotations

import functools
import re
from typing import Any

import jinja2
from markupsafe import Markup, escape

from cql.commands import printable
from cql.training.curves import GRID, INK, PALE, PAPER, SERIES

COLOURS = {INK: "--ink", PALE: "--pale", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--c{index}" for index, colour in enumerate(SERIES)
}
"""The colours of the figures, and the properties of ``page.css`` that replace them in a page."""


def render(template: str, **context: Any) -> str:
    """Render a page.

    Args:
        template: name of a file in ``templates/`` that extends ``base.html``.
        context: the template's variables; ``title`` is needed by all.

    Raises:
        jinja2.UndefinedError: the template uses a variable that is not given.
    """
    return _environment().get_template(template).render(**context) + "\n"


def themed(svg: str, label: str) -> Markup:
    """An SVG element for a page: in the page's colours, no wider than it was drawn, and read aloud as ``label``."""
    for colour, name in COLOURS.items():
        svg = svg.replace(colour, f"var({name})")
    used = set(re.findall(r"(?:#|url\(#)([\w.-]+)", svg))
    # Several figures of one page would share ids.
    svg = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # A link within the page opens no other one.
    svg = re.sub(r'(<a xlink:href="#[^"]*") target="_blank"', r"\1", svg)
    width = re.search(r'width="([\d.]+)pt"', svg)
    svg = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    style = ""
    if width:
        pixels = float(width[1]) * 4 / 3
        # On a narrow screen it shrinks while its texts are readable, and scrolls beyond that.
        style = f'style="max-width:{pixels:.0f}px;min-width:{0.6 * pixels:.0f}px" '
    opening = f'<svg {style}role="img" aria-label="{escape(label)}"'
    return Markup(re.sub(r'<svg([^>]*?) width="[\d.]+pt"', lambda found: opening + found[1], svg, count=1))


def breakable(text: str) -> Markup:
    """A long name that may break after its dots and underscores."""
    return Markup(re.sub(r"([._])(?=\w)", r"\1<wbr>", str(escape(text))))


def code(text: str) -> Markup:
    """Text whose words between backticks are code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _units(text: str) -> str:
    """Keep numbers on one line with their units."""
    return text.replace(" %", "\u00a0%").replace("± ", "±\u00a0")


def _shown(value: object) -> object:
    """What a page shows of a value; Jinja escapes its markup afterwards."""
    if isinstance(value, Markup):
        return Markup(printable(str(value)))
    return printable(value) if isinstance(value, str) else value


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cql.results"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"themed": themed, "breakable": breakable, "code": code, "units": _units}
    return environment
