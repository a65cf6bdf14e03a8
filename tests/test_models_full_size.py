"""The published models at full size, without weights: on meta tensors."""

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch

from tastemaker.models.conditioning import TextStates
from tastemaker.models.family import build_family
from tastemaker.models.tokenizer import clip_tokenizers_from_merges
from tastemaker.records.size import ImageSizes, Size
from tests import full_size
from tests.tiny_models import t5_tokenizer

VAE = 83_653_863
CLIP_L, CLIP_BIGG, T5 = 123_060_480, 694_659_840, 4_762_310_656
# The refiner: 4.52 GB in fp16, as its published file has.
COUNTS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "sd15": ("sd15", full_size.SD15, {"unet": 859_520_964, "text_encoder_1": CLIP_L}),
    "sdxl": (
        "sdxl",
        full_size.SDXL,
        {"unet": 2_567_463_684, "text_encoder_1": CLIP_L, "text_encoder_2": CLIP_BIGG},
    ),
    "refiner": ("sdxl", full_size.REFINER, {"unet": 2_259_526_660, "text_encoder_2": CLIP_BIGG}),
    "pixart-512": (
        "pixart", full_size.pixart(64), {"transformer": 610_856_096, "text_encoder_1": T5},
    ),
    "pixart-1024": (
        "pixart", full_size.pixart(128), {"transformer": 611_349_152, "text_encoder_1": T5},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=COUNTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def clip(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's real vocabulary as SDXL's two tokenizers."""
    found = assets / "tgxs002__HPSv2" / "bpe_simple_vocab_16e6.txt.gz"
    found = found if found.is_file() else next(assets.rglob(found.name), None)
    if found is None:
        pytest.skip("no CLIP vocabulary among the public test data")
    folder = tmp_path_factory.mktemp("clip")
    clip_tokenizers_from_merges(gzip.decompress(found.read_bytes()).decode(), folder)
    return folder


@pytest.fixture(scope="module")
def family(name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    architecture, config, _ = COUNTS[name]
    if architecture == "pixart":
        tokenizers = t5_tokenizer(tmp_path_factory.mktemp("t5"))
    else:
        tokenizers = request.getfixturevalue("clip")
    with torch.device("meta"):
        return build_family(architecture, config, tokenizers)


def test_parameters_are_those_of_the_published_model(name: str, family: Any) -> None:
    counted = {
        part: sum(p.numel() for p in network.parameters()) for part, network in family.parts.items()
    }
    assert counted == {**COUNTS[name][2], "vae": VAE}


def test_denoise_fits_at_full_size(name: str, family: Any) -> None:
    side = 64 if name in ("sd15", "pixart-512") else 128
    assert family.own_size == Size(side * 8, side * 8)
    assert family.size_multiple == {"sd15": 64, "sdxl": 32, "refiner": 64}.get(name, 16)
    assert (family.latent_factor, family.latent_channels) == (8, 4)
    if family.name == "pixart":
        # Its encoder looks at the values of the mask, which meta tensors do not have.
        text = TextStates(
            torch.zeros(1, 120, 4096, device="meta"),
            mask=torch.ones(1, 120, dtype=torch.long, device="meta"),
        )
    else:
        text = family.encode_text(["a photo of a cat"])
    sizes = [ImageSizes(Size(700, 1500), 0, 8, Size(640, 1536))]
    with torch.device("meta"):
        cond = family.conditioning(text, sizes)
        x = torch.zeros(1, 4, 80, 192)
        assert family.denoise(x, torch.zeros(1, dtype=torch.long), cond).shape == x.shape


@pytest.mark.parametrize("name", ["pixart-512"], indirect=True)
@pytest.mark.parametrize(("rank", "millions"), [(4, 3.44), (8, 6.88), (16, 13.77)])
def test_pixarts_widest_targets_are_those_of_its_lora_script(
    family: Any, rank: int, millions: float
) -> None:
    ends = family.lora_targets["transformer"]
    count = 0
    for layer, module in family.transformer.named_modules():
        if any(layer == end or layer.endswith(f".{end}") for end in ends):
            width: Any = module.weight
            ins, kernel = width.shape[1], width[0, 0].numel()
            # Of a convolution A has its kernel and B is 1x1.
            count += rank * (ins * kernel + width.shape[0])
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_ids_of_the_real_vocabulary(clip: Path) -> None:
    from tastemaker.models.text import clip_reports, token_windows
    from tastemaker.models.tokenizer import load_tokenizer

    first, second = (load_tokenizer(clip / name) for name in ("tokenizer", "tokenizer_2"))
    expected = [49406, 320, 1125, 539, 320, 2368, 49407]
    for tokenizer, pad in ((first, 49407), (second, 0)):
        assert tokenizer.model_max_length == 77
        ids = token_windows(tokenizer, ["a photo of a cat", "cat " * 200], 3)
        assert ids.shape == (2, 3, 77)
        assert ids[0, 0].tolist() == expected + [pad] * 70
        # Windows with no token: start, end and padding.
        assert ids[0, 2].tolist() == [49406, 49407] + [pad] * 75
        assert ids[1].tolist() == [[49406] + [2368] * 75 + [49407]] * 2 + [
            [49406] + [2368] * 50 + [49407] + [pad] * 25
        ]
        told = clip_reports(tokenizer, ["cat " * n for n in (75, 76, 150, 151, 225, 227)])
        assert [(r.tokens, r.windows, r.cut) for r in told] == [
            (75, 1, 0), (76, 2, 0), (150, 2, 0), (151, 3, 0), (225, 3, 0), (227, 3, 2),
        ]  # fmt: skip
        assert told[-1].lost == "cat cat"
