import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from tastemaker.models.text import text_fields, token_counts, token_windows, windows_needed
from tastemaker.models.tokenizer import load_tokenizer, train_tokenizer

TEXTS = ["a red apple", "a green apple tree", "red car, red road", "the tiger's apple"] * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizers")
    train_tokenizer(TEXTS, 560, 10, path)
    return path


def test_layout_of_the_vocabulary_is_clips(folder: Path) -> None:
    vocab = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    by_id = {number: token for token, number in vocab.items()}
    assert sorted(by_id) == list(range(len(vocab)))
    assert by_id[0] == "!"
    assert by_id[256] == "!</w>"
    assert [by_id[len(vocab) - 2], by_id[len(vocab) - 1]] == ["<|startoftext|>", "<|endoftext|>"]
    merges = (folder / "tokenizer" / "merges.txt").read_text().splitlines()
    assert merges[0].startswith("#version")
    assert len(vocab) == 512 + len(merges) - 1 + 2
    # The n-th merge makes the n-th token after the bytes.
    assert ["".join(line.split(" ")) for line in merges[1:]] == [
        by_id[512 + n] for n in range(len(merges) - 1)
    ]


def test_vocab_and_merges_alone_give_the_same_ids(folder: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((folder / "tokenizer" / name).read_bytes())
    bare = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    whole = load_tokenizer(folder / "tokenizer")
    for text in ("a red Apple's tree", "zebra é 7", ""):
        assert bare(text).input_ids == whole(text).input_ids


def test_unknown_letters_become_bytes_not_the_end_token(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    ids = tokenizer("Zürich 雨").input_ids
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "zürich 雨"


def test_the_two_tokenizers_pad_as_in_sdxl(folder: Path) -> None:
    first, second = (load_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2"))
    assert first.pad_token_id == first.eos_token_id
    assert (second.pad_token, second.pad_token_id) == ("!", 0)
    assert first.model_max_length == second.model_max_length == 10
    assert first("a red apple").input_ids == second("a red apple").input_ids


def test_training_is_deterministic_across_processes(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from tastemaker.models.tokenizer import train_tokenizer;"
        f"train_tokenizer(reversed({TEXTS!r}), 560, 10, Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    for file in ("tokenizer/tokenizer.json", "tokenizer_2/merges.txt", "tokenizer_2/vocab.json"):
        assert _digest(folder / file) == _digest(tmp_path / file), file


def test_windows_are_cut_not_truncated(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer_2")
    letters = list("bdfhjklnpqz")  # no merge joins single letters over a space
    text = " ".join(letters)
    assert token_counts(tokenizer, [text, ""]) == [11, 0]
    assert windows_needed(tokenizer, [text]) == 2
    ids = token_windows(tokenizer, [text, "b"], 2)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    whole = tokenizer(text, add_special_tokens=False).input_ids
    assert ids[0, 0].tolist() == [start, *whole[:8], end]
    assert ids[0, 1].tolist() == [start, *whole[8:], end, *[0] * 5]
    assert ids[1, 1].tolist() == [start, end, *[0] * 8]


def test_at_most_three_windows(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    assert windows_needed(tokenizer, ["b " * 100]) == 3
    assert windows_needed(tokenizer, []) == 1


def test_text_fields_name_the_real_end_token(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    fields = text_fields(tokenizer)
    assert fields["eos_token_id"] == fields["vocab_size"] - 1
    assert fields["max_position_embeddings"] == 10


def test_real_clip_vocabulary_if_present(assets: Path, tmp_path: Path) -> None:
    # The ids that OpenAI's tokenizer gives, from field notes that measured it.
    found = sorted(assets.rglob("bpe_simple_vocab_16e6.txt.gz"))
    if not found:
        pytest.skip("no CLIP vocabulary among the public test data")
    import gzip

    from tastemaker.models.tokenizer import END, START, WORD_END, _clip_alphabet, _clip_tokenizer

    lines = gzip.decompress(found[0].read_bytes()).decode().split("\n")[1:48895]
    merges = [line.split() for line in lines]
    letters = _clip_alphabet()
    tokens = [*letters, *(c + WORD_END for c in letters), *("".join(m) for m in merges), START, END]
    tokenizer = _clip_tokenizer({t: n for n, t in enumerate(tokens)}, merges, END, 77)
    expected = [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("a photo of a cat").input_ids == expected


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
