import json
import re
import shlex

import pytest
import yaml

from finetune.config import to_dict
from finetune.config.compose import GROUPS, ROOT, choices, compose, known_keys

PATHS = sorted((ROOT / "recipes").glob("*.yaml"))
each_recipe = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def leaves(content: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in content.items():
        open_ended = known_keys().get(prefix + key, False)
        nested = isinstance(value, dict) and not open_ended
        found += leaves(value, f"{prefix}{key}.") if nested else [prefix + key]
    return found


@each_recipe
def test_a_recipe_changes_known_keys_only(path):
    content = yaml.safe_load(path.read_text("utf-8"))
    defaults = content.pop("defaults", [])
    assert set(leaves(content)) <= set(known_keys())
    for entry in defaults:
        ((key, choice),) = entry.items()
        group = key.removeprefix("override /")
        assert group in GROUPS and choice in choices(group)


@each_recipe
def test_its_values_reach_the_run(path):
    content = yaml.safe_load(path.read_text("utf-8"))
    config = to_dict(compose([f"recipes={path.stem}"]))
    for key in leaves({k: v for k, v in content.items() if k != "defaults"}):
        wanted, found = content, config
        for part in key.split("."):
            wanted, found = wanted[part], found[part]
        assert found == wanted


@each_recipe
def test_its_header_holds_a_command_that_composes_and_the_hardware(path):
    text = path.read_text("utf-8")
    assert text.startswith("# @package _global_\n")
    header = text[: text.index("\n\n")] if "\n\n" in text else text
    commands = re.findall(r"python train\.py (recipes=.*)", header)
    assert commands and "Hardware:" in header
    for command in commands:
        config = compose(shlex.split(command.replace("<folder>", "/data")))
        assert config.recipe == path.stem


def test_a_recipe_is_more_than_its_name():
    seen = {}
    for path in PATHS:
        content = json.dumps({**to_dict(compose([f"recipes={path.stem}"])), "recipe": ""})
        assert seen.setdefault(content, path.stem) == path.stem
