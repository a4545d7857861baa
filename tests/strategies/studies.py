"""Sensitivity studies that never ran, for tests of what is made from them."""

import numpy as np

from lmtailor.strategies.sensitivity_record import Asked, Point, SensitivityRecord

NAMES = (
    "Review and sentiment",
    "It was",
    "Question: was it good?",
    "a_name_that_is_one_very_long_word_without_any_space",
    "日本 & <b>",
)


def made_up(*, templates: int = 5, sets: int = 6, n: int = 120, calibrated: bool = True, seed: int = 0) -> SensitivityRecord:
    """A study in which templates differ, and calibration helps."""
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 2, n)
    points = []
    for number in range(templates):
        for index in range(sets):
            right = np.clip(rng.normal(0.6 + 0.06 * number, 0.09), 0.45, 0.97)
            before = np.where(rng.random(n) < right, reference, 1 - reference)
            after = np.where(rng.random(n) < min(right + 0.1, 0.97), reference, 1 - reference)
            points.append(
                Point(
                    template=NAMES[number],
                    seed=0,
                    set=index,
                    order=0,
                    before=tuple(map(int, before)),
                    after=tuple(map(int, after)) if calibrated else None,
                    shares=(0.3, 0.7) if calibrated else None,
                    seconds=1.5,
                )
            )
    words = {"negative": ("bad",), "positive": ("good", "great")}
    return SensitivityRecord(
        task="films",
        split="test",
        metric="accuracy",
        labels=("negative", "positive"),
        reference=tuple(map(int, reference)),
        templates={name: Asked(pattern="Review: {text}\n{{x}}: {mask}", words=words) for name in NAMES[:templates]},
        points=tuple(points),
        settings={"base": "tiny", "k": "4"},
        notes=("It was: 3 of 120 documents lost their end.",),
    )
