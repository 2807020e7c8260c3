import copy
import json
import pickle
from collections.abc import Sequence

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from datamodules import BytePair, Character, SubwordTokenizer, Tokenizer, Word

TEXTS = ["a man walks his dog", "a dog runs after the man", "the dogs and the men walked on"]


def published(names: Sequence[str]) -> str:
    """JSON of a foreign tokenizer: other special tokens and ids, with padding and truncation enabled."""
    vocab = {name: number for number, name in enumerate(["dog", *names, "man"])}
    made = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=names[1]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(names))
    made.enable_padding(length=10, pad_id=1)
    made.enable_truncation(2)
    return made.to_str()


class TestSubwordTokenizer:
    def test_token_ids_are_those_of_the_library(self) -> None:
        ours = BytePair(vocab_size=60).train(TEXTS)
        theirs = tokenizers.Tokenizer.from_str(ours.definition)
        assert ours.encode(TEXTS) == [theirs.encode(text, add_special_tokens=False).ids for text in TEXTS]
        assert len(ours) == theirs.get_vocab_size()

    @pytest.mark.parametrize("trainer", [BytePair(60), Word(), Character()])
    def test_our_tokenizers_have_the_same_special_ids(self, trainer: BytePair | Word | Character) -> None:
        made = trainer.train(TEXTS)
        assert (made.pad_id, made.unk_id, made.bos_id, made.eos_id) == (0, 1, 2, 3)
        assert made.tokens([0, 1, 2, 3]) == ["<pad>", "<unk>", "<bos>", "<eos>"]

    @pytest.mark.parametrize("trainer", [BytePair(60), Word(), Character()])
    def test_text_never_becomes_a_special_token(self, trainer: BytePair | Word | Character) -> None:
        made = trainer.train([*TEXTS, "<pad> <unk> <bos> <eos>", "<pad><eos>" * 50])
        [numbers] = made.encode(["man<eos> <pad><bos> <unk> dog"])
        assert not {0, 1, 2, 3} & set(numbers)
        # Word joins tokens by rules; the others are exact.
        assert made.decode([numbers])[0].replace(" ", "") == "man<eos><pad><bos><unk>dog"

    @pytest.mark.parametrize(
        "names",
        [("<pad>", "<unk>", "<s>", "</s>"), ("[PAD]", "[UNK]", "[CLS]", "[SEP]"), ("<pad>", "<unk>", "<bos>", "<eos>")],
    )
    def test_special_tokens_are_found_by_their_usual_names(self, names: tuple[str, ...]) -> None:
        made = SubwordTokenizer(published(names))
        assert (made.pad_id, made.unk_id, made.bos_id, made.eos_id) == (1, 2, 3, 4)
        assert made.encode(["man dog man dog cat"]) == [[5, 0, 5, 0, 2]], "nothing is truncated or padded"

    def test_decoding_stops_at_the_end_and_omits_special_tokens(self) -> None:
        made = Character().train(["abc"])
        a, b, c = made.encode(["abc"])[0]
        rows = [[2, a, 0, b, 3, c, 3], [a, b, c], [3, a], [], [2, 1, a]]
        assert made.decode(rows) == ["ab", "abc", "", "", "<unk>a"]

    def test_spaces_show_in_tokens(self) -> None:
        made = BytePair(60).train(TEXTS)
        pieces = made.tokens(made.encode(["a  man"])[0])
        assert "".join(pieces) == "▁a▁▁man"

    def test_numbers_outside_the_vocabulary_are_refused(self) -> None:
        with pytest.raises(ValueError, match="ids: 99 is not in the vocabulary of 7 tokens"):
            Character().train(["abc"]).tokens([4, 99])

    def test_equal_by_definition_and_picklable(self) -> None:
        made = BytePair(60, dropout=0.5).train(TEXTS)
        for same in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), SubwordTokenizer(made.definition)):  # noqa: S301
            assert same == made
            assert hash(same) == hash(made)
            assert same.encode(TEXTS) == made.encode(TEXTS)
            assert same.dropout == made.dropout
        assert made != Character().train(TEXTS)
        assert made != made.definition

    def test_another_class_is_another_tokenizer(self) -> None:
        class Other(SubwordTokenizer):
            pass

        made = Character().train(TEXTS)
        assert Other(made.definition) != made

    def test_definition_is_json_and_enough(self) -> None:
        made = BytePair(60, lower=True, dropout=0.25).train(TEXTS)
        assert json.loads(made.definition)["model"]["type"] == "BPE"
        again = SubwordTokenizer(json.dumps(json.loads(made.definition)))
        assert again.encode(["The DOG"]) == made.encode(["the dog"])
        assert again.dropout == pytest.approx(0.25)

    @pytest.mark.parametrize(
        ("definition", "message"),
        [
            ("{}", "cannot be read as a tokenizer"),
            ("no json", "cannot be read as a tokenizer"),
            (published(("<pad>", "<unk>", "<start>", "</s>")), "none of .*'<s>'.* for 'bos'; add one with"),
        ],
    )
    def test_unusable_definitions_are_refused(self, definition: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SubwordTokenizer(definition)


class TestDropout:
    def test_dropout_only_in_training(self) -> None:
        made = BytePair(200, dropout=0.5).train(TEXTS * 20)
        sure = BytePair(200).train(TEXTS * 20)
        assert made.encode(TEXTS) == made.encode(TEXTS) == sure.encode(TEXTS)
        cuts = {tuple(made.encode(TEXTS, dropout=True)[0]) for _ in range(20)}
        assert len(cuts) > 1
        assert made.decode(list(cuts)) == [TEXTS[0]] * len(cuts), "the text does not depend on the segmentation"

    def test_more_dropout_gives_smaller_pieces(self) -> None:
        lengths = []
        for dropout in (0.1, 0.9):
            made = BytePair(200, dropout=dropout).train(TEXTS * 20)
            lengths.append(sum(len(made.encode(TEXTS, dropout=True)[0]) for _ in range(20)))
        assert lengths[0] < lengths[1] <= 20 * (len(TEXTS[0]) + 1)

    def test_without_dropout_the_flag_changes_nothing(self) -> None:
        made = BytePair(60).train(TEXTS)
        assert made.dropout == 0.0
        assert made.encode(TEXTS, dropout=True) == made.encode(TEXTS)


class Digits(Tokenizer):
    pad_id, unk_id, bos_id, eos_id = 9, 8, 7, 6

    def __len__(self) -> int:
        return 10

    def encode(self, texts: Sequence[str], *, dropout: bool = False) -> list[list[int]]:
        return [[int(digit) for digit in text] for text in texts]

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        return ["".join(self.tokens(self.content(ids))) for ids in sequences]

    def tokens(self, ids: Sequence[int]) -> list[str]:
        return [str(number) for number in ids]


def test_a_custom_tokenizer_inherits_from_the_base() -> None:
    made = Digits("{}")
    assert made.decode([[7, 1, 9, 2, 6, 3]]) == ["12"]
    assert made.dropout == 0.0
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301
    assert made != Digits('{"other": 1}')
    assert repr(made) == "Digits(10 tokens)"
