"""The prompt benchmarks as published, and the folder layouts that their scripts read."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tastemaker.cli.app import main
from tastemaker.errors import InputError
from tastemaker.records.generation import Prompt, PromptSet, Sample
from tastemaker.store.benchmark_layouts import write_layout
from tastemaker.store.benchmarks import BENCHMARKS, read_benchmark
from tastemaker.store.prompt_sets import make_prompt_set, read_prompt_set
from tastemaker.store.samples import SampleSet

PUBLISHED = {
    "parti": "google-research__parti/PartiPrompts.tsv",
    "drawbench": "nousr__dream-bench/prompts/drawbench.json",
    "geneval": "djghosh13__geneval/prompts/evaluation_metadata.jsonl",
    "t2i_compbench": "Karine-Huang__T2I-CompBench/examples/dataset",
}


@pytest.mark.parametrize(
    ("name", "size"),
    [("parti", 1632), ("drawbench", 200), ("geneval", 553), ("t2i_compbench", 2400)],
)
def test_published_files_are_read_whole(assets: Path, name: str, size: int) -> None:
    prompts = read_benchmark(name, assets / PUBLISHED[name])
    assert len(prompts) == BENCHMARKS[name].size == size
    assert len({prompt.id for prompt in prompts}) == size
    assert all(prompt.text == prompt.text.strip() != "" for prompt in prompts)


def test_parti_has_its_categories_challenges_and_quotes(assets: Path) -> None:
    prompts = read_benchmark("parti", assets / PUBLISHED["parti"])
    assert len({p.attribute("category") for p in prompts}) == 12
    assert len({p.attribute("challenge") for p in prompts}) == 11
    assert sum('"' in p.text for p in prompts) == 22
    assert max(len(p.text) for p in prompts) == 389
    assert (prompts[0].id, prompts[0].text) == ("00000", "bond")


def test_geneval_keeps_what_its_detector_reads(assets: Path) -> None:
    first = read_benchmark("geneval", assets / PUBLISHED["geneval"])[0]
    assert json.loads(first.attribute("metadata") or "")["include"][0]["class"] == "bench"


def _hps_folder(folder: Path, each: int = 800) -> Path:
    for style in ("anime", "concept-art", "paintings", "photo"):
        texts = [f"{style} number {n}" for n in range(each)]
        (folder / f"{style}.json").write_text(json.dumps(texts))
    return folder


def test_hps_is_read_from_its_four_files_and_no_subset_passes(tmp_path: Path) -> None:
    prompts = read_benchmark("hpsv2", _hps_folder(tmp_path))
    assert len(prompts) == 3200
    assert (prompts[800].id, prompts[800].text) == ("concept-art-00000", "concept-art number 0")
    _hps_folder(tmp_path, 799)
    with pytest.raises(InputError, match="anime: 799 instead of 800"):
        read_benchmark("hpsv2", tmp_path)
    (tmp_path / "photo.json").unlink()
    with pytest.raises(InputError, match=r"no photo\.json"):
        read_benchmark("hpsv2", tmp_path)


def test_a_cut_benchmark_is_refused(assets: Path, tmp_path: Path) -> None:
    lines = (assets / PUBLISHED["parti"]).read_text("utf-8").splitlines(keepends=True)
    cut = tmp_path / "PartiPrompts.tsv"
    cut.write_text("".join(lines[:1000]), "utf-8")
    with pytest.raises(InputError, match="instead of"):
        read_benchmark("parti", cut)


@pytest.mark.parametrize(
    ("name", "content"),
    [("geneval", "not json"), ("drawbench", "{}"), ("parti", "a\tb\n1\t2\n"), ("geneval", "[1]")],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: str) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    with pytest.raises(InputError, match="file"):
        read_benchmark(name, file)


def test_the_command_lists_and_checks(
    assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in BENCHMARKS)
    assert "Apache-2.0" in listed
    file = str(assets / PUBLISHED["geneval"])
    assert main(["prompts", "geneval", file, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["prompts"], found["groups"]["counting"]) == (553, 80)
    assert main(["prompts", "geneval", str(tmp_path / "none")]) == 2
    assert main(["prompts", "geneval"]) == 2
    assert main(["prompts", "pharty", file]) == 2


def test_a_recipe_step_reads_a_benchmark(assets: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: x\nsteps:\n"
        f"  - {{name: p, stage: prompts, benchmark: parti, file: {assets / PUBLISHED['parti']}}}\n"
    )
    assert main(["run", str(recipe), "-o", str(tmp_path / "run")]) == 0
    (file,) = (tmp_path / "run").glob("steps/p/*/prompts.jsonl")
    found = read_prompt_set(file)
    assert (found.name, len(found.prompts), found.licence) == ("p", 1632, "Apache-2.0")


def _samples(folder: Path, prompts: PromptSet, each: int = 1) -> SampleSet:
    rows = []
    for prompt in prompts.prompts:
        for index in range(each):
            file = f"{prompt.id}_{index:02d}.png"
            Image.fromarray(np.full((8, 8, 3), 40 * index, np.uint8)).save(folder / file)
            rows.append(Sample("m", prompt.id, prompt.text, index, 1, "s", file))
    return SampleSet(folder, tuple(rows), ())


def test_hps_layout(tmp_path: Path) -> None:
    prompts = make_prompt_set(
        "hpsv2",
        [
            Prompt("anime-00007", "a", (("style", "anime"),)),
            Prompt("photo-00000", "b", (("style", "photo"),)),
        ],
    )
    out = tmp_path / "out"
    assert write_layout("hpsv2", prompts, _samples(tmp_path, prompts), out) == 2
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*.jpg"))
    assert files == ["anime/00007.jpg", "photo/00000.jpg"]
    with Image.open(out / "anime/00007.jpg") as picture:
        assert picture.format == "JPEG"
    with pytest.raises(InputError, match="one, as the layout"):
        write_layout("hpsv2", prompts, _samples(tmp_path, prompts, each=2), tmp_path / "two")


def test_geneval_layout_is_what_its_script_walks_through(assets: Path, tmp_path: Path) -> None:
    few = read_benchmark("geneval", assets / PUBLISHED["geneval"])[:2]
    prompts = make_prompt_set("geneval", few)
    out = tmp_path / "out"
    write_layout("geneval", prompts, _samples(tmp_path, prompts, each=4), out)
    for folder in sorted(out.iterdir()):
        assert folder.name.isdigit()
        assert json.loads((folder / "metadata.jsonl").read_text())["tag"] == "single_object"
        names = sorted(path.name for path in (folder / "samples").iterdir())
        assert names == ["0000.png", "0001.png", "0002.png", "0003.png"]


def test_compbench_layout_gives_back_prompt_and_number(tmp_path: Path) -> None:
    facts = (("category", "color"),)
    prompts = make_prompt_set("t2i", [Prompt("color-00012", "a red bowl", facts)])
    out = tmp_path / "out"
    write_layout("t2i_compbench", prompts, _samples(tmp_path, prompts, each=2), out)
    names = sorted(path.name for path in (out / "color" / "samples").iterdir())
    found = [re.fullmatch(r"(.*)_(\d{6})\.png", name) for name in names]
    assert [(m[1], int(m[2])) for m in found if m] == [("a red bowl", 120), ("a red bowl", 121)]
    bad = make_prompt_set("t2i", [Prompt("color-00001", "red/blue", facts)])
    with pytest.raises(InputError, match="no file can be named"):
        write_layout("t2i_compbench", bad, _samples(tmp_path, bad), tmp_path / "bad")


def test_incomplete_sets_and_foreign_prompts_are_refused(tmp_path: Path) -> None:
    prompts = make_prompt_set("x", [Prompt("p0", "a")])
    found = _samples(tmp_path, prompts)
    with pytest.raises(InputError, match="read with `benchmark: hpsv2`|without 'style'"):
        write_layout("hpsv2", prompts, found, tmp_path / "out")
    short = SampleSet(found.folder, found.samples, (("p0", 1),))
    with pytest.raises(InputError, match="1 pictures are missing"):
        write_layout("hpsv2", prompts, short, tmp_path / "out")
