import math

import pytest
import torch
import yaml
from launched import in_processes
from sentence_transformers.base.losses.gradcache import _create_minibatch, _minibatch_ranges
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)

from finetune import model as models
from finetune.config.check import target_problems
from finetune.config.compose import ROOT, choices
from finetune.training.losses import build, in_chunks

LIBRARY = "sentence_transformers.sentence_transformer.losses."
MNRL = {"_target_": LIBRARY + "MultipleNegativesRankingLoss", "scale": 50.0}
MATRYOSHKA = {"_target_": LIBRARY + "MatryoshkaLoss", "loss": MNRL, "matryoshka_dims": [16, 8]}
COSENT = {"_target_": LIBRARY + "CoSENTLoss"}
GATHERED = "finetune.training.losses.GatheredCoSENT"
ASKED = ["房东不退押金", "老板", "网店商品质量", "离婚", "孩子抚养", "学校", "医院医生", "合同"]


class Given(torch.nn.Module):
    """A model whose vectors are given."""

    def get_embedding_dimension(self):
        return 2

    def forward(self, features):
        return {"sentence_embedding": features["vectors"]}


def vectors(*rows):
    return {"vectors": torch.tensor(rows, dtype=torch.float32)}


def test_a_loss_inside_a_loss_worked_by_hand():
    node = MATRYOSHKA | {"matryoshka_dims": [1], "loss": MNRL | {"scale": 1.0}}
    loss = build(node, Given())
    columns = [vectors([1, 0], [0, 1]), vectors([2, 0], [0, 3])]
    # At 2 numbers, both rows: cosine 1 with their own, 0 with the other.
    whole = math.log(math.e + 1) - 1
    # At 1 number the second vectors are 0: cosine 0 with everything.
    cut = (whole + math.log(2)) / 2
    assert float(loss(columns, None)) == pytest.approx(whole + cut, abs=1e-5)


@pytest.mark.parametrize(
    ("node", "dtype"),
    [(MNRL, torch.bfloat16), (MNRL, torch.float32), (COSENT, torch.bfloat16),
     (MATRYOSHKA | {"matryoshka_dims": [2, 1]}, torch.float32)],
)  # fmt: skip
def test_vectors_that_are_close_are_compared_in_fp32_under_autocast(node, dtype):
    random = torch.Generator().manual_seed(0)
    close = [(1 + 0.1 * torch.rand(4, 2, generator=random)).bfloat16() for _ in range(2)]
    labels = torch.tensor([0.1, 0.2, 0.3, 0.4])
    loss = build(node, Given())
    whole = float(loss([{"vectors": each.float()} for each in close], labels))
    with torch.autocast("cpu", torch.bfloat16):
        found = float(loss([{"vectors": each.to(dtype)} for each in close], labels))
    assert found == pytest.approx(whole, abs=1e-6)


def test_a_loss_in_chunks_compares_as_the_whole_does():
    whole, chunked = (build(MNRL, torch.nn.Sequential(Given()), chunk) for chunk in (None, 2))
    assert chunked.similarity_fct is whole.similarity_fct
    assert chunked.get_config_dict()["similarity_fct"] == "cos_sim"


def test_a_models_own_length_is_always_trained():
    assert build(MATRYOSHKA | {"matryoshka_dims": [1]}, Given()).matryoshka_dims == (2, 1)
    assert build(MATRYOSHKA | {"matryoshka_dims": [1, 2]}, Given()).matryoshka_dims == (2, 1)
    node = MATRYOSHKA | {"matryoshka_dims": [1], "matryoshka_weights": [0.5]}
    assert build(node, Given()).matryoshka_weights == (1, 0.5)


@pytest.mark.parametrize("name", choices("loss"))
def test_every_loss_of_the_vocabulary_is_built_with_the_model_throughout(name, tiny_model):
    node = yaml.safe_load((ROOT / f"configs/loss/{name}.yaml").read_text("utf-8"))
    if "matryoshka_dims" in node:
        node["matryoshka_dims"] = [16]
    model = models.load(tiny_model)
    loss = build(node, model)
    assert all(part.model is model for part in loss.modules() if hasattr(part, "model")
               and part is not model and part is not model[0])  # fmt: skip


def test_a_part_that_takes_no_model(tiny_model):
    node = MNRL | {"similarity_fct": {"_target_": "torch.nn.PairwiseDistance", "p": 1.0}}
    for chunk in (None, 3):
        found = build(node, models.load(tiny_model), chunk).similarity_fct
        assert isinstance(found, torch.nn.PairwiseDistance) and found.norm == 1.0


def test_a_typo_inside_a_nested_loss_is_told_with_its_place():
    node = MATRYOSHKA | {"loss": MNRL | {"scal": 1}, "matryoshka_dim": [3]}
    found = list(target_problems("loss", node))
    assert [each.split(":")[0] for each in found] == ["loss.loss.scal", "loss.matryoshka_dim"]
    assert "did you mean 'scale'" in found[0]


@pytest.mark.parametrize(("node", "can"), [(MNRL, True), (MATRYOSHKA, True), (COSENT, False)])
def test_which_losses_work_in_chunks(node, can, tiny_model):
    assert in_chunks(node) is can
    loss = build(node, models.load(tiny_model), chunk=3)
    inner = loss.loss if isinstance(loss, MatryoshkaLoss) else loss
    assert isinstance(inner, CachedMultipleNegativesRankingLoss) is can
    if can:
        assert (inner.mini_batch_size, inner.scale) == (3, 50.0)
    assert in_chunks({**MATRYOSHKA, "loss": COSENT}) is False


def gradients(model, loss) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def features(model, negatives: int):
    texts = [ASKED, *([text[::-1] + mark for text in ASKED] for mark in "的一是"[: 1 + negatives])]
    return [dict(model.preprocess(column)) for column in texts]


def set_dropout(model, probability):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
@pytest.mark.parametrize("node", [MNRL, MATRYOSHKA], ids=["mnrl", "matryoshka"])
def test_in_chunks_loss_and_gradients_are_those_of_the_whole_batch(tiny_model, node, chunk):
    model = models.load(tiny_model).train()
    set_dropout(model, 0.0)
    found = []
    for size in (None, chunk):
        loss = build(node, model, size)
        value = loss(features(model, negatives=2), None)
        found.append((value.item(), gradients(model, value)))
    (whole, exact), (pieces, close) = found
    assert pieces == pytest.approx(whole, rel=1e-5)
    assert float((close - exact).norm() / exact.norm()) <= 1e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_the_second_forward_pass_replays_the_dropout_of_the_first(tiny_model, seed):
    model = models.load(tiny_model).train()
    set_dropout(model, 0.3)
    columns = features(model, negatives=1)
    torch.manual_seed(seed)
    value = build(MNRL, model, 3)(columns, None)
    pieces = gradients(model, value)
    # The same chunks in the same order, all of them kept: the same masks.
    torch.manual_seed(seed)
    vectors = [
        torch.cat([
            model(_create_minibatch(column, *ends))["sentence_embedding"]
            for ends in _minibatch_ranges(column, 3)
        ])
        for column in columns
    ]  # fmt: skip
    plain = MultipleNegativesRankingLoss(model, scale=50.0)
    whole = plain.compute_loss_from_embeddings(vectors, None)
    exact = gradients(model, whole)
    assert value.item() == pytest.approx(whole.item(), rel=1e-6)
    assert float((pieces - exact).norm() / exact.norm()) <= 1e-5
    # And masks matter here: others give other gradients.
    torch.manual_seed(seed + 10)
    others = gradients(model, build(MNRL, model, 3)(columns, None))
    assert float((others - exact).norm() / exact.norm()) > 0.01


def share_of_cosent(folder, batch, scores, weights):
    """The gradient that a process of two computes from its half of the batch."""
    torch.distributed.init_process_group("gloo")
    rank, half = torch.distributed.get_rank(), len(scores) // 2
    own = slice(rank * half, (rank + 1) * half)
    weights = weights.clone().requires_grad_()
    columns = [column[own] @ weights for column in batch]
    loss = build({"_target_": GATHERED, "scale": 20.0}, Given())
    value = loss.compute_loss_from_embeddings(columns, scores[own])
    value.backward()
    torch.save((value.detach(), weights.grad), folder / f"{rank}.pt")
    return 0


def test_cosent_in_two_processes_is_that_of_the_whole_batch(tmp_path):
    torch.manual_seed(0)
    batch, weights = torch.randn(2, 8, 4), torch.randn(4, 3, requires_grad=True)
    scores = torch.tensor([0, 1, 0, 0, 1, 1, 1, 1]).float()  # either half has both
    loss = build(COSENT | {"scale": 20.0}, Given())
    expected = loss.compute_loss_from_embeddings([each @ weights for each in batch], scores)
    expected.backward()
    assert in_processes(share_of_cosent, tmp_path, batch, scores, weights.detach()) == [0, 0]
    values, gradients = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)), strict=True)
    torch.testing.assert_close(torch.stack(values), expected.detach().repeat(2))
    torch.testing.assert_close(torch.stack(gradients).mean(0), weights.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3  # each knows its own texts only
