"""Courses of the learning rate, against their formulas written anew in numpy."""

import numpy as np
import pytest
from pydantic import ValidationError

from tastemaker.training.lr import LrCourse, lr_course

N, W, END = 1000, 100, 0.1


def test_cosine_and_linear_follow_their_formulas():
    n = np.arange(0, N + 1, 7, dtype=np.float64)
    p = np.clip((n - W) / (N - W), 0, 1)
    expected = {
        "cosine": END + (1 - END) * 0.5 * (1 + np.cos(np.pi * p)),
        "linear": 1 - (1 - END) * p,
        "constant": np.ones_like(n),
    }
    for shape, falling in expected.items():
        factor = lr_course(LrCourse(shape=shape, warmup_images=W, end=END), N)  # type: ignore[arg-type]
        ours = np.array([factor(int(i)) for i in n])
        np.testing.assert_allclose(ours, np.where(n < W, n / W, falling), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("end", [0.0, 0.25])
def test_the_end_is_exact_and_stays(shape, end):
    factor = lr_course(LrCourse(shape=shape, warmup_images=10, end=end), N)
    assert factor(N) == factor(N + 500) == end
    assert factor(10) == 1.0
    assert factor(0) == 0.0


def test_without_warm_up_the_first_image_has_the_full_rate():
    assert lr_course(LrCourse(shape="cosine"), N)(0) == 1.0


def test_a_run_shorter_than_its_warm_up_only_rises():
    factor = lr_course(LrCourse(shape="cosine", warmup_images=100), 50)
    assert [factor(n) for n in (0, 25, 49)] == [0.0, 0.25, 0.49]


@pytest.mark.parametrize("bad", [{"shape": "cosin"}, {"warmup_images": -1}, {"end": 2.0}, {"x": 1}])
def test_a_wrong_course_is_refused(bad):
    with pytest.raises(ValidationError):
        LrCourse(**bad)
