"""The scorer `image_reward`: ImageReward v1.0 (Xu et al. 2023), a BLIP whose text sees pictures.

The picture network's patches are what the text network attends to; the state of its first token
goes through five linear layers without activation, and the result is standardised.

Axes: pictures are uint8 `[H, W, 3]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tastemaker.errors import InputError
from tastemaker.scorers.aesthetic import LinearHead
from tastemaker.scorers.blip_weights import blip_configs, is_image_reward, split
from tastemaker.scorers.checkpoint_file import build, read_tensors, the_file
from tastemaker.scorers.model_folder import load_tokenizer, run_rows
from tastemaker.scorers.protocol import Needs, Scorer, checked
from tastemaker.scorers.scoring import About, Found, Scoring, finite
from tastemaker.scorers.square_input import CroppedSquare

if TYPE_CHECKING:
    from torch import Tensor

FILE = "ImageReward.pt"
WINDOW = 35
"""Tokens that the published code lets a prompt have."""
MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""By which rewards are standardised: those of the published code."""

_EXPECTED = "ImageReward weights"


@dataclass(frozen=True)
class RewardScorer:
    """`(head(first token) - MEAN) / STD`; mostly within -2..2, and 0 is an average picture.

    Attributes:
        vision: transformers' BlipVisionModel.
        text: transformers' BlipTextModel with cross attention.
        head: five linear layers as one affine map.
        tokenizer: of BERT, lower case.
        square: from pixels to the input.
        name: of the scorer.
        backbone: the model's name and hash.
        device: where both networks run.
        batch: pictures at once on an accelerator.
    """

    vision: Any
    text: Any
    head: LinearHead
    tokenizer: Any
    square: CroppedSquare
    name: str
    backbone: str
    device: str
    batch: int = 16

    version: str = "v1.0/1"
    unit: str = "standardised reward"
    range: tuple[float, float] = (-float("inf"), float("inf"))
    higher_is_better: bool = True
    needs: Needs = "image+text"
    window: int = WINDOW

    @property
    def preprocessing(self) -> str:
        """See `Scorer.preprocessing`."""
        return self.square.hash

    def score(self, pictures: Sequence[np.ndarray], texts: Sequence[str] | None) -> np.ndarray:
        """See `Scorer.score`; texts are the prompts as the generator saw them."""
        texts = checked(pictures, texts, self.needs)
        if not len(pictures):
            return np.empty(0)
        words = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=WINDOW
        )
        ids = np.asarray(words["input_ids"], np.int64)
        masks = np.asarray(words["attention_mask"], np.int64)
        inputs = [
            (self.square(picture), row, mask)
            for picture, row, mask in zip(pictures, ids, masks, strict=True)
        ]
        states = run_rows(self._first_token, inputs, self.device, self.batch)
        rewards = np.array([self.head(state) for state in states])
        return finite((rewards - MEAN) / STD, self.name)

    def truncated(self, texts: Sequence[str]) -> list[bool]:
        """See `ReadsTexts.truncated`."""
        if not texts:
            return []
        ids = self.tokenizer(list(texts), verbose=False)["input_ids"]
        return [len(row) > WINDOW for row in ids]

    def _first_token(self, pixels: "Tensor", ids: "Tensor", mask: "Tensor") -> "Tensor":
        patches = self.vision(pixel_values=pixels.to(self.vision.dtype)).last_hidden_state
        # Every patch is looked at, so the published mask of ones is left out.
        found = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=patches, is_decoder=False
        )
        return found.last_hidden_state[:, 0]


class ImageReward(Scoring):
    """Which picture people prefer for a prompt, standardised over its authors' pictures."""

    MODELS: ClassVar[Mapping[str, str]] = {"model": "image_reward", "tokenizer": "tokenizer"}
    ABOUT: ClassVar[About] = "preference"

    kind: Literal["image_reward"] = "image_reward"
    """ImageReward v1.0."""
    model: str = "THUDM/ImageReward"
    """`ImageReward.pt`, a folder or hub id that holds it. A pickled file is opened with torch's
    restricted reader."""
    tokenizer: str = "google-bert/bert-base-uncased"
    """BERT's tokenizer, lower case: a transformers folder or hub id."""

    def open(self, models: Mapping[str, Found], device: str) -> Scorer:
        """Load the checkpoint."""
        from transformers import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        path = the_file(models["model"].path, (FILE,), _EXPECTED)
        state = read_tensors(path, _EXPECTED)
        if not is_image_reward(state):
            names = ", ".join(sorted(state)[:4])
            todo = f"Give {FILE} as its authors published it."
            raise InputError(path, f"weights called {names} ...", _EXPECTED, todo)
        vision_config, text_config = blip_configs(state)
        vision, text, head = split(state)
        common: dict[str, Any] = {
            "where": path,
            "expected": _EXPECTED,
            "device": device,
            "precision": self.precision,
        }
        return RewardScorer(
            build(BlipVisionModel, vision_config, vision, **common),
            build(BlipTextModel, text_config, text, add_pooling_layer=False, **common),
            LinearHead.of(head, path),
            _bert_tokenizer(models["tokenizer"], text_config.vocab_size),
            CroppedSquare(vision_config.image_size),
            self.column,
            models["model"].label,
            device,
            self.batch,
        )


def _bert_tokenizer(model: Found, vocabulary: int) -> Any:
    found = load_tokenizer(model.path, "ImageReward")
    # BLIP has two tokens more than BERT, which no prompt uses. A folder without a tokenizer gives
    # one without words, and no error.
    if len(found) != vocabulary - 2 or found.cls_token_id is None:
        raise InputError(
            model.path,
            f"a tokenizer of {len(found)} tokens",
            f"BERT's, of {vocabulary - 2} tokens",
            "Give the folder of google-bert/bert-base-uncased.",
        )
    return found
