"""The pages as a website: plain HTML and one style sheet, without a script and without the network."""

from __future__ import annotations

import html
import os
import re
import shutil
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from docs.pages import ROOT, Page, markdown

HOME = Path("docs/index.md")
_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Catchment</title>
<link rel="stylesheet" href="{up}style.css">
</head>
<body>
<nav><a class="home" href="{up}index.html">Catchment</a>
{navigation}
</nav>
<main>
{body}
</main>
</body>
</html>
"""


def build(pages: Sequence[Page], target: Path) -> int:
    """Write the site into an empty `target`; how many pages it has."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "style.css", target / "style.css")
    places = {page.path: _place(page.path) for page in pages}
    order = _order(pages)
    for page in pages:
        file = target / places[page.path]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_render(page, places, order, target), encoding="utf-8")
    return len(pages)


def _place(path: Path) -> Path:
    """Where a page's HTML is: docs/ is the site's root, and the pages of the repository's root stand beside it."""
    inner = path.relative_to("docs") if path.parts[0] == "docs" else Path(path.name.lower())
    return inner.with_suffix(".html")


def _order(pages: Sequence[Page]) -> list[Page]:
    """The pages as the index names them."""
    by_path = {page.path: page for page in pages}
    home = by_path[HOME]
    named = [Path(os.path.normpath(HOME.parent / link.target.partition("#")[0])) for link in home.links]
    return [by_path[path] for path in dict.fromkeys(named) if path in by_path and "adr" not in path.parts]


def _render(page: Page, places: dict[Path, Path], order: Sequence[Page], target: Path) -> str:
    here = places[page.path].parent
    up = "../" * len(here.parts)
    tokens = deepcopy(page.tokens)  # the page's own links stay as they are written
    for token in tokens:
        for child in token.children or ():
            for attribute in ("href", "src"):
                link = child.attrGet(attribute)
                if link is not None:
                    child.attrSet(attribute, _link(str(link), page, places, here, target))
    renderer = markdown()
    body = renderer.renderer.render(tokens, renderer.options, {})
    entries = []
    for one in order:
        current = ' aria-current="page"' if one is page else ""
        entries.append(
            f'<a href="{os.path.relpath(places[one.path], here or ".")}"{current}>{html.escape(_label(one))}</a>'
        )
    navigation = "\n".join(entries)
    body = re.sub(r'<pre><code class="language-mermaid">', '<pre class="diagram"><code>', body)
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    return _TEMPLATE.format(title=html.escape(page.title), up=up, navigation=navigation, body=body)


def _label(page: Page) -> str:
    """What the navigation calls a page: its title, except for the README, whose title is the project's name."""
    return "README" if page.path.name == "README.md" else page.title


def _link(link: str, page: Page, places: dict[Path, Path], here: Path, target: Path) -> str:
    """A link as the site has it: pages by their HTML, other files of the repository copied beside them."""
    name, hash_, anchor = link.partition("#")
    if re.match(r"[a-z]+:", link) or not name:
        return link
    path = Path(os.path.normpath(page.path.parent / name))
    place = places.get(path)
    if place is None:
        place = Path("files") / path
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target / place)
    return os.path.relpath(place, here or ".") + hash_ + anchor
