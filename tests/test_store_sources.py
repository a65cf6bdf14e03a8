"""A user's folder: nested pictures, texts beside them, tables, and everything that leads out."""

import json

import pytest
from PIL import Image

from tastemaker.errors import InputError
from tastemaker.store import splits
from tastemaker.store.folder_pictures import FolderPictures
from tastemaker.store.sources import open_source


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    return root


def picture(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def items(folder, **options):
    return {item.key: item for item in FolderPictures(folder, **options).items()}


def test_pictures_are_found_at_any_depth_in_a_fixed_order(folder):
    for name in ("b.png", "a.JPG", "deep/er/c.webp", "deep/d.gif"):
        picture(folder / name)
    for name in ("notes.md", ".hidden.png", ".git/x.png", "deep/latents.npz"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    found = list(FolderPictures(folder).items())
    assert [item.key for item in found] == ["a.JPG", "b.png", "deep/d.gif", "deep/er/c.webp"]
    assert [dict(item.attributes)["folder"] for item in found] == ["", "", "deep", "deep/er"]
    assert all(item.path == folder / item.key and item.data is None for item in found)
    source = open_source(str(folder))
    assert source.count() == 4
    assert source.count({"folder": ["deep", "deep/er"]}) == 2


def test_our_own_collections_and_runs_are_not_pictures(folder):
    picture(folder / "a.png")
    picture(folder / "collection" / "files" / "x.png")
    (folder / "collection" / "catalog" / "base").mkdir(parents=True)
    picture(folder / "run" / "steps" / "x.png")
    (folder / "run" / "steps.json").write_text("[]")
    assert list(items(folder)) == ["a.png"]


def test_sidecars_give_captions_tags_and_attributes(folder):
    picture(folder / "a.png")
    (folder / "a.txt").write_text("a red square\n\n  a  second\tcaption \n", encoding="utf-8")
    (folder / "a.caption").write_text("\ufeffthe best caption\n", encoding="utf-8")
    more = {
        "caption": "a red square",
        "captions": ["third"],
        "tags": "red, square,",
        "artist": "me",
    }
    (folder / "a.json").write_text(json.dumps(more | {"n": 3, "nested": {}}), encoding="utf-8")
    item = items(folder)["a.png"]
    assert item.captions == ("the best caption", "a red square", "a second caption", "third")
    assert item.tags == ("red", "square")
    assert dict(item.attributes) == {"folder": "", "split": "tune", "artist": "me", "n": "3"}


def test_broken_texts_are_said_not_fatal(folder):
    picture(folder / "a.png")
    (folder / "a.txt").write_bytes("na\xefve".encode("latin-1"))
    picture(folder / "b.png")
    (folder / "b.json").write_text("[1, 2")
    picture(folder / "c.png")
    (folder / "c.txt").write_text("x" * (1 << 21))
    found = items(folder)
    assert found["a.png"].captions == ("na�ve",)
    assert dict(found["a.png"].attributes)["text_problem"] == "a.txt is not UTF-8"
    assert found["b.png"].captions == ()
    assert dict(found["b.png"].attributes)["text_problem"] == "b.json is not a JSON object"
    assert len(found["c.png"].captions[0]) == 10_000
    assert dict(found["c.png"].attributes)["text_problem"] == "c.txt is too long"


def test_a_table_of_lines_gives_captions(folder):
    for name in ("a.png", "sub/b.png", "sub/c.png"):
        picture(folder / name)
    (folder / "c.txt").write_text("no picture of this name here")
    (folder / "sub" / "c.txt").write_text("from the sidecar")
    rows = [
        {"file_name": "a.png", "text": "from text \u2028 one line", "tags": ["x"], "year": 1999},
        {"file_name": "sub/b.png", "caption": "from caption"},
        {"file_name": "sub/c.png", "text": "from the table"},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = items(folder)
    assert found["a.png"].captions == ("from text one line",)
    assert found["a.png"].tags == ("x",)
    assert dict(found["a.png"].attributes) == {"folder": "", "split": "heldout", "year": "1999"}
    assert found["sub/b.png"].captions == ("from caption",)
    assert found["sub/c.png"].captions == ("from the sidecar", "from the table")


def test_a_csv_table_in_a_subfolder_with_a_named_column(folder):
    picture(folder / "sub" / "a.png")
    (folder / "sub" / "metadata.csv").write_text(
        'file_name,title,kind\na.png,"a square, red",shape\n', encoding="utf-8"
    )
    item = items(folder, caption_column="title")["sub/a.png"]
    assert item.captions == ("a square, red",)
    assert dict(item.attributes) == {"folder": "sub", "split": "tune", "kind": "shape"}
    with pytest.raises(InputError, match=r"metadata\.csv: got columns .*a column 'nothing'"):
        items(folder, caption_column="nothing")


def test_bad_rows_of_a_table_are_items_with_a_reason(folder):
    picture(folder / "a.png")
    rows = ['{"file_name": "a.png", "text": "fine"}', "not json", '{"text": "x"}', "[]"]
    rows += [
        json.dumps({"file_name": name, "text": "x"})
        for name in ("gone.png", "../secret.png", "/etc/passwd")
    ]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    found = items(folder)
    assert found["a.png"].problem is None
    problems = {key: item.problem for key, item in found.items() if item.problem}
    assert problems == {
        "metadata.jsonl:2": "line 2 of metadata.jsonl is not an object",
        "metadata.jsonl:3": "line 3 of metadata.jsonl has no file_name",
        "metadata.jsonl:4": "line 4 of metadata.jsonl is not an object",
        "metadata.jsonl:5": "'gone.png' is not there",
        "metadata.jsonl:6": "'../secret.png' leads outside the folder",
        "metadata.jsonl:7": "'/etc/passwd' leads outside the folder",
    }
    assert FolderPictures(folder).count() == len(found)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "file_name\n"])
def test_an_unusable_table_is_an_error(folder, text):
    picture(folder / "a.png")
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(InputError, match=r"metadata\.csv"):
        items(folder)


def test_links_that_lead_out_are_refused(folder, tmp_path):
    secret = picture(tmp_path / "secret" / "s.png")
    (tmp_path / "secret" / "words.txt").write_text("a secret")
    picture(folder / "a.png")
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "same.png").symlink_to(folder / "a.png")
    (folder / "a.txt").symlink_to(tmp_path / "secret" / "words.txt")
    (folder / "metadata.jsonl").write_text('{"file_name": "link.png", "text": "x"}\n')
    found = items(folder)
    assert set(found) == {"a.png", "same.png", "link.png", "linked", "loop.png"}
    assert {key for key, item in found.items() if item.problem} == {
        "link.png",
        "linked",
        "loop.png",
    }
    assert found["link.png"].path is None
    assert found["a.png"].captions == ()


def test_missing_empty_and_wrong_places_are_errors(folder, tmp_path):
    with pytest.raises(InputError, match="nothing there"):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="a file with one picture; expected a folder"):
        open_source(str(picture(tmp_path / "x.png")))
    with pytest.raises(InputError, match="an empty folder"):
        list(open_source(str(folder)).items())
    (folder / "readme.md").write_text("x")
    with pytest.raises(InputError, match="1 other files; expected pictures"):
        list(open_source(str(folder)).items())
    with pytest.raises(InputError, match="Did you mean 'demo:openmoji'"):
        open_source("demo:openmojis")
    with pytest.raises(InputError, match="Download the pictures"):
        open_source("https://example.org/cats")


def test_the_fingerprint_follows_every_file(folder):
    path = picture(folder / "a.png")
    prints = [open_source(str(folder)).fingerprint()]
    for change in (
        lambda: (folder / "a.txt").write_text("a"),
        lambda: (folder / "a.txt").write_text("ab"),
        lambda: picture(path, (1, 2, 3)),
        lambda: path.rename(folder / "b.png"),
    ):
        change()
        prints.append(open_source(str(folder)).fingerprint())
    assert len(set(prints)) == len(prints)
    assert open_source(str(folder)).fingerprint() == prints[-1]


def test_about_one_picture_in_eight_is_held_out(folder):
    for number in range(24):
        picture(folder / f"{number}.png", (number, 0, 0))
    told = {key: dict(item.attributes)["split"] for key, item in items(folder).items()}
    assert set(told.values()) == {"heldout", "tune"}
    held_out = {key for key, split in told.items() if split == "heldout"}
    assert held_out == splits.held_out(told)
    assert open_source(str(folder)).count({"split": ["heldout"]}) == len(held_out)
    count = len(splits.held_out(f"{number}.png" for number in range(4000)))
    assert abs(count - 500) <= 3 * (4000 / 8 * 7 / 8) ** 0.5


@pytest.mark.parametrize("pictures", [0, 1, 2, 7])
def test_of_several_pictures_some_but_not_all_are_held_out(pictures):
    for attempt in range(50):
        names = [f"{attempt}-{number}.png" for number in range(pictures)]
        held_out = splits.held_out(names)
        assert splits.held_out(names[::-1]) == held_out
        assert (len(held_out) > 0) == (pictures > 1)
        assert len(held_out) < max(pictures, 1)


def test_a_new_picture_moves_no_other():
    names = [f"{number}.png" for number in range(100)]
    assert splits.held_out([*names, "new.png"]) - {"new.png"} == splits.held_out(names)


def test_a_split_that_the_texts_give_wins(folder):
    for number in range(8):
        picture(folder / f"{number}.png", (number, 0, 0))
        (folder / f"{number}.json").write_text(json.dumps({"split": "mine"}))
    assert {dict(item.attributes)["split"] for item in items(folder).values()} == {"mine"}
