import pytest
from transformers import BertConfig, BertModel

from finetune.config.compose import compose
from finetune.machine.geometry import (
    M3E_BASE,
    STARTER,
    Adapter,
    Geometry,
    forward_flops,
    training_passes,
)

M3E_SMALL = Geometry(4, 512, 2048, 8, 21_128, 512, 2)
M3E_LARGE = Geometry(24, 1024, 4096, 16, 21_128, 512, 2)
# By hand: 2 layers of 8 hidden and 16 feed-forward numbers, 2 heads, 10 tokens, 6 positions.
SMALL = Geometry(2, 8, 16, 2, 10, 6, 2)


def bert(geometry):
    config = BertConfig(
        num_hidden_layers=geometry.layers, hidden_size=geometry.hidden,
        intermediate_size=geometry.ffn, num_attention_heads=geometry.heads,
        vocab_size=geometry.vocabulary, max_position_embeddings=geometry.positions,
        type_vocab_size=geometry.types,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


@pytest.mark.parametrize(
    ("geometry", "published"),
    [(M3E_SMALL, 23_953_920), (M3E_BASE, 102_267_648), (M3E_LARGE, 325_522_432)],
)
def test_parameters_are_the_published_ones_less_the_pooler(geometry, published):
    pooler = geometry.hidden**2 + geometry.hidden
    assert geometry.parameters + pooler == published


def test_the_starter_is_as_large_as_its_file():
    header = 137_828_816 - STARTER.weights  # bytes of model.safetensors, as the report shows them
    assert 0 < header < 40_000
    assert round(STARTER.parameters / 1e6, 1) == 34.5


def test_parameters_of_a_small_geometry_by_hand():
    tables = (10 + 6 + 2) * 8
    layer = 4 * (8 * 8 + 8) + (8 * 16 + 16) + (16 * 8 + 8) + 2 * 16
    assert SMALL.parameters == tables + 16 + 2 * layer
    assert SMALL.matrices == 2 * (4 * 64 + 2 * 128)
    assert SMALL.weights == 4 * SMALL.parameters


def test_parameters_are_those_of_transformers():
    model = bert(SMALL)
    assert SMALL.parameters == sum(p.numel() for p in model.parameters())
    assert Geometry.of(model.config.to_dict()) == SMALL


@pytest.mark.parametrize("change", [{"hidden_size": None}, {"vocab_size": "many"}])
def test_a_config_with_other_names_is_not_guessed_at(change):
    config = bert(SMALL).config.to_dict() | change
    assert Geometry.of(config) is None
    assert Geometry.of({}) is None


def test_operations_by_hand():
    attention = 4 * 5 * 8 * 2  # scores and their product with the values, 2 layers
    assert forward_flops(SMALL, [5]) == 5 * (2 * SMALL.matrices + attention)
    assert forward_flops(SMALL, [5, 5]) == 2 * forward_flops(SMALL, [5])


@pytest.mark.parametrize(
    ("adapter", "epochs", "chunked", "passes"),
    [
        (None, 2, False, 6),  # forward, and backward to activations and weights
        (None, 2, True, 8),
        (Adapter(2, prefix=4), 2, False, 4),  # no gradients of frozen weights
        (Adapter(1, rank=4), 3, False, 3 * 0.5 * 2 + 0.5),  # the lower half once
        (Adapter(1, rank=4), 0.5, False, 0.5 * 0.5 * 2 + 0.5 * 0.5),
        (Adapter(1, rank=4), 1, True, 0.5 * 3 + 0.5),
    ],
)
def test_training_in_forward_passes(adapter, epochs, chunked, passes):
    assert training_passes(SMALL, adapter, epochs, chunked=chunked) == passes


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [("full", None), ("contrastive", None), ("lora", Adapter(4, rank=16)),
     ("prefix", Adapter(12, prefix=16))],
)  # fmt: skip
def test_what_a_recipe_trains(recipe, expected):
    assert Adapter.of(compose([f"recipes={recipe}"]).adapter, STARTER) == expected
