"""The prompt benchmarks of the field, read from the files that their projects publish.

None is shipped: the user names the file or folder. Each is checked against what is known of it
(counts, categories), because a benchmark that lost prompts still gives a figure, and a wrong one.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tastemaker.errors import InputError
from tastemaker.records.generation import Prompt

_STYLES = ("anime", "concept-art", "paintings", "photo")
_CATEGORIES = (
    "color", "shape", "texture", "spatial", "3d_spatial", "non_spatial", "numeracy", "complex",
)  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: how to read it, and what it must hold.

    Attributes:
        name: in recipes, in seeds and in file names.
        about: one sentence.
        source: the repository that publishes it, and the path of the file there.
        licence: of the prompts, as that repository states it.
        group: name of the attribute whose values `counts` are about.
        counts: value -> prompts with it; their sum is the size of the whole.
        images: pictures a prompt that the benchmark's own script expects.
        read: path -> prompts in the published order.
    """

    name: str
    about: str
    source: str
    licence: str
    group: str
    counts: Mapping[str, int]
    images: int
    read: Callable[[Path], list[Prompt]]

    @property
    def size(self) -> int:
        """How many prompts it has."""
        return sum(self.counts.values())


def read_benchmark(name: str, path: Path | str) -> list[Prompt]:
    """The prompts of a benchmark, in the published order, all of them.

    Args:
        name: in `BENCHMARKS`.
        path: the published file, or the folder with its files.

    Raises:
        InputError: no such benchmark or file, a file of another form, or counts that are not those
            of the benchmark.
    """
    if name not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise InputError("benchmark", repr(name), f"one of {known}", "Choose one of these.")
    benchmark, path = BENCHMARKS[name], Path(path)
    if not path.exists():
        todo = f"Get {benchmark.source}, or correct the path."
        raise InputError(path, "nothing there", f"the prompts of {name}", todo)
    try:
        prompts = benchmark.read(path)
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        got = f"no file of this benchmark ({type(error).__name__}: {error})"
        raise InputError(path, got, benchmark.source, "Give the file as published.") from error
    _refuse_other_counts(benchmark, prompts, path)
    return prompts


def _refuse_other_counts(benchmark: Benchmark, prompts: Sequence[Prompt], path: Path) -> None:
    found = Counter(prompt.attribute(benchmark.group) or "" for prompt in prompts)
    counts = benchmark.counts
    odd = [
        f"{value or 'no ' + benchmark.group}: {found[value]} instead of {counts.get(value, 0)}"
        for value in sorted(found.keys() | counts.keys())
        if found[value] != counts.get(value, 0)
    ]
    if odd:
        raise InputError(
            path,
            f"{len(prompts)} prompts ({'; '.join(odd[:4])})",
            f"the {benchmark.size} prompts of {benchmark.name}",
            "Get the whole benchmark; for some of its prompts set `limit` instead.",
        )


def _parti(path: Path) -> list[Prompt]:
    # Quotes are text there: 22 prompts hold one.
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Prompt(
            f"{number:05d}",
            row["Prompt"].strip(),
            (
                ("category", row["Category"]),
                ("challenge", row["Challenge"]),
                ("note", (row["Note"] or "").strip()),
            ),
        )
        for number, row in enumerate(rows)
    ]


def _hps(path: Path) -> list[Prompt]:
    """Four files beside each other, each a JSON list of 800 texts, named `anime.json` and so on."""
    prompts = []
    for style in _STYLES:
        file = path / f"{style}.json"
        if not file.is_file():
            raise ValueError(f"no {style}.json; the folder needs {', '.join(_STYLES)}")
        for number, text in enumerate(json.loads(file.read_text("utf-8"))):
            prompts.append(Prompt(f"{style}-{number:05d}", text.strip(), (("style", style),)))
    return prompts


def _drawbench(path: Path) -> list[Prompt]:
    """A JSON list of texts, or the spreadsheet's CSV with the columns Prompts and Category."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [(row["Prompts"], row.get("Category", "")) for row in csv.DictReader(file)]
    else:
        rows = [(text, "") for text in json.loads(path.read_text("utf-8"))]
    return [
        Prompt(f"{n:05d}", text.strip(), (("set", "drawbench"), ("category", category)))
        for n, (text, category) in enumerate(rows)
    ]


def _geneval(path: Path) -> list[Prompt]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    prompts = []
    for number, line in enumerate(lines):
        row = json.loads(line)
        # The line as published: the benchmark's detector reads what must be in the picture.
        facts = (("tag", row["tag"]), ("metadata", line.strip()))
        prompts.append(Prompt(f"{number:05d}", row["prompt"].strip(), facts))
    return prompts


def _compbench(path: Path) -> list[Prompt]:
    """A folder with `color_val.txt` and so on, one prompt a line."""
    prompts = []
    for category in _CATEGORIES:
        file = path / f"{category}_val.txt"
        if not file.is_file():
            raise ValueError(f"no {file.name}; the folder needs one for each category")
        texts = [t.strip() for t in file.read_text("utf-8").splitlines() if t.strip()]
        for number, text in enumerate(texts):
            prompts.append(Prompt(f"{category}-{number:05d}", text, (("category", category),)))
    return prompts


BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        one.name: one
        for one in (
            Benchmark(
                "parti",
                "PartiPrompts: 12 categories and 11 challenges.",
                "PartiPrompts.tsv of google-research/parti",
                "Apache-2.0",
                "category",
                MappingProxyType(
                    {
                        "Abstract": 51,
                        "Animals": 314,
                        "Artifacts": 287,
                        "Arts": 66,
                        "Food & Beverage": 74,
                        "Illustrations": 124,
                        "Indoor Scenes": 40,
                        "Outdoor Scenes": 131,
                        "People": 177,
                        "Produce & Plants": 50,
                        "Vehicles": 104,
                        "World Knowledge": 214,
                    }
                ),
                1,
                _parti,
            ),
            Benchmark(
                "hpsv2",
                "The benchmark of HPS v2: four styles.",
                "a folder with anime.json, concept-art.json, paintings.json and photo.json of "
                "the HPDv2 benchmark",
                "not stated with the prompts",
                "style",
                MappingProxyType(dict.fromkeys(_STYLES, 800)),
                1,
                _hps,
            ),
            Benchmark(
                "drawbench",
                "DrawBench of the Imagen paper.",
                "prompts/drawbench.json of nousr/dream-bench, or the spreadsheet as CSV",
                "MIT for the repository; not stated for the prompts",
                "set",
                MappingProxyType({"drawbench": 200}),
                1,
                _drawbench,
            ),
            Benchmark(
                "geneval",
                "GenEval: objects, counts, colours and positions that a detector can check.",
                "prompts/evaluation_metadata.jsonl of djghosh13/geneval",
                "MIT",
                "tag",
                MappingProxyType(
                    {
                        "single_object": 80,
                        "two_object": 99,
                        "counting": 80,
                        "colors": 94,
                        "position": 100,
                        "color_attr": 100,
                    }
                ),
                4,
                _geneval,
            ),
            Benchmark(
                "t2i_compbench",
                "T2I-CompBench++: composition, the 300 validation prompts of each category.",
                "examples/dataset of Karine-Huang/T2I-CompBench",
                "MIT",
                "category",
                MappingProxyType(dict.fromkeys(_CATEGORIES, 300)),
                10,
                _compbench,
            ),
        )
    }
)
"""Name -> benchmark."""
