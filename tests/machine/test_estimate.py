import dataclasses

import pytest
import torch
from peft import LoraConfig
from transformers import BertConfig, BertModel

from finetune.adapter.lora import Lora
from finetune.adapter.prefix import insert
from finetune.attention import LEAN
from finetune.config.choices import Precision
from finetune.machine import estimate
from finetune.machine.estimate import MIB, Training
from finetune.machine.geometry import M3E_BASE, Adapter, Geometry

M3E_LARGE = Geometry(24, 1024, 4096, 16, 21_128, 512, 2)
# By hand: 2 layers of 8 hidden and 16 feed-forward numbers, 2 heads, 10 tokens, 6 positions.
SMALL = Geometry(2, 8, 16, 2, 10, 6, 2)


def small(**changes):
    of = Training(SMALL, 3, (5, 7), Precision.fp32, "cpu")
    return dataclasses.replace(of, **changes)


# --- memory ---


def bert(geometry, **more):
    config = BertConfig(
        num_hidden_layers=geometry.layers, hidden_size=geometry.hidden,
        intermediate_size=geometry.ffn, num_attention_heads=geometry.heads,
        vocab_size=geometry.vocabulary, max_position_embeddings=geometry.positions,
        type_vocab_size=geometry.types, **more,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).train()


def saved(model, rows, width, *, bf16):
    """Bytes that autograd keeps of a forward pass, each storage once, weights left out."""
    weights = {tuple(p.shape) for p in model.parameters()}
    weights |= {tuple(reversed(shape)) for shape in weights}
    kept = {}

    def keep(tensor):
        if tuple(tensor.shape) not in weights:  # nor their 16-bit copies
            kept[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    ids = torch.randint(0, model.config.vocab_size, (rows, width))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        output = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert output.requires_grad
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize(
    ("bf16", "attention", "dropout"),
    [(False, "sdpa", 0), (True, "sdpa", 0), (False, "eager", 0), (True, "eager", 0),
     (False, LEAN, 0), (True, LEAN, 0), (False, "sdpa", 0.1), (True, "sdpa", 0.1)],
)  # fmt: skip
@pytest.mark.parametrize("width", [24, 96])
def test_a_layer_keeps_what_autograd_saves(bf16, attention, dropout, width):
    rows, geometry = 3, Geometry(1, 128, 512, 4, 50, 128, 2)
    counts = [
        saved(bert(dataclasses.replace(geometry, layers=layers), attn_implementation=attention,
                   hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout),
              rows, width, bf16=bf16)
        for layers in (1, 3)
    ]  # fmt: skip
    measured = (counts[1] - counts[0]) / 2 / (rows * width)
    precision = Precision.bf16 if bf16 else Precision.fp32
    of = Training(geometry, rows, (width,), precision, "cpu", attention, dropout > 0)
    assert estimate.kept_per_token(of, width) == pytest.approx(measured, rel=0.01)


def adapted(geometry, adapter):
    """A frozen model with an adapter, as `finetune.adapter` makes it."""
    model = bert(geometry, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    model.requires_grad_(False)
    if adapter.rank:
        modules = ["query", "key", "value", "dense"]
        peft = LoraConfig(r=adapter.rank, target_modules=modules)
        return Lora(geometry.layers, 0, peft)._adapt(model, range(geometry.layers))
    size = geometry.heads, adapter.prefix, geometry.hidden // geometry.heads
    insert(model, {f"encoder.layer.{index}.attention.self.prefix_{name}": torch.randn(size)
                   for index in range(geometry.layers) for name in "kv"})  # fmt: skip
    return model


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("width", [24, 96])
@pytest.mark.parametrize("adapter", [Adapter(3, rank=16), Adapter(3, prefix=16)])
def test_an_adapters_layer_keeps_what_autograd_saves(adapter, bf16, width):
    rows, geometry = 3, Geometry(1, 128, 512, 4, 50, 128, 2)
    models = [adapted(dataclasses.replace(geometry, layers=layers), adapter) for layers in (1, 3)]
    one, three = (saved(model, rows, width, bf16=bf16) for model in models)
    measured = (three - one) / 2 / (rows * width)
    precision = Precision.bf16 if bf16 else Precision.fp32
    of = Training(geometry, rows, (width,), precision, "cpu", adapter=adapter)
    assert estimate.kept_per_token(of, width) == pytest.approx(measured, rel=0.01)
    trained = sum(p.numel() for p in models[1].parameters() if p.requires_grad)
    assert adapter.parameters(geometry) == trained


def test_memory_of_a_small_geometry_by_hand():
    memory = estimate.training(small())
    # fp32: 8 H + 2 F numbers of 4 bytes, a number a head, two a LayerNorm, a row of the mask
    token = {width: 4 * (8 * 8 + 2 * 16) + 4 * (2 + 4) + 4 * width for width in (5, 7)}
    ends = 3 * 4 * 8
    assert memory.weights == 4 * SMALL.parameters
    assert memory.state == 12 * SMALL.parameters
    assert memory.casts == 4 * 10 * 8  # a second gradient of the vocabulary's table
    assert memory.logits == 3 * 4 * 3 * 3
    assert memory.passing == 4 * 3 * 7 * (5 * 8 + 2 * 16)  # of the wider column
    assert memory.activations == 3 * (5 * (2 * token[5] + ends) + 7 * (2 * token[7] + ends))
    assert memory.total == sum(dataclasses.astuple(memory))


def test_the_cpus_allocator_leaves_holes_between_blocks_that_it_does_not_map():
    even, uneven = (estimate.training(small(uneven=uneven)) for uneven in (False, True))
    assert even.holes == int(0.1 * even.activations)
    assert uneven.holes == int(0.45 * uneven.activations)
    assert estimate.training(small(device="cuda")).holes == 0
    lora = estimate.training(small(adapter=Adapter(1, rank=2)))
    assert lora.holes == int(0.8 * lora.activations)
    wide = Training(M3E_BASE, 32, (256, 256), Precision.fp32, "cpu")  # 24 MiB, feed-forward 96
    memory = estimate.training(wide)
    per_token = estimate.kept_per_token(wide, 256)
    feed_forward = 2 * 4 * M3E_BASE.ffn * 12 / (12 * per_token + 12 * M3E_BASE.hidden)
    assert memory.holes == pytest.approx(0.45 * memory.activations * (1 - feed_forward))


def test_sixteen_bits_halve_most_of_a_layer_and_copy_the_matrices():
    full, half = (estimate.training(small(precision=p)) for p in (Precision.fp32, Precision.bf16))
    assert 0.5 < half.activations / full.activations < 0.75
    assert half.casts - full.casts == 2 * SMALL.matrices
    assert half.weights == full.weights and half.state == full.state


@pytest.mark.parametrize(
    "more",
    [{"rows": 4}, {"widths": (5, 8)}, {"widths": (5, 7, 7)}, {"attention": "eager"},
     {"dropout": True}, {"geometry": dataclasses.replace(SMALL, layers=3)},
     {"geometry": dataclasses.replace(SMALL, vocabulary=11)}],
)  # fmt: skip
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16, Precision.fp16])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_more_of_anything_takes_more_memory(more, precision, device):
    less = small(precision=precision, device=device)
    assert (
        estimate.training(dataclasses.replace(less, **more)).total > estimate.training(less).total
    )


def test_an_adapter_needs_no_state_and_no_graph_below_it():
    whole, some = (estimate.training(small(adapter=a)) for a in (None, Adapter(1, rank=2)))
    assert some.state == 12 * 2 * (10 * 8 + 2 * 16)
    assert some.casts == 0  # no gradient of the vocabulary's table
    assert whole.activations / 2 < some.activations < 0.7 * whole.activations
    mixed = small(adapter=Adapter(1, rank=2), precision=Precision.bf16)
    assert estimate.training(mixed).casts == 2 * 2 * SMALL.per_layer  # of both columns


def test_with_chunks_the_batch_costs_its_logits_only():
    one, two = (estimate.training(small(rows=rows, chunk=4)) for rows in (100, 200))
    assert one.activations == two.activations
    assert one.activations == estimate.training(small(rows=1, widths=(7,) * 4)).activations
    assert two.logits == 4 * one.logits
    whole = estimate.training(small(rows=2))
    assert estimate.training(small(rows=2, chunk=4)) == whole  # four texts fit


def test_the_largest_batch_is_the_last_that_fits():
    of = Training(M3E_BASE, 1, (128, 128), Precision.fp32, "cpu")
    rows = estimate.largest_batch(of, 8 * 1024 * MIB)
    assert estimate.training(dataclasses.replace(of, rows=rows)).total <= 8 * 1024 * MIB
    assert estimate.training(dataclasses.replace(of, rows=rows + 1)).total > 8 * 1024 * MIB
    assert estimate.largest_batch(of, 100 * MIB) == 0


@pytest.mark.parametrize(("gib", "chunk"), [(40, None), (39, 32), (12, 16), (8, 4), (6, 1), (1, 1)])
def test_a_chunk_is_halved_until_it_fits(gib, chunk):
    # recipes=contrastive model=m3e-large: a profile's chunk of 128 holds all of a batch at once
    of = Training(M3E_LARGE, 32, (128,) * 4, Precision.fp32, "cpu", LEAN)
    assert estimate.chunk_within(of, gib * 1024 * MIB) == chunk
    found = dataclasses.replace(of, chunk=chunk)
    assert estimate.training(found).total <= gib * 1024 * MIB or gib == 1
    assert estimate.chunk_within(found, gib * 1024 * MIB) == chunk


def test_encoding_holds_the_weights_and_one_layer_of_a_batch():
    memory = estimate.encoding(SMALL, tokens=100, width=5)
    per_token = 5 * 8 + 2 * 16 + 2 * 2 * 5
    assert memory == estimate.PROCESS + SMALL.weights + 4 * 100 * per_token
    # Of a large model with small batches it is the loading that takes most.
    large = estimate.encoding(M3E_LARGE, tokens=8, width=8)
    assert large == estimate.PROCESS + int(1.6 * M3E_LARGE.weights)


def test_scoring_holds_the_torch_model_beside_the_graphs():
    one, two = (estimate.evaluation(M3E_LARGE, graphs, 10**9) for graphs in (1, 2))
    assert one == 10**9 + 200 * MIB + M3E_LARGE.weights
    assert two - one == int(1.6 * M3E_LARGE.weights)


def test_an_export_holds_copies_of_the_weights_and_twice_as_many_with_int8():
    without, with_int8 = (
        estimate.export(SMALL, precisions) for precisions in (["fp32"], ["fp32", "int8-dynamic"])
    )
    assert without == estimate.PROCESS + 6 * SMALL.weights
    assert with_int8 - estimate.PROCESS == 2 * (without - estimate.PROCESS)


def test_a_large_set_costs_numbers_a_row_and_no_texts():
    few, many, gpu = (
        estimate.training(Training(SMALL, 3, (5, 7), Precision.fp32, device, all_rows=rows))
        for device, rows in (("cpu", 0), ("cpu", 1_000_000), ("cuda", 1_000_000))
    )
    assert many.total - few.total == many.rows == 200_000_000 and gpu.rows == 0
