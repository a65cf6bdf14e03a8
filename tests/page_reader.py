"""A page as a browser would take it apart."""

from html.parser import HTMLParser


class Loads(HTMLParser):
    """Everything that a browser would fetch, the ids, and whether elements are closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "path", "use", "rect", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        assert not [name for name in values if name.startswith("on")]
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        self.images += tag == "img"
        if "src" in values:
            self.loads.append(values["src"])
        if "href" in values:
            (self.links if tag == "a" else self.loads).append(values["href"])
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parsed(page: str) -> Loads:
    """What a page loads; fails where its markup is broken or could run something."""
    found = Loads()
    found.feed(page)
    assert found.open == []
    return found
