"""What the report says of a result: no more than the intervals allow."""

import pytest

from tastemaker.report.words import counted, interval, lasting, value, verdict

ABOUT = {"style_share": "style", "image_text": "text", "distance": "likeness"}


def _line(
    name: str, change: tuple[float, float, float], unit: str = "share", up: bool = True
) -> dict:
    low, middle, high = change
    change_of = {"estimate": middle, "low": low, "high": high}
    return {
        "name": name,
        "unit": unit,
        "higher_is_better": up,
        "backbone": "net",
        "models": {
            "before": {"estimate": 0.5, "low": 0.4, "high": 0.6, "units": 64},
            "after": {"estimate": 0.5 + middle, "low": 0.4, "high": 0.6, "units": 64},
        },
        "about": ABOUT[name],
        "against": {"after": {"difference": {**change_of, "level": 0.95, "units": 64}}},
    }


GAIN, NONE, LOSS = (0.1, 0.2, 0.3), (-0.1, 0.05, 0.2), (-0.3, -0.2, -0.1)


def _summary(*lines: dict, **more: object) -> dict:
    facts = {"sides": ["before", "after"], "reference": "before", "style": "ink", "notes": []}
    return {"scores": lines, "prompts": 64, **facts, **more}


@pytest.mark.parametrize(
    ("style", "text", "tone", "sentence"),
    [
        (GAIN, NONE, "good", "A clear gain, and no measurable loss beside it."),
        (GAIN, GAIN, "good", "A clear gain, and no measurable loss beside it."),
        (GAIN, LOSS, "mixed", "paid for: the pictures fit their texts less well"),
        (NONE, NONE, "unclear", "No clear change"),
        (NONE, LOSS, "bad", "No clear gain, and a clear loss"),
        (LOSS, NONE, "bad", "The training made this worse."),
        (LOSS, LOSS, "bad", "made this worse, and the pictures fit"),
    ],
)
def test_only_a_gain_without_a_loss_is_good(
    style: tuple, text: tuple, tone: str, sentence: str
) -> None:
    found = verdict(_summary(_line("style_share", style), _line("image_text", text, "cosine")))
    assert found.tone == tone
    assert sentence in found.sentence


def test_where_less_is_better_a_fall_is_a_gain() -> None:
    lines = (_line("distance", LOSS, "distance", up=False), _line("image_text", NONE, "cosine"))
    found = verdict(_summary(*lines))
    assert found.tone == "good"
    assert found.headline == "Distance to the training pictures: 0.50 → 0.30 over 64 prompts."
    assert found.change == ("0.50", "0.30")
    assert found.around == ("Distance to the training pictures: ", " over 64 prompts.")


def test_what_limits_the_result_is_said() -> None:
    summary = _summary(
        _line("style_share", GAIN),
        prompts=12,
        prompts_seen_in_training=12,
        missing={"before": 2, "after": 1},
        notes=["A note."],
    )
    said = " ".join(verdict(summary).details)
    for text in (
        "Only 12 prompts",
        "All prompts are captions of training",
        "3 pictures",
        "A note.",
    ):
        assert text in said
    assert "5 of the 64 prompts" in " ".join(
        verdict(_summary(_line("style_share", GAIN), prompts_seen_in_training=5)).details
    )


def test_a_gain_whose_price_is_unknown_is_not_called_good() -> None:
    found = verdict(_summary(_line("style_share", GAIN)))
    assert found.tone == "mixed"
    assert "was not measured" in found.sentence


def test_nothing_scored() -> None:
    found = verdict(_summary(notes=["No style."]))
    assert found.tone == "unclear"
    assert found.details == ("No style.",)


def test_numbers() -> None:
    assert value(0.414, "share") == "41\u202f%"
    assert value(-0.414, "share", signed=True) == "−41\u202fpoints"
    assert value(0.001, "share", signed=True) == "±0\u202fpoints"
    assert value(0.0131, "cosine", signed=True) == "+0.013"
    assert value(-0.0001, "cosine", signed=True) == "±0.000"
    assert value(-0.0001, "cosine") == "0.000"
    assert value(1.456, "distance") == "1.46"
    assert interval({"low": -0.05, "high": 0.123}, "share", signed=True) == "[−5, +12]"
    assert [lasting(s) for s in (0.2, 41.4, 131, 59.6, 19230)] == [
        "under 1\u202fs",
        "41\u202fs",
        "2\u202fmin 11\u202fs",
        "1\u202fmin 00\u202fs",
        "5\u202fh 20\u202fmin",
    ]
    assert counted(1234567) == "1\u202f234\u202f567"
