"""Tars of pictures: keys, texts, places in the file; hostile and damaged ones."""

import io
import json
import os
import pickle
import struct
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import InputError, PictureError
from tastemaker.store.archives import slice_address, slice_of
from tastemaker.store.catalogue_rows import Stamp
from tastemaker.store.images import load_image, read_picture_file, reason_of
from tastemaker.store.sources import open_source
from tastemaker.store.tar_members import leads_out_of_tar, tar_members
from tastemaker.store.tar_pictures import TarPictures
from tests.source_files import by_key, encoded, packed, problems, spoil

RED, BLUE = encoded("red"), encoded("blue", "JPEG")


def linked(kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_pictures_are_read_where_they_lie(tmp_path, format_):
    long = "deep/" * 25 + "0" * 60
    words = {"caption": "from json", "tags": ["a", "b"], "width": 8, "nested": {}}
    tar = packed(
        tmp_path / "00000.tar",
        [
            ("0001.jpg", BLUE),
            ("0001.txt", b"from txt\nsecond"),
            ("0001.json", json.dumps(words).encode()),
            ("0001.cls", b"7\n"),
            ("./sub/0002.png", RED),
            ("sub/0002.caption", b"best"),
            (f"{long}.webp" if format_ != tarfile.USTAR_FORMAT else "0003.webp", RED),
        ],
        format_,
    )
    found = by_key(open_source(str(tar)))
    last = long if format_ != tarfile.USTAR_FORMAT else "0003"
    assert list(found) == ["00000.tar/0001.jpg", "00000.tar/sub/0002.png", f"00000.tar/{last}.webp"]
    first, second, third = found.values()
    assert first.captions == ("from txt", "second", "from json")
    assert first.tags == ("a", "b")
    facts = dict(first.attributes)
    assert facts.pop("split") in ("tune", "heldout")
    assert facts == {"folder": "00000.tar", "width": "8", "cls": "7"}
    assert second.captions == ("best",)
    assert dict(second.attributes)["folder"] == "00000.tar/sub"
    assert [read_picture_file(item.path) for item in found.values()] == [BLUE, RED, RED]
    assert all(item.data is None and item.problem is None for item in found.values())
    assert load_image(third.path).format == "PNG"
    assert Stamp.of(first.path) == Stamp(len(BLUE), tar.stat().st_mtime_ns)


def test_members_of_a_key_need_not_follow_each_other_and_dots_do_not_mix_texts(tmp_path):
    tar = packed(
        tmp_path / "x.tar",
        [
            ("a.txt", b"of a"),
            ("v1.0-cat.jpg", BLUE),
            ("v1.0-dog.jpg", BLUE),
            ("v1.0-dog.txt", b"a dog"),
            ("v1.0-cat.txt", b"a cat"),
            ("b.seg.png", RED),
            ("b.jpg", BLUE),
            ("b.txt", b"of b"),
            ("a.jpg", BLUE),
            ("lost.txt", b"no picture"),
        ],
    )
    source = TarPictures(tar)
    captions = {key.partition("/")[2]: item.captions for key, item in by_key(source).items()}
    assert captions == {
        "v1.0-cat.jpg": ("a cat",),
        "v1.0-dog.jpg": ("a dog",),
        "b.seg.png": ("of b",),
        "b.jpg": ("of b",),
        "a.jpg": ("of a",),
    }
    assert source.describe()["left out"] == "1 .txt without a picture"


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_opened(tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    members = [("a.jpg", BLUE), ("a.pkl", bomb), ("a.pyd", bomb), ("a.pth", bomb), ("a.npy", bomb)]
    source = TarPictures(packed(tmp_path / "x.tar", members))
    (item,) = by_key(source).values()
    assert set(dict(item.attributes)) == {"folder", "split"}
    assert source.describe()["left out"] == "1 .npy, 1 .pkl, 1 .pth, 1 .pyd"
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists()  # it would have


def test_names_links_and_devices_are_rows_with_a_reason(tmp_path):
    outside = [
        ("../up.jpg", "leads out"),
        ("/abs.jpg", "leads out"),
        ("a/../../b.jpg", "leads out"),
    ]
    outside += [("..\\up.png", "leads out"), ("C:\\x.png", "leads out"), ("", "leads out")]
    members = [(name, RED) for name, _ in outside]
    members += [
        ("link.jpg", linked(tarfile.SYMTYPE)),
        ("hard.jpg", linked(tarfile.LNKTYPE, "ok.jpg")),
        ("device.jpg", linked(tarfile.CHRTYPE)),
        ("pipe.jpg", linked(tarfile.FIFOTYPE)),
        ("folder.jpg", linked(tarfile.DIRTYPE)),
        ("ok.jpg", BLUE),
        ("./ok.jpg", RED),
        ("ok.txt", b"fine"),
        ("._ok.jpg", b"of another system"),
    ]
    source = TarPictures(packed(tmp_path / "x.tar", members))
    found = by_key(source)
    bad = [item.problem or "" for item in found.values() if item.problem]
    for name, reason in outside:
        assert any(reason in problem and ascii(name) in problem for problem in bad), name
    for name, reason in (
        ("link.jpg", "a link, which is not followed"),
        ("hard.jpg", "a link, which is not followed"),
        ("device.jpg", "no regular file"),
        ("pipe.jpg", "no regular file"),
        ("./ok.jpg", "a second member with the same name"),
    ):
        assert any(problem.startswith(f"{reason} ('{name}'") for problem in bad), name
    assert len(bad) == len(outside) + 5
    good = [item for item in found.values() if not item.problem]
    assert [item.key for item in good] == ["x.tar/ok.jpg"]
    assert read_picture_file(good[0].path) == BLUE
    assert not any(".." in key or "/etc" in key for key in found)
    assert source.describe()["left out"] == "1 hidden"


@given(st.text(alphabet="./\\aC:", max_size=12))
def test_what_unpacking_would_put_elsewhere_is_refused(name):
    parts = name.replace("\\", "/")
    depth, escapes = 0, parts.startswith("/") or parts[1:3] == ":/" and parts[0] in "aC"
    for part in parts.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        escapes |= depth < 0
    assert leads_out_of_tar(name) or not escapes


def test_names_that_are_no_utf8_are_written_so_that_one_can_tell_them_apart(tmp_path):
    members = [("caf\udce9.jpg", BLUE), ("caf\udce8.jpg", RED), ("\udce9.txt", b"x")]
    found = by_key(TarPictures(packed(tmp_path / "x.tar", members)))
    assert list(found) == ["x.tar/caf\\udce9.jpg", "x.tar/caf\\udce8.jpg"]
    assert json.dumps(list(found)).encode("utf-8")


def test_bad_texts_are_said(tmp_path):
    members = [("a.jpg", BLUE), ("a.txt", "naïve".encode("latin-1")), ("a.json", b"[1")]
    members += [("b.jpg", BLUE), ("b.cls", bytes(range(128, 160))), ("b.emb", b"1" * 300)]
    members += [("b.json", b'{"caption": "\\ud800 half", "x": NaN}')]
    source = TarPictures(packed(tmp_path / "x.tar", members))
    first, second = by_key(source).values()
    assert first.captions == ("na�ve",)
    assert dict(first.attributes)["text_problem"] == "a.txt is not UTF-8"
    assert second.captions == ("\\ud800 half",)
    assert set(dict(second.attributes)) == {"folder", "split"}
    assert source.describe()["left out"] == "1 .cls, 1 .emb"


def test_a_picture_without_or_with_an_odd_ending_is_found_and_a_false_one_listed(tmp_path):
    members = [("IMG_001", BLUE), ("b.dat", RED), ("c.jpg", b"<html>"), ("d.dat", b"\0" * 600)]
    found = by_key(TarPictures(packed(tmp_path / "x.tar", members)))
    assert list(found) == ["x.tar/IMG_001", "x.tar/b.dat", "x.tar/c.jpg"]
    with pytest.raises(PictureError, match="not a picture"):
        load_image(found["x.tar/c.jpg"].path)


@pytest.fixture
def whole(tmp_path):
    members = [(f"{number}.png", encoded((number, 0, 0))) for number in range(6)]
    return packed(tmp_path / "x.tar", members)


def test_a_cut_tar_gives_what_is_there_and_says_where_it_ends(whole):
    members = list(tar_members(whole))
    assert [member.problem for member in members] == [None] * 6
    data = whole.read_bytes()
    # Inside the fourth picture, at its header's middle, and exactly between two members.
    for cut, good, told in (
        (members[3].offset + 5, 3, "5 of its"),
        (members[3].header + 100, 3, f"ends at byte {members[3].header + 100:,}"),
        (members[3].header, 3, "without an end mark"),
        (members[5].offset + 512, 6, "without an end mark"),
    ):
        whole.write_bytes(data[:cut])
        found = by_key(TarPictures(whole))
        usable = [item for item in found.values() if not item.problem]
        assert len(usable) == good
        bad = problems(TarPictures(whole))
        assert any(told in problem for problem in bad.values()), bad
        assert all(key.startswith("x.tar@") for key in bad)
        assert all(load_image(item.path).pixels.shape == (8, 8, 3) for item in usable)


def test_a_damaged_header_is_not_taken_for_the_end(whole):
    members = list(tar_members(whole))
    spoil(whole, members[2].header + 130, 40)
    bad = problems(TarPictures(whole))
    rest = whole.stat().st_size - members[2].header
    assert list(bad) == [f"x.tar@{members[2].header}"]
    (told,) = bad.values()
    assert f"a damaged tar (at byte {members[2].header:,}: no header there" in told
    assert f"the {rest:,} bytes from there on are not read" in told
    assert TarPictures(whole).count() == 3


def test_two_tars_joined_in_one_file_are_noticed(whole, tmp_path):
    whole.write_bytes(whole.read_bytes() * 2)
    assert any(
        told.startswith("more after the end of the tar")
        for told in problems(TarPictures(whole)).values()
    )


def with_size(data: bytes, header: int, field: bytes) -> bytes:
    """A tar whose header at a place states another size, its checksum right."""
    block = bytearray(data[header : header + 512])
    block[124:136] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:header] + bytes(block) + data[header + 512 :]


@pytest.mark.parametrize(
    "field",
    [
        b"77777777777\0",
        b"\x80" + (1 << 62).to_bytes(11, "big"),
        b"\xff" + (-4096 & (1 << 88) - 1).to_bytes(11, "big"),
        b"\xff" * 12,
        b"not octal!!!",
    ],
    ids=["8 GiB", "huge", "negative", "minus one", "nonsense"],
)
def test_a_size_that_lies_ends_the_reading_and_not_the_program(whole, field):
    header = list(tar_members(whole))[1].header
    whole.write_bytes(with_size(whole.read_bytes(), header, field))
    found = by_key(TarPictures(whole))
    good = [item for item in found.values() if item.problem is None]
    assert [item.key for item in good][0] == "x.tar/0.png"
    assert any(item.problem for item in found.values())
    assert all(read_picture_file(item.path).startswith(b"\x89PNG") for item in good)


def extension(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, len(body) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512)


@pytest.mark.parametrize(
    "start",
    [
        extension(tarfile.GNUTYPE_LONGNAME, b"x", size=1 << 40),
        extension(tarfile.XHDTYPE, b"1" * 5000),
        extension(tarfile.XHDTYPE, b"99999999999999999999 path=x\n"),
        extension(tarfile.XHDTYPE, b"20 size=-99999999999\n"),
        extension(tarfile.XGLTYPE, b"\xff" * 600),
        extension(tarfile.GNUTYPE_LONGNAME, b"y\0") * 1200,
        extension(tarfile.GNUTYPE_SPARSE, b""),
    ],
    ids=["terabyte", "digits", "length", "negative", "global", "nested", "sparse"],
)
def test_hostile_headers_cost_their_own_tar_only(tmp_path, start, whole):
    (tmp_path / "bad.tar").write_bytes(start + whole.read_bytes())
    found = by_key(open_source(str(tmp_path)))
    assert sum(key.startswith("x.tar/") for key in found) == 6
    assert all(item.problem is None for key, item in found.items() if key.startswith("x.tar"))
    for item in found.values():
        if item.path is not None:
            assert read_picture_file(item.path).startswith(b"\x89PNG")


@given(st.data())
def test_no_damage_stops_the_reading(tmp_path_factory, data):
    path = packed(
        tmp_path_factory.mktemp("tar") / "x.tar",
        [("0.png", RED), ("l" * 120 + ".png", RED), ("1.png", RED)],
        data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])),
    )
    raw = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, 4000), max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(600, len(raw)))]))
    for item in by_key(TarPictures(path)).values():
        assert item.problem or len(read_picture_file(item.path)) >= 0


def test_an_address_of_a_piece_goes_both_ways(tmp_path):
    path = tmp_path / "a#tar=1+2.tar"
    path.write_bytes(b"0123456789")
    address = slice_address(path, 3, 4)
    assert slice_of(address).read() == b"3456"
    assert slice_of(str(address)) == slice_of(address)
    assert slice_of(path) is None
    # A file that is really called so is itself.
    named = tmp_path / "b.tar#tar=0+1"
    named.write_bytes(RED)
    assert slice_of(named) is None
    assert read_picture_file(named) == RED
    for odd in ("x#tar=1+", "x#tar=-1+2", "x#tar=1+2+3", "#tar=1+2", f"x#tar=1+{'9' * 30}"):
        assert slice_of(odd) is None


def test_an_address_of_what_is_not_there_is_an_error_with_a_reason(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(b"0123456789")
    for address, reason in (
        (slice_address(path, 8, 4), "truncated or damaged"),
        (slice_address(path, 0, 1 << 40), "too many bytes"),
        (slice_address(tmp_path / "no.tar", 0, 4), "no such file"),
        (slice_address(tmp_path, 0, 4), "no regular file"),
    ):
        with pytest.raises(PictureError) as caught:
            read_picture_file(address)
        assert reason_of(caught.value) == reason
    with pytest.raises(PictureError, match="zero bytes"):
        load_image(slice_address(path, 4, 0))


def test_a_tar_is_known_by_its_content(tmp_path, whole):
    whole.rename(tmp_path / "shard")
    assert len(by_key(open_source(str(tmp_path / "shard")))) == 6
    old = tmp_path / "of-1979"
    old.write_bytes(whole_of_1979())
    (item,) = by_key(open_source(str(old))).values()
    assert read_picture_file(item.path) == RED


def whole_of_1979() -> bytes:
    """A tar from before there was a mark: only the checksum tells."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.size = len(RED)
        tar.addfile(info, io.BytesIO(RED))
    data = bytearray(file.getvalue())
    data[257:512] = bytes(255)
    data[148:156] = b" " * 8
    data[148:156] = struct.pack("8s", b"%06o\0 " % sum(data[:512]))
    return bytes(data)


def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path, whole):
    packed_up = tmp_path / "x.tar.gz"
    with tarfile.open(packed_up, "w:gz") as tar:
        tar.add(whole, "x.png")
    with pytest.raises(InputError, match="a compressed tar; expected .* gunzip x.tar.gz"):
        open_source(str(packed_up))
    assert problems(open_source(str(tmp_path))) == {
        "x.tar.gz": "a compressed tar; decompress it (its members cannot be reached)"
    }


def test_where_and_the_fingerprint(whole):
    source = TarPictures(whole)
    splits = [dict(item.attributes)["split"] for item in source.items()]
    assert set(splits) == {"tune", "heldout"}
    assert source.count({"split": ["heldout"]}) == splits.count("heldout")
    before = source.fingerprint()
    assert TarPictures(whole).fingerprint() == before
    assert list(source.preferences()) == []
    os.utime(whole, ns=(1, 1))
    assert source.fingerprint() != before
