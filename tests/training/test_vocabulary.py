import numpy as np
import pytest
import torch
from tiny_tokenizers import SCORED, SIZES, saved, scored
from tokenizers import Tokenizer
from tokenizers import models as pieces
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from finetune import model as models
from finetune.errors import UserError
from finetune.training.vocabulary import shrink

WORDS = ["[unused1]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "法", "律", "##法", "b", "##a",
         "##d", "good", "##ness", "bad", "##ly", "##l", "##y", "rare"]  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Words and their parts; the padding piece is not the first."""
    torch.manual_seed(0)
    transformer = BertModel(BertConfig(vocab_size=len(WORDS), pad_token_id=1, **SIZES))
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    return saved(tmp_path_factory.mktemp("bert"), transformer, tokenizer)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """Pieces with scores, as XLM-R has; positions are counted from the padding id."""
    torch.manual_seed(0)
    transformer = XLMRobertaModel(XLMRobertaConfig(vocab_size=len(SCORED), **SIZES))
    ends = [("<s>", 0), ("</s>", 2)]
    processor = TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    return saved(tmp_path_factory.mktemp("roberta"), transformer, scored(processor, SCORED))


def student(teacher, size, texts, out):
    model = models.load(teacher)
    shrink(model, size, texts)
    models.save(model, out)
    return models.load(out)


def read(model, text):
    return model.tokenizer.convert_ids_to_tokens(model.tokenizer(text)["input_ids"])


def vectors(model, texts):
    return models.TorchEncoder(model).encode(texts)


def test_what_texts_use_stays_with_its_rows_and_what_they_do_not_goes(bert, tmp_path):
    texts = ["good 法律", "goodness", "法 good"]
    # 5 special pieces, one before them, and 7 of one character leave room for two.
    small = student(bert, 15, texts, tmp_path / "student")
    teacher = models.load(bert)
    gone = {"##法", "bad", "##ly", "rare"}
    assert set(small.tokenizer.get_vocab()) == set(WORDS) - gone
    rows, known = (models.inner(m).embeddings.word_embeddings.weight for m in (small, teacher))
    for piece, index in small.tokenizer.get_vocab().items():
        assert torch.equal(rows[index], known[WORDS.index(piece)])
    assert models.inner(small).config.vocab_size == len(small.tokenizer) == 15
    for text in texts:
        assert read(small, text) == read(teacher, text)
    np.testing.assert_array_equal(vectors(small, texts), vectors(teacher, texts))


def test_a_word_whose_piece_is_gone_is_written_in_smaller_ones(bert, tmp_path):
    small = student(bert, 14, ["good"], tmp_path / "student")
    assert read(models.load(bert), "badly") == ["[CLS]", "bad", "##ly", "[SEP]"]
    assert read(small, "badly") == ["[CLS]", "b", "##a", "##d", "##l", "##y", "[SEP]"]
    assert read(small, "good") == ["[CLS]", "good", "[SEP]"]


def test_pieces_with_scores(roberta, tmp_path):
    texts = ["房东", "房东押金", "押金法"]
    # 5 special pieces, 5 of one character, the byte's: of the other four, the two that texts use.
    small, teacher = student(roberta, 13, texts, tmp_path / "student"), models.load(roberta)
    assert set(SCORED) - set(small.tokenizer.get_vocab()) == {"法律", "▁good"}
    assert read(small, "法律") == ["<s>", "▁", "法", "律", "</s>"]
    assert small.tokenizer.mask_token_id == 12 and small.tokenizer.pad_token_id == 1
    assert small.tokenizer.unk_token_id == small.tokenizer("好")["input_ids"][2] == 3
    # In one batch: padded positions too are what they were.
    np.testing.assert_array_equal(vectors(small, texts), vectors(teacher, texts))


def test_a_processor_that_names_two_pieces(roberta, tmp_path):
    model = models.load(roberta)
    backend = model.tokenizer.backend_tokenizer
    backend.post_processor = RobertaProcessing(("<mask>", 14), ("</s>", 2))
    shrink(model, 13, ["房东押金"])
    ids = model.tokenizer.backend_tokenizer.encode("法").ids
    assert (ids[0], ids[-1]) == (2, 12)


@pytest.mark.parametrize(
    ("size", "phrase"),
    [
        (19, "vocabulary=19: the teacher has 19; a student has fewer"),
        (12, "vocabulary=12: the teacher's pieces of one character, which stay, are 13"),
    ],
)
def test_sizes_that_cannot_be(bert, size, phrase):
    with pytest.raises(UserError, match=phrase):
        shrink(models.load(bert), size, ["good"])


def test_pieces_that_are_built_of_others(bert):
    model = models.load(bert)
    model.tokenizer._tokenizer = Tokenizer(pieces.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    with pytest.raises(UserError, match="pieces of a BPE tokenizer are built of others"):
        shrink(model, 2, ["ab"])
