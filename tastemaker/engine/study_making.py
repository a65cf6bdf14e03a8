"""Make a study from generated pictures, folders of pictures, or what others have drawn."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tastemaker.engine.ballot import lot
from tastemaker.engine.study_ballot import OTHER
from tastemaker.errors import InputError
from tastemaker.records.ballot import QUESTIONS, Contender, GoldPair, Question, Study
from tastemaker.records.generation import Prompt, PromptSet
from tastemaker.stats.planning import StudyPlan, plan_study, power_of, prompts_needed
from tastemaker.store.file_kinds import PICTURE_ENDINGS
from tastemaker.store.hashing import hash_file
from tastemaker.store.rundir import RunDir
from tastemaker.store.samples import SAMPLES, read_samples
from tastemaker.store.studies import identified

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")

_LEAST_PROMPTS = 2


@dataclass(frozen=True)
class Pictures:
    """What one model made.

    Attributes:
        name: of the model.
        about: where they lie.
        files: prompt id -> file.
        texts: prompt id -> prompt, as far as the pictures tell.
    """

    name: str
    about: str
    files: Mapping[str, Path]
    texts: Mapping[str, str]


def read_pictures(name: str, folder: Path, prompts: PromptSet | None, sample: int = 0) -> Pictures:
    """The pictures of a model: a sample set, the run that made it, or a file for each prompt.

    Of a run that generated several sets, the step that is called as the model is meant. Files of a
    plain folder are called by the prompt's id, by the prompt's number in the set (from 0, with any
    number of leading zeros), or by one of these and `_00`, `_01`, ... for the sample.

    Args:
        name: of the model.
        folder: a sample set, a run, or pictures.
        prompts: needed for a plain folder.
        sample: which of several pictures of a prompt.

    Raises:
        InputError: no pictures, a run with several sets, or a plain folder without prompts.
    """
    folder = _samples_in(Path(folder), name)
    if not NAME.fullmatch(name) or OTHER in name:
        raise InputError("study", f"the name {name!r}", "letters, digits, . _ -", "Choose another.")
    if (folder / SAMPLES).is_file():
        rows = [s for s in read_samples(folder) if s.sample_index == sample]
        files = {s.prompt_id: folder / s.file for s in rows if (folder / s.file).is_file()}
        return Pictures(name, str(folder), files, {s.prompt_id: s.prompt for s in rows})
    if not folder.is_dir():
        raise InputError(folder, "no folder", "generated pictures or a folder", "Check the name.")
    if prompts is None:
        raise InputError(
            folder, "plain pictures", "also the prompts that they were made for", "Give --prompts."
        )
    named = {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix.lower() in PICTURE_ENDINGS
    }
    by_number = {}
    for stem, path in named.items():
        found = re.fullmatch(r"0*(\d+)(?:_0*(\d+))?", stem)
        if found and int(found[2] or 0) == sample:
            by_number[int(found[1])] = path
    files = {}
    for number, prompt in enumerate(prompts.prompts):
        # A name without a number is the first sample, and no other.
        own = named.get(f"{prompt.id}_{sample:02d}") or (sample == 0 and named.get(prompt.id))
        path = own or by_number.get(number)
        if path:
            files[prompt.id] = path
    if not files:
        raise InputError(
            folder,
            f"{len(named)} pictures, none with the id or number of a prompt",
            f"files such as {' or '.join(_names(prompts.prompts[0].id, sample))}",
            "Rename them.",
        )
    return Pictures(name, str(folder), files, {p.id: p.text for p in prompts.prompts})


def _samples_in(folder: Path, name: str) -> Path:
    """The sample set of a run; any other folder as it is."""
    steps = RunDir(folder).steps()
    if not steps:
        return folder
    made = {step.name: step for step in steps if step.stage == "generate"}
    step = made.get(name) or (next(iter(made.values())) if len(made) == 1 else None)
    manifest = step.finished() if step is not None else None
    if step is not None and manifest is not None:
        return step.path / manifest.outputs["samples"]
    told = f"the generate steps {', '.join(made)}" if made else "a run that generates nothing"
    raise InputError(
        folder,
        told if step is None else f"the step {step.name}, which is not finished",
        f"one that made the pictures of the model {name}",
        f"Name the folder of the pictures: {name}={folder}/steps/STEP/KEY/samples.",
    )


def _names(first: str, sample: int) -> list[str]:
    """What the first prompt's file may be called."""
    end = f"_{sample:02d}.png" if sample else ".png"
    return list(dict.fromkeys((f"{first}{end}", f"00000{end}")))


def make_study(
    folder: Path,
    name: str,
    models: Sequence[Pictures],
    prompts: PromptSet | None = None,
    *,
    questions: Sequence[str] = ("general",),
    subset: int | None = None,
    allow_missing: bool = False,
    gold: int = 0,
    seed: int = 0,
    **options: Any,
) -> Study:
    """The plan of a study.

    Args:
        folder: where it will lie; paths are relative to it.
        name: for people.
        models: two or more.
        prompts: what to ask; by default what the pictures tell.
        questions: names of the known ones, or `name: text` of one's own.
        subset: only so many prompts, by lot.
        allow_missing: leave out prompts of which a model has no picture, instead of refusing.
        gold: so many pairs with a known answer: a picture beside that of another prompt.
        seed: of the subset, the gold pairs, the order and the sides.
        options: further fields of `Study`.

    Raises:
        InputError: fewer than two models or prompts, a picture is missing, texts differ.
    """
    names = [one.name for one in models]
    if len(models) < 2 or len(set(names)) < len(names):
        raise InputError("study", f"the models {names}", "two or more names", "Name them apart.")
    asked = list(prompts.prompts) if prompts is not None else _told(models)
    lacking = {p.id: [m.name for m in models if p.id not in m.files] for p in asked}
    lacking = {id_: who for id_, who in lacking.items() if who}
    if lacking and not allow_missing:
        first = next(iter(lacking))
        raise InputError(
            "study",
            f"no picture for {len(lacking)} of {len(asked)} prompts, first {first!r} "
            f"({', '.join(lacking[first])})",
            "one of each model for each prompt",
            "Make them, or leave these prompts out with --allow-missing.",
        )
    asked = [p for p in asked if p.id not in lacking]
    if subset is not None:
        chosen = {p.id for p in sorted(asked, key=lambda p: lot(seed, p.id))[:subset]}
        asked = [p for p in asked if p.id in chosen]
    if len(asked) < _LEAST_PROMPTS:
        raise InputError("study", f"{len(asked)} prompts", "at least 2", "Give more prompts.")
    study = Study(
        id="",
        name=name,
        contenders=tuple(_contender(one, asked, folder) for one in models),
        prompts=tuple(asked),
        questions=tuple(_question(text) for text in questions),
        gold=_gold(asked, names, gold, seed),
        seed=seed,
        **options,
    )
    return identified(study)


def planned(study: Study, rate: float = 0.6) -> dict[str, Any]:
    """What a study of this size can show, in plain numbers: to be read before anybody votes.

    Args:
        study: the plan.
        rate: a true majority win rate whose power is told as well.
    """
    plan: StudyPlan = plan_study(len(study.prompts), study.votes)
    pairs = len(study.contenders) * (len(study.contenders) - 1) // 2
    return {
        "prompts": plan.prompts,
        "questions": len(study.questions),
        "pairs_of_models": pairs,
        "votes_per_pair": study.votes,
        "votes": plan.prompts * study.votes * pairs * len(study.questions),
        "minutes": plan.minutes * pairs * len(study.questions),
        "half_width": plan.half_width,
        "smallest_rate": plan.smallest_rate,
        "power": plan.power,
        "example_rate": rate,
        "example_power": power_of(plan.prompts, rate),
        "prompts_for_example": prompts_needed(rate, plan.power),
    }


def plan_told(plan: Mapping[str, Any]) -> str:
    """What a study of this size can show, in sentences; of `planned`."""
    text = f"The interval will be about {plan['half_width']:.3f} to each side. "
    if plan["smallest_rate"] is None:
        text += "With so few prompts no difference can be found, not even of a model that always "
        text += "wins. "
    else:
        text += f"A true majority win rate of {plan['smallest_rate']:.3f} is found with a power of "
        text += f"{plan['power']:.0%}; one of {plan['example_rate']:.2f} with "
        text += f"{plan['example_power']:.0%}. "
    needed, rate = plan["prompts_for_example"], plan["example_rate"]
    if plan["prompts"] < needed:
        text += (
            f"To find {rate:.2f} with {plan['power']:.0%} takes about {needed:,} prompts, however "
        )
        text += "many votes each has."
    return text.strip()


def _told(models: Sequence[Pictures]) -> list[Prompt]:
    texts: dict[str, str] = {}
    for one in models:
        for id_, text in one.texts.items():
            if texts.setdefault(id_, text) != text:
                raise InputError(
                    one.about, f"{text!r:.80} for {id_}", f"{texts[id_]!r:.80}", "Give --prompts."
                )
    return [Prompt(id_, text) for id_, text in sorted(texts.items())]


def _contender(one: Pictures, asked: Sequence[Prompt], folder: Path) -> Contender:
    files = {p.id: one.files[p.id] for p in asked}
    inner = {id_: os.path.relpath(file.resolve(), folder.resolve()) for id_, file in files.items()}
    return Contender(one.name, one.about, inner, {i: hash_file(file) for i, file in files.items()})


def _question(text: str) -> Question:
    name, colon, asked = text.partition(":")
    if not colon and name in QUESTIONS:
        return QUESTIONS[name]
    if not colon or not asked.strip() or not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name):
        raise InputError(
            "study", f"the question {text!r}", f"{', '.join(QUESTIONS)} or name: text", "Mend it."
        )
    return Question(name, asked.strip())


def _gold(asked: Sequence[Prompt], names: Sequence[str], count: int, seed: int) -> tuple:
    order = sorted(asked, key=lambda p: lot(seed, "gold", p.id))
    pairs = []
    for number, prompt in enumerate(order[:count]):
        other = order[(number + 1) % len(order)]
        if other.text != prompt.text:
            pairs.append(GoldPair(prompt.id, names[number % len(names)], other.id))
    return tuple(pairs)
