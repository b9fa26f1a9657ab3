"""`python -m docs`: renews or checks what is made from the code, checks every page, and builds site/."""

from __future__ import annotations

import argparse
import sys

from docs.checks import problems
from docs.pages import ROOT, load
from docs.reference import renewed
from docs.site import build


def main() -> int:
    """Exit code 1 when something is wrong with a page; the site is built only when nothing is."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew the tables that are made from the code")
    arguments = parser.parse_args()
    if arguments.write:
        for page in load():
            text = renewed(page)
            if text != page.text:
                (ROOT / page.path).write_text(text, encoding="utf-8")
                print(f"renewed {page.path}", file=sys.stderr)
    pages = load()
    found = problems(pages)
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        print(f"{len(found)} problems; the site was not built.", file=sys.stderr)
        return 1
    print(f"{build(pages, ROOT / 'site')} pages in {ROOT.name}/site; begin at site/index.html.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
