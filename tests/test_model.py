import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from transformers import (
    AutoTokenizer,
    BertModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)  # fmt: skip

from finetune import model as models
from finetune.config.choices import Hub
from finetune.config.compose import compose
from finetune.errors import UserError
from finetune.inference import batches
from finetune.model import TorchEncoder, build_base, load, save

TEXTS = ["房东不退押金怎么办", "法律", "老板不发工资？" * 9, "", "离婚财产", "xyz 123", "房"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def plain(tiny_model, tmp_path_factory) -> Path:
    """The tiny model as plain transformers would have it: no modules.json, a vocab.txt."""
    folder = tmp_path_factory.mktemp("layout")
    model = load(tiny_model)
    models.inner(model).save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    tokens = model.tokenizer.get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(tokens, key=tokens.get)) + "\n", "utf-8")
    return folder


@pytest.fixture
def folder(plain, tmp_path) -> Path:
    """A copy of a plain transformers folder, to be spoilt."""
    return Path(shutil.copytree(plain, tmp_path / "given"))


def settings(path: Path, **changes):
    base = compose(["recipes=full", "model=custom", "model.max_length=64"]).model
    return dataclasses.replace(base, path=path, **changes)


def built(path: Path, out: Path, **changes) -> SentenceTransformer:
    build_base(settings(path, **changes), out)
    return load(out)


def reference(path: Path, texts, pooling="mean") -> np.ndarray:
    """Vectors by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    bert = BertModel.from_pretrained(path, add_pooling_layer=False).eval()
    rows = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        with torch.no_grad():
            hidden = bert(**ids).last_hidden_state[0]
        row = hidden.mean(0) if pooling == "mean" else hidden[0]
        rows.append(row / row.norm())
    return torch.stack(rows).numpy()


def pickled(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder


def vocabulary_file_only(folder: Path) -> Path:
    (folder / "tokenizer.json").unlink()
    return folder


LAYOUTS = {
    "safetensors": lambda folder: folder,
    "pickle": pickled,
    "vocab.txt alone": vocabulary_file_only,
}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_plain_transformers_folders(folder, tmp_path, layout, pooling):
    expected = reference(folder, TEXTS, pooling)
    model = built(LAYOUTS[layout](folder), tmp_path / "base", pooling=pooling)
    assert (tmp_path / "base/model.safetensors").is_file()
    assert (tmp_path / "base/modules.json").is_file()
    np.testing.assert_allclose(TorchEncoder(model).encode(TEXTS), expected, atol=2e-6)


def test_a_sentence_transformers_folder_keeps_its_modules(tiny_model, tmp_path):
    given = load(tiny_model)
    dense = Dense(32, 16, activation_function=torch.nn.Tanh())
    given.append(dense)
    save(given, tmp_path / "given")
    # "cls" is not read: the folder says how it pools.
    model = built(tmp_path / "given", tmp_path / "base", pooling="cls")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Dense"]
    np.testing.assert_allclose(
        TorchEncoder(model).encode(TEXTS), TorchEncoder(given).encode(TEXTS), atol=1e-6
    )
    assert TorchEncoder(model).dim == 16


def test_a_folder_that_the_base_wrote_is_a_base_again(plain, tmp_path):
    first = built(plain, tmp_path / "one")
    second = built(tmp_path / "one", tmp_path / "two")
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0, atol=0)


def test_prompts_and_length_are_those_of_the_config(tiny_model, tmp_path):
    prompts = {"query": "问：", "passage": "文："}
    model = built(tiny_model, tmp_path / "base", prompts=prompts, max_length=32)
    assert model.max_seq_length == 32
    assert model.prompts == {**prompts, "document": "文："}


@pytest.mark.parametrize(("asked", "found"), [(32, 32), (128, 128), (512, 128)])
def test_the_length_is_at_most_the_positions(plain, tmp_path, asked, found):
    assert built(plain, tmp_path / "base", max_length=asked).max_seq_length == found


@pytest.mark.parametrize(
    ("config_class", "model_class", "found"),
    [(RobertaConfig, RobertaModel, 39), (MPNetConfig, MPNetModel, 38)],
)
def test_some_count_positions_from_behind_the_padding(
    plain, tmp_path, config_class, model_class, found
):
    folder = tmp_path / "behind"
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("model*", "config.json"))
    config = config_class(
        vocab_size=len(AutoTokenizer.from_pretrained(plain)), hidden_size=32, num_hidden_layers=1,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=40, pad_token_id=0,
        type_vocab_size=1,
    )  # fmt: skip
    model_class(config, add_pooling_layer=False).save_pretrained(folder)
    model = built(folder, tmp_path / "base", max_length=512)
    assert model.max_seq_length == found
    assert np.isfinite(TorchEncoder(model).encode(["房东" * 100])).all()


def test_no_pooler_anywhere(plain, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    model = built(plain, tmp_path / "base")
    assert models.inner(model).pooler is None
    stored = load_file(tmp_path / "base/model.safetensors")
    assert stored and not any("pooler" in name for name in stored)
    # Whoever loads the folder without this project gets none either.
    theirs = SentenceTransformer(str(tmp_path / "base"), device="cpu")
    assert models.inner(theirs).pooler is None


def test_a_pooler_of_the_checkpoint_is_dropped(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    weights |= {"pooler.dense.weight": torch.ones(32, 32), "pooler.dense.bias": torch.ones(32)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    built(folder, tmp_path / "base")
    assert not any("pooler" in n for n in load_file(tmp_path / "base/model.safetensors"))


class Evil:
    """Runs when unpickled."""

    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return (Path.touch, (self.flag,))


def test_a_pickle_that_holds_code_is_refused_and_not_run(folder, tmp_path):
    flag = tmp_path / "flag"
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Evil(flag)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="not a model that sentence-transformers can load"):
        build_base(settings(folder), tmp_path / "base")
    assert not flag.exists()


def custom_architecture(folder, flag):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {
        "AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel",
    }}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def custom_module(folder, flag):
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "evil.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize("spoil", [custom_architecture, custom_module])
def test_code_in_the_folder_is_refused_and_not_run(tiny_model, tmp_path, spoil):
    flag = tmp_path / "flag"
    folder = Path(shutil.copytree(tiny_model, tmp_path / "given"))
    (folder / "evil.py").write_text(f"open({str(flag)!r}, 'w')\n")
    spoil(folder, flag)
    with pytest.raises(UserError, match="not a model that sentence-transformers can load"):
        build_base(settings(folder), tmp_path / "base")
    assert not flag.exists() and not (tmp_path / "base").exists()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def weights_of_another_size(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))


def no_tokenizer(folder):
    for path in [*folder.glob("tokenizer*"), folder / "vocab.txt"]:
        path.unlink()


def no_json(folder):
    (folder / "config.json").write_text("{")


def without(folder, *parts: str) -> list[str]:
    """Take tensors out of the weights; return their names."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    gone = [name for name in weights if any(part in name for part in parts)]
    save_file({k: v for k, v in weights.items() if k not in gone}, path, metadata={"format": "pt"})
    return sorted(gone)


@pytest.mark.parametrize("pickle", [False, True])
@pytest.mark.parametrize("parts", [("layer.1.",), ("word_embeddings",), ("LayerNorm.bias",)])
def test_weights_that_lack_a_layer(folder, tmp_path, parts, pickle):
    gone = without(folder, *parts)
    if pickle:
        pickled(folder)
    with pytest.raises(UserError, match="that config.json asks for") as caught:
        build_base(settings(folder), tmp_path / "base")
    assert f"lack {len(gone)} tensor(s)" in str(caught.value)
    assert all(name in str(caught.value) for name in gone[:3])
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("subfolder", ["", "0_Transformer"])
def test_a_sentence_transformers_folder_that_lacks_a_layer(tiny_model, tmp_path, subfolder):
    """Also where ``finetune evaluate`` loads it, and in the layout of old folders."""
    given = Path(shutil.copytree(tiny_model, tmp_path / "given"))
    if subfolder:
        (given / subfolder).mkdir()
        for name in ("config.json", "model.safetensors", "sentence_bert_config.json",
                     "tokenizer.json", "tokenizer_config.json"):  # fmt: skip
            (given / name).rename(given / subfolder / name)
        modules = json.loads((given / "modules.json").read_text())
        modules[0]["path"] = subfolder
        (given / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_array_equal(
        TorchEncoder(built(given, tmp_path / "whole")).encode(TEXTS),
        TorchEncoder(load(tiny_model)).encode(TEXTS),
    )
    without(given / subfolder, "layer.0.attention")
    with pytest.raises(UserError, match="they would be random"):
        load(given)


def test_more_layers_in_the_config_than_in_the_weights(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"encoder\.layer\.2\..*num_hidden_layers"):
        build_base(settings(folder), tmp_path / "base")


def test_heads_that_are_not_needed_are_left(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    renamed = {f"bert.{name}": tensor for name, tensor in weights.items()}
    renamed |= {
        "cls.predictions.bias": torch.zeros(len(weights)),
        "pooler.dense.bias": torch.ones(32),
    }
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    model = built(folder, tmp_path / "base")
    for name, tensor in models.inner(model).state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)


def git_lfs_pointer(folder):
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    )


@pytest.mark.parametrize(
    "spoil",
    [no_weights, cut_weights, weights_of_another_size, no_tokenizer, no_json, git_lfs_pointer],
)
def test_what_cannot_be_loaded_is_told_without_a_traceback(folder, tmp_path, spoil):
    spoil(folder)
    with pytest.raises(UserError) as caught:
        build_base(settings(folder), tmp_path / "base")
    (problem,) = caught.value.problems
    assert str(folder) in problem and "\n" not in problem
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("rows", [60, 5000])
def test_a_vocabulary_that_does_not_fit(folder, tmp_path, rows):
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] = torch.zeros(rows, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    with pytest.raises(UserError, match="do not belong together") as caught:
        build_base(settings(folder), tmp_path / "base")
    assert f"{rows:,} rows" in str(caught.value)


def test_a_few_rows_to_spare_are_fine(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    given = weights["embeddings.word_embeddings.weight"]
    weights["embeddings.word_embeddings.weight"] = torch.cat([given, torch.zeros(8, 32)])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    spare = config | {"vocab_size": config["vocab_size"] + 8}
    (folder / "config.json").write_text(json.dumps(spare))
    assert built(folder, tmp_path / "base").get_embedding_dimension() == 32


def test_the_starter_is_built_not_fetched(monkeypatch, tmp_path):
    from finetune import starter

    asked = []
    monkeypatch.setattr(starter, "build_starter", asked.append)
    build_base(settings(None, hub=Hub.starter), tmp_path)
    assert asked == [tmp_path]


@pytest.mark.parametrize("prompt", ["query", "passage"])
def test_the_encoder_agrees_with_sentence_transformers(tiny_model, prompt):
    texts = TEXTS + [f"{a}{b}" for a in "房东工资" for b in "押金法律离婚学校" * 3]
    theirs = SentenceTransformer(str(tiny_model), device="cpu").encode(
        texts, prompt_name=prompt, normalize_embeddings=True
    )
    ours = TorchEncoder(load(tiny_model)).encode(texts, prompt)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_prompts_that_a_model_was_saved_with_are_not_left_out_silently(
    tiny_model, tmp_path, caplog
):
    built(tiny_model, tmp_path / "own", prompts={"query": "问：", "passage": "文："})
    caplog.clear()
    built(tmp_path / "own", tmp_path / "same", prompts={"query": "问：", "passage": "文："})
    assert "model.prompts" not in caplog.text
    built(tmp_path / "own", tmp_path / "other")
    assert """'model.prompts={query: "问：", passage: "文："}'""" in caplog.text


def test_prompts_are_put_before_the_text(tiny_model):
    encoder = TorchEncoder(load(tiny_model))  # its query prompt is 问
    np.testing.assert_allclose(
        encoder.encode(["房东"], "query"), encoder.encode(["问房东"]), atol=1e-6
    )
    assert abs(encoder.encode(["房东"], "query") - encoder.encode(["房东"])).max() > 1e-3


def test_texts_are_cut_at_the_models_length(tiny_model):
    encoder = TorchEncoder(load(tiny_model))  # 64 tokens: 62 characters
    long = "押金" * 31
    np.testing.assert_allclose(encoder.encode([long + "房东"]), encoder.encode([long]), atol=1e-6)
    assert abs(encoder.encode([long[:-1]]) - encoder.encode([long])).max() > 1e-4


def test_many_texts_keep_their_order_across_chunks(tiny_model, monkeypatch):
    encoder = TorchEncoder(load(tiny_model))
    texts = [f"{'房东' * (n % 9)}{n}" for n in range(50)]
    whole = encoder.encode(texts)
    monkeypatch.setattr(batches, "CHUNK", 7)
    counted = []
    np.testing.assert_allclose(encoder.encode(texts, progress=counted.append), whole, atol=1e-6)
    assert sum(counted) == 50 and len(counted) >= 8


def test_nothing_to_encode(tiny_model):
    assert TorchEncoder(load(tiny_model)).encode([]).shape == (0, 32)


@pytest.mark.parametrize(
    ("texts", "error", "phrase"),
    [("房东", TypeError, "one string"), (["a", 3], TypeError, r"texts\[1\]"),
     (["\ud83d"], ValueError, "U\\+D83D")],
)  # fmt: skip
def test_what_is_no_list_of_texts(tiny_model, texts, error, phrase):
    with pytest.raises(error, match=phrase):
        TorchEncoder(load(tiny_model)).encode(texts)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_in_training_is_handed_back_as_it_was(tiny_model, training):
    model = load(tiny_model).train(training)
    one, two = (TorchEncoder(model).encode(TEXTS) for _ in range(2))
    assert model.training is training
    np.testing.assert_array_equal(one, two)  # dropout was off
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("tokens", "largest"), [(8, 8), (64, 64), (None, 1024)])
def test_batches_hold_the_tokens_of_the_profile_or_those_asked_for(tiny_model, tokens, largest):
    encoder, sizes = TorchEncoder(load(tiny_model), tokens=tokens), []
    run = encoder._run
    encoder._run = lambda ids: (sizes.append(len(ids) * len(ids[0])), run(ids))[1]
    vectors = encoder.encode(["房东押金"] * 300)
    assert largest / 2 < max(sizes) <= largest
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], 300, axis=0), atol=1e-5)
