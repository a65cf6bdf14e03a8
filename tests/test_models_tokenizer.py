import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from tastemaker.errors import MissingExtra
from tastemaker.models import tokenizer as module
from tastemaker.models.text import (
    TokenReport,
    clip_reports,
    longest_reports,
    summarise,
    text_fields,
    token_counts,
    token_windows,
    windows_needed,
)
from tastemaker.models.tokenizer import load_t5_tokenizer, load_tokenizer, train_tokenizer

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


# --- token reports --------------------------------------------------------------------------------


def test_what_is_cut_is_counted_and_shown(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "tokenizer")
    texts = ["a", "b " * 8, "b " * 9, "b " * 24, "b " * 23 + "q z zürich"]
    reports = clip_reports(tokenizer, texts)
    assert [r.tokens for r in reports] == token_counts(tokenizer, texts)
    assert [r.windows for r in reports] == [1, 1, 2, 3, 3]
    assert [r.cut for r in reports[:4]] == [0, 0, 0, 0]
    assert reports[4].cut == reports[4].tokens - 24
    assert reports[4].lost == "z zürich"
    # What is reported as seen is what the windows hold.
    ids = token_windows(tokenizer, texts, 3)
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    seen = [sum(int(i) not in special for i in row.flatten()) for row in ids]
    assert seen == [r.tokens - r.cut for r in reports]


def test_summary_of_many_prompts() -> None:
    reports = [
        TokenReport(10, 1),
        TokenReport(80, 2),
        TokenReport(230, 3, 5, "x"),
        TokenReport(3, 1),
    ]
    told = summarise(reports)
    assert (told.texts, told.longest, told.cut_texts, told.cut_tokens) == (4, 230, 1, 5)
    assert told.windows == {1: 2, 2: 1, 3: 1}
    assert str(told) == "1 of 4 texts are cut, 5 tokens in all; the longest has 230 tokens"
    assert "none is cut" in str(summarise(reports[:2]))
    assert summarise([]).longest == 0


def test_of_two_tokenizers_the_longer_report_counts() -> None:
    longer = longest_reports(
        [TokenReport(3, 1), TokenReport(9, 2)], [TokenReport(4, 1), TokenReport(8, 1)]
    )
    assert [r.tokens for r in longer] == [4, 9]


# --- T5 -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T5's files as its publishers give them: a sentencepiece model without `tokenizer.json`."""
    sentencepiece = pytest.importorskip("sentencepiece")
    path = tmp_path_factory.mktemp("t5")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4), model_prefix=str(path / "spiece"), vocab_size=60,
        model_type="unigram", hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        minloglevel=2,
    )  # fmt: skip
    config = {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 100}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def test_a_sentencepiece_model_gives_its_own_ids(spiece: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    reader = sentencepiece.SentencePieceProcessor(model_file=str(spiece / "spiece.model"))
    tokenizer = load_t5_tokenizer(spiece)
    for text in [*TEXTS, "unknown jumble, 7 ü", ""]:
        assert tokenizer(text).input_ids == [*reader.encode(text), 1]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)


def test_a_sentencepiece_model_without_its_reader_names_the_extra(
    spiece: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("sentencepiece")

    monkeypatch.setattr(module.T5Tokenizer, "from_pretrained", absent)
    with pytest.raises(MissingExtra, match=r"tastemaker\[siglip\]"):
        load_t5_tokenizer(spiece)


@pytest.mark.parametrize("load", [load_t5_tokenizer, load_tokenizer])
def test_a_folder_without_a_tokenizer_is_refused(load: Any, tmp_path: Path) -> None:
    """Transformers would make an empty one of it."""
    with pytest.raises(OSError, match=rf"{tmp_path.name}.*tokenizer\.json"):
        load(tmp_path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
