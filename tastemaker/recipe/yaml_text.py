"""YAML 1.2 text to plain values, with the line of every key; strict where YAML is treacherous.

PyYAML speaks YAML 1.1, where `1e-6` is text, `no` is false and `12:30` is 750. Here the core schema
of YAML 1.2 is used (yaml.org/spec/1.2.2, section 10.3.2); doubled keys, tags and anchors are
errors.
"""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from tastemaker.errors import RecipeError

Path = tuple[str | int, ...]

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,99}|0o[0-7]{1,99}|0x[0-9a-fA-F]{1,99}")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_PATTERNS = (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT))


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        # Lists are indented below their key, as people write them.
        return super().increase_indent(flow, False)


for _name, _pattern in _PATTERNS:
    _whole = re.compile(f"^(?:{_pattern.pattern})$")
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _whole, None)


@dataclass(frozen=True)
class YamlText:
    """A parsed text.

    Attributes:
        value: plain dicts, lists, strings, numbers, booleans and None.
        lines: path of a key or item -> line in the text, from 1.
        name: what the text is called in messages.
    """

    value: Any
    lines: dict[Path, int]
    name: str

    def where(self, path: Path) -> str:
        """The nearest place in the text to a path: `demo.yaml line 12`."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return f"{self.name} line {self.lines[path[:length]]}"
        return self.name


def parse_yaml(text: str, name: str) -> YamlText:
    """Parse one document.

    Raises:
        RecipeError: not YAML, a doubled key, a tag, an anchor or a key that is no text.
    """
    try:
        _refuse_specials(text, name)
        node = yaml.compose(text, Loader=_Loader)
        lines: dict[Path, int] = {}
        value = None if node is None else _plain(node, (), lines, name)
    except yaml.YAMLError as error:
        raise _syntax_error(error, name) from error
    except RecursionError:
        raise RecipeError(name, "endless nesting", "a recipe", "Remove brackets.") from None
    return YamlText(value, lines, name)


def parse_value(text: str, name: str) -> Any:
    """One value as it stands on a command line: `1e-5` is a number, `[a, b]` a list.

    Raises:
        RecipeError: not YAML.
    """
    return parse_yaml(text, name).value


def dump_yaml(value: Any) -> str:
    """Text that `parse_yaml` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=96)


def _refuse_specials(text: str, name: str) -> None:
    for token in yaml.scan(text):
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken):
            raise RecipeError(
                f"{name} line {token.start_mark.line + 1}",
                "an anchor, alias or tag (&, *, !)",
                "plain values",
                "Write the value out, or put it in quotes.",
            )


def _plain(node: yaml.Node, path: Path, lines: dict[Path, int], name: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, lines, name)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, i), lines, name) for i, item in enumerate(node.value)]
    return _scalar(node)


def _mapping(node: yaml.MappingNode, path: Path, lines: dict[Path, int], name: str) -> Any:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(
                f"{name} line {line}", "a key of its own kind", "a name", "Rename it."
            )
        if key in mapping:
            raise RecipeError(
                f"{name} line {line}",
                f"the key '{key}' a second time",
                f"one (the first is on line {lines[*path, key]})",
                "Delete one of the two.",
            )
        lines[*path, key] = line
        mapping[key] = _plain(value_node, (*path, key), lines, name)
    return mapping


def _scalar(node: yaml.Node) -> Any:
    text: str = node.value
    kind = node.tag.rsplit(":", 1)[1]
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if kind == "float":
        # YAML writes `.inf` and `.nan`; Python reads them without the dot.
        return float(re.sub(r"\.(?=[inIN])", "", text))
    return text


def _syntax_error(error: yaml.YAMLError, name: str) -> RecipeError:
    mark = getattr(error, "problem_mark", None)
    where = name if mark is None else f"{name} line {mark.line + 1} column {mark.column + 1}"
    problem = getattr(error, "problem", None) or str(error)
    return RecipeError(where, problem, "YAML 1.2", "Check quotes, colons and indentation.")
