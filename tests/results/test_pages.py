"""Pages from templates: what is escaped, left out and included."""

import re

import jinja2
import pytest

from cql.results import pages
from cql.training.curves import SERIES

PAGE = """\
{% extends "base.html" %}
{% import "macros.html" as ui %}
{% set sections = [("first", "The first"), ("second", "The second")] %}
{% block summary %}{{ ui.tiles([(1, "<i>one</i>")]) }}{% endblock %}
{% block first %}
{{ ui.figure(svg, "A <caption>.") }}
{% call ui.table(["name", "mean"], left=["name"]) %}
{% for name, mean in rows %}<tr>{{ ui.text(name) }}{{ ui.number("%.1f %%" % mean, mean) }}</tr>{% endfor %}
{% endcall %}
{% endblock %}
{% block second %}{% if more %}more{% endif %}{% endblock %}
"""
SVG = '<svg width="72pt" height="36pt" viewBox="0 0 72 36"><path id="a" style="fill: #222222"/></svg>'


@pytest.fixture
def shown(monkeypatch):
    environment = pages._environment().overlay()
    environment.loader = jinja2.ChoiceLoader([jinja2.DictLoader({"page.html": PAGE}), environment.loader])
    monkeypatch.setattr(pages, "_environment", lambda: environment)

    def render(**changes):
        context = {"title": "<b>t</b>", "svg": SVG, "rows": [("x & y", 2.0), ("none", float("nan"))], "more": False}
        return pages.render("page.html", **(context | changes))

    return render


def test_a_page_is_self_contained_and_escaped(shown):
    page = shown()
    assert page.startswith("<!doctype html>")
    assert "<h1>&lt;b&gt;t&lt;/b&gt;</h1>" in page
    assert '<td class="text">x &amp; y</td>' in page
    assert "&lt;i&gt;one&lt;/i&gt;" in page
    assert "<figcaption>A &lt;caption&gt;.</figcaption>" in page
    assert 'aria-label="A &lt;caption&gt;."' in page
    assert 'class="sortable"' in page
    assert "{%" not in page
    assert "prefers-color-scheme: dark" in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)


def test_numbers_keep_their_units_and_their_order(shown):
    assert '<td data-value="2.0">2.0\u00a0%</td>' in shown()
    assert '<td data-value=""></td>' in shown()


def test_an_empty_section_is_left_out_with_its_link(shown):
    assert "second" not in shown()
    page = shown(more=True)
    assert '<a href="#second">The second</a>' in page
    assert '<section id="second"><h2>The second</h2>' in page
    assert "<figure>" not in shown(svg="")


def test_a_variable_that_is_not_given_is_an_error(shown):
    with pytest.raises(jinja2.UndefinedError, match="'rows' is undefined"):
        pages.render("page.html", title="t", svg="", more=False)


def test_the_figures_colours_are_those_of_the_style_sheet(shown):
    light, _, dark = pages._environment().get_template("page.css").render().partition("@media")
    for index, colour in enumerate(SERIES):
        assert f"--c{index}: {colour};" in light
        assert f"--c{index}: " in dark
    assert "var(--ink)" in shown()


def test_long_names_break_and_backticks_are_code():
    assert pages.breakable("a.b_c<") == "a.<wbr>b_<wbr>c&lt;"
    assert pages.code("set `a<b` now") == "set <code>a&lt;b</code> now"
