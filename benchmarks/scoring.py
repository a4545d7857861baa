"""Few-shot scoring: SST-2 with 16 fixed demonstrations, beside lm-eval's HF backend on the same prompts.

Then what each step brings, on the two words and on choices of several tokens.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from timing import once

import lmtailor as lt
from lmtailor.base.base import Base
from lmtailor.infer.choices import Scored

WORDS = (" terrible", " great")
PHRASES = (" one of the worst films", " not as good as it could be", " a rather good film", " one of the best films of the year")
PATTERN = "Review: {text}\nIt was"
SHOTS = 16
WARM = 4
"""Prompts that both sides run before they are timed."""

Row = tuple[str, int]


def read(path: Path) -> list[Row]:
    """Texts and labels of a TSV file without quotes; a header is left out."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) == 2]
    return [(text.strip(), int(label)) for text, label in rows if label in ("0", "1")]


def demonstrations(train: Sequence[Row]) -> str:
    """The first eight texts of each label, in turns."""
    own = [[row for row in train if row[1] == label][: SHOTS // 2] for label in (0, 1)]
    return "".join(PATTERN.format(text=text) + WORDS[label] + "\n\n" for pair in zip(*own, strict=True) for text, label in pair)


def theirs(lm: HFLM, prompts: Sequence[str], choices: Sequence[str]) -> list[list[float]]:
    """lm-eval's log-likelihoods."""
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=(prompt, choice), idx=number)
        for number, prompt in enumerate(prompts)
        for choice in choices
    ]
    values = [value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)]
    return [values[start : start + len(choices)] for start in range(0, len(values), len(choices))]


def kept(call: Callable[[], list[Scored]]) -> tuple[float, list[Scored]]:
    """Seconds of a call, and what it gave."""
    out: list[Scored] = []
    return once(lambda: out.extend(call())), out


def beside(base: Base, prompts: Sequence[str], labels: Sequence[int], batch_size: int) -> None:
    """Both sides on the words, and every document on which they differ."""
    lm = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=batch_size)
    theirs(lm, prompts[:WARM], WORDS)
    lt.score(base, prompts[:WARM], WORDS)
    seconds, ours = kept(lambda: lt.score(base, prompts, WORDS))
    found: list[list[float]] = []
    reference = once(lambda: found.extend(theirs(lm, prompts, WORDS)))
    pairs = list(zip(ours, found, strict=True))
    apart = max(abs(a - b) for one, other in pairs for a, b in zip(one.log_p, other, strict=True))
    same = [one.best == other.index(max(other)) for one, other in pairs]
    right = sum(one.best == label for one, label in zip(ours, labels, strict=True)) / len(labels)
    print(f"{len(prompts)} documents: ours {seconds:.1f} s, lm-eval {reference:.1f} s ({batch_size} a batch): ", end="")
    print(f"{reference / seconds:.1f} x. Accuracy {right:.3f}.")
    print(f"  same predictions on {sum(same)} of {len(same)}; log-probabilities apart by {apart:.1e} nats at most")
    for number, (one, other) in enumerate(pairs):
        if not same[number]:
            margins = one.log_p[1] - one.log_p[0], other[1] - other[0]
            print(f"  document {number}: log p(great) - log p(terrible) is {margins[0]:+.2e} here, {margins[1]:+.2e} there")


def all_logits(base: Base, prompts: Sequence[str], choices: Sequence[str], batch_size: int) -> None:
    """Every prompt with every choice in a row of its own, and the whole vocabulary's logits at every position."""
    rows = [base.tokenizer(prompt + choice)["input_ids"] for prompt in prompts for choice in choices]
    rows.sort(key=len, reverse=True)
    for start in range(0, len(rows), batch_size):
        batch = base.tokenizer.pad({"input_ids": rows[start : start + batch_size]}, return_tensors="pt")
        with torch.no_grad():
            base.model(**batch, use_cache=False).logits.log_softmax(-1)


def steps(base: Base, prompts: Sequence[str], batch_size: int) -> None:
    """Seconds with each step alone and with all."""
    no_prefix = patch("lmtailor.infer.run.by_position", lambda base, edits: False)
    no_packing = patch("lmtailor.infer.passes.packs", lambda base, edits, longest: False)
    for name, choices in (("2 words", WORDS), (f"{len(PHRASES)} phrases", PHRASES)):
        print(f"{name}, {len(prompts)} documents")
        seconds = {"all rows, all logits": once(lambda c=choices: all_logits(base, prompts, c, batch_size))}
        with no_prefix, no_packing:
            seconds["logits where they are read"] = once(lambda c=choices: lt.score(base, prompts, c))
        with no_prefix:
            seconds["and a prompt once for its choices"] = once(lambda c=choices: lt.score(base, prompts, c))
        with no_packing:
            seconds["or the shared prefix once"] = once(lambda c=choices: lt.score(base, prompts, c))
        seconds["all of these"] = once(lambda c=choices: lt.score(base, prompts, c))
        first = seconds["all rows, all logits"]
        for step, value in seconds.items():
            print(f"  {step:36} {value:7.2f} s {first / value:6.1f} x")


def main() -> None:
    """Print the numbers."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", help="folder of SmolLM2-135M")
    arguments.add_argument("data", type=Path, help="folder with SST-2's train.tsv and dev.tsv")
    arguments.add_argument("--documents", type=int, help="only the first of dev; else all")
    arguments.add_argument("--step-documents", type=int, default=16, help="documents for the steps; 0 leaves them out")
    arguments.add_argument("--batch-size", type=int, default=8, help="rows of a batch of lm-eval")
    arguments.add_argument("--threads", type=int, default=2)
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    base = lt.load_base(chosen.model)
    dev = read(chosen.data / "dev.tsv")[: chosen.documents]
    shown = demonstrations(read(chosen.data / "train.tsv"))
    prompts = [shown + PATTERN.format(text=text) for text, _ in dev]
    print(f"{SHOTS} demonstrations of {len(base.tokenizer(shown)['input_ids'])} tokens")
    beside(base, prompts, [label for _, label in dev], chosen.batch_size)
    if chosen.step_documents:
        steps(base, prompts[: chosen.step_documents], chosen.batch_size)


if __name__ == "__main__":
    main()
