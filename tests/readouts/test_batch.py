"""Collating, choosing rows, joining."""

import pytest
import torch

from lmtailor.core.errors import InputError
from lmtailor.readouts.batch import Encoded, InputForm, collate, join

FORM = InputForm(pad_id=9, segments=True)


def encoded(*lengths: int, label: float | None = 0, start: int = 10) -> Encoded:
    sequences = tuple(tuple(range(start, start + length)) for length in lengths)
    read = tuple((length - 1,) for length in lengths)
    return Encoded(
        sequences=sequences,
        segments=tuple((1,) * n for n in lengths),
        read=read,
        targets=((7,),) * len(lengths),
        label=label,
        id=str(start),
    )


def test_padding_is_on_the_right_and_masked() -> None:
    batch = collate([encoded(2), encoded(3, start=20)], FORM)
    assert batch.inputs["input_ids"].tolist() == [[10, 11, 9], [20, 21, 22]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.inputs["token_type_ids"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.tokens == 5
    assert batch.read_NP.tolist() == [[1], [2]]


def test_sequences_of_an_example_stand_together() -> None:
    batch = collate([encoded(2, 1), encoded(1, 2, start=20)], InputForm(pad_id=0, segments=False))
    assert batch.per_row == 2
    assert batch.size == 2
    assert batch.inputs["input_ids"].tolist() == [[10, 11], [10, 0], [20, 0], [20, 21]]
    assert "token_type_ids" not in batch.inputs


def test_absent_reads_and_targets_are_minus_one() -> None:
    one = Encoded(sequences=((1, 2, 3), (1, 2)), read=((0, 1), (1,)), targets=((5, 6), (7,)))
    batch = collate([one], FORM)
    assert batch.read_NP.tolist() == [[0, 1], [1, -1]]
    assert batch.targets_NP.tolist() == [[5, 6], [7, -1]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert collate([Encoded(sequences=((1,),), read=((),))], FORM).read_NP.shape == (1, 0)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [((0, 2), torch.tensor([0, 2])), ((0.5, 2.0), torch.tensor([0.5, 2.0])), ((1, None), None)],
)
def test_labels(labels: tuple[int | float | None, ...], expected: torch.Tensor | None) -> None:
    found = collate([encoded(1, label=label) for label in labels], FORM).labels_B
    if expected is None or found is None:
        assert found is expected
    else:
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def test_decoder_inputs_are_shifted_right() -> None:
    items = [encoded(3), encoded(2, start=20)]
    fixed = collate(items, InputForm(pad_id=0, segments=False, decoder=True, decoder_start=2))
    assert fixed.inputs["decoder_input_ids"].tolist() == [[2, 10, 11], [2, 20, 0]]
    wrapped = collate(items, InputForm(pad_id=0, segments=False, decoder=True))
    assert wrapped.inputs["decoder_input_ids"].tolist() == [[12, 10, 11], [21, 20, 0]]


def test_rows_keep_examples_whole() -> None:
    batch = collate([encoded(2, 1), encoded(3, 3, start=20, label=1), encoded(1, 1, start=30)], FORM)
    part = batch.rows([2, 1])
    assert part.inputs["input_ids"].tolist() == [[30, 9, 9], [30, 9, 9], [20, 21, 22], [20, 21, 22]]
    assert part.ids == ("30", "20")
    assert part.tokens == 8
    assert part.labels_B is not None
    assert part.labels_B.tolist() == [0, 1]
    assert part.read_NP.tolist() == [[0], [0], [2], [2]]


def test_joined_batches_are_as_wide_as_the_widest_and_know_their_rows() -> None:
    a, b = collate([encoded(2), encoded(1)], FORM), collate([encoded(4, 3, start=20)], FORM)
    joined = join([a, b], FORM)
    assert joined.inputs["input_ids"].shape == (4, 4)
    assert joined.rows == (slice(0, 2), slice(2, 4))
    assert joined.inputs["input_ids"][0].tolist() == [10, 11, 9, 9]
    assert joined.inputs["attention_mask"][0].tolist() == [1, 1, 0, 0]
    for part, rows in zip(joined.parts, joined.rows, strict=True):
        assert all(torch.equal(part.inputs[name], joined.inputs[name][rows]) for name in joined.inputs)
    assert joined.parts[0].tokens == a.tokens


def test_to_moves_every_tensor() -> None:
    moved = collate([encoded(2)], FORM).to("meta")
    assert moved.labels_B is not None
    assert {value.device.type for value in (*moved.inputs.values(), moved.read_NP, moved.targets_NP, moved.labels_B)} == {"meta"}


def test_lengths() -> None:
    assert (encoded(2, 5).length, encoded(2, 5).tokens) == (5, 7)


def test_nothing_and_mixtures_are_refused() -> None:
    with pytest.raises(InputError, match="at least one example"):
        collate([], FORM)
    with pytest.raises(InputError, match=r"found \[1, 2\]"):
        collate([encoded(1), encoded(1, 1)], FORM)
    with pytest.raises(InputError, match="no batches"):
        join([], FORM)
