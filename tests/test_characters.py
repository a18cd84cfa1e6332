import numpy as np
import pytest
import tiny_runs
import torch
from sentence_transformers import SentenceTransformer
from tiny_tokenizers import SCORED, SIZES, saved, scored
from tokenizers.processors import RobertaProcessing
from transformers import XLMRobertaConfig, XLMRobertaModel

from finetune import model as models
from finetune.characters import add_characters
from finetune.export import Origin, export_bundle
from finetune.inference import OnnxEncoder
from finetune.inference.script import converter
from finetune.records import Pair, read_json, write_jsonl
from finetune.script import OpenCC
from finetune.steps import script as script_steps

# In the tiny vocabulary stand 离, 财 and 产 and none of their Traditional forms; 龘 has no other.
WAYS = [converter("t2s"), converter("s2tw")]
TEXTS = ["离婚财产", "龘", "😀", "plain"]


def row(model, char):
    (index,) = model.tokenizer(char, add_special_tokens=False)["input_ids"]
    return models.inner(model).get_input_embeddings().weight[index].detach().numpy()


@pytest.fixture
def grown(tiny_model, tmp_path):
    model = models.load(tiny_model)
    added = add_characters(model, TEXTS, WAYS)
    models.save(model, tmp_path / "model")
    return added, tmp_path / "model"


def test_unknown_characters_get_the_embedding_of_their_counterpart(grown, tiny_model):
    added, folder = grown
    assert added == {"離": "离", "財": "财", "產": "产"}
    before, after = models.load(tiny_model), models.load(folder)
    unknown = before.tokenizer.unk_token_id
    assert before.tokenizer("離", add_special_tokens=False)["input_ids"] == [unknown]
    for char, other in added.items():
        np.testing.assert_array_equal(row(after, char), row(before, other))
    np.testing.assert_array_equal(row(after, "婚"), row(before, "婚"))
    assert models.inner(after).config.vocab_size == models.inner(before).config.vocab_size + 3
    assert after.tokenizer("龘😀", add_special_tokens=False)["input_ids"] == [unknown] * 2


def test_they_load_in_plain_sentence_transformers(grown):
    model = SentenceTransformer(str(grown[1]), device="cpu")
    simplified, traditional = model.encode(["离婚财产", "離婚財產"])
    np.testing.assert_allclose(simplified, traditional, atol=1e-6)


def test_the_exported_graph_has_their_rows(grown, tmp_path):
    loaded = models.load(grown[1])
    settings = tiny_runs.export_settings("fp32", "int8-dynamic")
    texts = [f"{a}{b}" for a in ("离婚", "財產", "房东") for b in "的一是了我不在人有他"]
    export_bundle(loaded, models.TorchEncoder(loaded), texts, tmp_path / "bundle",
                  Origin("t", "t", "unknown", "mit"), **settings)  # fmt: skip
    for precision in ("fp32", "int8-dynamic"):
        encoder = OnnxEncoder.load(tmp_path / "bundle", precision, 1)
        both = encoder.encode(["离婚财产", "離婚財產"])
        assert both[0] @ both[1] == pytest.approx(1, abs=1e-4)


def test_training_moves_the_new_rows(grown):
    model = models.load(grown[1])
    out = model.forward(dict(model.tokenizer(["離"], return_tensors="pt")))["sentence_embedding"]
    out[0, 0].backward()  # behind a LayerNorm the sum of all does not depend on anything
    (index,) = model.tokenizer("離", add_special_tokens=False)["input_ids"]
    assert models.inner(model).get_input_embeddings().weight.grad[index].abs().sum() > 0


def test_nothing_to_add_changes_nothing(tiny_model):
    model = models.load(tiny_model)
    before = model.tokenizer.backend_tokenizer.to_str()
    assert add_characters(model, ["天下", "abc"], WAYS) == {}
    assert model.tokenizer.backend_tokenizer.to_str() == before


def test_pieces_with_scores_take_rows_that_the_model_has_to_spare(tmp_path):
    pieces = [*SCORED, "财", "产"]
    torch.manual_seed(0)
    rows = len(pieces) + 1
    config = XLMRobertaConfig(vocab_size=rows, pad_token_id=1, **SIZES)
    tokenizer = scored(RobertaProcessing(("</s>", 2), ("<s>", 0)), pieces)
    model = models.load(saved(tmp_path, XLMRobertaModel(config), tokenizer))
    assert add_characters(model, ["财产"], WAYS) == {"財": "财", "產": "产"}
    assert models.inner(model).config.vocab_size == rows + 1  # one of the two was there
    models.save(model, tmp_path / "grown")
    grown = SentenceTransformer(str(tmp_path / "grown"), device="cpu")
    tokens = grown.tokenizer.tokenize("法律財產")
    assert tokens[-2:] == ["財", "產"] and "法律" in tokens
    both = grown.encode(["法律财产", "法律財產"])
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)


@pytest.mark.parametrize(
    ("traditional", "words", "added"),
    [
        ("s2tw", "", {"裡": "里"}),
        ("s2hk", "", {"裏": "里"}),
        ("s2tw", "里\t財\n", {"財": "财"}),
    ],
)
def test_the_step_adds_those_of_the_traditional_that_the_settings_name(
    tmp_path, tiny_model, traditional, words, added
):
    (tmp_path / "model").symlink_to(tiny_model)
    write_jsonl(tmp_path / "train.jsonl", [Pair("1", "里", "天", "s")])
    (tmp_path / "words.txt").write_text(words, "utf-8")
    out = tmp_path / "out"
    out.mkdir()
    settings = {"script": "both", "opencc": OpenCC(traditional, [], None, 0.0), "encode": "keep"}
    inputs = {"model": tmp_path, "data": tmp_path, "sets": tmp_path,
              "dictionary": tmp_path / "words.txt"}  # fmt: skip
    script_steps.characters(settings, inputs, out)
    assert read_json(out / "characters.json") == added
