"""Texts as open_clip cleans them, and CLIP's tokenizer from the file of its merges alone."""

import gzip
import html
import re
from pathlib import Path
from typing import Any

from tastemaker.errors import InputError
from tastemaker.scorers.model_folder import load_tokenizer, silent

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
BPE_FILES = (".gz", ".txt")
"""`bpe_simple_vocab_16e6.txt.gz` of OpenAI's CLIP, or the same unpacked."""

_VOCABULARY = 49408
_SINGLE, _DOUBLE = re.compile("[\u02bc\u2018-\u201b]"), re.compile("[\u201c-\u201f]")
_SPACES = re.compile(r"\s+")


def cleaned(text: str) -> str:
    """A text as open_clip reads it: straight quotes, no HTML entities, single blanks, lower case.

    open_clip has the package ftfy repair a text first. Of that only its quotes are done here: of
    12,162 prompts of PartiPrompts, DrawBench, T2I-CompBench and PixArt it changes 13, and nothing
    but their quotes. What it would repair besides (wrongly decoded letters) stays.
    """
    text = _DOUBLE.sub('"', _SINGLE.sub("'", text))
    text = html.unescape(html.unescape(text)).strip()
    return _SPACES.sub(" ", text).strip().lower()


def clip_tokenizer(place: Path, vocabulary: int, reason: str) -> Any:
    """CLIP's tokenizer: of a transformers folder, or made from the file of merges.

    Args:
        place: the folder, or a file of `BPE_FILES`.
        vocabulary: tokens that the text network knows.
        reason: what it is for, for errors.

    Raises:
        InputError: it is no tokenizer, or has another number of tokens.
    """
    found = _from_merges(place) if place.is_file() else load_tokenizer(place, reason)
    # A folder without a tokenizer gives one without words, and no error.
    if len(found) != vocabulary or found.eos_token_id != vocabulary - 1:
        raise InputError(
            place,
            f"a tokenizer of {len(found)} tokens that ends texts with number {found.eos_token_id}",
            f"CLIP's, of {vocabulary} tokens of which the last ends a text",
            "Give the folder of a CLIP, such as openai/clip-vit-large-patch14, or "
            "bpe_simple_vocab_16e6.txt.gz.",
        )
    return found


def _from_merges(path: Path) -> Any:
    """The first line is a heading; so many of the next are read as make 49,408 tokens."""
    import transformers

    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
        alphabet = _alphabet()
        lines = text.split("\n")[1 : _VOCABULARY - 2 * len(alphabet) - 2 + 1]
        pairs = [(first, second) for first, second in (line.split() for line in lines if line)]
    except (OSError, EOFError, ValueError) as error:
        todo = "Give bpe_simple_vocab_16e6.txt.gz, or a folder with a tokenizer."
        raise InputError(path, f"no merges ({error})", "the merges of CLIP", todo) from error
    words = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    words += ["".join(pair) for pair in pairs] + [START, END]
    vocabulary: Any = {word: number for number, word in enumerate(words)}
    merges: Any = pairs
    with silent():
        return transformers.CLIPTokenizer(
            vocab=vocabulary,
            merges=merges,
            unk_token=END,
            pad_token=END,
        )


def _alphabet() -> list[str]:
    """A letter for each byte in CLIP's order: printable bytes first, so that `!` is 0."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
