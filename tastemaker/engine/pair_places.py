"""What a text of a file stands for: a collection's picture, a sample, a study's, or a path."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from tastemaker.curation.voted_pairs import Shown
from tastemaker.engine.pair_inputs import DrawnPicture, PairInputs, attribute
from tastemaker.records.ballot import Study

_HASH = re.compile(r"[0-9a-f]{64}")


class PairPlaces:
    """The pictures that the texts of one file name, found once.

    Args:
        inputs: the step's.
        file: relative paths are relative to its folder.
        texts: every text that will be asked for.

    Attributes:
        pictures: id -> picture, of all that were found.
        by_set: (name of a sample set, prompt id) -> its samples.
    """

    def __init__(self, inputs: PairInputs, file: Path, texts: Collection[str]) -> None:
        self._inputs, self._folder = inputs, file.parent
        self._records = inputs.records([text for text in texts if _HASH.fullmatch(text)])
        self.pictures = {i: inputs.picture(record) for i, record in self._records.items()}
        self.by_set: dict[tuple[str, str], list[DrawnPicture]] = {}
        self._samples: dict[str, DrawnPicture] = {}
        self._sets: set[str] = set()
        self._planned: dict[tuple[str, str], tuple[Path, str]] = {}

    def add_study(self, study: Study) -> None:
        """A model's picture for a prompt may be that of a study, whose plan lies beside the file.

        Generated pictures of the same model, given as such, go before.
        """
        for one in study.contenders:
            for prompt, file in one.files.items():
                self._planned[one.name, prompt] = (self._folder / file, one.hashes[prompt])

    def add_drawn(self, drawn: Sequence[DrawnPicture]) -> None:
        """Generated pictures may be named too: by id, or by their model and prompt."""
        for one in drawn:
            self.by_set.setdefault((one.set_name, one.sample.prompt_id), []).append(one)
            self._sets.add(one.set_name)
            if not one.problem:
                self._samples[one.id] = one

    def of(self, text: str, prompt: str = "") -> Shown:
        """What a text stands for, or why it stands for nothing."""
        record = self._records.get(text)
        if record is not None:
            caption = record.captions[0] if record.captions else ""
            return Shown(text, attribute(record, "model"), caption)
        if text in self._samples:
            return self._shown(self._samples[text])
        drawn = self.by_set.get((text, prompt), [])
        if len(drawn) == 1:
            return self._shown(drawn[0])
        # A study knows which of several samples it showed.
        path, asked = self._planned.get((text, prompt), (self._folder / text, ""))
        if text in self._sets and not asked:
            got = "several samples of the prompt" if drawn else "no sample of the prompt"
            return Shown("", problem=f"{got}: {text}, {prompt}")
        if _HASH.fullmatch(text):
            return Shown("", problem=f"unknown id: {text[:12]}")
        picture, problem = self._inputs.loose(path)
        if problem:
            return Shown("", problem=f"{problem}: {text}"[:200])
        if asked and picture.id != asked:
            return Shown("", problem=f"a picture that was changed after the study: {path}"[:200])
        self.pictures.setdefault(picture.id, picture)
        return Shown(picture.id, text if asked else "")

    def _shown(self, one: DrawnPicture) -> Shown:
        if one.problem:
            return Shown("", problem=f"{one.problem}: {one.sample.file}")
        self.pictures[one.id] = one.picture
        return Shown(one.id, one.set_name, one.sample.prompt)
