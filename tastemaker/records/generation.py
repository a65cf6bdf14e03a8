"""Prompts and the pictures generated from them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """One prompt of a set; the id is stable, the text may be reworded in another version."""

    id: str
    text: str
    attributes: tuple[tuple[str, str], ...] = ()

    def attribute(self, name: str) -> str | None:
        """The value of one attribute, or None."""
        return dict(self.attributes).get(name)


@dataclass(frozen=True)
class PromptSet:
    """A versioned list of prompts."""

    name: str
    version: str
    prompts: tuple[Prompt, ...]
    licence: str
    hash: str


@dataclass(frozen=True)
class Sample:
    """One generated picture.

    Attributes:
        model: short name of the model, for example `before`.
        prompt_id: id in the prompt set.
        prompt: the text as the model saw it.
        sample_index: 0, 1, ... for several pictures of one prompt.
        seed: hash of run seed, prompt set, prompt id and sample index; the model is not in it.
        settings: hash of everything else that determines the picture (model, sampler, guidance,
            size).
        file: file name, made of ids.
    """

    model: str
    prompt_id: str
    prompt: str
    sample_index: int
    seed: int
    settings: str
    file: str
