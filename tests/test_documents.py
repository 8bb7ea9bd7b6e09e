"""Documentation: valid links, pages reachable from the README, and a short README."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("cases/*.md")),
    *sorted(ROOT.glob("femops/**/*.md")),
    *sorted(ROOT.glob("plugins/*.md")),
    *sorted(ROOT.glob("plugins/*/*.md")),
    *sorted(ROOT.glob("tests/benchmarks/*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link} does not exist"
        if anchor:
            assert anchor in _anchors(target), f"{link}: no such heading"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(page.read_text()))
        waiting += [(page.parent / link).resolve() for link in links if link.endswith(".md") and "://" not in link]
    assert set(PAGES) <= reached


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    assert max(map(len, lines)) <= 120


def test_every_shipped_case_is_described() -> None:
    described = (ROOT / "cases" / "README.md").read_text()
    missing = [case.stem for case in ROOT.glob("cases/*.yaml") if f"`{case.stem}`" not in described]
    assert not missing
