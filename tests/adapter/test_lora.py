import json
import logging

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from peft import IA3Config, PeftModel
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import merge_feature_batches
from tiny_models import difference, weights
from tiny_tokenizers import SCORED, SIZES, saved, scored
from tokenizers.processors import RobertaProcessing
from transformers import BertModel, XLMRobertaConfig, XLMRobertaModel

from finetune import adapter
from finetune import model as models
from finetune.adapter import frozen
from finetune.adapter.lora import Lora
from finetune.adapter.prefix import Prefix
from finetune.config.choices import Precision
from finetune.config.compose import compose
from finetune.disk import Lazy
from finetune.errors import UserError
from finetune.records import read_dicts
from finetune.training import train as training

from .conftest import TEXTS


def lora(*changes: str) -> Lora:
    line = ["recipes=lora", "adapter.layers=2", "adapter.peft.r=4", *changes]
    return instantiate(compose(line).adapter, _convert_="all")


def reads(folder, rows=(), guard=(), epochs=3, autocast=None):
    return adapter.Reads(rows, guard, epochs, autocast, folder)


def attached(base, folder, *changes, **what):
    """A model with an adapter whose weights are not the neutral ones that it starts with."""
    model = models.load(base)
    finish = lora(*changes).attach(model, reads(folder, **what))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model, finish


def encode(model, texts=TEXTS):
    return models.TorchEncoder(model).encode(texts, "query")


def losses(folder):
    return [row["loss"] for row in read_dicts(folder / training.CURVES) if "loss" in row]


# --- attached ---


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "dense"])
def test_the_parameters_of_the_upper_layers_alone_are_trained(make_base, tmp_path, kind):
    model, _ = attached(make_base(kind), tmp_path)
    # rank 4: six linear modules a layer, of 32 x 32 (four), 32 x 64 and 64 x 32
    a_layer = 4 * 4 * (32 + 32) + 2 * 4 * (32 + 64)
    assert adapter.counts(model)["trainable_parameters"] == 2 * a_layer == 3584
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 6 and all("encoder.layer." in name for name in names)
    assert {name.split("layer.")[1][0] for name in names} == {"2", "3"}
    assert adapter.is_frozen(model) and not adapter.is_frozen(models.load(make_base(kind)))


def test_all_parameters_are_counted(make_base, tmp_path):
    base = models.load(make_base())
    whole = sum(p.numel() for p in base.parameters())
    assert adapter.counts(base) == {"parameters": whole, "trainable_parameters": whole}
    model, _ = attached(make_base(), tmp_path)
    assert adapter.counts(model)["parameters"] == whole + 3584


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "dense", "distilbert"])
def test_a_fresh_adapter_changes_nothing_whether_texts_are_kept_or_not(make_base, tmp_path, kind):
    base = models.load(make_base(kind))
    names = ["adapter.peft.target_modules=[q_lin]"] if kind == "distilbert" else []
    for known in ([], ["问" + text for text in TEXTS[::2]], ["问" + text for text in TEXTS]):
        model = models.load(make_base(kind))
        lora(*names).attach(model, reads(tmp_path, guard=known))
        np.testing.assert_allclose(encode(model), encode(base), atol=1e-6)
        if kind != "distilbert":
            assert models.inner(model).embeddings.computed == len(TEXTS) - len(known)


def test_columns_that_are_joined_with_zeros_are_still_read_as_they_are(tmp_path):
    """As the library joins them on a GPU, whatever the model pads with (XLM-R: 1; 0 is <s>)."""
    sizes = {**SIZES, "max_position_embeddings": 34}
    config = XLMRobertaConfig(vocab_size=len(SCORED), pad_token_id=1, **sizes)
    tokenizer = scored(RobertaProcessing(("</s>", 2), ("<s>", 0)), SCORED)
    torch.manual_seed(0)
    base = saved(tmp_path, XLMRobertaModel(config, add_pooling_layer=False), tokenizer)
    model = models.load(base)
    lora("adapter.layers=1").attach(model, reads(tmp_path, guard=["法律"]))
    columns = [model.preprocess(texts) for texts in (["法律", "押金"], ["房东押金法律", "法"])]
    assert columns[0]["input_ids"].shape[1] < columns[1]["input_ids"].shape[1]
    joined = merge_feature_batches(columns)
    assert models.inner(model).embeddings._texts(joined["input_ids"])[0].tolist()[-1] == 2
    plain = models.load(base)
    with torch.no_grad():
        expected = torch.cat([plain(each)["sentence_embedding"] for each in columns])
        torch.testing.assert_close(model(joined)["sentence_embedding"], expected)


def test_more_layers_than_there_are(make_base, tmp_path):
    with pytest.raises(UserError, match=r"adapter.layers=5: the model has 4 layers"):
        attached(make_base(), tmp_path, "adapter.layers=5")


def test_modules_that_the_model_does_not_have(make_base, tmp_path):
    with pytest.raises(UserError, match=r"are called .*q_lin.*v_lin") as caught:
        attached(make_base("distilbert"), tmp_path, "adapter.peft.target_modules=[query]")
    assert "adapter.peft.target_modules" in str(caught.value)


def test_peft_configs_that_cannot_be_held_to_the_upper_layers(make_base, tmp_path):
    given = Lora(2, 1, IA3Config(target_modules=["key"], feedforward_modules=[]))
    with pytest.raises(UserError, match="IA3Config cannot be held to some of the layers"):
        given.attach(models.load(make_base()), reads(tmp_path))


def test_other_peft_methods_merge_as_well(make_base, tmp_path):
    model, finish = attached(make_base(), tmp_path, "+adapter.peft.use_dora=true")
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any("magnitude" in name for name in names)
    before = encode(model)
    finish(tmp_path)
    np.testing.assert_allclose(encode(model), before, atol=1e-6)


def test_every_layer_may_carry_it(make_base, tmp_path):
    model, finish = attached(make_base(), tmp_path, "adapter.layers=4")
    before = encode(model)
    finish(tmp_path)
    np.testing.assert_allclose(encode(model), before, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("distilbert", None, "DistilBertModel is not built like BERT"),
        ("bert", ("padding_side", "left"), "pad on the right"),
        ("bert", "+adapter.peft.bias=all", "a part of them is trained"),
    ],
)
def test_models_whose_layers_cannot_be_split_train_as_usual(
    make_base, tmp_path, caplog, kind, change, reason
):
    caplog.set_level(logging.INFO)
    model = models.load(make_base(kind))
    line = [change] if isinstance(change, str) else []
    if isinstance(change, tuple):
        setattr(model.tokenizer, *change)
    names = "q_lin" if kind == "distilbert" else "query"
    lora(f"adapter.peft.target_modules=[{names}]", *line).attach(model, reads(tmp_path))
    assert not any(isinstance(module, frozen.Lower) for module in model.modules())
    (line,) = [r.getMessage() for r in caplog.records if "frozen layers" in r.getMessage()]
    assert reason in line
    features = model.preprocess(["房东押金"])
    model.train()
    model(features)["sentence_embedding"].sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


# --- saved ---


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "dense"])
def test_the_merged_model_is_plain_and_gives_what_the_unmerged_gave(make_base, tmp_path, kind):
    model, finish = attached(make_base(kind), tmp_path)
    unmerged = encode(model)
    assert np.abs(unmerged - encode(models.load(make_base(kind)))).max() > 0.01
    finish(tmp_path)
    models.save(model, tmp_path / "model")
    merged = encode(model)
    np.testing.assert_allclose(merged, unmerged, atol=1e-6)
    assert weights(tmp_path / "model").keys() == weights(make_base(kind)).keys()
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert np.array_equal(encode(plain), merged)
    assert (tmp_path / "model/modules.json").read_text() == (
        make_base(kind) / "modules.json"
    ).read_text()


def test_the_adapter_loads_in_plain_peft_on_the_base(make_base, tmp_path):
    model, finish = attached(make_base(), tmp_path)
    unmerged = encode(model)
    finish(tmp_path)
    folder = tmp_path / "adapter"
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors"
    ]  # fmt: skip
    text = (folder / "adapter_config.json").read_text()
    assert str(tmp_path) not in text and "/" not in text
    assert json.loads(text)["layers_to_transform"] == [2, 3]
    assert len(load_file(folder / "adapter_model.safetensors")) == 2 * 2 * 6
    base = models.load(make_base())
    base[0].model = PeftModel.from_pretrained(
        BertModel.from_pretrained(make_base(), add_pooling_layer=False), folder
    )
    np.testing.assert_allclose(encode(base), unmerged, atol=1e-6)
    with_pooler = PeftModel.from_pretrained(BertModel.from_pretrained(make_base()), folder)
    assert not [n for n, p in with_pooler.named_parameters() if "lora" in n and "layer.1" in n]


# --- trained ---


@pytest.fixture(scope="module")
def trained(make_base, rows, select, plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("lora")
    return out, training.train(make_base(), rows, select, plan("lora"), out)


def test_training_improves_the_model_and_leaves_what_it_should(trained, make_base, select):
    out, result = trained
    assert result["improved"] and result["best"] > result["base"] + 0.1
    assert result["trainable_parameters"] == 3584
    assert json.loads((out / training.RESULT).read_text()) == result
    assert sorted(p.name for p in out.iterdir()) == [
        "adapter", "curves.jsonl", "model", "training.json"
    ]  # fmt: skip
    assert (out / "model/modules.json").read_text() == (make_base() / "modules.json").read_text()
    again = training.Guard(select, Precision.fp32)(models.load(out / "model"))["ndcg@10"]
    assert result["best"] == pytest.approx(again, abs=1e-6)


def test_only_what_the_adapter_touches_differs_from_the_base(trained, make_base):
    a, b = weights(trained[0] / "model"), weights(make_base())
    changed = {name for name in a if not torch.equal(a[name], b[name])}
    assert changed == {
        f"encoder.layer.{layer}.{module}.weight" for layer in (2, 3)
        for module in ("attention.self.query", "attention.self.key", "attention.self.value",
                       "attention.output.dense", "intermediate.dense", "output.dense")
    }  # fmt: skip


class Watch(frozen.Lower):
    """Remembers how many texts were kept, and how many had to be computed in a batch."""

    seen: list["Watch"] = []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen.append(self)


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr("finetune.adapter.lora.Lower", Watch)
    Watch.seen.clear()
    return Watch.seen


@pytest.mark.parametrize("how", ["kept", "room for some", "computed", "not split"])
def test_what_is_kept_changes_neither_losses_nor_weights(
    trained, make_base, rows, select, plan, tmp_path, watched, monkeypatch, caplog, how
):
    # 16 characters a text and 2 special tokens, 32 float32 values each: some 128 texts in all
    room = {"kept": 1, "room for some": 2e-5, "computed": 0, "not split": 1}[how]
    if how == "not split":
        monkeypatch.setattr("finetune.adapter.lora.obstacle", lambda model, count: "a test")
    settings = plan("lora", f"adapter.cache_gb={room}")
    result = training.train(make_base(), rows, select, settings, tmp_path)
    assert difference(tmp_path / "model", trained[0] / "model") <= 1e-6
    np.testing.assert_allclose(losses(tmp_path), losses(trained[0]), atol=1e-6)
    assert result["best_step"] == trained[1]["best_step"]
    if how == "not split":
        assert not watched
        return
    (lower,) = watched
    texts = {f"问{row.query}" for row in rows} | {row.positive for row in rows}
    texts |= {f"问{text}" for text in select.queries.values()} | set(select.corpus.values())
    kept = len(lower.kept)
    assert (kept == len(texts)) == (lower.computed == 0) == (how == "kept")
    assert (kept == 0) == (how == "computed")
    assert ("raise adapter.cache_gb" in caplog.text) == (how != "kept")


def test_texts_that_are_read_once_are_not_kept(make_base, rows, select, plan, tmp_path, watched):
    settings = plan("lora", "train.epochs=1")
    training.train(make_base(), rows, select, settings, tmp_path)
    (lower,) = watched
    assert lower.computed == 2 * len(rows)  # the guard's texts are
    assert len(lower.kept) == len(select.queries) + len(select.corpus)


class OnDisk(Lazy[str]):
    """Texts that count how often they are read."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __len__(self) -> int:
        return self.count

    def _at(self, place: int) -> str:
        self.read += 1
        return "法" * (place % 30 + 1)


def test_only_the_texts_that_an_adapter_needs_are_read(make_base, tmp_path):
    once, twice, many = OnDisk(30), OnDisk(30), OnDisk(100_000)
    lora().attach(models.load(make_base()), reads(tmp_path, rows=once, epochs=1))
    assert once.read == 0
    model = models.load(make_base())
    lora().attach(model, reads(tmp_path, rows=twice, epochs=2))
    assert twice.read == 2 * 30 and len(models.inner(model).embeddings.kept) == 30
    Prefix(5).attach(models.load(make_base()), reads(tmp_path, rows=many))
    assert many.read < 130


def test_dropout_leaves_the_frozen_layers_alone(make_base, tmp_path):
    model, _ = attached(make_base(), tmp_path)
    training._set_dropout(model, 0.5)
    model.train()
    lower = models.inner(model).embeddings
    features = model.preprocess(["房东押金"])
    ids, mask = features["input_ids"], features["attention_mask"]
    assert torch.equal(lower(ids), lower(ids))
    one, other = (models.inner(model)(ids, mask).last_hidden_state for _ in range(2))
    assert not torch.equal(one, other)


def test_bf16_is_kept_in_bf16_and_saved_in_fp32(make_base, rows, select, plan, tmp_path, watched):
    settings = plan("lora", precision=Precision.bf16)
    result = training.train(make_base(), rows, select, settings, tmp_path)
    (lower,) = watched
    assert lower.kept.dtype is torch.bfloat16 and lower.computed == 0
    assert result["improved"]
    assert {tensor.dtype for tensor in weights(tmp_path / "model").values()} == {torch.float32}


def test_where_nothing_beats_the_base_no_adapter_is_left(make_base, rows, select, plan, tmp_path):
    settings = plan("lora", "train.learning_rate=1e-12", "train.epochs=1")
    result = training.train(make_base(), rows, select, settings, tmp_path)
    assert not result["improved"] and difference(tmp_path / "model", make_base()) == 0
    assert not (tmp_path / "adapter").exists()


# --- kept on disk ---


def test_activations_come_back_as_they_were_stored(tmp_path):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        kept = frozen.Activations(tmp_path, 4, dtype, 6 * 4 * dtype.itemsize)
        one, two = torch.randn(2, 4).to(dtype), torch.randn(3, 4).to(dtype)
        assert kept.add(torch.tensor([5, 6]), one) and kept.add(torch.tensor([5, 6, 7]), two)
        assert not kept.add(torch.tensor([9, 9]), one)  # 5 of 6 rows are taken
        assert torch.equal(kept.get(torch.tensor([5, 6])), one)
        assert torch.equal(kept.get(torch.tensor([5, 6, 7])), two)
        assert kept.get(torch.tensor([6, 5])) is None and kept.get(torch.tensor([9, 9])) is None
        assert len(kept) == 2 and list(tmp_path.iterdir()) == []
        kept.close()
