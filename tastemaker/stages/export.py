"""Stage: write a model in the form that other tools load, with a card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tastemaker.records.config import Config as BaseConfig
from tastemaker.records.run import Artefact, Manifest
from tastemaker.store.rundir import StepDir

if TYPE_CHECKING:
    from tastemaker.models.family import Family

VERSION = 1
OUTPUTS = ("model", "adapter")
_SDXL = "StableDiffusionXL"


class Config(BaseConfig):
    """A diffusers folder, a LoRA file, or both."""

    inputs: ClassVar[dict[str, str]] = {"model": "model", "adapter": "adapter"}
    model: str
    """The model."""
    adapter: str | None = None
    """LoRA weights that belong to it."""
    form: Literal["merged", "base", "adapter"] = "merged"
    """Whole model with the adapter merged, whole model without it, or the LoRA file alone."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp16"
    """Of the model's weights on disk (ours); a LoRA file keeps its own."""
    title: str = Field(default="Fine-tuned model", min_length=1)
    """First line of the card."""
    base: str = ""
    """What the card calls the base model; the reference to it when empty."""
    licence: str = ""
    """Licence of the weights, for example `cc-by-sa-4.0`."""
    data: str = ""
    """The training pictures: where they are from, under which licence, whom to credit."""
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further facts for the card, such as learning rate and images seen."""

    @model_validator(mode="after")
    def _adapter_is_there(self) -> "Config":
        if self.form == "adapter" and self.adapter is None:
            raise ValueError("form is 'adapter', but no adapter is given")
        return self


def run(config: Config, inputs: Mapping[str, Artefact], step: StepDir) -> Manifest:
    """Write `model/` and, when there is an adapter, `adapter/`, each with a `README.md`.

    Raises:
        InputError: the adapter does not fit the model.
    """
    from tastemaker.models.adapters import load_lora, merge_lora, save_lora, unload_lora
    from tastemaker.models.family import load_family
    from tastemaker.store.atomic import atomic_folder

    family = load_family(str(inputs["model"].path))
    base = config.base or config.model
    outputs: dict[str, str] = {}
    if "adapter" in inputs:
        load_lora(family, Path(inputs["adapter"].path))
        facts = {**_adapter_facts(family), **config.settings}
        with atomic_folder(step.path / "adapter") as folder:
            save_lora(family, folder)
            card = _card(config, base, "adapter", facts, _use(family, base, "adapter"))
            (folder / "README.md").write_text(card, "utf-8")
        outputs["adapter"] = "adapter"
        if config.form == "merged":
            merge_lora(family)
        else:
            unload_lora(family)
    parameters = sum(p.numel() for part in family.parts.values() for p in part.parameters())
    if config.form != "adapter":
        facts = {"weights": config.precision, "parameters": f"{parameters:,}", **config.settings}
        with atomic_folder(step.path / "model") as folder:
            family.save(folder, precision=config.precision)
            kind = "merged" if config.form == "merged" and "adapter" in inputs else "model"
            card = _card(config, base, kind, facts, _use(family, base, kind))
            (folder / "README.md").write_text(card, "utf-8")
        outputs["model"] = "model"
    sizes = {f"bytes of {kind}": _bytes_below(step.path / kind) for kind in outputs}
    return Manifest(
        stage="export",
        key=step.key,
        outputs=outputs,
        counts={"parameters": parameters, **sizes},
        results={"form": config.form, "base": base},
    )


def _adapter_facts(family: "Family") -> dict[str, object]:
    from tastemaker.models.adapters import lora_parameters, lora_settings

    settings = lora_settings(family)
    learnt = sum(parameter.numel() for parameter in lora_parameters(family).values())
    kind = " + ".join(
        ["DoRA" if settings.dora else "LoRA", *(["rsLoRA"] if settings.rslora else [])]
    )
    return {
        "kind": kind,
        "parts": ", ".join(settings.parts),
        "rank": settings.rank,
        "alpha": f"{settings.alpha:g}",
        "layers": ", ".join(settings.targets),
        "parameters": f"{learnt:,}",
    }


def _use(family: "Family", base: str, kind: str) -> str:
    """Lines of Python that load what was written."""
    pipeline = type(family.pipeline()).__name__
    imports, lines = (
        f"from diffusers import {pipeline}",
        [f'pipeline = {pipeline}.from_pretrained("FOLDER")'],
    )
    if kind == "adapter":
        # SDXL's published config has zeros for an empty text.
        zeros = ", force_zeros_for_empty_prompt=False" if pipeline.startswith(_SDXL) else ""
        lines = [f'pipeline = {pipeline}.from_pretrained("{base}"{zeros})']
        if hasattr(family.pipeline(), "load_lora_weights"):
            lines.append('pipeline.load_lora_weights("FOLDER")')
        else:
            imports += "\nfrom peft import PeftModel"
            part = f"pipeline.{family.denoiser}"
            lines.append(f'{part} = PeftModel.from_pretrained({part}, "FOLDER")')
    return "\n".join([imports, "", *lines])


def _card(config: Config, base: str, kind: str, facts: Mapping[str, object], use: str) -> str:
    """A model card as hubs read it: a head in YAML, then the text."""
    about = {
        "adapter": f"LoRA weights for `{base}`.",
        "merged": f"`{base}` with fine-tuned LoRA weights merged into it.",
        "model": f"A model made from `{base}`.",
    }[kind]
    tags = ["text-to-image", "diffusers", *(["lora"] if kind == "adapter" else [])]
    head = [
        "---",
        "library_name: diffusers",
        # Quoted as JSON, which is YAML too: a name may hold a colon.
        f"base_model: {_quoted(base)}",
        *([f"license: {_quoted(config.licence)}"] if config.licence else []),
        f"tags: [{', '.join(tags)}]",
        "---",
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""{chr(10).join(head)}

# {config.title}

{about} Made with Tastemaker.

## Data

{config.data or "Not stated."}

## Settings

| what | value |
|---|---|
{rows}

## Use

```python
{use}
pipeline(prompt="...", negative_prompt="").images[0].save("picture.png")
```

Empty captions were trained as the text "", so the negative prompt is that text, not zeros.
"""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
