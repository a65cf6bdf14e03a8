"""The docs say what the code does: papers, pages, links, stages, commands, recipes."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
SOURCES = sorted((REPOSITORY / "tastemaker").rglob("*.py"))
PAGES = sorted(DOCS.glob("*.md"))

_NAME = r"[A-Z][A-Za-zÀ-ž'-]+"
_YEAR = r"(?:19|20)\d\d\b"
# A single name and a year are a citation only where a title follows: `CIE 1976` is none.
CITATION = re.compile(
    rf"({_NAME} et al\.|{_NAME} (?:and|&) {_NAME}|{_NAME}(?= {_YEAR}(?:, \"|$))) ({_YEAR})"
)
ARXIV = re.compile(r"\b(\d{4}\.\d{4,5})\b")


def _citations(text: str) -> set[str]:
    """Papers as they are cited in prose: `Ho et al. 2020`, `Tan and Le 2019`, `Wilson 1927`."""
    flat = re.sub(r"[\s#]+", " ", text)
    return {f"{names.replace('&', 'and')} {year}" for names, year in CITATION.findall(flat)}


def _listed() -> set[str]:
    rows = re.findall(r"^\| (.*?) \|", (DOCS / "papers.md").read_text(), re.MULTILINE)
    return {row for row in rows if CITATION.fullmatch(row)}


def test_citations_are_recognised() -> None:
    text = """(Ho et al. 2020, eq. 4), Tan & Le 2019; in Clopper and
    # Pearson 1934; Student 1908, "The probable error". In 2021, or CIE 1976."""
    known = {"Ho et al. 2020", "Tan and Le 2019", "Clopper and Pearson 1934", "Student 1908"}
    assert _citations(text) == known


def test_every_paper_cited_in_code_is_listed() -> None:
    listed = _listed()
    unlisted = {
        f"{path.relative_to(REPOSITORY)}: {citation}"
        for path in SOURCES
        for citation in _citations(path.read_text()) - listed
    }
    assert unlisted == set()


def test_every_listed_paper_is_cited_in_code() -> None:
    cited = set().union(*(_citations(path.read_text()) for path in SOURCES))
    assert _listed() - cited == set()


def test_arxiv_numbers_of_the_code_are_those_of_the_list() -> None:
    listed = set(ARXIV.findall((DOCS / "papers.md").read_text()))
    for path in SOURCES:
        numbers = set(re.findall(r"arXiv:(\d{4}\.\d{4,5})", path.read_text()))
        assert numbers <= listed, path.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_in_the_navigation_and_have_one_title(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    assert re.search(rf": {re.escape(page.name)}$", (REPOSITORY / "mkdocs.yml").read_text(), re.M)


def _anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"[\s-]+", "-", title) for title in plain}


MARKDOWN = [*PAGES, *sorted(REPOSITORY.glob("*.md"))]


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    """Also for README and its like, which the docs builder does not see."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        no_anchor = (
            anchor and path.suffix == ".md" and path.exists() and anchor not in _anchors(path)
        )
        if not path.exists() or no_anchor:
            broken.append(target)
    assert broken == []


def test_contributing_names_files_that_are_there() -> None:
    named = re.findall(
        r"`((?:tastemaker|tests|docs)/[\w/.-]+)`", (REPOSITORY / "CONTRIBUTING.md").read_text()
    )
    assert len(named) >= 3
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_every_package_has_its_row_in_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    packages = [
        p.name for p in (REPOSITORY / "tastemaker").iterdir() if p.is_dir() and p.name[0] != "_"
    ]
    assert [
        name
        for name in packages
        if f"`tastemaker/{name}`" not in readme and f"`{name}`" not in readme
    ] == []
