"""What the build of the site adds to MkDocs: generated pages, files of the repository, and mathematics.

- Pages of the reference that are generated from the code (:mod:`config_reference`, :mod:`command_reference`).
- A link from a page to a file of the repository outside ``docs/`` becomes a link to a copy of it in the site: text and
  code as a page, pictures and HTML as they are. A link to a file that does not exist is a warning, which ends the
  strict build.
- Formulas are translated to MathML, which browsers draw themselves, with a font that the site brings along: the pages
  load nothing from other hosts.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import ziamath
from latex2mathml.converter import convert
from mkdocs.structure.files import File, InclusionLevel

if TYPE_CHECKING:
    from collections.abc import Callable

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]

LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^([ \t]*)(```+|~~~+).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):<code>(~?[\w.]+)</code>")
SHOWN = {  # files that are shown as a page, and the language that they are highlighted as
    ".py": "python", ".yaml": "yaml", ".toml": "toml", ".txt": "text", ".log": "text", ".sh": "bash", ".json": "json",
    ".tex": "latex", "": "text",
}  # fmt: skip
PLACE = "repository"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and the files of the repository that pages link to."""
    sys.path.insert(0, str(Path(__file__).parent))  # MkDocs takes it away after loading this file
    import command_reference
    import config_reference

    generated = {
        "reference/config.md": config_reference.keys_page,
        "reference/presets.md": config_reference.files_page,
        "reference/commands.md": command_reference.page,
    }
    for name, content in generated.items():
        files.append(File.generated(config, name, content=content()))
    font = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    files.append(File.generated(config, f"site/{font.name}", abs_src_path=str(font)))
    waiting = [(file.src_uri, file.content_string) for file in files if file.src_uri.endswith(".md")]
    while waiting:
        page, text = waiting.pop()
        for target in _outward(page, text, config):
            uri = _uri(target)
            if files.get_file_from_path(uri) is not None:
                continue
            added = _added(target, uri, config)
            files.append(added)
            if target.is_dir() or target.suffix == ".md":
                waiting.append((uri, added.content_string))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Let links to files of the repository lead to their copies in the site."""
    here = PurePosixPath(page.file.src_uri).parent

    def replace(match: re.Match[str]) -> str:
        target = _target(page.file.src_uri, match[2], config)
        if target is None or not target.exists():
            return match[0]
        return f"{match[1]}{os.path.relpath(_uri(target), here)}{match[3] or ''}{match[4]}"

    return _outside_code(markdown, lambda text: LINK.sub(replace, text))


def on_page_content(content: str, **_: object) -> str:
    """Translate formulas to MathML, and roles of docstrings to links."""

    def formula(match: re.Match[str]) -> str:
        latex = html.unescape(match[2]).strip()
        inner = latex[2:-2]
        return convert(inner, display="block" if latex.startswith(r"\[") else "inline")

    content = re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', formula, content, flags=re.DOTALL)
    return _without_roles(content)


def _without_roles(content: str) -> str:
    """The roles of docstrings, such as ``:func:`name```, as links to what they name, or as its name alone."""
    there = re.findall(r'id="(cql\.[\w.]+)"', content)

    def named(match: re.Match[str]) -> str:
        path = match[1].lstrip("~")
        shown = path.rpartition(".")[2] if match[1].startswith("~") else path
        found = [each for each in there if each == path or each.endswith(f".{path}")]
        if len(found) == 1:
            return f'<a href="#{found[0]}"><code>{shown}</code></a>'
        if path.startswith("cql."):
            return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'
        return f"<code>{shown}</code>"

    return ROLE.sub(named, content)


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """``markdown`` with ``change`` applied to all that is no code."""
    parts, end = [], 0
    for match in FENCE.finditer(markdown):
        parts += [change(markdown[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, change(markdown[end:])])


def _root_of(page: str, config: MkDocsConfig) -> Path:
    """The folder of a page's source in the repository."""
    if page.startswith(f"{PLACE}/"):
        return (ROOT / page.removeprefix(f"{PLACE}/")).parent
    return (Path(config.docs_dir) / page).parent


def _target(page: str, link: str, config: MkDocsConfig) -> Path | None:
    """The file of the repository that a link of a page leads to, None if it is in ``docs/`` or elsewhere."""
    if re.match(r"[a-z]+:|/", link):
        return None
    target = Path(os.path.normpath(_root_of(page, config) / link))
    if target.is_relative_to(config.docs_dir) and not page.startswith(f"{PLACE}/"):
        return None
    return target


def _outward(page: str, text: str, config: MkDocsConfig) -> list[Path]:
    links = [match[2] for match in LINK.finditer(FENCE.sub("", text))]
    targets = [target for link in links if (target := _target(page, link, config)) is not None]
    return [target for target in targets if target.exists() and not target.is_relative_to(config.docs_dir)]


def _uri(target: Path) -> str:
    """Where the copy of a file of the repository stands in the site."""
    if target.is_relative_to(ROOT / "docs"):
        return str(target.relative_to(ROOT / "docs"))
    uri = f"{PLACE}/{target.relative_to(ROOT).as_posix()}"
    if target.is_dir():
        return f"{uri}/about.md" if (target / "README.md").exists() else f"{uri}/files.md"
    if target.name == "README.md":  # its page would be the folder's index.html, which a report may be
        return str(PurePosixPath(uri).with_name("about.md"))
    return uri if target.suffix not in SHOWN else f"{uri}.md"


def _added(target: Path, uri: str, config: MkDocsConfig) -> File:
    """The copy of a file of the repository, or a list of a folder's files."""
    name = target.relative_to(ROOT).as_posix()
    if target.is_dir() and uri.endswith("files.md"):
        tracked = subprocess.run(["git", "ls-files", name], cwd=ROOT, capture_output=True, text=True).stdout.split()
        listed = "\n".join(f"- [{file}]({os.path.relpath(ROOT / file, target)})" for file in tracked)
        content = f"# {name}/\n\n{listed}\n"
    elif target.is_dir() or target.suffix == ".md":
        content = (target / "README.md" if target.is_dir() else target).read_text(encoding="utf-8")
    elif target.suffix in SHOWN:
        text = target.read_text(encoding="utf-8").rstrip("\n")
        content = f'# {target.name}\n\n`````{SHOWN[target.suffix]} title="{name}"\n{text}\n`````\n'
    else:
        return File.generated(config, uri, abs_src_path=str(target))
    hidden = "---\nsearch:\n  exclude: true\n---\n\n"  # the search is for pages that explain
    return File.generated(config, uri, content=hidden + content, inclusion=InclusionLevel.NOT_IN_NAV)
