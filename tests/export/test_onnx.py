import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.bert.modeling_bert import eager_attention_forward

from finetune.errors import UserError
from finetune.export import export_onnx
from finetune.export.onnx import pooling_name

from .conftest import SHAPES


def batch(rows, columns, vocabulary=100, seed=0):
    """Random tokens; each row is padded to another length, the first is full."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, vocabulary, (rows, columns))
    lengths = np.maximum(1, columns - np.arange(rows) * columns // rows)
    mask = (np.arange(columns) < lengths[:, None]).astype(np.int64)
    return ids * mask, mask


def torch_vectors(model, ids, mask):
    features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    with torch.inference_mode():
        vectors = model.eval()(features)["sentence_embedding"]
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


def onnx_vectors(file, ids, mask):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_gives_the_vectors_of_torch_in_every_shape(shape, make_model, tmp_path):
    model = make_model(shape)
    file = tmp_path / "model.onnx"
    export_onnx(model, file)
    # 64 is the longest; one token, one text and batches without padding are the corners.
    for rows, columns in [(1, 1), (1, 16), (3, 7), (5, 64), (32, 3)]:
        ids, mask = batch(rows, columns)
        found, expected = onnx_vectors(file, ids, mask), torch_vectors(model, ids, mask)
        assert found.shape == (rows, model.get_embedding_dimension())
        assert (found * expected).sum(axis=1).min() >= 0.99999
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_padding_does_not_change_a_vector(make_model, tmp_path):
    export_onnx(make_model("mean"), tmp_path / "model.onnx")
    ids, mask = batch(1, 9)
    padded = [np.pad(array, ((0, 0), (0, 20))) for array in (ids, mask)]
    np.testing.assert_allclose(
        onnx_vectors(tmp_path / "model.onnx", *padded),
        onnx_vectors(tmp_path / "model.onnx", ids, mask),
        atol=1e-5,
    )


@pytest.mark.parametrize("shape", ["mean", "xlm-roberta"])
def test_the_graph_takes_two_inputs_and_holds_no_identity(shape, make_model, tmp_path):
    export_onnx(make_model(shape), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in graph.output] == ["sentence_embedding"]
    constants = {weight.name for weight in graph.initializer}
    identities = [node for node in graph.node if node.op_type == "Identity"]
    assert not [node for node in identities if node.input[0] in constants]


def test_token_types_become_one_row(tiny, tmp_path):
    inner = tiny[0].auto_model
    with torch.no_grad():
        inner.embeddings.token_type_embeddings.weight[0] = torch.linspace(-2, 2, 32)
        inner.embeddings.token_type_embeddings.weight[1] = 99
    export_onnx(tiny, tmp_path / "model.onnx")
    ids, mask = batch(4, 12)
    expected = torch_vectors(tiny, ids, mask)
    np.testing.assert_allclose(
        onnx_vectors(tmp_path / "model.onnx", ids, mask), expected, atol=1e-5
    )


def test_a_pooler_does_not_reach_the_graph(make_model, tmp_path):
    model = make_model("mean")
    export_onnx(model, tmp_path / "without.onnx")
    inner = model[0].auto_model
    inner.pooler = type(
        "Pooler", (torch.nn.Module,), {"forward": lambda self, hidden: hidden[:, 0]}
    )()
    inner.pooler.dense = torch.nn.Linear(32, 32)
    export_onnx(model, tmp_path / "with.onnx")
    weights = [
        len(onnx.load(tmp_path / f"{name}.onnx").graph.initializer) for name in ("with", "without")
    ]
    assert weights[0] == weights[1]


def test_the_model_is_left_as_it_was(tiny, tmp_path):
    tiny.train()
    tiny.half()
    before = copy.deepcopy(tiny.state_dict())
    attention = tiny[0].auto_model.config._attn_implementation
    export_onnx(tiny, tmp_path / "model.onnx")
    assert tiny.training and tiny[0].auto_model.config._attn_implementation == attention
    for name, tensor in tiny.state_dict().items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name])


def test_no_layer_asks_for_sizes(tiny, tmp_path):
    export_onnx(tiny, tmp_path / "model.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    layers = tiny[0].auto_model.config.num_hidden_layers
    assert kinds.count("Reshape") == 4 * layers  # of queries, keys, values, and of what they give
    assert kinds.count("Concat") <= 1 and kinds.count("Shape") <= 3  # positions and pooling


def test_an_attention_of_our_own_is_kept(tiny, tmp_path):
    def twice(module, query, key, value, attention_mask, **options):
        return eager_attention_forward(module, query, key, 2 * value, attention_mask, **options)

    AttentionInterface.register("twice", twice)
    AttentionMaskInterface.register("twice", eager_mask)
    plain = torch_vectors(tiny, *batch(3, 9))
    tiny[0].auto_model.set_attn_implementation("twice")
    export_onnx(tiny, tmp_path / "model.onnx")
    found = onnx_vectors(tmp_path / "model.onnx", *batch(3, 9))
    np.testing.assert_allclose(found, torch_vectors(tiny, *batch(3, 9)), atol=1e-5)
    assert np.abs(found - plain).max() > 1e-3


class Odd(Module):
    config_keys: list[str] = []

    def forward(self, features):
        return features

    def save(self, output_path, *args, **kwargs):
        self.save_config(output_path)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            lambda first: [first, Pooling(32), Odd()],
            "module 2 is Odd; export supports Pooling, Dense",
        ),
        (lambda first: [first, Odd()], "has 0 Pooling modules"),
        (lambda first: [Odd(), Pooling(32)], "starts with Odd"),
        (lambda first: [first, Pooling(32, include_prompt=False)], "include_prompt=False"),
    ],
)
def test_what_the_graph_cannot_hold_is_named(tiny, tmp_path, modules, message):
    model = SentenceTransformer(modules=modules(tiny[0]), device="cpu")
    with pytest.raises(UserError, match=message):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", ["cls", "mean+max"])
def test_pooling_has_a_name(shape, make_model):
    assert pooling_name(make_model(shape)) == shape
