import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense

from finetune import model as models
from finetune.errors import UserError
from finetune.training.merging import (
    Candidate,
    as_saved,
    check,
    choose,
    interpolate,
    same_weights,
    told,
)


def moved(folder, out, by=None):
    """A model of the same make, each of its weights moved by a random amount (or by ``by``)."""
    shutil.copytree(folder, out)
    generator = torch.Generator().manual_seed(1)
    for path in out.rglob("*.safetensors"):
        tensors = {
            key: t + (torch.randn(t.shape, generator=generator) if by is None else by)
            for key, t in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})
    return out


@pytest.fixture(scope="module")
def tuned(tiny_model, tmp_path_factory):
    return moved(tiny_model, tmp_path_factory.mktemp("tuned") / "model")


def weights(folder):
    return load_file(folder / "model.safetensors")


# --- interpolation ---


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_every_weight_lies_between_as_the_formula_says(tiny_model, tuned, tmp_path, weight):
    interpolate(tiny_model, tuned, weight, tmp_path / "out")
    base, after, mixed = weights(tiny_model), weights(tuned), weights(tmp_path / "out")
    assert mixed.keys() == base.keys()
    for key, value in mixed.items():
        wanted = weight * after[key].double() + (1 - weight) * base[key].double()
        assert float((value.double() - wanted).abs().max()) <= 1e-7 * float(wanted.abs().max())
        assert value.dtype == after[key].dtype
    if weight in (0.0, 1.0):
        exact = base if weight == 0 else after
        assert all(torch.equal(mixed[key], exact[key]) for key in mixed)


def test_numbers_worked_by_hand(tiny_model, tmp_path):
    # base + 0.25 x (base + 2 - base) = base + 0.5
    tuned = moved(tiny_model, tmp_path / "tuned", by=2.0)
    interpolate(tiny_model, tuned, 0.25, tmp_path / "out")
    base, mixed = weights(tiny_model), weights(tmp_path / "out")
    for key in base:
        torch.testing.assert_close(mixed[key], base[key] + 0.5, rtol=0, atol=1e-6)


def test_what_is_no_weight_is_the_tuned_models_to_the_byte(tiny_model, tuned, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/left over").write_text("from a weight tried before")
    interpolate(tiny_model, tuned, 0.5, tmp_path / "out")
    files = {p.relative_to(tuned) for p in tuned.rglob("*") if p.is_file()}
    assert files == {p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*")
                     if p.is_file()}  # fmt: skip
    for name in files:
        if name.suffix != ".safetensors":
            assert (tmp_path / "out" / name).read_bytes() == (tuned / name).read_bytes()
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert model.prompts == {"query": "问", "passage": "", "document": ""}
    assert model.encode(["房东押金"]).shape == (1, 32)


def with_dense(folder, out, seed):
    torch.manual_seed(seed)
    model = models.load(folder)
    model.append(Dense(32, 16, activation_function=torch.nn.Identity()))
    models.save(model, out)
    return out


def test_a_dense_module_that_tuning_left_alone_stays_to_the_bit(tiny_model, tuned, tmp_path):
    base, after = (with_dense(folder, tmp_path / name, seed=5)
                   for folder, name in ((tiny_model, "base"), (tuned, "tuned")))  # fmt: skip
    check(base, after)
    interpolate(base, after, 0.3, tmp_path / "out")
    (dense,) = (tmp_path / "out").glob("2_Dense/*.safetensors")
    name = dense.relative_to(tmp_path / "out")
    one, other = load_file(dense), load_file(base / name)
    assert all(torch.equal(one[key], other[key]) for key in other)
    assert not torch.equal(*(weights(f)["embeddings.word_embeddings.weight"]
                             for f in (base, tmp_path / "out")))  # fmt: skip


def test_the_same_weights_are_known(tiny_model, tuned, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "kept")
    assert same_weights(tiny_model, tmp_path / "kept")
    assert not same_weights(tiny_model, tuned)


# --- what cannot be merged ---


def edit(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def foreign(folder):
    edit(folder, "modules.json", lambda c: c[0].update(type="finetune.adapter.prefix.Prefixed"))


def other_pooling(folder):
    edit(folder, "1_Pooling/config.json", lambda c: c.update(pooling_mode="cls"))


def other_prompts(folder):
    edit(folder, "config_sentence_transformers.json", lambda c: c["prompts"].update(query="x"))


def other_length(folder):
    edit(folder, "sentence_bert_config.json", lambda c: c.update(max_seq_length=8))


def fewer_weights(folder):
    tensors = weights(folder)
    tensors.pop("embeddings.LayerNorm.weight")
    save_file(tensors, folder / "model.safetensors")


def other_shape(folder):
    tensors = weights(folder)
    tensors["embeddings.LayerNorm.weight"] = torch.ones(7)
    save_file(tensors, folder / "model.safetensors")


def another_file(folder):
    save_file({"x": torch.ones(1)}, folder / "2_More.safetensors")


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (foreign, "cannot interpolate modules of type finetune.adapter.prefix.Prefixed"),
        (other_pooling, "differ in 1_Pooling/config.json"),
        (other_prompts, "differ in config_sentence_transformers.json"),
        (other_length, "differ in sentence_bert_config.json"),
        (fewer_weights, "other weights in model.safetensors (embeddings.LayerNorm.weight)"),
        (other_shape, "other weights in model.safetensors (embeddings.LayerNorm.weight)"),
        (another_file, "the tuned model ['2_More.safetensors', 'model.safetensors']"),
    ],
)
def test_models_of_different_make_are_refused(tiny_model, tuned, tmp_path, change, phrase):
    check(tiny_model, tuned)
    shutil.copytree(tuned, tmp_path / "odd")
    change(tmp_path / "odd")
    with pytest.raises(UserError) as caught:
        check(tiny_model, tmp_path / "odd")
    assert phrase in str(caught.value) and "merge=none" in str(caught.value)


def test_the_libraries_that_wrote_them_may_differ(tiny_model, tuned, tmp_path):
    shutil.copytree(tuned, tmp_path / "newer")
    edit(tmp_path / "newer", "config_sentence_transformers.json",
         lambda content: content.update(__version__={"torch": "9"}))  # fmt: skip
    check(tiny_model, tmp_path / "newer")


def test_a_base_of_an_older_layout_merges(tiny_model, tmp_path):
    tuned = moved(as_saved(tiny_model, tmp_path / "saved"), tmp_path / "tuned")
    older = tmp_path / "older"
    shutil.copytree(tiny_model, older)
    path = older / "modules.json"
    modules = json.loads(path.read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    path.write_text(json.dumps(modules))
    with pytest.raises(UserError, match="differ in modules.json"):
        check(older, tuned)
    check(as_saved(older, tmp_path / "base"), tuned)
    assert not same_weights(older, tuned)


# --- the choice ---

CALM = np.array([-0.001, 0.001] * 8)  # queries differ by little, so that .01 is beyond noise


def candidates(rows, noise=CALM):
    """From weight, points on the domain and points on the general set (None without one)."""
    mean = np.full(len(noise), 0.5)
    return [
        Candidate(
            weight,
            mean + domain / 100 + weight * noise,
            None if general is None else np.full(len(noise), 0.8) + general / 100,
        )
        for weight, domain, general in rows
    ]


@pytest.mark.parametrize(
    ("rows", "weight", "phrase"),
    [
        # The smallest that keeps 90 %, whether or not the general set shows that more is forgotten.
        ([(0, 0, 0), (0.3, 5, 0), (0.5, 9.1, 0.1), (0.7, 9.3, -0.4), (1, 10, -2)], 0.5,
         "keeps 91% of the gain and moves the general set by +0.1 points"),
        ([(0, 0, 0), (0.3, 5, 0), (0.7, 9.2, 0), (1, 10, 0)], 0.7, "keeps 92% of the gain"),
        # The tuned model, where no other keeps the gain.
        ([(0, 0, 0), (0.5, 6, 0), (1, 10, -0.3)], 1.0, "keeps 100% of the gain"),
        # A weight between may beat the tuned model.
        ([(0, 0, 0), (0.5, 11, 0.5), (1, 10, -0.2)], 0.5, "keeps 110% of the gain"),
        # None loses little enough: the least loss of those that keep the gain.
        ([(0, 0, 0), (0.3, 5, -0.2), (0.7, 9.2, -1), (0.9, 9.8, -1.5), (1, 10, -3)], 0.7,
         "no share keeps 90% of the gain and loses at most 0.5 points of the general set"),
        ([(0, 0, 0), (0.5, 1, 0), (1, 10, -3)], 1.0, "loses least: -3.0"),
        # A larger one happens to lose less.
        ([(0, 0, 0), (0.5, 9.5, -1), (0.7, 9.8, -0.4), (1, 10, -3)], 0.7, "set by -0.4 points"),
        # Tuning gained nothing on these queries: what is not below the base keeps it.
        ([(0, 0, 0), (0.5, 0.1, 0), (1, -1, 0)], 0.5, "0.5 of the tuned weights"),
        ([(0, 0, 0), (0.5, -2, 0), (1, -1, 0)], 1.0, "1 of the tuned weights"),
        # Without a general set, too.
        ([(0, 0, None), (0.5, 8, None), (0.7, 9.5, None), (1, 10, None)], 0.7,
         "0.7 of the tuned weights and 0.3 of the base's, which keeps 95% of the gain (select"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", [1, -1])
def test_the_weight_that_is_chosen(rows, weight, phrase, order):
    choice = choose(candidates(rows)[::order], 0.9, 0.005)
    assert choice.weight == weight and phrase in choice.why


def by_one(calm, place, points):
    """The same means, but that one query of 16 alone makes what a weight has beyond 90 %."""
    one = calm[place]
    values = calm[0].domain + 0.9 * (calm[-1].domain - calm[0].domain)
    values[0] += 16 * points / 100
    return [*calm[:place], Candidate(one.weight, values, one.general), *calm[place + 1 :]]


def test_few_questions_leave_the_tuned_model_as_it_is():
    # .5 keeps 95 %: .5 points beyond 90 %. Where one of 16 queries alone makes it, the standard
    # error of the .5 points is .5 points; a hair more, as a second query has less.
    calm = candidates([(0, 0, 0), (0.5, 9.5, 0), (1, 10, 0)])
    assert choose(calm, 0.9, 0.005).weight == 0.5
    loud = by_one(calm, 1, 0.5)
    loud[1].domain[1] -= 1e-6
    assert loud[1].domain.mean() == pytest.approx(calm[1].domain.mean(), abs=1e-6)
    assert choose(loud, 0.9, 0.005).weight == 1.0


def test_what_the_general_set_shows_is_weighed_against_a_gain_that_is_not_sure():
    loud = by_one(candidates([(0, 0, 0), (0.5, 9.5, -0.2), (1, 10, -2)]), 1, 0.5)
    loud[1].domain[1] -= 1e-6
    choice = choose(loud, 0.9, 0.005)
    assert choice.weight == 0.5 and "general set by -0.2 points" in choice.why


def test_of_one_query_nothing_is_sure():
    rows = [(0, 0, 0), (0.5, 9.5, 0), (1, 10, 0)]
    assert choose(candidates(rows, noise=np.zeros(1)), 0.9, 0.005).weight == 1.0


def test_the_table_is_told_with_what_was_chosen():
    found = candidates([(0, 0, 0), (1, 10, -1)])
    content = told(found, choose(found, 0.9, 0.005), ["legal", "general"])
    assert content["weight"] == 1.0 and content["sets"] == ["legal", "general"]
    assert [row["weight"] for row in content["table"]] == [0, 1]
    np.testing.assert_allclose(content["table"][1]["scores"], [0.6, 0.79])
    without = candidates([(0, 0, None), (1, 10, None)])
    assert len(told(without, choose(without, 0.9, 0.005), ["legal"])["table"][0]["scores"]) == 1
    json.dumps(content)
