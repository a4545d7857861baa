"""Prompt ensembling: several adapters of one task answer each input in one forward, and vote.  Lester et al. 2021,
arXiv:2104.08691, section 6 (N soft prompts on one frozen model; majority vote).

Nothing here is special to prompts: any adapters that share batches may vote.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from lmtailor.base.base import Base
from lmtailor.core.errors import InputError
from lmtailor.infer.predict import Answer, RawInput, predict
from lmtailor.infer.score import Progress
from lmtailor.store.adapter import Adapter


def predict_together(
    base: Base,
    adapters: Sequence[Adapter],
    inputs: Sequence[RawInput],
    *,
    vote: Literal["majority", "mean"] = "majority",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[Answer]:
    """The joint answer of several adapters to each input.

    Each input stands in the batch once for every adapter, so that the base runs once for all of them.

    Args:
        base: the model.
        adapters: two or more with the same labels.
        inputs: as for `predict`.
        vote: "majority": the label that most adapters give, of equals the one with the higher mean probability; the scores are
            shares of votes. "mean": the mean of probabilities. In regression both are the mean of values.
        batch_size: rows in a batch.
        progress: called with rows done and of how many.

    Raises:
        InputError: fewer than two adapters, or adapters with different labels.
    """
    if len(adapters) < 2:
        raise InputError(f"An ensemble has two adapters or more; found {len(adapters)}. Use predict for one.")
    if len({adapter.labels for adapter in adapters}) > 1:
        shown = "; ".join(", ".join(adapter.labels) or "no labels" for adapter in adapters)
        raise InputError(f"Adapters that vote must have the same labels; found {shown}.")
    if vote not in ("majority", "mean"):
        raise InputError(f"vote is {vote!r}; it is majority or mean.")
    repeated = [one for one in inputs for _ in adapters]
    rows = [slot for _ in inputs for slot in range(len(adapters))]
    answers = predict(base, adapters, repeated, rows=rows, batch_size=batch_size, progress=progress)
    count = len(adapters)
    return [_joined(answers[start : start + count], vote) for start in range(0, len(answers), count)]


def _joined(answers: Sequence[Answer], vote: str) -> Answer:
    cut = max(answer.cut for answer in answers)
    if answers[0].label is None:
        values = [answer.value for answer in answers if answer.value is not None]
        return Answer(label=None, value=fmean(values), scores={}, cut=cut)
    means = {label: fmean(answer.scores[label] for answer in answers) for label in answers[0].scores}
    votes = Counter(answer.label for answer in answers)
    shares = {label: votes[label] / len(answers) for label in means} if vote == "majority" else means
    best = max(shares, key=lambda label: (shares[label], means[label]))
    return Answer(label=best, value=None, scores=shares, cut=cut)
