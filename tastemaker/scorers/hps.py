"""The scorers `hps_v2.0` and `hps_v2.1`: Human Preference Score v2 (Wu et al. 2023).

A CLIP ViT-H/14 that was tuned on people's rankings; its checkpoints have open_clip's names.

Axes: pictures are uint8 `[H, W, 3]`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import model_validator

from tastemaker.errors import InputError
from tastemaker.scorers.checkpoint_file import build, read_tensors, the_file
from tastemaker.scorers.clip_words import cleaned, clip_tokenizer
from tastemaker.scorers.match_scorers import MatchScorer
from tastemaker.scorers.model_folder import Precision, described
from tastemaker.scorers.open_clip_weights import clip_config, is_open_clip, renamed
from tastemaker.scorers.protocol import Scorer
from tastemaker.scorers.scoring import About, Found, Scoring
from tastemaker.scorers.square_input import PaddedSquare
from tastemaker.scorers.vision_text import Architecture, VisionText

FILES: Mapping[str, str] = {
    "hps_v2.0": "HPS_v2_compressed.pt",
    "hps_v2.1": "HPS_v2.1_compressed.pt",
}
"""Kind -> the published file; both have the same shapes, so only the name tells them apart."""


class Hps(Scoring):
    """Which picture people prefer for a prompt: 100 times the cosine of picture and text.

    That is the unit of the published benchmark; the published `score()` leaves out the 100, and
    the two take different checkpoints when none is named. v2.0 and v2.1 lie on different scales:
    SDXL 0.9 has 27.73 in one and 30.63 in the other. So there is no default, and a scorer carries
    its version in its name.
    """

    ABOUT: ClassVar[About] = "preference"

    kind: Literal["hps_v2.0", "hps_v2.1"]
    """The version; there is no default."""
    model: str = "xswu/HPSv2"
    """The checkpoint (`HPS_v2_compressed.pt` for v2.0, `HPS_v2.1_compressed.pt` for v2.1), a folder
    or hub id that holds it. A pickled file is opened with torch's restricted reader."""
    tokenizer: str = "openai/clip-vit-large-patch14"
    """CLIP's tokenizer, which all CLIPs share: a transformers folder or hub id, or
    `bpe_simple_vocab_16e6.txt.gz`."""
    antialias: bool = False
    """How a large picture is made smaller. The published code leaves that to torchvision, which did
    not antialias tensors before 0.17 (2024), when its tables were made; newer ones do."""

    @property
    def models(self) -> Mapping[str, str]:
        """See `Scoring.models`: of a hub only the wanted version is fetched."""
        return {"model": self.kind, "tokenizer": "tokenizer"}

    @model_validator(mode="after")
    def _right_version(self) -> "Hps":
        """A file of the other version is refused by its name."""
        for kind, file in FILES.items():
            if kind != self.kind and Path(self.model).name == file:
                raise ValueError(f"{file} belongs to the kind {kind}, not to {self.kind}")
        return self

    def open(self, models: Mapping[str, Found], device: str) -> Scorer:
        """Load the checkpoint."""
        wanted, expected = FILES[self.kind], f"HPS {self.kind.removeprefix('hps_')} weights"
        others = set(FILES.values()) - {wanted}
        path = the_file(models["model"].path, (wanted,), expected)
        if path.name in others:
            todo = f"Give {wanted}, or choose the other kind."
            raise InputError(path, "the checkpoint of the other version", expected, todo)
        embedder = load_open_clip(
            path,
            models["tokenizer"].path,
            expected=expected,
            device=device,
            precision=self.precision,
            batch=self.batch,
            antialias=self.antialias,
        )
        return MatchScorer(
            embedder,
            name=self.column,
            version=f"{self.kind.removeprefix('hps_')}/1",
            backbone=models["model"].label,
            unit="cosine x 100",
            scale=100.0,
            cleaned=cleaned,
        )


def load_open_clip(
    path: Path,
    tokenizer: Path,
    *,
    expected: str,
    device: str,
    precision: Precision,
    batch: int,
    antialias: bool,
) -> VisionText:
    """A CLIP from a checkpoint with open_clip's names, fed with whole pictures on black squares.

    Args:
        path: `.pt`, `.pth` or `.safetensors`.
        tokenizer: a transformers folder, or the file of CLIP's merges.
        expected: what the file should be, for errors.
        device: `cpu`, `cuda:1`, ...
        precision: of weights and arithmetic.
        batch: rows at once on an accelerator.
        antialias: see `Hps.antialias`.

    Raises:
        InputError: the file holds no such model, or the tokenizer does not fit it.
    """
    from transformers import CLIPModel

    state = read_tensors(path, expected)
    if not is_open_clip(state):
        names = ", ".join(sorted(state)[:4])
        todo = "Give the checkpoint as its authors published it."
        raise InputError(path, f"weights called {names} ...", f"{expected} (open_clip)", todo)
    config = clip_config(state)
    model = build(
        CLIPModel,
        config,
        renamed(state),
        where=path,
        expected=expected,
        device=device,
        precision=precision,
    )
    words = clip_tokenizer(tokenizer, config.text_config.vocab_size, expected)
    vision = config.vision_config
    square = PaddedSquare(vision.image_size, antialias)
    architecture = Architecture("clip", described(vision.to_dict()), square, True)
    return VisionText(model, architecture, words, device, batch)
