"""Self-play: a real picture with its caption wins against the model's own picture of that caption.

SPIN (Yuan et al. 2024, "Self-play fine-tuning of diffusion models", section 4): in each
iteration the losers are drawn by the model that is trained next.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tastemaker.records.pair import Comparison


@dataclass(frozen=True)
class RealPicture:
    """A picture of a selection; `caption` is empty where it has none."""

    id: str
    caption: str
    key: str


@dataclass(frozen=True)
class OwnPicture:
    """A picture that a model drew, with its number among those of its prompt."""

    id: str
    prompt: str
    number: int
    model: str
    problem: str = ""


def played_comparisons(
    real: Sequence[RealPicture],
    own: Iterable[OwnPicture],
    *,
    losers: Literal["one", "all"],
    source: str,
) -> Iterator[Comparison]:
    """Each real picture against one or all of the model's pictures of its caption.

    Real pictures that share a caption take turns with its samples, in the order of their ids.
    Samples of no real picture's caption are problems, too.
    """
    by_prompt: dict[str, list[OwnPicture]] = {}
    for one in own:
        by_prompt.setdefault(one.prompt.strip(), []).append(one)
    turns: dict[str, int] = {}
    for picture in sorted(real, key=lambda each: each.id):
        caption = picture.caption.strip()
        if not caption:
            yield _problem(picture, "no caption", source)
            continue
        drawn = sorted(by_prompt.get(caption, ()), key=lambda one: (one.number, one.id))
        if not drawn:
            yield _problem(picture, "no sample of its caption", source)
            continue
        turn = turns.get(caption, 0)
        turns[caption] = turn + 1
        chosen = drawn if losers == "all" else [drawn[turn % len(drawn)]]
        for loser in chosen:
            yield Comparison(
                key=f"{picture.key} | {loser.number}",
                prompt=caption,
                first=picture.id,
                second=loser.id,
                label=1.0,
                source=source,
                models=("", loser.model),
                problem=loser.problem,
            )
    for prompt, drawn in by_prompt.items():
        if prompt not in turns:
            for one in drawn:
                key = f"{prompt[:80]} | {one.number}"
                yield Comparison(
                    key, prompt, "", one.id, None, source, problem="a sample of no real picture"
                )


def _problem(picture: RealPicture, problem: str, source: str) -> Comparison:
    return Comparison(picture.key, picture.caption, picture.id, "", None, source, problem=problem)
