"""Small tasks of tags, spans and options, which tests share."""

import random

from lmtailor.tasks.task import Task

KINDS = {"cat": "NOUN", "movie": "NOUN", "book": "NOUN", "good": "ADJ", "sad": "ADJ", "zebra": "NOUN", "the": "DET", "a": "DET"}
"""Words with the same tag always; zebra is of several tokens."""


def tagged(train: int = 40, dev: int = 12) -> Task:
    """A tag for each word, which depends on the word alone."""
    rng = random.Random(0)

    def rows(count: int) -> list[dict[str, object]]:
        out: list[dict[str, object]] = []
        for _ in range(count):
            words = rng.choices(list(KINDS), k=rng.randint(1, 7))
            out.append({"text": " ".join(words), "tags": " ".join(KINDS[word] for word in words)})
        return out

    return Task.from_records(kind="labelling", text="text", label="tags", train=rows(train), dev=rows(dev), test=rows(dev))


NAMES = ("good cat", "sad book", "great movie")


def answered(train: int = 40, dev: int = 12, longest: int = 3) -> Task:
    """The answer is what follows "is"; contexts are of up to `longest` sentences."""
    rng = random.Random(0)

    def rows(count: int) -> list[dict[str, object]]:
        out: list[dict[str, object]] = []
        for _ in range(count):
            before = "so the text was on. " * rng.randint(0, longest)
            name = rng.choice(NAMES)
            context = f"{before}it is {name} and no more. " + "that was to you. " * rng.randint(0, longest)
            answers = [{"text": name, "answer_start": len(before) + len("it is ")}]
            out.append({"question": f"is it the {rng.choice(['one', 'worst'])}?", "context": context, "answers": answers})
        return out

    return Task.from_records(
        kind="span", text=["question", "context"], label="answers", train=rows(train), dev=rows(dev), test=rows(dev)
    )


def chosen(train: int = 40, dev: int = 12) -> Task:
    """The option that is no insult is right."""
    rng = random.Random(0)
    good = ("it was a great movie", "the cat was good and happy", "i love it")
    bad = ("the worst book", "it was so bad, so boring and sad that i sat", "awful")

    def rows(count: int) -> list[dict[str, object]]:
        out: list[dict[str, object]] = []
        for number in range(count):
            right = number % 2
            texts = [rng.choice(bad), rng.choice(bad)]
            texts[right] = rng.choice(good)
            premise = rng.choice(["you and i sat on the cat", "it is a movie"])
            out.append({"premise": premise, "choice1": texts[0], "choice2": texts[1], "label": right})
        return out

    return Task.from_records(
        text="premise", extra=("choice1", "choice2"), labels=[0, 1], train=rows(train), dev=rows(dev), test=rows(dev)
    )
