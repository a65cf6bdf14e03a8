"""HPSv2 and ImageReward from checkpoints as published, beside independent transcriptions."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tastemaker.errors import InputError
from tastemaker.scorers.blip_weights import blip_configs, split
from tastemaker.scorers.clip_words import cleaned, clip_tokenizer
from tastemaker.scorers.hps import Hps
from tastemaker.scorers.image_reward import ImageReward
from tastemaker.scorers.open_clip_weights import clip_config, renamed
from tastemaker.scorers.scoring import Found
from tastemaker.scorers.square_input import CroppedSquare, PaddedSquare
from tests import published_networks as published
from tests import tiny_hub

TEXTS = ["a red apple", "Tree’s &amp; cat", "a blue car on a grey road " * 20]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hub.clip(tmp_path_factory.mktemp("words") / "clip")


@pytest.fixture(scope="module")
def hps(words: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[published.Weights, Path]:
    weights = tiny_hub.open_clip_weights(words)
    folder = tmp_path_factory.mktemp("hps")
    for name in ("HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt"):
        torch.save({"epoch": 1, "state_dict": weights}, folder / name)
    return weights, folder


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> tuple[published.Weights, Path, Path]:
    folder = tmp_path_factory.mktemp("reward")
    bert = tiny_hub.bert_words(folder / "bert")
    count = len((bert / "vocab.txt").read_text().splitlines())
    weights = published.reward_weights(words=count + 2, **tiny_hub.REWARD)
    torch.save(weights, folder / "ImageReward.pt")
    return weights, folder, bert


def noise(height: int = 48, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def doubled(weights: published.Weights) -> published.Weights:
    return {k: v.double() if v.is_floating_point() else v for k, v in weights.items()}


def hps_scorer(folder: Path, words: Path, kind: Any = "hps_v2.1", **values: Any) -> Any:
    models = {"model": Found(folder, "hps@1"), "tokenizer": Found(words, "clip@2")}
    return Hps(kind=kind, **values).open(models, "cpu")


def reward_scorer(folder: Path, bert: Path) -> Any:
    models = {"model": Found(folder, "ir@1"), "tokenizer": Found(bert, "bert@2")}
    return ImageReward().open(models, "cpu")


def test_hps_equals_the_published_layers(hps: Any, words: Path) -> None:
    weights, folder = hps
    scorer, exact = hps_scorer(folder, words), doubled(weights)
    pictures = [noise(48, 40, n) for n in range(3)]
    tokenizer = clip_tokenizer(words, len(weights["token_embedding.weight"]), "test")
    for picture, text, found in zip(pictures, TEXTS, scorer.score(pictures, TEXTS), strict=True):
        # open_clip fills the window with 0 and has no mask.
        ids = tokenizer([cleaned(text)], truncation=True, max_length=tiny_hub.WINDOW)["input_ids"][
            0
        ]
        padded = torch.tensor(ids + [0] * (tiny_hub.WINDOW - len(ids)))
        pixels = torch.from_numpy(PaddedSquare(32)(picture)).double()
        vector = published.clip_picture(exact, pixels, 2)
        expected = 100 * float(vector @ published.clip_text(exact, padded, 2))
        assert found == pytest.approx(expected, abs=2e-4)
        assert abs(expected) > 0.1
    assert (scorer.unit, scorer.version, scorer.backbone) == ("cosine x 100", "v2.1/1", "hps@1")
    assert scorer.truncated(TEXTS) == [False, False, True]
    assert scorer.window == tiny_hub.WINDOW


def test_hps_in_double_precision_is_the_same_function(hps: Any) -> None:
    """With the rounding out of the way the mapped model is the published one to 1e-12."""
    from transformers import CLIPModel

    weights, _ = hps
    model = CLIPModel(clip_config(weights)).eval().double()
    model.load_state_dict(renamed(doubled(weights)))
    pixels = torch.from_numpy(PaddedSquare(32)(noise())).double()
    ids = torch.tensor([3, 5, 7, len(weights["token_embedding.weight"]) - 1] + [0] * 8)
    with torch.inference_mode():
        out = model(input_ids=ids[None], pixel_values=pixels[None])
    exact = doubled(weights)
    for found, expected in (
        (out.image_embeds[0], published.clip_picture(exact, pixels, 2)),
        (out.text_embeds[0], published.clip_text(exact, ids, 2)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_every_weight_is_kept_bit_for_bit(hps: Any, words: Path) -> None:
    weights, folder = hps
    scorer = hps_scorer(folder, words)
    state = scorer._embedder.model.state_dict()
    layer = "vision_model.encoder.layers.1.self_attn"
    parts = [state[f"{layer}.{letter}_proj.weight"] for letter in "qkv"]
    block = "visual.transformer.resblocks.1.attn.in_proj_weight"
    assert torch.equal(torch.cat(parts), weights[block])
    assert torch.equal(state["visual_projection.weight"].T, weights["visual.proj"])
    assert torch.equal(state["text_projection.weight"].T, weights["text_projection"])
    assert sum(v.numel() for v in state.values()) == sum(v.numel() for v in weights.values())


@pytest.mark.parametrize("name", ["ViT-H-14", "ViT-L-14", "ViT-B-32"])
def test_full_size_shapes_fit(assets: Path, name: str) -> None:
    """Names and shapes alone: the mapping leaves out nothing and adds nothing."""
    from transformers import CLIPModel

    path = assets / f"tgxs002__HPSv2/hpsv2/src/open_clip/model_configs/{name}.json"
    if not path.is_file():
        pytest.skip(f"no {path.name} in {path.parent}")
    fields = json.loads(path.read_text())
    vision, text = fields["vision_cfg"], fields["text_cfg"]
    shapes = published.clip_shapes(joint=fields["embed_dim"], vision=vision, text=text)
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        config = clip_config(state)
        wanted = {key: value.shape for key, value in CLIPModel(config).state_dict().items()}
        made = {key: value.shape for key, value in renamed(state).items()}
    assert made == wanted
    assert config.vision_config.num_attention_heads == vision["width"] // vision.get(
        "head_width", 64
    )
    assert config.text_config.num_attention_heads == text["heads"]


def test_versions_of_hps_are_kept_apart(hps: Any, words: Path, tmp_path: Path) -> None:
    _, folder = hps
    names = {kind: hps_scorer(folder, words, kind).name for kind in ("hps_v2.0", "hps_v2.1")}
    assert names == {"hps_v2.0": "hps_v2.0", "hps_v2.1": "hps_v2.1"}
    with pytest.raises(ValueError, match="kind"):
        Hps.model_validate({"model": "x"})
    with pytest.raises(ValueError, match=r"belongs to the kind hps_v2\.1"):
        Hps(kind="hps_v2.0", model="/models/HPS_v2.1_compressed.pt")
    (tmp_path / "HPS_v2.1_compressed.pt").write_bytes(b"")
    with pytest.raises(InputError, match="the other version"):
        hps_scorer(tmp_path, words, "hps_v2.0")


def test_padding_is_the_published_one() -> None:
    """The longer side at S, floats by torch's bicubic kernel, black before the normalisation."""
    picture = noise(60, 33)
    values = torch.from_numpy(picture).permute(2, 0, 1) / 255
    width = round(33 * (32 / 60))
    small = torch.nn.functional.interpolate(values[None], (32, width), mode="bicubic")[0]
    whole = torch.zeros(3, 32, 32)
    left = (32 - width) // 2
    whole[:, :, left : left + width] = small
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
    torch.testing.assert_close(torch.from_numpy(PaddedSquare(32)(picture)), (whole - mean) / std)
    assert PaddedSquare(32).hash != PaddedSquare(32, antialias=True).hash
    assert np.abs(PaddedSquare(32)(picture) - PaddedSquare(32, True)(picture)).max() > 0.1
    for height, beside in ((1, 300), (300, 1), (1, 1), (32, 20), (20, 32)):
        made = PaddedSquare(32)(noise(height, beside))
        assert made.shape == (3, 32, 32)
        assert np.isfinite(made).all()


@pytest.mark.parametrize("size", [(40, 32), (35, 32), (32, 35), (37, 53), (32, 32), (64, 90)])
def test_crop_is_torchvisions(size: tuple[int, int]) -> None:
    picture = noise(*size)
    made = CroppedSquare(32)(picture)
    shorter = min(size)
    tall, wide = int(32 * size[0] / shorter), int(32 * size[1] / shorter)
    resized = np.asarray(Image.fromarray(picture).resize((wide, tall), Image.Resampling.BICUBIC))
    top, left = int(round((tall - 32) / 2.0)), int(round((wide - 32) / 2.0))
    part = resized[top : top + 32, left : left + 32].transpose(2, 0, 1) / 255
    mean = np.array((0.48145466, 0.4578275, 0.40821073))[:, None, None]
    std = np.array((0.26862954, 0.26130258, 0.27577711))[:, None, None]
    np.testing.assert_allclose(made, (part - mean) / std, atol=2e-6)
    assert CroppedSquare(32)(noise(2, 20000)).shape == (3, 32, 32)


def test_words_are_open_clips(assets: Path) -> None:
    path = assets / "tgxs002__HPSv2/hpsv2/src/open_clip/bpe_simple_vocab_16e6.txt.gz"
    prompts = assets / "google-research__parti/PartiPrompts.tsv"
    if not path.is_file() or not prompts.is_file():
        pytest.skip(f"no {path.name} or no {prompts.name}")
    ftfy = pytest.importorskip("ftfy")
    ours, theirs = clip_tokenizer(path, 49408, "test"), published.OpenClipWords(path)
    lines = prompts.read_text(encoding="utf-8").split("\n")[1:]
    texts = [line.split("\t")[0] for line in lines if line][::4]
    texts += [
        "",
        "  a   b\n\tc ",
        "It’s “odd” &lt;b&gt; &amp;amp; 1,234 ÉTÉ naïve 日本 🎈",
        "x" * 400,
    ]
    found = ours([cleaned(t) for t in texts], truncation=True, max_length=77)["input_ids"]
    for text, ids in zip(texts, found, strict=True):
        assert ids + [0] * (77 - len(ids)) == theirs(text, ftfy.fix_text), text


def test_a_tokenizer_that_does_not_fit_is_refused(hps: Any, words: Path, tmp_path: Path) -> None:
    _, folder = hps
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\nno merges at all here\n")
    for place in (tmp_path, tmp_path / "merges.txt"):
        with pytest.raises(InputError, match="tokenizer|merges"):
            hps_scorer(folder, place)


def test_image_reward_equals_the_published_layers(reward: Any) -> None:
    weights, folder, bert = reward
    scorer, exact = reward_scorer(folder, bert), doubled(weights)
    pictures, texts = [noise(50, 40, n) for n in range(2)], ["a Red apple", "the tree " * 60]
    encoded = scorer.tokenizer(texts, padding="max_length", truncation=True, max_length=35)
    assert scorer.truncated(texts) == [False, True]
    found = scorer.score(pictures, texts)
    for row, picture in enumerate(pictures):
        pixels = torch.from_numpy(CroppedSquare(32)(picture)).double()
        ids, mask = (torch.tensor(encoded[k][row]) for k in ("input_ids", "attention_mask"))
        expected = published.reward(exact, pixels, ids, mask, 2)
        assert found[row] == pytest.approx(expected, abs=2e-5)
    # It looks at both.
    other = scorer.score(pictures[::-1], texts)
    assert np.abs(other - found).min() > 1e-3
    assert np.abs(scorer.score(pictures, texts[::-1]) - found).min() > 1e-3


def test_image_reward_in_double_precision_is_the_same_function(reward: Any) -> None:
    """transformers' defaults are those of another BLIP: heads, and an epsilon."""
    from transformers import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    weights, folder, bert = reward
    exact = doubled(weights)
    vision_config, text_config = blip_configs(weights)
    vision, text, _ = split(exact)
    scorer = reward_scorer(folder, bert)
    eyes = BlipVisionModel(vision_config).eval().double()
    words = BlipTextModel(text_config, add_pooling_layer=False).eval().double()
    eyes.load_state_dict(vision)
    words.load_state_dict(text)
    doubles = type(scorer)(eyes, words, scorer.head, None, scorer.square, "", "", "cpu")
    pixels = torch.from_numpy(CroppedSquare(32)(noise())).double()
    ids = torch.tensor([2, 5, 6, 3] + [0] * 6)
    mask = (ids > 0).long()
    with torch.inference_mode():
        state = doubles._first_token(pixels[None], ids[None], mask[None])[0].numpy()
    found = (scorer.head(state) - 0.16717362830052426) / 1.0333394966054072
    assert found == pytest.approx(published.reward(exact, pixels, ids, mask, 2), abs=1e-11)


def test_full_size_image_reward_fits() -> None:
    """ViT-L/16 at 224 px and BERT-base with BLIP's two further tokens."""
    from transformers import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    sizes = {"side": 224, "patch": 16, "wide": 1024, "deep": 24, "width": 768, "layers": 12}
    shapes = published.reward_shapes(**sizes, words=30524, places=512)
    with torch.device("meta"):
        state = {k: torch.empty(v) for k, v in shapes.items() if not k.startswith("mlp.")}
        vision_config, text_config = blip_configs(state)
        vision, text, _ = split(state)
        eyes = BlipVisionModel(vision_config).state_dict()
        words = BlipTextModel(text_config, add_pooling_layer=False).state_dict()
    assert {k: v.shape for k, v in vision.items()} == {k: v.shape for k, v in eyes.items()}
    assert {k: v.shape for k, v in text.items()} == {k: v.shape for k, v in words.items()}
    assert (vision_config.num_attention_heads, text_config.num_attention_heads) == (16, 12)
    assert vision_config.image_size == 224


class Attack:
    """What a pickle can do: run anything when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path, words: Path, zipped: bool) -> None:
    touched = tmp_path / "touched"
    for file, open_ in (
        ("HPS_v2.1_compressed.pt", lambda: hps_scorer(tmp_path, words)),
        ("ImageReward.pt", lambda: reward_scorer(tmp_path / "ImageReward.pt", words)),
    ):
        if zipped:
            torch.save({"state_dict": Attack(touched)}, tmp_path / file)
        else:
            (tmp_path / file).write_bytes(pickle.dumps(Attack(touched)))
        with pytest.raises(InputError, match="no weights"):
            open_()
        assert not touched.exists()


def test_checkpoints_that_lack_something_are_refused(hps: Any, words: Path, tmp_path: Path) -> None:
    weights, _ = hps
    name = "visual.transformer.resblocks.1.mlp.c_fc.bias"
    wrong = {
        "no weights for": {k: v for k, v in weights.items() if k != name},
        "in addition": {**weights, "score_predictor.weight": torch.ones(2)},
        "instead of": {**weights, name: torch.ones(3)},
        "not finite": {**weights, name: weights[name] * torch.nan},
        "weights called": {"layers.0.weight": torch.ones(2)},
    }
    for message, state in wrong.items():
        path = tmp_path / "weights.safetensors"
        save_file({k: v.contiguous() for k, v in state.items()}, path)
        with pytest.raises(InputError, match=message):
            hps_scorer(path, words)
    torch.save({"state_dict": {"a": 1}}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="no tensor"):
        hps_scorer(tmp_path / "x.pt", words)
    with pytest.raises(InputError, match="2 files of weights"):
        hps_scorer(tmp_path, words)
    with pytest.raises(InputError, match="float32"):
        hps_scorer(hps[1], words, precision="bfloat16")
