"""Tables as text, Markdown, LaTeX and CSV: what is written, letter by letter, and what is escaped."""

import csv
import io

import pytest

from cql.results.writers import (
    Bold,
    csv_text,
    escape_latex,
    escape_markdown,
    latex_table,
    markdown_table,
    text_table,
)

HEADER = ("task", "ours, last of all", "x_1")
ROWS = [("a|b", "-1.5 ± 0.25[a]", Bold("50 %")), ("[c] d", "7 / 12.0[ab]", "-")]
FOOTER = [("mean", "3.0", "-0.5")]


def test_text_is_aligned_also_where_a_plus_minus_takes_two_letters():
    assert text_table(HEADER, ROWS, FOOTER) == (
        "task   ours, last of all   x_1\n"
        "------------------------------\n"
        "a|b      -1.5 +- 0.25[a]  50 %\n"
        "[c] d       7 / 12.0[ab]     -\n"
        "------------------------------\n"
        "mean                 3.0  -0.5\n"
    )
    assert text_table(("a", "long"), [("x", "1 ± 2"), ("y", "10 ± 20")]).splitlines()[2:] == [
        "x    1 +- 2",
        "y  10 +- 20",
    ]
    assert text_table(("a", "b"), []) == "a  b\n----\n"


def test_markdown_escapes_cells_and_has_a_bold_footer():
    assert markdown_table(HEADER, ROWS, FOOTER) == (
        "| task | ours, last of all | x\\_1 |\n"
        "|---|---:|---:|\n"
        "| a\\|b | -1.5 ± 0.25<sup>a</sup> | **50 %** |\n"
        "| <sup>c</sup> d | 7 / 12.0<sup>ab</sup> | - |\n"
        "| **mean** | **3.0** | **-0.5** |\n"
    )


def test_latex_escapes_cells_and_breaks_long_headings():
    assert latex_table(HEADER, ROWS, FOOTER, caption="50 % of all", label="tab:a_b-1") == (
        "\\begin{table}[htbp]\n"
        "  \\centering\n"
        "  \\caption{50 \\% of all}\n"
        "  \\label{tab:a_b-1}\n"
        "  \\footnotesize\n"
        "  \\setlength{\\tabcolsep}{4pt}\n"
        "  \\begin{tabular}{@{}lrr@{}}\n"
        "    \\toprule\n"
        "    task & \\shortstack[r]{ours, last \\\\ of all} & x\\_1 \\\\\n"
        "    \\midrule\n"
        "    a$|$b & $-$1.5 $\\pm$ 0.25\\textsuperscript{a} & \\textbf{50 \\%} \\\\\n"
        "    {}\\textsuperscript{c} d & 7 / 12.0\\textsuperscript{ab} & - \\\\\n"
        "    \\midrule\n"
        "    mean & 3.0 & $-$0.5 \\\\\n"
        "    \\bottomrule\n"
        "  \\end{tabular}\n"
        "\\end{table}\n"
    )
    wide = latex_table([str(i) for i in range(7)], [], caption="c")
    assert r"\scriptsize" in wide
    assert r"\label" not in wide
    assert wide.count(r"\midrule") == 1


@pytest.mark.parametrize(
    ("text", "latex", "markdown"),
    [
        ("$ & # % _", r"\$ \& \# \% \_", r"$ \& # % \_"),
        ("a\x1b[31m\r", r"a\textbackslash{}x1b[31m\textbackslash{}r", r"a\\x1b[31m"),
        ("{a}", r"\{a\}", "{a}"),
        ("~ ^", r"\textasciitilde{} \textasciicircum{}", "~ ^"),
        ("a\\b", r"a\textbackslash{}b", r"a\\b"),
        ("a < b > c | d", "a $<$ b $>$ c $|$ d", r"a \< b \> c \| d"),
        ('"so"', "''so''", '"so"'),
        ("[x] y", "{}[x] y", "[x] y"),
        ("*a* `b`", "*a* `b`", r"\*a\* \`b\`"),
        ("two\nlines", "two lines", "two lines"),
        ("a-b -5", "a-b -5", "a-b -5"),
        ("", "", ""),
    ],
)
def test_markup_is_escaped(text, latex, markdown):
    assert (escape_latex(text), escape_markdown(text)) == (latex, markdown)


def test_a_minus_is_one_and_a_hyphen_is_one():
    (row,) = [line for line in latex_table(["x"], [["medium-v2 -2 to -1.5, tau=-3, 1.-2"]], caption="").splitlines()
              if "medium" in line]  # fmt: skip
    assert row == r"    medium-v2 $-$2 to $-$1.5, tau=$-$3, 1.-2 \\"


def test_csv_has_all_columns_in_their_order_and_all_digits():
    rows = [{"arm": 'a "b", c', "score": 1 / 3, "n": None}, {"arm": "two\nlines", "more": 1e-300}]
    text = csv_text(rows)
    assert text.startswith('arm,score,n,more\n"a ""b"", c",0.3333333333333333,,\n')
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"arm": 'a "b", c', "score": "0.3333333333333333", "n": "", "more": ""},
        {"arm": "two\nlines", "score": "", "n": "", "more": "1e-300"},
    ]
    assert csv_text([{"b": 2, "a": 1}], ["a", "b"]) == "a,b\n1,2\n"
    assert csv_text([], ["a"]) == "a\n"
    with pytest.raises(ValueError, match="'c'"):
        csv_text([{"c": 1}], ["a", "b"])
