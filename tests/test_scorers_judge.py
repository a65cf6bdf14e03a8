"""The judges: right on what is clear, undecided on what is not, and independent of order."""

import numpy as np
import pytest
import scipy.linalg

from tastemaker.errors import InputError
from tastemaker.scorers.judge import OTHERS, ConceptJudge, StyleJudge, Whitening
from tastemaker.scorers.likeness import Likeness

CONCEPTS = [f"c{n:02d}" for n in range(24)]
STYLES = ["flat", "line"]


class Flat:
    """A "network" whose features are the picture's own pixels."""

    backbone = "flat@0"

    def features(self, pictures):
        return np.stack([picture.reshape(-1) for picture in pictures]).astype(np.float32)


@pytest.fixture
def drawings():
    """Concepts as directions, styles as a shift that is much larger than they are."""
    random = np.random.default_rng(0)
    concepts = random.normal(0, 1, (len(CONCEPTS), 40))
    shift = random.normal(0, 3, 40)
    features, names, styles = [], [], []
    for row, name in enumerate(CONCEPTS):
        for side, style in enumerate(STYLES):
            features.append(concepts[row] + side * shift + random.normal(0, 0.3, 40))
            names.append(name)
            styles.append(style)
    return np.array(features, np.float32), names, styles


def test_whitening_is_the_inverse_root_of_the_ridged_scatter_within_concepts(drawings) -> None:
    features, names, _ = drawings
    white = Whitening.fit(features, names)(features)

    x = features.astype(np.float64)
    pairs = x.reshape(len(CONCEPTS), 2, -1)
    within = (pairs - pairs.mean(axis=1, keepdims=True)).reshape(len(x), -1)
    scatter = within.T @ within / len(CONCEPTS)
    ridged = scatter + np.trace(scatter) / x.shape[1] * np.eye(x.shape[1])
    expected = (x - x.mean(axis=0)) @ scipy.linalg.inv(scipy.linalg.sqrtm(ridged)).real
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(white, expected, rtol=1e-8, atol=1e-10)


def test_one_drawing_a_concept_is_enough(drawings) -> None:
    features, names, _ = drawings
    judge = ConceptJudge.fit(Flat(), features[::2], names[::2], set())
    assert judge.ranks(features[::2], names[::2], names[::2]).max() == 1


def test_the_named_concept_is_found_in_the_other_style(drawings) -> None:
    features, names, styles = drawings
    evaluated = CONCEPTS[:8]
    judge = ConceptJudge.fit(Flat(), features, names, set(evaluated))
    keys = {name: f"prompt-{name}" for name in evaluated}
    across = judge.accuracy_across_styles(features, names, styles, keys)
    assert len(across) == 16
    assert (across == 1).mean() > 0.8
    # Without the whitening the style hides the concept.
    plain = np.linalg.norm(features[0] - features[1]) > np.linalg.norm(features[0] - features[2])
    assert plain


def test_a_picture_that_says_nothing_gets_the_middle_rank(drawings) -> None:
    features, names, _ = drawings
    judge = ConceptJudge.fit(Flat(), features, names, set())
    nothing = np.repeat(features.mean(axis=0, dtype=np.float64)[None], 3, axis=0)
    judge._whitening = Whitening(nothing[0], np.zeros((40, 0)), np.zeros(0))
    assert judge.ranks(nothing, CONCEPTS[:3], CONCEPTS[:3]).tolist() == [1 + OTHERS / 2] * 3


def test_ranks_do_not_depend_on_order_or_company(drawings) -> None:
    features, names, _ = drawings
    judge = ConceptJudge.fit(Flat(), features, names, set())
    noisy = features + np.random.default_rng(1).normal(0, 2, features.shape)
    ranks = judge.ranks(noisy, names, names)
    order = np.random.default_rng(2).permutation(len(names))
    mixed = judge.ranks(noisy[order], [names[i] for i in order], [names[i] for i in order])
    assert mixed.tolist() == ranks[order].tolist()
    assert judge.ranks(noisy[:1], names[:1], names[:1])[0] == ranks[0]
    assert ranks.min() >= 1
    assert ranks.max() <= OTHERS + 1
    assert len(set(ranks)) > 2


def test_each_prompt_has_other_rivals_and_the_seed_chooses_them(drawings) -> None:
    features, names, _ = drawings
    noisy = features + np.random.default_rng(1).normal(0, 4, features.shape)

    def ranks(seed: int, key: str) -> list[float]:
        judge = ConceptJudge.fit(Flat(), features, names, set(), seed=seed)
        return judge.ranks(noisy, names, [key + name for name in names]).tolist()

    assert ranks(0, "a") == ranks(0, "a")
    assert ranks(0, "a") != ranks(0, "b")
    assert ranks(0, "a") != ranks(1, "a")


def test_an_unknown_concept_is_refused(drawings) -> None:
    features, names, _ = drawings
    judge = ConceptJudge.fit(Flat(), features, names, set())
    assert not judge.knows("unicorn")
    with pytest.raises(ValueError, match="unicorn"):
        judge.ranks(features[:1], ["unicorn"], ["p"])
    with pytest.raises(InputError, match="at least 2"):
        ConceptJudge.fit(Flat(), features[:2], names[:2], set())


def test_styles_are_told_apart_on_concepts_never_seen(drawings) -> None:
    features, _, styles = drawings
    judge = StyleJudge.fit(Flat(), features[:32], styles[:32])
    assert judge.correct(features[32:], styles[32:]).all()
    line, flat = judge.margin_of(features, "line"), judge.margin_of(features, "flat")
    np.testing.assert_allclose(line, -flat, atol=1e-9)
    ours = np.array(styles[:32]) == "line"
    assert line[:32][ours].mean() == pytest.approx(1.0)
    assert line[:32][~ours].mean() == pytest.approx(-1.0)


def test_a_style_with_more_drawings_has_no_advantage(drawings) -> None:
    features, _, styles = drawings
    few = [i for i, s in enumerate(styles) if s == "flat" or i < 8]
    judge = StyleJudge.fit(Flat(), features[few], [styles[i] for i in few])
    means = [features[np.array(styles) == s].mean(axis=0) for s in STYLES]
    middle = np.mean(means, axis=0, keepdims=True)
    assert abs(judge.margin_of(middle, "flat")[0]) < 0.2


def test_three_styles(drawings) -> None:
    features, _, styles = drawings
    third = features[::2] - 3 * np.eye(40, dtype=np.float32)[0] * 4
    all_features = np.concatenate([features, third])
    all_styles = [*styles, *["third"] * len(third)]
    judge = StyleJudge.fit(Flat(), all_features, all_styles)
    assert judge.correct(all_features, all_styles).mean() > 0.95
    margin = judge.margin_of(all_features, "third")
    assert ((margin > 0) == (np.array(all_styles) == "third")).mean() > 0.95


def test_style_errors(drawings) -> None:
    features, _, styles = drawings
    judge = StyleJudge.fit(Flat(), features, styles)
    with pytest.raises(InputError, match="one of flat, line"):
        judge.margin_of(features, "oil")
    with pytest.raises(InputError, match="at least 2 styles"):
        StyleJudge.fit(Flat(), features, ["flat"] * len(features))


def test_judges_score_pictures_through_their_network() -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (2, 2, 3), dtype=np.uint8) for _ in range(8)]
    features = Flat().features(pictures)
    names = [f"c{n}" for n in range(8)]
    concept = ConceptJudge.fit(Flat(), features, names, set())
    assert concept.score(pictures, names).tolist() == [1.0] * 8
    assert concept.range == (1.0, 8.0)
    style = StyleJudge.fit(Flat(), features, ["a", "b"] * 4)
    assert (style.score(pictures, ["a", "b"] * 4) > 0).all()
    with pytest.raises(ValueError, match="as many texts"):
        style.score(pictures, None)
    with pytest.raises(ValueError, match="uint8"):
        concept.score([picture / 255 for picture in pictures], names)


def test_distance_is_one_for_own_pictures_left_out() -> None:
    random = np.random.default_rng(0)
    own = random.normal(0, 1, (12, 5)) * np.array([1, 2, 0.1, 1, 1])
    likeness = Likeness.fit(Flat(), own)
    # Each picture against the mean of all others, one by one.
    variances = 0.5 * own.var(axis=0, ddof=1) + 0.5 * own.var(axis=0, ddof=1).mean()
    left_out = [
        (((own[i] - np.delete(own, i, axis=0).mean(axis=0)) ** 2) / variances).mean()
        for i in range(12)
    ]
    assert likeness.own == pytest.approx(np.mean(left_out), rel=1e-12)
    far = likeness.distances(own + 5)
    assert (far > likeness.distances(own)).all()
    assert likeness.distances(own.mean(axis=0, keepdims=True))[0] == pytest.approx(0, abs=1e-12)


def test_too_few_or_equal_pictures_have_no_distance() -> None:
    with pytest.raises(InputError, match="3 pictures"):
        Likeness.fit(Flat(), np.eye(3))
    with pytest.raises(InputError, match="all alike"):
        Likeness.fit(Flat(), np.ones((6, 4)))
