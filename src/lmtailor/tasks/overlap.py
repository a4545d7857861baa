"""Texts that stand in a task more than once. They are no error, but whoever reads the scores must know."""

from collections.abc import Mapping, Sequence

from lmtailor.tasks.example import Split


def text_of(fields: Mapping[str, str], columns: Sequence[str]) -> tuple[str, ...]:
    """The texts of an example with every run of whitespace as one space: what counts as the same text."""
    return tuple(" ".join(fields[column].split()) for column in columns)


def standing_in(inputs: Sequence[str], split: Split, columns: Sequence[str]) -> int:
    """How many examples of a split have texts that all stand in one of the inputs, word by word."""
    plain = [" ".join(text.split()) for text in inputs]
    everything = "\n".join(plain)
    texts = [text_of(example.fields, columns) for example in split]
    likely = [own for own in texts if all(text in everything for text in own)]
    return sum(any(all(text in one for text in own) for one in plain) for own in likely)


def overlap_notes(splits: Mapping[str, Split], columns: Sequence[str]) -> tuple[str, ...]:
    """Notes on texts that repeat in a split, and on texts of one split that stand in an earlier one.

    Every split but unlabelled is compared with train, dev and unlabelled text, in this order.
    """
    texts = {name: [text_of(example.fields, columns) for example in split] for name, split in splits.items()}
    notes = []
    for name, own in texts.items():
        repeats = len(own) - len(set(own))
        if repeats:
            notes.append(f"{name}: {repeats} of {len(own)} examples repeat a text that stands earlier in it.")
    for name, own in texts.items():
        if name in ("train", "unlabelled"):
            continue
        for other in ("train", "dev", "unlabelled"):
            if other == name or other not in texts:
                continue
            known = set(texts[other])
            shared = sum(text in known for text in own)
            if shared:
                notes.append(
                    f"{name}: {shared} of {len(own)} examples have a text that is also in {other}: scores on them mean less."
                )
    return tuple(notes)
