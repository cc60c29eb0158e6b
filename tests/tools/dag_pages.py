"""The example Dags in their pages, whole, so that they can be read on the forge too: ``make pages`` writes them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SHOWN = re.compile(r"<!-- (dags/\w+\.py), written by make pages -->\n.*?<!-- to here -->\n", re.DOTALL)


def main() -> None:
    """Write each Dag between the markers that name its file."""
    for page in pages():
        page.write_text(with_dags(page.read_text()))


def pages() -> list[Path]:
    """Return the pages that show a Dag."""
    return [page for page in sorted((ROOT / "docs").glob("*.md")) if _SHOWN.search(page.read_text())]


def with_dags(page: str) -> str:
    """Return the text of a page with the Dags as they are now.

    :param page: the text of the page.
    """

    def shown(match: re.Match[str]) -> str:
        dag = (ROOT / match[1]).read_text()
        return f"<!-- {match[1]}, written by make pages -->\n\n```python\n{dag}```\n\n<!-- to here -->\n"

    return _SHOWN.sub(shown, page)


if __name__ == "__main__":
    main()
