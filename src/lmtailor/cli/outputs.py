"""Scores of texts that any system has written."""

from collections.abc import Sequence
from pathlib import Path

from lmtailor.cli import say
from lmtailor.core.errors import DataError, InputError
from lmtailor.tasks.metrics import Scores
from lmtailor.tasks.metrics.text import evaluate_texts, get_text_metric
from lmtailor.tasks.metrics.text.files import Outputs, read_outputs
from lmtailor.tasks.metrics.text.metric import ExampleError

USUAL = ("bleu", "nist", "coco_rouge_l", "cider")
"""Metrics where none are named: those of the E2E challenge that need no Java."""

WITHOUT_REFERENCES = ("distinct_1", "distinct_2")
"""And where there are no references."""


def score_outputs(
    predictions: Path, references: Path | None, metrics: Sequence[str], *, encoding: str, seed: int, as_json: bool
) -> None:
    """Score a file of predictions, with progress, and write the scores.

    Raises:
        InputError: an unknown metric, or one that needs references where there are none; see `read_outputs`.
        DataError: a prediction that a metric cannot score, with file and line.
    """
    chosen = list(map(get_text_metric, metrics))
    outputs = read_outputs(predictions, references, encoding=encoding)
    needing = [metric.name for metric in chosen if metric.needs_references]
    if needing and not outputs.references:
        raise InputError(f"{needing[0]} compares with references, and {predictions} has none. Give them with --references.")
    _tell_empty(predictions, outputs)
    names = metrics or (USUAL if outputs.references else WITHOUT_REFERENCES)
    with say.stages() as tell:
        try:
            scores = evaluate_texts(
                names,
                outputs.predictions,
                outputs.references,
                seed=seed,
                tell=lambda metric, done, total: tell(f"scoring {metric}", done, total),
            )
        except ExampleError as error:
            raise DataError(f"{predictions}, line {outputs.lines[error.number - 1]} {error.what}") from error
    if as_json:
        about = {"predictions": str(predictions), "references": str(references) if references else None}
        say.json_line({**about, "empty": len(outputs.empty), "scores": scores.to_mapping()}, indent=2)
    else:
        _show(scores)


def _tell_empty(path: Path, outputs: Outputs) -> None:
    """Say how many predictions are empty, if any are."""
    if outputs.empty:
        count, total = len(outputs.empty), len(outputs.predictions)
        say.warn(f"{path}: {count} of {total} predictions are empty and match nothing; line {outputs.empty[0]} is the first.")


def _show(scores: Scores) -> None:
    """One line a metric, with the interval and n."""
    rows = [
        (score.metric, f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}", f"{score.n}") for score in scores.values()
    ]
    say.table(("metric", "value", "95 % interval", "n"), rows, right=("value", "n"))
