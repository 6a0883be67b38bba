"""docs/trouble/index.md quotes the doctor's words as the doctor says them."""

from __future__ import annotations

import re

from pages import ROOT

PAGE = (ROOT / "docs" / "trouble" / "index.md").read_text(encoding="utf-8")
DOCTOR = (ROOT / "cql" / "results" / "doctor.py").read_text(encoding="utf-8").replace('" if below else "', '", "')
LISTS = re.findall(r'^\*\*Doctor\.\*\* (".*?")\.$', PAGE, flags=re.MULTILINE | re.DOTALL)
QUOTED = [" ".join(title.split()) for each in LISTS for title in re.findall(r'"(.*?)"', each, flags=re.DOTALL)]
# The rest of a title that the doctor puts together, in its source.
MADE = {"Rewards are very large": "Rewards are very {'large' if", "Rewards are very small": "else 'small'}"}


def test_each_title_is_one_of_the_doctors():
    assert len(LISTS) == PAGE.count("**Doctor.**") > 5
    for title in QUOTED:
        assert f'"{title}"' in DOCTOR or MADE.get(title, "\n\n\n") in DOCTOR, title


def test_each_finding_that_is_wrong_has_its_symptom():
    wrong = [
        title for title in re.findall(r'(?:Finding\(\s*"wrong", |title = f?)"([^"]+)"', DOCTOR) if "{" not in title
    ]
    assert len(wrong) >= 8
    assert set(wrong) <= set(QUOTED), set(wrong) - set(QUOTED)
