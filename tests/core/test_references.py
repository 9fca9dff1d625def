"""docs/references.md: every plugin that has a paper is on it, and its papers and figures stand elsewhere, too."""

import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from detpress.contract.registry import load_plugin

DOCS = Path(__file__).parents[2] / "docs"
ARXIV = r"arXiv:\d{4}\.\d{4,5}"


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "references.md").read_text()


@pytest.fixture(scope="module")
def cards() -> dict[str, str]:
    """Of the built-in plugins that can run and cite a paper."""
    names = [entry.name for entry in entry_points(group="detpress.plugins") if entry.dist.name == "detpress"]
    plugins = {name: load_plugin(name) for name in names}
    found = {name: type(one).__doc__ or "" for name, one in plugins.items() if one.unavailable is None}
    venue = r"(CVPR|ICCV|ECCV|ICML|ICLR|NeurIPS) \d{4}"
    return {name: card for name, card in found.items() if re.search(f"{ARXIV}|{venue}", card)}


def test_every_plugin_with_a_paper_is_on_the_page(page: str, cards: dict[str, str]) -> None:
    assert [name for name in cards if f"`{name}`" not in page] == []


def test_a_plugins_paper_is_one_that_its_card_cites(page: str, cards: dict[str, str]) -> None:
    for line in page.splitlines():
        cited = re.findall(ARXIV, line)
        named = [name for name in cards if f"`{name}`" in line]
        for paper in cited if named else ():
            assert any(paper in cards[name] for name in named), line


def test_recipes_are_there_and_figures_stand_on_the_pages_that_they_link_to(page: str) -> None:
    recipes = {file.stem for file in DOCS.parent.glob("recipes/*/*.yaml")}
    for line in page.splitlines():
        if line.startswith("| ") and (cells := line.strip("| ").split(" | ")) and len(cells) == 4:
            for recipe in re.findall(r"`([a-z0-9_-]+)`", cells[2]):
                assert recipe in recipes
            for link in re.findall(r"\]\((\w+\.md)\)", cells[3]):
                numbers = re.findall(r"\d\.\d{4}|\d{1,3}(?:,\d{3})+|\d\.\d\d(?= ms)", cells[3])
                assert all(number in (DOCS / link).read_text() for number in numbers), line
