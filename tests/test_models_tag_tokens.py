"""Ids from the memory of words equal the tokenizer's own, for every text."""

import gzip

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from tastemaker.errors import InputError
from tastemaker.models.tag_tokens import TagTokens, pack_for_encoders, pack_windows
from tastemaker.models.text import token_windows
from tastemaker.models.tokenizer import clip_tokenizers_from_merges, load_tokenizer
from tests.tiny_models import tokenizers

TAGS = [
    "1girl", "blue_hair", "blue hair", "rice_shower_(umamusume)", "looking at viewer", ":d", "o_o",
    "don't", "it's a cat's", "score_7_up", "3:4", "a,b", "!?", "tag,", ",", ", ",
    "fate/grand order", "Émile", "cafe\u0301", "\u0301x", "<|endoftext|>", "x<|y", "日本", "\x1c",
    "a\tb", "\xa0", "ſ", "I'LL", "''s", "(", "),(", "2000s_(style)", "-", "K", "ǆ", "",
]  # fmt: skip
texts = st.lists(
    st.one_of(st.sampled_from(TAGS), st.text(max_size=6), st.text(st.characters(codec="ascii"))),
    max_size=12,
).flatmap(lambda tags: st.sampled_from([", ", ",", " ", ""]).map(lambda by: by.join(tags)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    folder = tokenizers(tmp_path_factory.mktemp("tiny"))
    return load_tokenizer(folder / "tokenizer"), load_tokenizer(folder / "tokenizer_2")


@pytest.fixture(scope="module")
def real(assets, tmp_path_factory) -> CLIPTokenizer:
    """CLIP's own 49,408 tokens."""
    found = next(assets.rglob("bpe_simple_vocab_16e6.txt.gz"), None)
    if found is None:
        pytest.skip("no CLIP vocabulary among the public test data")
    folder = tmp_path_factory.mktemp("clip")
    clip_tokenizers_from_merges(gzip.decompress(found.read_bytes()).decode(), folder)
    return load_tokenizer(folder / "tokenizer")


def own(tokenizer: CLIPTokenizer, some: list[str]) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in some]


def lists(rows: list[np.ndarray]) -> list[list[int]]:
    return [row.tolist() for row in rows]


@given(st.lists(texts, max_size=4))
def test_every_text_has_the_tokenizers_own_ids(tiny, some):
    memory = TagTokens(tiny[0])
    assert lists(memory.ids(some)) == own(tiny[0], some)
    assert lists(memory.ids(some)) == own(tiny[0], some)  # from memory


@given(texts)
def test_every_text_has_the_real_clips_ids(real, text):
    assert lists(TagTokens(real).ids([text])) == own(real, [text])


def test_the_real_vocabulary_is_clips(real):
    assert real("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(real) == 49408


def test_the_tokenizer_is_asked_about_a_word_once(tiny):
    asked: list[str] = []

    class Counting:
        def __call__(self, some, **options):
            asked.extend(some)
            return tiny[0](some, **options)

    memory = TagTokens(Counting())
    memory.ids(["blue hair, red tree", "a tree, blue hair"])
    first = len(asked)
    assert first > 0
    assert memory.ids(["red tree,blue hair, a tree, hair"])[0].size
    assert asked[first:] == []  # "tree,hair" without a blank is two known pieces


def test_a_tokenizer_that_joins_words_is_asked_for_the_whole_text():
    class Joining:
        """Ids depend on what stands before, so no piece is exact."""

        def __call__(self, some, **_):
            return {"input_ids": [list(range(len(text.split()))) for text in some]}

    assert lists(TagTokens(Joining()).ids(["a b c", "d e"])) == [[0, 1, 2], [0, 1]]


def test_the_memory_is_bounded(tiny):
    memory = TagTokens(tiny[0], most=5)
    for n in range(20):
        some = [f"tag{n} tag{n + 1}, tag{n}", "a tree", "the cat and the banana again and again"]
        assert lists(memory.ids(some)) == own(tiny[0], some)
        assert len(memory._pieces) <= 9  # five, or what one call needs


@pytest.mark.parametrize("windows", [1, 2, 3])
def test_packing_equals_the_windows_of_the_models(tiny, windows):
    words = "red apple tree car cat banana tiger rain " * 40
    some = ["", "cat", *(words[:n] for n in range(0, len(words), 7))]
    ids = TagTokens(tiny[0]).ids(some)
    inside = tiny[0].model_max_length - 2
    assert {0, 1} <= {len(row) for row in ids}
    assert max(map(len, ids)) > windows * inside  # one is cut
    ids += [np.arange(windows * inside - 1), np.arange(windows * inside)]
    packed = pack_for_encoders(ids, windows, tiny)
    for tokenizer, own_pack in zip(tiny, packed, strict=True):
        expected = token_windows(tokenizer, some, windows)
        assert torch.equal(own_pack[:-2], expected)
        assert own_pack.dtype == expected.dtype
        assert own_pack[-1, -1, -1] == tokenizer.eos_token_id
    assert (packed[0] != packed[1]).any()
    assert pack_windows([], 2, 77, 0, 1, [2])[0].shape == (0, 2, 77)


def test_encoders_of_different_windows_are_refused(tiny, tmp_path):
    other = load_tokenizer(tokenizers(tmp_path, max_length=14) / "tokenizer")
    with pytest.raises(InputError, match="2 kinds"):
        pack_for_encoders([np.arange(3)], 1, (tiny[0], other))
