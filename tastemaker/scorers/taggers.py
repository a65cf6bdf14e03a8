"""Networks that tell the probability of many tags: WD-style ONNX files, JoyTag, transformers.

What a folder holds decides how it is fed:

- `model.onnx` and `selected_tags.csv` (WD taggers, SmilingWolf): bytes as floats 0..255 in the
  order blue, green, red.
- `model.onnx` and `top_tags.txt` (JoyTag, fpgaminer): RGB, normalised with CLIP's mean and
  deviation.
- no `model.onnx`: a transformers image classifier of several labels; its own names and
  normalisation.

All of them see the whole picture, on a white square, resized with the bicubic filter. Some ONNX
files end in a sigmoid and some do not: outputs for a white and a black picture tell.

Axes: pictures are uint8 `[H, W, 3]`; probabilities are float64 `[T]`, one for each tag.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tastemaker.errors import InputError, MissingExtra
from tastemaker.scorers.model_folder import Precision, load_model, read_json, run_rows
from tastemaker.scorers.picture_input import Normalisation, padded_square, read_processor

Category = Literal["general", "character", "rating"]

EXPECTED = (
    "model.onnx with selected_tags.csv (WD) or top_tags.txt (JoyTag), or a transformers image "
    "classifier of several labels with top_tags.txt or id2label"
)

_CATEGORIES: dict[str, Category] = {"4": "character", "9": "rating"}
"""Numbers in `selected_tags.csv`; 0 and any other are general."""


@dataclass(frozen=True)
class Tag:
    """One output of a tagger."""

    name: str
    category: Category = "general"


@dataclass(frozen=True)
class Tagger:
    """A network and the names of its outputs.

    Attributes:
        tags: of the outputs, in order.
        threshold: from which probability on its authors call a tag present.
        probabilities: pictures to one float64 `[T]` each.
    """

    tags: tuple[Tag, ...]
    threshold: float
    probabilities: Callable[[Sequence[np.ndarray]], list[np.ndarray]]

    @classmethod
    def load(cls, folder: Path, *, device: str, precision: Precision, batch: int) -> "Tagger":
        """Load whichever tagger a folder holds.

        Args:
            folder: the tagger's folder.
            device: `cpu`, `cuda:1`, ...
            precision: of a transformers network; an ONNX file has its own.
            batch: pictures at once of a transformers network on an accelerator.

        Raises:
            InputError: it holds none, or names and outputs do not fit.
            MissingExtra: onnxruntime is not installed.
        """
        csv_file, txt_file = folder / "selected_tags.csv", folder / "top_tags.txt"
        if not (folder / "model.onnx").is_file():
            return cls._classifier(folder, txt_file, device, precision, batch)
        if csv_file.is_file():
            network = OnnxNetwork.load(folder, device)
            tags, feed = read_wd_tags(csv_file), _blue_green_red
            return cls._of_onnx(folder, tags, 0.35, network, feed)
        if txt_file.is_file():
            network = OnnxNetwork.load(folder, device)
            tags, feed = read_tag_list(txt_file), Normalisation()
            return cls._of_onnx(folder, tags, 0.4, network, feed)
        raise _no_tagger(folder, "model.onnx without names of its outputs")

    @classmethod
    def _of_onnx(
        cls,
        folder: Path,
        tags: tuple[Tag, ...],
        threshold: float,
        network: "OnnxNetwork",
        feed: Callable[[np.ndarray], np.ndarray],
    ) -> "Tagger":
        def outputs(picture: np.ndarray) -> np.ndarray:
            return network(feed(_square(picture, network.side))).astype(np.float64)

        plain = [outputs(np.full((1, 1, 3), grey, np.uint8)) for grey in (255, 0)]
        _check_count(folder, len(tags), plain[0].size)
        logits = any((values < 0).any() or (values > 1).any() for values in plain)

        def probabilities(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
            rows = [outputs(picture) for picture in pictures]
            return [_sigmoid(row) for row in rows] if logits else rows

        return cls(tags, threshold, probabilities)

    @classmethod
    def _classifier(
        cls, folder: Path, names: Path, device: str, precision: Precision, batch: int
    ) -> "Tagger":
        config = read_json(folder, "config.json", EXPECTED)
        classes = [str(name) for name in config.get("architectures") or []]
        if len(classes) != 1 or not classes[0].endswith("ForImageClassification"):
            raise _no_tagger(folder, f"config.json of {', '.join(classes) or 'no architecture'}")
        # Most classifiers do not say; then a list of tags beside them does.
        several = config.get("problem_type") or ("multi_label" if names.is_file() else "")
        if not several.startswith("multi_label"):
            raise _no_tagger(folder, "a classifier of one label for each picture")
        model = load_model(folder, classes[0], device=device, precision=precision, reason="tags")
        outputs = int(model.config.num_labels)
        if names.is_file():
            tags = read_tag_list(names)
        else:
            tags = tuple(Tag(str(model.config.id2label[n])) for n in range(outputs))
        _check_count(folder, len(tags), outputs)
        side = getattr(getattr(model.config, "vision_config", model.config), "image_size", None)
        if not isinstance(side, int):
            raise _no_tagger(folder, f"image_size {side}")
        has_processor = any(
            (folder / name).is_file()
            for name in ("preprocessor_config.json", "processor_config.json")
        )
        normalise = Normalisation.read(read_processor(folder) if has_processor else {}, folder)

        def forward(pixels: Any) -> Any:
            return model(pixel_values=pixels.to(model.dtype)).logits

        def probabilities(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
            inputs = [(normalise(_square(picture, side)),) for picture in pictures]
            rows = run_rows(forward, inputs, device, batch)
            return [_sigmoid(row.astype(np.float64)) for row in rows]

        return cls(tags, 0.4, probabilities)


@dataclass(frozen=True)
class OnnxNetwork:
    """A network in an ONNX file: one picture in, one row of numbers out.

    Attributes:
        run: float32 input with a batch of one to the first output.
        side: of the square that it takes, in pixels.
        channels_last: whether colours are the last axis of its input.
    """

    run: Callable[[np.ndarray], np.ndarray]
    side: int
    channels_last: bool

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Input float32 `[3, S, S]`, whatever the order of the network's axes."""
        if self.channels_last:
            values = values.transpose(1, 2, 0)
        return self.run(np.ascontiguousarray(values[None], np.float32)).reshape(-1)

    @classmethod
    def load(cls, folder: Path, device: str) -> "OnnxNetwork":
        """Open `model.onnx`.

        Raises:
            InputError: it cannot be opened, or does not take one square RGB picture.
            MissingExtra: onnxruntime is not installed.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra(
                "tags", "no package onnxruntime", "onnxruntime",
                'Run pip install "tastemaker[onnx]".',
            ) from error  # fmt: skip
        path = folder / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.use_deterministic_compute = True
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.startswith("cuda") and (
            "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        ):
            number = int(device.partition(":")[2] or 0)
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": number}))
        try:
            session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:
            lines = str(error).strip().splitlines()
            got = lines[0][:200] if lines else type(error).__name__
            todo = "Download the folder again."
            raise InputError(path, got, "an ONNX file that onnxruntime can open", todo) from error
        inputs, first = session.get_inputs(), session.get_outputs()[0]
        shape, name = list(inputs[0].shape), inputs[0].name
        channels_last = len(shape) == 4 and shape[3] == 3
        if len(inputs) != 1 or len(shape) != 4 or not (channels_last or shape[1] == 3):
            got = ", ".join(f"{one.name} {one.shape}" for one in inputs)
            raise InputError(path, got, "one input [N, S, S, 3] or [N, 3, S, S]", "Use a tagger.")
        known = [n for n in (shape[1:3] if channels_last else shape[2:4]) if isinstance(n, int)]
        if len(set(known)) > 1:
            got = f"an input of {known[0]} x {known[1]}"
            raise InputError(path, got, "a square input", "Use a tagger for squares.")
        side = known[0] if known else _side_of(folder)

        def run(values: np.ndarray) -> np.ndarray:
            return np.asarray(session.run([first.name], {name: values})[0])

        return cls(run, side, channels_last)


def read_wd_tags(path: Path) -> tuple[Tag, ...]:
    """Tags of a `selected_tags.csv` with the columns `name` and `category`, in the file's order.

    Raises:
        InputError: a column is missing.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        columns = set(rows.fieldnames or [])
        if not {"name", "category"} <= columns:
            got = f"columns {', '.join(sorted(columns))}"
            todo = "Use the selected_tags.csv of the same tagger."
            raise InputError(path, got, "tag_id,name,category,count", todo)
        return tuple(
            Tag(row["name"], _CATEGORIES.get(row["category"].strip(), "general")) for row in rows
        )


def read_tag_list(path: Path) -> tuple[Tag, ...]:
    """Tags of a `top_tags.txt`: one a line, in the order of the outputs."""
    lines = path.read_text(encoding="utf-8").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(Tag(line.strip()) for line in lines)


def _blue_green_red(pixels: np.ndarray) -> np.ndarray:
    """Float32 `[3, H, W]`, 0..255: what OpenCV hands to a network."""
    return pixels[:, :, ::-1].transpose(2, 0, 1).astype(np.float32)


def _square(picture: np.ndarray, side: int) -> np.ndarray:
    return padded_square(picture, side, colour=255, centred=True)


def _side_of(folder: Path) -> int:
    """The input's side, where the ONNX file leaves it open."""
    if (folder / "config.json").is_file():
        side = read_json(folder, "config.json", EXPECTED).get("image_size")
        if isinstance(side, int):
            return side
    got = "an input of any size, and no image_size in config.json"
    raise InputError(
        folder / "model.onnx", got, "a size in pixels", "Write image_size to config.json."
    )


def _sigmoid(values: np.ndarray) -> np.ndarray:
    # Halves of tanh: no overflow at either end.
    return 0.5 * (1.0 + np.tanh(0.5 * values))


def _check_count(folder: Path, names: int, outputs: int) -> None:
    if names != outputs:
        raise InputError(
            folder,
            f"{names} names for {outputs} outputs",
            "as many names as outputs",
            "Use the list of tags that belongs to these weights.",
        )


def _no_tagger(folder: Path, got: str) -> InputError:
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    return InputError(folder, f"{got} (it holds {held})", EXPECTED, "Give a tagger's folder.")
