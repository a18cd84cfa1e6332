import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers import AttentionInterface

from finetune import adapter
from finetune import model as models
from finetune.adapter import prefix
from finetune.config.choices import Precision
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.export import Origin, export_bundle
from finetune.inference import OnnxEncoder
from finetune.training import train as training

from .conftest import TEXTS

ROOT = Path(__file__).parents[2]
LENGTH = 5


def attached(base: Path, tmp_path: Path, noise: float = 1.0) -> SentenceTransformer:
    """A model with a prefix that is not the one it starts with."""
    model = models.load(base)
    node = compose(["recipes=prefix", f"adapter.length={LENGTH}"]).adapter
    reads = adapter.Reads(TEXTS, (), 1, None, tmp_path)
    instantiate(node, _convert_="all").attach(model, reads)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in prefix._prefix(models.inner(model)).values():
            parameter.add_(torch.randn_like(parameter) * noise)
    return model


def encode(model: SentenceTransformer, texts=TEXTS) -> np.ndarray:
    return models.TorchEncoder(model).encode(texts, "query")


@pytest.fixture
def saved(make_base, tmp_path) -> tuple[Path, np.ndarray]:
    model = attached(make_base(), tmp_path)
    models.save(model, tmp_path / "model")
    return tmp_path / "model", encode(model)


# --- attached ---


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "dense"])
def test_only_keys_and_values_of_each_layer_are_trained(make_base, tmp_path, kind):
    model = attached(make_base(kind), tmp_path)
    # 4 layers, keys and values of 5 places, 32 wide
    assert adapter.counts(model)["trainable_parameters"] == 4 * 2 * LENGTH * 32 == 1280
    whole = adapter.counts(models.load(make_base(kind)))["parameters"]
    assert adapter.counts(model)["parameters"] == whole + 1280


def test_attention_sees_prefix_and_tokens():
    torch.manual_seed(0)
    module = torch.nn.Module()
    module.is_causal = False
    module.prefix_k, module.prefix_v = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    query, key, value = (torch.randn(1, 2, 2, 4) for _ in range(3))
    mask = torch.tensor([[[[True, False], [True, False]]]])  # the second token is padding
    found, _ = prefix.attend(module, query, key, value, mask, scaling=0.5)
    for head in range(2):
        keys = torch.cat([module.prefix_k[head], key[0, head, :1]])
        values = torch.cat([module.prefix_v[head], value[0, head, :1]])
        by_hand = (query[0, head] @ keys.T * 0.5).softmax(-1) @ values
        torch.testing.assert_close(found[0, :, head], by_hand)
    assert found.shape == (1, 2, 2, 4)
    alone, _ = prefix.attend(module, query, key, value, None, scaling=0.5)
    assert not torch.allclose(alone, found)


def test_it_starts_as_averages_of_the_tokens_keys_and_values(make_base):
    model = models.load(make_base())
    texts = ["房东押金", "法律"]  # with the two special tokens, 6 and 4
    found = prefix.averages(model, texts, 4)
    model.eval()
    assert len(found) == 4 * 2 and {t.shape for t in found.values()} == {(4, 4, 8)}
    hidden = torch.cat([
        models.inner(model).embeddings(model.preprocess([text])["input_ids"])[0] for text in texts
    ])  # fmt: skip
    keys = models.inner(model).encoder.layer[0].attention.self.key(hidden)
    for place in range(4):  # tokens 0, 4, 8 · 1, 5, 9 · 2, 6 · 3, 7
        average = keys[place::4].mean(0).view(4, 8)
        own = found["encoder.layer.0.attention.self.prefix_k"][:, place]
        torch.testing.assert_close(own, average)


def test_it_starts_near_the_base(make_base, tmp_path):
    start = encode(attached(make_base(), tmp_path, noise=0))
    cosines = (start * encode(models.load(make_base()))).sum(1)
    assert cosines.min() > 0.9 and not np.allclose(cosines, 1)


def test_flash_attention_is_left_where_there_is_a_prefix(make_base, saved, tmp_path):
    def refuses(module, query, *others, **more):  # as flash attention does on a CPU, and in fp32
        raise RuntimeError("FlashAttention only supports fp16 and bf16 data type")

    AttentionInterface.register("sixteen_bits", refuses)
    model = models.load(make_base())
    models.inner(model).set_attn_implementation("sixteen_bits")
    model[0].can_flatten_inputs = True  # what sentence-transformers then does
    prefix.Prefix(LENGTH).attach(model, adapter.Reads(TEXTS, (), 1, None, tmp_path))
    assert model[0].can_flatten_inputs is False
    plain = models.TorchEncoder(attached(make_base(), tmp_path, noise=0)).encode(TEXTS)
    assert np.array_equal(models.TorchEncoder(model).encode(TEXTS), plain)


def test_a_saved_prefix_is_never_loaded_to_join_texts(saved, monkeypatch):
    monkeypatch.setattr(Transformer, "_can_flatten_inputs", lambda self: True)
    assert models.load(saved[0])[0].can_flatten_inputs is False


def test_a_model_that_has_a_prefix_goes_on_with_it(saved, tmp_path):
    folder, vectors = saved
    model = models.load(folder)
    prefix.Prefix(LENGTH).attach(model, adapter.Reads(["别的"], (), 1, None, tmp_path))
    assert np.array_equal(encode(model), vectors)
    assert adapter.counts(model)["trainable_parameters"] == 1280


def test_fewer_tokens_than_places(make_base):
    found = prefix.averages(models.load(make_base()), ["法"], 8)
    assert all(torch.isfinite(tensor).all() for tensor in found.values())


def test_positions_stay_and_the_longest_text_still_fits(make_base, tmp_path):
    model = attached(make_base(), tmp_path)
    inner = models.inner(model)
    attention = inner.encoder.layer[0].attention.self
    inputs = model.preprocess(["房东" * 99])
    assert inputs["input_ids"].shape[1] == 64
    assert torch.isfinite(model(inputs)["sentence_embedding"]).all()
    # Keys that no query likes: what is left is attention over tokens, at their own places.
    with torch.no_grad():
        for layer in inner.encoder.layer:
            layer.attention.self.prefix_k.zero_()
            layer.attention.self.key.weight.zero_()
            layer.attention.self.key.bias.zero_()
            layer.attention.self.prefix_v.zero_()
    assert attention.prefix_k.shape == (4, LENGTH, 8)
    base = models.load(make_base())
    with torch.no_grad():
        for layer in models.inner(base).encoder.layer:
            layer.attention.self.key.weight.zero_()
            layer.attention.self.key.bias.zero_()
            # attention is even over n tokens, and over n + 5 with the prefix
            layer.attention.self.value.weight.mul_(16 / (16 + LENGTH))
            layer.attention.self.value.bias.mul_(16 / (16 + LENGTH))
    text = ["法" * 14]  # 16 tokens
    plain = models.TorchEncoder(base).encode(text)
    np.testing.assert_allclose(models.TorchEncoder(model).encode(text), plain, atol=1e-5)


def test_other_architectures_are_refused(make_base, tmp_path):
    with pytest.raises(UserError, match="DistilBertModel is not built like BERT.*recipes=lora"):
        attached(make_base("distilbert"), tmp_path)


@pytest.mark.parametrize("reentrant", [None, False])
def test_gradient_checkpointing_gives_the_same_gradients(make_base, tmp_path, reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = attached(make_base(), tmp_path)
        model.train()
        training._set_dropout(model, 0.0)
        if checkpointing:
            kwargs = None if reentrant is None else {"use_reentrant": reentrant}
            models.inner(model).gradient_checkpointing_enable(kwargs)
        model(model.preprocess(TEXTS))["sentence_embedding"].pow(2).sum().backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}
        gradients.append(found)
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradients[1][name], gradient)


# --- saved ---


def test_it_reloads_exactly(saved, make_base):
    folder, vectors = saved
    assert np.array_equal(encode(models.load(folder)), vectors)
    assert np.abs(vectors - encode(models.load(make_base()))).max() > 0.01
    names = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    assert names[0] == "finetune.adapter.prefix.PrefixTransformer"
    ours = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    again = folder.parent / "again"
    models.save(ours, again)
    for name in ("config.json", "model.safetensors", "modules.json", "prefix.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    assert np.array_equal(encode(ours), vectors)


def test_the_weights_of_the_base_are_left_as_they_are(saved, make_base):
    mine, base = (load_file(f / "model.safetensors") for f in (saved[0], make_base()))
    assert mine.keys() == base.keys() and all(torch.equal(mine[n], base[n]) for n in mine)
    own = load_file(saved[0] / prefix.FILE)
    assert len(own) == 4 * 2 and sum(t.numel() for t in own.values()) == 1280


def test_without_its_prefix_it_does_not_load(saved):
    (saved[0] / prefix.FILE).unlink()
    with pytest.raises(FileNotFoundError, match=prefix.FILE):
        models.load(saved[0])


def test_without_finetune_it_does_not_load(saved):
    code = f"""
import sys
sys.path[:] = [p for p in sys.path if p not in ("", {str(ROOT)!r})]
sys.modules["finetune"] = None  # as if it were not installed
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers import AttentionInterface
from transformers import AutoModel
for load in (
    lambda: SentenceTransformer({str(saved[0])!r}),
    lambda: SentenceTransformer({str(saved[0])!r}, trust_remote_code=True),
    lambda: AutoModel.from_pretrained({str(saved[0])!r}),
):
    try:
        load()
    except (ImportError, ValueError) as error:
        print(type(error).__name__, str(error).splitlines()[0])
    else:
        print("LOADED")
"""
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=saved[0]
    ).stdout.splitlines()
    assert len(told) == 3 and "LOADED" not in told
    assert "PrefixTransformer" in told[0]
    assert "finetune" in told[1] and "finetune_prefix" in told[2]


# --- exported ---


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("bert", marks=pytest.mark.slow),  # as tests/export/test_formats.py has it
        "roberta",
        pytest.param("xlm-roberta", marks=pytest.mark.slow),
        "dense",
    ],
)
def test_the_bundle_has_the_prefix(make_base, tmp_path, kind):
    models.save(attached(make_base(kind), tmp_path), tmp_path / "model")
    model = models.load(tmp_path / "model")
    texts = [f"{text}{letter}" for text in TEXTS for letter in "押金房东工资老板法律"]
    origin = Origin("tiny", "tests/tiny", "unknown", "mit")
    encoder = models.TorchEncoder(model)
    settings = tiny_runs.export_settings("fp32", "int8-dynamic")
    parity = export_bundle(model, encoder, texts, tmp_path / "bundle", origin, **settings)
    assert parity["fp32"]["min_cosine"] >= 0.9999
    exact = encoder.encode(TEXTS)
    vectors = OnnxEncoder.load(tmp_path / "bundle", "fp32").encode(TEXTS)
    np.testing.assert_allclose(vectors, exact, atol=1e-5)
    base = models.TorchEncoder(models.load(make_base(kind))).encode(TEXTS)
    assert np.abs(vectors - base).max() > 0.01


# --- trained ---


def test_training_improves_the_model(make_base, rows, select, plan, tmp_path):
    settings = plan("prefix", "train.learning_rate=0.3", "train.epochs=12")
    result = training.train(make_base(), rows, select, settings, tmp_path)
    assert result["improved"] and result["best"] > result["base"] + 0.1
    guard = training.Guard(select, Precision.fp32)
    assert result["base"] == guard(models.load(make_base()))["ndcg@10"]
    again = guard(models.load(tmp_path / "model"))["ndcg@10"]
    assert result["best"] == pytest.approx(again, abs=1e-9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.jsonl", "model", "training.json"]
    mine, base = (load_file(f / "model.safetensors") for f in (tmp_path / "model", make_base()))
    assert all(torch.equal(mine[name], base[name]) for name in base)
