"""The documentation: what a strict build of the site does not check. Links to pages and anchors it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    """Return a page without its code, in which a bracket is no link."""
    without_blocks = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "", without_blocks)


def test_every_page_is_in_the_navigation_once() -> None:
    entries = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(entries) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_images_exist_and_links_stay_within_the_site(page: Path) -> None:
    text = text_of(page)
    missing = [image for image in IMAGE.findall(text) if not (page.parent / image).is_file()]
    assert not missing
    assert not [link for link in LINK.findall(text) if link.startswith(("/", "../"))]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_from_the_top_of_the_repository_lead_to_files(page: Path) -> None:
    links = [link for link in LINK.findall(text_of(page)) if "://" not in link and not link.startswith("#")]
    assert links
    assert not [link for link in links if not (ROOT / link.partition("#")[0]).exists()]


@pytest.mark.parametrize("image", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda image: image.name)
def test_drawing_has_a_title_and_loads_nothing(image: Path) -> None:
    text = image.read_text()
    assert "<title>" in text
    assert not re.search(r"""(?:href|src)=["']?(?!#)|@import|url\((?!#)""", text)
