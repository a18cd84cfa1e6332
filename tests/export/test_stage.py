import dataclasses
import hashlib
import json

import numpy as np
import onnx
import pytest
import tiny_runs
from tokenizers import Tokenizer

from finetune.errors import UserError
from finetune.export import Origin, export_bundle
from finetune.export import stage as module
from finetune.export.parity import Comparison
from finetune.export.stage import bundle_prompts
from finetune.inference import BundleInfo, OnnxEncoder
from finetune.inference.bundle import sha256, weights_file
from finetune.model import TorchEncoder

from .conftest import TEXTS

ORIGIN = Origin("合同", "moka-ai/m3e-small", "unknown", "non-commercial research")
BOTH = ["fp32", "int8-dynamic"]


def export(model, out, precisions=("fp32",), texts=TEXTS, reference=None, **floor):
    settings = tiny_runs.export_settings(*precisions, **floor)
    reference = reference or TorchEncoder(model)
    return export_bundle(model, reference, texts, out, ORIGIN, threads=1, **settings)


def test_writes_the_contract(tiny, tmp_path):
    found = export(tiny, tmp_path / "bundle", BOTH)
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == [
        "bundle/bundle.json",
        "bundle/fp32/model.onnx",
        "bundle/int8-dynamic/model.onnx",
        "bundle/tokenizer.json",
    ]
    assert list(found) == BOTH
    for precision in BOTH:
        model = tmp_path / "bundle" / precision / "model.onnx"
        assert found[precision]["bytes"] == model.stat().st_size
        assert found[precision]["texts"] == len(set(TEXTS))
    assert found["fp32"]["min_cosine"] >= 0.9999
    json.dumps(found)  # goes into a report


def test_a_model_over_two_gigabytes_is_two_files(tiny, tmp_path, monkeypatch):
    whole, apart = tmp_path / "whole", tmp_path / "apart"
    precisions = [*BOTH, "int8-static"]
    export(tiny, whole, precisions)
    monkeypatch.setattr("finetune.export.files._MAX_BYTES", 1000)
    export(tiny, apart, precisions)
    assert sorted(path.relative_to(apart).as_posix() for path in apart.rglob("*.*")) == [
        "bundle.json",
        *(f"{name}/model.onnx{end}" for name in sorted(precisions) for end in ("", ".data")),
        "tokenizer.json",
    ]
    for name in precisions:
        texts = ["解除劳动合同", "租房合同"]
        np.testing.assert_array_equal(
            *(OnnxEncoder.load(folder, name, 1).encode(texts) for folder in (whole, apart))
        )


def test_weights_beside_the_graph_are_part_of_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.export.files._MAX_BYTES", 1000)
    export(tiny, tmp_path / "bundle")
    entry = BundleInfo.read(tmp_path / "bundle").precisions["fp32"]
    graph = tmp_path / "bundle" / entry.file
    weights = weights_file(graph)
    assert entry.bytes == graph.stat().st_size + weights.stat().st_size
    assert entry.sha256 == hashlib.sha256(graph.read_bytes() + weights.read_bytes()).hexdigest()
    weights.unlink()
    with pytest.raises(UserError, match="copy the bundle again"):
        OnnxEncoder.load(tmp_path / "bundle", "fp32", 1)


def test_describes_the_model(tiny, tmp_path):
    export(tiny, tmp_path / "bundle", BOTH)
    info = BundleInfo.read(tmp_path / "bundle")
    assert (info.name, info.base_model, info.licence) == (
        "合同", "moka-ai/m3e-small", "non-commercial research",
    )  # fmt: skip
    assert (info.dim, info.max_length, info.pooling, info.normalize) == (32, 64, "mean", True)
    assert info.prompts == {"query": tiny.prompts["query"], "passage": tiny.prompts["passage"]}
    assert info.pad_id == tiny.tokenizer.pad_token_id
    assert info.precisions["fp32"].plan == {}
    plan = info.precisions["int8-dynamic"].plan
    # Where sums saturate, on CPUs without VNNI, the worst parts stay fp32.
    assert len(plan["matmuls"]) + sum("MatMul" in name for name in plan["kept_fp32"]) == 12
    for entry in info.precisions.values():
        assert sha256(tmp_path / "bundle" / entry.file) == entry.sha256


@pytest.mark.parametrize("shape", ["cls", "dense", "xlm-roberta"])
def test_other_shapes_and_long_texts(shape, make_model, tmp_path):
    model = make_model(shape)
    export(model, tmp_path / "bundle", BOTH, [*TEXTS, "房东" * 300, "", "  ", "🙂\n", "\x00"])
    encoder = OnnxEncoder.load(tmp_path / "bundle", "fp32", threads=1)
    texts = ["房东" * 300, "押金", ""]
    for prompt in ("query", "passage"):
        expected = TorchEncoder(model).encode(texts, prompt)
        np.testing.assert_allclose(encoder.encode(texts, prompt), expected, atol=1e-5)


def test_int8_alone_leaves_no_fp32_behind(tiny, tmp_path):
    export(tiny, tmp_path / "bundle", ["int8-dynamic"])
    assert not (tmp_path / "bundle" / "fp32").exists()
    assert list(BundleInfo.read(tmp_path / "bundle").precisions) == ["int8-dynamic"]


def test_the_reader_sets_truncation_and_padding(tiny, tmp_path):
    tiny.tokenizer.backend_tokenizer.enable_truncation(3)
    tiny.tokenizer.backend_tokenizer.enable_padding(length=99)
    export(tiny, tmp_path / "bundle")
    tokenizer = Tokenizer.from_file(str(tmp_path / "bundle" / "tokenizer.json"))
    assert tokenizer.truncation is None and tokenizer.padding is None
    assert tiny.tokenizer.backend_tokenizer.truncation is not None  # the model's own is untouched


def test_a_length_beyond_the_positions_is_cut(make_model, tmp_path):
    model = make_model("xlm-roberta")
    model.max_seq_length = 500
    export(model, tmp_path / "bundle", reference=TorchEncoder(make_model("xlm-roberta")))
    assert BundleInfo.read(tmp_path / "bundle").max_length == 64


class Shuffled:
    """A reference that belongs to another model."""

    dim = 32

    def encode(self, texts, prompt="passage", *, progress=None):
        vectors = np.random.default_rng(len(texts)).standard_normal((len(texts), 32))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_what_differs_from_torch_is_not_published(tiny, tmp_path):
    with pytest.raises(UserError, match="(?s)fp32 is not published.*min cosine is.*lower export"):
        export(tiny, tmp_path / "bundle", reference=Shuffled())
    assert not list(tmp_path.iterdir())


def test_one_that_differs_is_left_out_and_the_others_go_on(tiny, tmp_path, caplog):
    out = tmp_path / "bundle"
    settings = tiny_runs.export_settings(*BOTH, "int8-static")
    floors = settings["export"].floors
    floors["int8-dynamic"] = {"min_cosine": 0.5, "centred_cosine": 1.1}  # out of reach
    found = export_bundle(tiny, TorchEncoder(tiny), TEXTS, out, ORIGIN, threads=1, **settings)
    assert list(BundleInfo.read(out).precisions) == ["fp32", "int8-static"]
    assert not (out / "int8-dynamic").exists()
    assert found["int8-dynamic"]["misses"] == {"centred_cosine": 1.1}
    assert found["fp32"]["misses"] == found["int8-static"]["misses"] == {}
    assert "int8-dynamic is not published" in caplog.text and "expected at least 1.1" in caplog.text


def test_the_parts_that_int8_hurts_most_stay_fp32(tiny, tmp_path):
    settings = tiny_runs.export_settings(*BOTH)
    reach, out = dataclasses.replace(settings["quantize"], centred_cosine=1.0), tmp_path / "bundle"
    for folder, share in (("all", 0.0), ("bundle", 0.25)):
        settings["quantize"] = dataclasses.replace(reach, max_fp32=share)
        found = export_bundle(tiny, TorchEncoder(tiny), TEXTS, tmp_path / folder, ORIGIN,
                              threads=1, **settings)  # fmt: skip
        assert bool(found["int8-dynamic"]["quality"]["kept"]) == bool(share)
    plan = BundleInfo.read(out).precisions["int8-dynamic"].plan
    kept, quality = plan["kept_fp32_for_quality"], plan["quality"]
    assert kept and quality == found["int8-dynamic"]["quality"]
    assert quality["kept"] == len(kept) and "centred_cosine" in quality["missed"]
    assert quality["before"]["centred_cosine"] < quality["after"]["centred_cosine"] < 1
    products = {}
    for folder in ("all", "bundle"):
        graph = onnx.load(tmp_path / folder / "int8-dynamic/model.onnx").graph
        products[folder] = [node.op_type for node in graph.node].count("MatMulInteger")
    assert products["all"] > products["bundle"] == len(plan["matmuls"])
    readers = {node.name for node in onnx.load(out / "fp32/model.onnx").graph.node
               if set(node.input) & set(kept) and node.op_type in ("MatMul", "Gather")}  # fmt: skip
    assert readers and readers <= set(plan["kept_fp32"])
    assert not list(tmp_path.rglob("trial.onnx"))


def test_vectors_that_are_cut_where_they_are_served_must_agree_there(tiny, tmp_path):
    """The first 8 numbers are another model's, too little to show in the whole vectors."""
    texts = list(dict.fromkeys(TEXTS))
    encoder = TorchEncoder(tiny)
    whole, cut = Comparison(encoder, texts), Comparison(encoder, texts, 8)

    class Off:
        dim = 32

        def encode(self, texts, prompt="passage", *, progress=None):
            vectors = encoder.encode(texts, prompt)
            vectors[:, :8] += np.random.default_rng(0).normal(0, 0.05, (len(texts), 8))
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    assert cut(encoder).min_cosine == pytest.approx(1)
    assert cut(Off()).centred_cosine < whole(Off()).centred_cosine
    settings = tiny_runs.export_settings("fp32")
    export = dataclasses.replace(settings["export"], dim=8)
    found = export_bundle(
        tiny, encoder, TEXTS, tmp_path / "b", ORIGIN, export, threads=1, dims=[8]
    )  # fmt: skip
    assert found["fp32"]["min_cosine"] >= 0.9999
    assert BundleInfo.read(tmp_path / "b").default_dim == 8


def test_int8_needs_its_settings(tiny, tmp_path):
    settings = tiny_runs.export_settings("int8-dynamic") | {"quantize": None}
    with pytest.raises(ValueError, match="quantize is None"):
        export_bundle(tiny, TorchEncoder(tiny), TEXTS, tmp_path / "b", ORIGIN, **settings)


def test_both_prompts_are_compared(tiny, tmp_path, monkeypatch):
    reference = TorchEncoder(tiny)
    monkeypatch.setattr(module, "bundle_prompts", lambda _: {"query": "", "passage": ""})
    assert tiny.prompts["query"]
    with pytest.raises(UserError, match="not published"):
        export(tiny, tmp_path / "bundle", reference=reference)


def test_a_vocabulary_that_does_not_fit(tiny, tmp_path):
    tiny.tokenizer.add_tokens(["押金条"])
    with pytest.raises(UserError, match="they do not belong together"):
        export(tiny, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("prompts", "passage"),
    [
        ({"query": "q: ", "passage": "p: ", "document": ""}, "p: "),
        ({"query": "q: ", "document": "d: "}, "d: "),
        ({"query": "q: ", "passage": ""}, ""),
        ({"query": "q: ", "document": None}, ""),
    ],
)
def test_names_of_prompts(prompts, passage):
    assert bundle_prompts(prompts) == {"query": "q: ", "passage": passage}


def test_no_prompts():
    assert bundle_prompts({}) == {"query": "", "passage": ""}
