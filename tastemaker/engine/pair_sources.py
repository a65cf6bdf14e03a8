"""Where comparisons come from: a collection, a file, votes, scored generations, self-play."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tastemaker.curation.played_pairs import OwnPicture, RealPicture, played_comparisons
from tastemaker.curation.scored_pairs import ScoredPicture, scored_comparisons
from tastemaker.curation.voted_pairs import voted_comparisons
from tastemaker.engine.pair_inputs import DrawnPicture, Gathered, PairInputs, attribute
from tastemaker.engine.pair_kinds import (
    NEEDED,
    AnyPairSource,
    CollectionPairs,
    FilePairs,
    ScoredPairs,
    SelfPlayPairs,
    VotePairs,
)
from tastemaker.engine.pair_places import PairPlaces
from tastemaker.engine.sample_scores import FoundScores, compute_scores, read_scores_of
from tastemaker.errors import InputError
from tastemaker.records.image import ImageRecord
from tastemaker.records.pair import Comparison, PairPicture
from tastemaker.records.vote import Vote
from tastemaker.store.hashing import hash_json
from tastemaker.store.people_tables import StoredVote
from tastemaker.store.studies import FILE as PLAN
from tastemaker.store.studies import read_study

_MODELS = (("model_0", "model_1"), ("winner_model", "loser_model"))

Advance = Callable[[int], None]


def gather(
    source: AnyPairSource,
    inputs: PairInputs,
    *,
    facts: Collection[str],
    within_model: bool,
    memory: Path | None,
    on_picture: Advance = lambda count: None,
) -> Gathered:
    """All comparisons of a source, with the pictures that they name.

    Args:
        source: the configuration.
        inputs: the step's.
        facts: names of facts that are wanted of a comparison.
        within_model: compare scored pictures of one model only.
        memory: a folder for scores that are computed; None: they are not computed, and every
            picture counts as one without a score.
        on_picture: told how many more pictures were looked at.

    Raises:
        InputError: an input is not there, or does not fit.
    """
    for name in NEEDED[source.kind]:
        if name != "samples":
            inputs.path(name, source.kind)
    if isinstance(source, CollectionPairs):
        return _of_collection(inputs, {*facts, "label_problem"})
    if isinstance(source, FilePairs):
        return _of_file(inputs, on_picture)
    if isinstance(source, VotePairs):
        return _of_votes(source, inputs, on_picture)
    if isinstance(source, ScoredPairs):
        return _of_scores(source, inputs, within_model, memory, on_picture)
    return _of_self_play(source, inputs, on_picture)


def _of_collection(inputs: PairInputs, facts: Collection[str]) -> Gathered:
    from tastemaker.store.preferences import read_preferences

    found = Gathered()
    ids: set[str] = set()
    for stored in read_preferences(inputs.path("collection", "collection")):
        said, known = stored.preference, dict(stored.preference.facts)
        models = next((m for m in _MODELS if any(name in known for name in m)), _MODELS[0])
        found.comparisons.append(
            Comparison(
                key=said.key,
                prompt=said.prompt,
                first=stored.first or "",
                second=stored.second or "",
                label=said.label,
                source=stored.source,
                models=(known.get(models[0], ""), known.get(models[1], "")),
                facts=tuple(pair for pair in said.facts if pair[0] in facts),
                problem=known.get("pair_problem", ""),
            )
        )
        ids |= {i for i in (stored.first, stored.second) if i}
    if not found.comparisons:
        raise InputError(
            inputs.path("collection", "collection"),
            "no comparisons",
            "a collection of Pick-a-Pic files (with caption, jpg_0, jpg_1, label_0 and label_1) "
            "or of folders w/ and l/ with pictures in both",
            "Collect such a source, or choose another source.kind.",
        )
    records = inputs.records(ids)
    found.pictures = {i: inputs.picture(record) for i, record in records.items()}
    found.comparisons = [_with_models(one, records) for one in found.comparisons]
    sources = Counter(one.source for one in found.comparisons)
    found.made_with = {"sources": dict(sorted(sources.items()))}
    return found


def _with_models(one: Comparison, records: Mapping[str, ImageRecord]) -> Comparison:
    """A picture that is gone has a problem; models may be attributes of the pictures."""
    sides = (one.first, one.second)
    if any(side and side not in records for side in sides):
        return replace(one, problem="a picture that is not usable: gone from the collection")
    if all(one.models):
        return one
    models = [
        known or attribute(records.get(side), "model")
        for side, known in zip(sides, one.models, strict=True)
    ]
    return replace(one, models=(models[0], models[1]))


def _of_file(inputs: PairInputs, on_picture: Advance) -> Gathered:
    from tastemaker.store.comparison_files import read_comparison_lines

    path = inputs.path("file", "file")
    lines = list(read_comparison_lines(path))
    place = PairPlaces(inputs, path, {side for one in lines for side in (one.first, one.second)})
    found = Gathered(made_with={"file": path.name})
    for line in lines:
        problem, ids, models = line.problem, ["", ""], list(line.models)
        for n, side in enumerate((line.first, line.second) if not problem else ()):
            shown = place.of(side)
            on_picture(1)
            ids[n], models[n] = shown.id, models[n] or shown.model
            problem = problem or shown.problem
        found.comparisons.append(
            Comparison(
                key=line.key,
                prompt=line.prompt,
                first=ids[0],
                second=ids[1],
                label=line.label,
                source=f"file:{path.name}",
                margin=0.0 if line.label == 0.5 and line.margin is None else line.margin,
                models=(models[0], models[1]),
                facts=line.facts,
                problem=problem,
            )
        )
    found.pictures = place.pictures
    return found


def _of_votes(source: VotePairs, inputs: PairInputs, on_picture: Advance) -> Gathered:
    from tastemaker.stats.votes import majority
    from tastemaker.store.prompt_sets import read_prompt_set
    from tastemaker.store.vote_files import vote_lines, votes_at

    path = inputs.path("file", "votes")
    path = votes_at(path) or path
    votes = [(line, _counting(vote)) for line, vote in vote_lines(path)]
    sides = {side for _, vote in votes if isinstance(vote, Vote) for side in (vote.a, vote.b)}
    place = PairPlaces(inputs, path, sides)
    texts: dict[str, str] = {}
    if (path.parent / PLAN).is_file():
        study = read_study(path.parent)
        place.add_study(study)
        texts = {prompt.id: prompt.text for prompt in study.prompts}
    if inputs.has("prompts"):
        prompts = read_prompt_set(inputs.path("prompts", "votes"))
        texts |= {prompt.id: prompt.text for prompt in prompts.prompts}
    if inputs.sample_folders():
        place.add_drawn(inputs.drawn(on_picture))
        for (_, prompt), drawn in place.by_set.items():
            texts.setdefault(prompt, drawn[0].sample.prompt)
    comparisons = voted_comparisons(
        votes,
        lambda prompt, side: place.of(side, prompt),
        texts,
        majority,
        question=source.question,
        both_bad=source.both_bad,
        least_votes=source.least_votes,
        source=f"votes:{path.name}",
    )
    found = Gathered(list(comparisons), place.pictures, {"votes": path.name})
    found.counts["votes"] = len(votes)
    return found


def _counting(vote: StoredVote | str) -> Vote | str:
    if isinstance(vote, str):
        return vote
    return vote.vote if vote.counts else f"undone or late: {vote.vote.id}"


def _of_scores(
    source: ScoredPairs,
    inputs: PairInputs,
    within_model: bool,
    memory: Path | None,
    on_picture: Advance,
) -> Gathered:
    drawn = inputs.drawn(on_picture)
    scores = _scores(source, inputs, drawn, memory, on_picture)
    higher = scores.higher_is_better if source.higher_is_better is None else source.higher_is_better
    if higher is None:
        raise InputError(
            "source.higher_is_better", "nothing", f"true or false for {source.scorer}",
            "Say whether a higher value is better: the file of scores does not.",
        )  # fmt: skip
    pictures = [
        ScoredPicture(
            one.id,
            one.sample.prompt,
            value,
            one.set_name,
            f"{one.set_name}:{one.sample.file}",
            one.problem,
        )  # fmt: skip
        for one, value in zip(drawn, scores.values, strict=True)
    ]
    comparisons = scored_comparisons(
        pictures,
        select=source.select,
        within_model=within_model,
        higher_is_better=higher,
        source=f"scored:{source.scorer}",
    )
    about = {**scores.about, "higher_is_better": higher, "select": source.select}
    if source.held_out_scorer:
        about["held_out_scorer"] = source.held_out_scorer
    found = Gathered(list(comparisons), _pictures(drawn), {**about, **_seeds(drawn)})
    found.notes = scores.notes
    if scores.unused:
        found.counts["scores of other models"] = scores.unused
    return found


def _scores(
    source: ScoredPairs,
    inputs: PairInputs,
    drawn: list[DrawnPicture],
    memory: Path | None,
    on_picture: Advance,
) -> FoundScores:
    if inputs.has("scores"):
        path = inputs.path("scores", "scored")
        return read_scores_of(path, drawn, source.scorer, source.models, source.held_out_scorer)
    model = inputs.inputs.get("image_text")
    if memory is None:
        return FoundScores([None] * len(drawn), True, {"scorer": source.scorer})
    return compute_scores(source.scorer, drawn, model, memory, on_picture)


def _of_self_play(source: SelfPlayPairs, inputs: PairInputs, on_picture: Advance) -> Gathered:
    from tastemaker.store.selections import read_selection

    chosen = read_selection(inputs.path("selection", "self_play"))
    records = inputs.records(chosen.ids)
    drawn = inputs.drawn(on_picture)
    real = [
        RealPicture(i, _caption(records[i], source.caption), records[i].key)
        for i in chosen.ids
        if i in records
    ]
    own = [
        OwnPicture(one.id, one.sample.prompt, one.sample.sample_index, one.set_name, one.problem)
        for one in drawn
    ]
    comparisons = [
        *played_comparisons(real, own, losers=source.losers, source="self_play"),
        *_gone(i for i in chosen.ids if i not in records),
    ]
    pictures = {**_pictures(drawn), **{i: inputs.picture(r) for i, r in records.items()}}
    made_with: dict[str, Any] = {"selection": chosen.hash, "caption": source.caption}
    return Gathered(comparisons, pictures, {**made_with, **_seeds(drawn)})


def _gone(ids: Iterator[str]) -> Iterator[Comparison]:
    for i in ids:
        problem = "a picture that is not usable: not in the collection"
        yield Comparison(i[:12], "", i, "", None, "self_play", problem=problem)


def _caption(record: ImageRecord, number: int) -> str:
    return record.captions[number] if number < len(record.captions) else ""


def _pictures(drawn: list[DrawnPicture]) -> dict[str, PairPicture]:
    """By id; of two samples with the same bytes, the one whose latent was kept."""
    found: dict[str, PairPicture] = {}
    for one in drawn:
        if not one.problem and (one.id not in found or not found[one.id].latent):
            found[one.id] = one.picture
    return found


def _seeds(drawn: list[DrawnPicture]) -> dict[str, Any]:
    """What the pictures were made with: hashes of settings, and how many prompts and pictures."""
    settings = sorted({f"{one.set_name} {one.sample.settings[:16]}" for one in drawn})
    seeds = sorted({one.sample.seed for one in drawn})
    prompts = {one.sample.prompt_id for one in drawn}
    return {
        "samples": settings,
        "pictures": len(drawn),
        "prompts": len(prompts),
        "seeds": hash_json(seeds),
    }
