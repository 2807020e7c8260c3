import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from datamodules import BytePair, Character, TextBatch, TextDataset
from datamodules.text.text_batch import TokenRows

SOURCES = ["ein Hund", "zwei", "drei kleine Hunde", "ja", "eine Katze"]
TARGETS = ["a dog", "two of them", "three small dogs", "yes", "a cat"]
SEQUENCES = st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=8)


class TestTokenRows:
    @given(sequences=SEQUENCES, data=st.data())
    def test_padded_is_pad_sequence(self, sequences: list[list[int]], data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1))
        expected = pad_sequence([torch.tensor(sequences[i], dtype=torch.int64) for i in chosen], True, padding_value=0)
        padded = TokenRows.of(sequences).padded(torch.tensor(chosen), padding=0)
        assert padded.dtype == torch.int64
        torch.testing.assert_close(padded, expected)

    @given(sequences=SEQUENCES, data=st.data())
    def test_selected_are_those_sequences(self, sequences: list[list[int]], data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.integers(0, len(sequences) - 1)))
        rows = TokenRows.of(sequences).select(torch.tensor(chosen, dtype=torch.int64))
        assert rows.lengths.tolist() == [len(sequences[i]) for i in chosen]
        assert rows.flat.tolist() == [number for i in chosen for number in sequences[i]]
        assert len(rows) == len(chosen)

    def test_many_texts_are_encoded_in_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = Character().train(SOURCES)
        whole = TokenRows.encoded(made, SOURCES, begin=True)
        monkeypatch.setattr("datamodules.text.text_batch._PIECE", 2)
        pieces = TokenRows.encoded(made, SOURCES, begin=True)
        assert pieces.flat.tolist() == whole.flat.tolist()
        assert pieces.lengths.tolist() == [len(text) + 2 for text in SOURCES]
        assert len(TokenRows.encoded(made, [], begin=True)) == 0


class TestTextDataset:
    def test_a_batch_follows_its_contract(self) -> None:
        source, target = Character().train(SOURCES), Character().train(TARGETS)
        batch = TextDataset(SOURCES, TARGETS, source, target)[[2, 0, 3]]
        assert isinstance(batch, TextBatch)
        assert batch.source_texts == [SOURCES[index] for index in (2, 0, 3)]
        assert batch.target_texts == [TARGETS[index] for index in (2, 0, 3)]
        assert batch.indices == [2, 0, 3]
        for row, index in enumerate((2, 0, 3)):
            [numbers] = source.encode([SOURCES[index]])
            expected = [*numbers, source.eos_id]
            assert batch.source_lengths[row] == len(expected)
            assert batch.source[row].tolist() == expected + [0] * (batch.source.shape[1] - len(expected))
            [numbers] = target.encode([TARGETS[index]])
            expected = [target.bos_id, *numbers, target.eos_id]
            assert batch.target_lengths[row] == len(expected)
            assert batch.target[row].tolist() == expected + [0] * (batch.target.shape[1] - len(expected))
        assert {part.dtype for part in batch[:4]} == {torch.int64}
        assert batch.source.shape[1] == batch.source_lengths.max()
        assert batch.target.shape[1] == batch.target_lengths.max()

    def test_lengths_count_begin_and_end(self) -> None:
        made = Character().train(SOURCES + TARGETS)
        dataset = TextDataset(SOURCES, TARGETS, made, made)
        assert dataset.lengths.tolist() == [[len(s) + 1, len(t) + 2] for s, t in zip(SOURCES, TARGETS, strict=True)]
        assert len(dataset) == 5

    def test_each_side_is_padded_by_its_tokenizer(self) -> None:
        class Nines(type(Character().train(["a"]))):  # type: ignore[misc]
            pad_id = 9

            def __init__(self, definition: str) -> None:
                super().__init__(definition)
                self.pad_id = 9

        made = Character().train(TARGETS)
        batch = TextDataset(["a", "aa"], ["a", "aa"], Nines(made.definition), made)[[0, 1]]
        assert batch.source[0, -1] == 9
        assert batch.target[0, -1] == 0

    def test_a_single_index_gives_a_batch_of_one(self) -> None:
        made = Character().train(SOURCES + TARGETS)
        dataset = TextDataset(SOURCES, TARGETS, made, made)
        assert dataset[3].source_texts == ["ja"]
        assert dataset[3].indices == [3]
        torch.testing.assert_close(dataset[3].target, dataset[[3]].target)

    def test_dropout_changes_the_tokens_and_not_the_text(self) -> None:
        made = BytePair(80, dropout=0.5).train((SOURCES + TARGETS) * 5)
        dropping = TextDataset(SOURCES, TARGETS, made, made, dropout=True)
        batches = [dropping[[2, 0]] for _ in range(10)]
        assert len({tuple(batch.source[0].tolist()) for batch in batches}) > 1
        assert len({tuple(batch.target[0].tolist()) for batch in batches}) > 1
        for batch in batches:
            assert made.decode(batch.source.tolist()) == [SOURCES[2], SOURCES[0]]
            assert made.decode(batch.target.tolist()) == [TARGETS[2], TARGETS[0]]
            assert (batch.source != made.pad_id).sum(1).tolist() == batch.source_lengths.tolist()
            assert (batch.target[:, 0] == made.bos_id).all()
        steady = TextDataset(SOURCES, TARGETS, made, made)
        assert len({tuple(steady[[2, 0]].source[0].tolist()) for _ in range(10)}) == 1

    def test_picklable_for_worker_processes(self) -> None:
        made = BytePair(80, dropout=0.5).train(SOURCES + TARGETS)
        dataset = pickle.loads(pickle.dumps(TextDataset(SOURCES, TARGETS, made, made, dropout=True)))  # noqa: S301
        assert dataset[[1]].target_texts == [TARGETS[1]]

    def test_sides_must_match(self) -> None:
        made = Character().train(SOURCES)
        with pytest.raises(ValueError, match="target_texts must be as many as the 5 source_texts, got 4"):
            TextDataset(SOURCES, TARGETS[:4], made, made)
