"""What a reference of a recipe stands for when it is no step: a path, a source or a model."""

from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from tastemaker.errors import RecipeError
from tastemaker.recipe.content import ContentKeys
from tastemaker.recipe.names import did_you_mean
from tastemaker.recipe.references import PICTURES, Reference
from tastemaker.records.run import Artefact
from tastemaker.store.growth_log import FINISHED, GrowthLog
from tastemaker.store.hashing import hash_json
from tastemaker.store.rundir import RunDir, StepDir, read_manifest

CACHE, VOTES = "cache", "votes"

if TYPE_CHECKING:
    from tastemaker.models.locate import Kind


def find_input(reference: Reference, steps: list[str], contents: ContentKeys) -> Artefact:
    """The artefact that a reference to the outside stands for.

    A path may also be a run folder or the folder of one of its steps: then its output is meant.

    Args:
        reference: what the recipe says.
        steps: names of the earlier steps, for the message.
        contents: hashes of files.

    Raises:
        RecipeError: there is nothing of this name.
        MissingModel: no model of this name.
    """
    value = reference.value
    if PICTURES in reference.kinds:
        return _pictures(value)
    path = Path(value).expanduser()
    if VOTES in reference.kinds and (votes := _votes(path.resolve())) is not None:
        return votes
    output = _output_at(path.resolve(), reference) if path.exists() else None
    if output is not None:
        return output
    kind = _model_kind(reference)
    if kind is not None:
        return _model(value, kind, contents)
    if path.exists():
        kind = reference.kinds[0]
        _check_place(path.resolve(), reference)
        return Artefact(kind, path.resolve(), hash_json([kind, contents.key(path.resolve())]))
    earlier = ", ".join(steps) or "there is none"
    raise RecipeError(
        reference.where,
        f"'{value}'",
        f"an earlier step ({earlier}) or a path of {_kinds(reference)}",
        did_you_mean(value, steps, "Check the name; paths are relative to this folder."),
    )


def _pictures(value: str) -> Artefact:
    from tastemaker.store.sources import open_source

    path = Path(value).expanduser()
    place = path.resolve() if path.exists() else value
    # A catalogue keeps the paths of its pictures, so a folder that has moved counts as another one.
    key = hash_json([PICTURES, str(place), open_source(str(place)).fingerprint()])
    return Artefact(PICTURES, place, key)


def _votes(path: Path) -> Artefact | None:
    """What people said: of a study, of a collection, or of the last step of a run that has some.

    They vote after the step is done, so its key says nothing of the votes.
    """
    from tastemaker.store.vote_files import votes_at, votes_key

    own = [StepDir(path)] if read_manifest(path) else list(reversed(RunDir(path).steps()))
    done = [(step, manifest) for step in own if (manifest := step.finished()) is not None]
    left = [
        step.path / manifest.outputs[kind]
        for step, manifest in done
        for kind in ("study", "collection")
        if kind in manifest.outputs
    ]
    found = next((votes for place in [path, *left] if (votes := votes_at(place))), None)
    return None if found is None else Artefact(VOTES, found, hash_json([VOTES, votes_key(found)]))


def _output_at(path: Path, reference: Reference) -> Artefact | None:
    """The output of the right kind in a run folder, in a step's folder, or the output itself.

    A cache step that is not finished counts too, once it has planned what it will write; whoever
    reads it tells what can be done with that.
    """
    own = [StepDir(path)] if read_manifest(path) else list(reversed(RunDir(path).steps()))
    for step in own:
        manifest = step.finished()
        for kind in reference.kinds:
            if manifest is not None and kind in manifest.outputs:
                return step.output(kind)
    for step in (own or [StepDir(path)]) if CACHE in reference.kinds else []:
        # Its key is that of the finished output, so that the same command goes on with that.
        if (key := GrowthLog(step.path).key) is not None:
            return Artefact(CACHE, step.path / FINISHED, f"{key}:{CACHE}")
    if own:
        raise RecipeError(
            reference.where,
            f"{path}, where no finished step has left {_kinds(reference)}",
            f"a path of {_kinds(reference)}",
            "Finish that run first, or name another folder.",
        )
    manifest = read_manifest(path.parent)
    for kind in reference.kinds:
        if manifest is not None and manifest.outputs.get(kind) == path.name:
            return StepDir(path.parent).output(kind)
    return None


def _check_place(path: Path, reference: Reference) -> None:
    """A folder of pictures is easily taken for what is made from it."""
    if reference.kinds == ("collection",) and not (path / "catalog" / "base").is_dir():
        raise RecipeError(
            reference.where,
            f"{path}, which holds no catalogue",
            "a collection, or the run folder that holds one",
            "Make one first: tastemaker collect PICTURES -o RUN; then name RUN.",
        )
    if reference.kinds == ("selection",) and path.is_dir():
        raise RecipeError(
            reference.where,
            f"{path}, a folder without a selection",
            "a selection.json, or the run folder that holds one",
            "Make one first: tastemaker curate RUN -o RUN; then name RUN.",
        )


def _model_kind(reference: Reference) -> str | None:
    from tastemaker.models.locate import Kind

    known = get_args(Kind)
    return next((kind for kind in reference.kinds if kind in known), None)


def _model(value: str, kind: str, contents: ContentKeys) -> Artefact:
    from tastemaker.models.locate import locate

    path = locate(value, cast("Kind", kind)).resolve()
    return Artefact(kind, path, hash_json([kind, contents.key(path)]))


def _kinds(reference: Reference) -> str:
    return " or ".join(reference.kinds)
