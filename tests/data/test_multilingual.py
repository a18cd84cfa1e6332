from dataclasses import replace
from pathlib import Path

import pytest

from finetune.config.compose import choices, compose
from finetune.data.multilingual import is_multilingual


@pytest.mark.parametrize("name", sorted(choices("model")))
def test_which_bases_are_multilingual(name):
    known = name in {"bge-m3", "labse"} or name.startswith("multilingual-e5")
    assert is_multilingual(compose(["recipes=full", f"model={name}"]).model) == known


@pytest.mark.parametrize(
    ("named", "known"),
    [
        ({"id": "BAAI/bge-m3"}, True),
        ({"path": Path("models/LaBSE")}, True),
        ({"id": "moka-ai/m3e-base", "path": Path("m3e-base")}, False),
    ],
)
def test_a_model_of_ones_own_is_known_by_the_name_of_its_files(named, known):
    model = compose(["recipes=full", "model=custom"]).model
    assert is_multilingual(replace(model, **named)) == known
