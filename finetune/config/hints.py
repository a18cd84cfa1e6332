"""What is meant by a word of the command line that this program does not know."""

import re
from collections.abc import Sequence

from finetune.errors import first_line, nearest

# How files of rows end.
_ROWS = (".jsonl", ".json", ".csv", ".tsv", ".gz", ".parquet", ".xlsx")
# What OmegaConf says, and its names of types in words.
_NO_NUMBER = re.compile(r"Value '(.*)' of type '\w+' could not be converted to (Integer|Float)")
_EXPECTED = {"Integer": "a whole number", "Float": "a number"}
# What other tools call it, and what to type here; {value} is what was given.
_MEANT = {
    "recipe": "write recipes={value} (with s)",
    **dict.fromkeys(("lr", "train.lr"), "write train.learning_rate={value}"),
    **dict.fromkeys(("temperature", "loss.temperature"), "write loss.scale=<1 / temperature>"),
    **dict.fromkeys(("fp16", "bf16"), "write hardware.precision={key}"),
    "gpu": "hardware=auto takes the GPU",
    **dict.fromkeys(("out", "output", "output_dir"), "write run_dir={value}"),
    **dict.fromkeys(("plan", "dry_run"), "every run prints its plan first; Ctrl-C ends it"),
}


def unknown_option(option: str) -> str:
    """Say what ``train.py`` takes in the place of an option of other tools."""
    name = option.partition("=")[0]
    if name in ("--config", "--config-name"):
        return (
            f"command line: train.py takes no {name}; a recipe is named: recipes=contrastive "
            "(python train.py lists them)"
        )
    told = _MEANT["dry_run"] if name == "--dry-run" else "write key=value, or -m for a sweep"
    return f"command line: unknown option {name}; {told}"


def no_override(word: str) -> str:
    """Say what to write in the place of a word that is no override."""
    if word.endswith(_ROWS) and "=" not in word:
        return f"name it as domain=custom domain.train={word}"
    return "write key=value, and quote values that hold spaces, commas or brackets: 'key=\"a, b\"'"


def wrong_value(key: str, error: Exception) -> str:
    """Say what was expected in the place of a value of another type."""
    said = first_line(error)
    found = _NO_NUMBER.fullmatch(said)
    return f"{key}={found[1]}: expected {_EXPECTED[found[2]]}" if found else f"{key}: {said}"


def unknown_choice(group: str, name: str, options: Sequence[str]) -> str:
    """Say that a group has no such choice, and which is meant."""
    kind = group.removesuffix("s") if group == "recipes" else group
    told = nearest(name, options)
    if group == "domain":
        own = "train" if name.endswith(_ROWS) else "name"
        kind += f" (your own data: domain=custom domain.{own}={name})"
    elif group == "hardware" and name in ("gpu", "cuda"):
        told = f"hardware=auto takes the GPU; choose from: {', '.join(options)}"
    return f"{group}={name}: unknown {kind}; {told}"


def unknown_key(line: str, key: str, keys: Sequence[str], groups: Sequence[str]) -> str:
    """Say that there is no such key, and which is meant.

    Args:
        line: The override as it was typed.
        key: Its key.
        keys: All dotted keys.
        groups: What whole files are chosen for, as ``model``.
    """
    return f"{line}: unknown key {key!r}; " + (meant(line, key) or _nearest_key(key, keys, groups))


def meant(line: str, key: str) -> str:
    """What to type for a key that other tools know; empty where none does."""
    return _MEANT.get(key, "").format(key=key, value=line.partition("=")[2])


def _nearest_key(key: str, keys: Sequence[str], groups: Sequence[str]) -> str:
    part = key.split(".")[0]
    inside = [known for known in keys if known.startswith(f"{part}.")]
    # A key whose part was left out, as `batch` for train.batch_size.
    ends = {} if inside else {known.rpartition(".")[2]: known for known in keys}
    whole = [known for end, known in ends.items() if end.startswith(key)]
    if whole:
        return f"did you mean {whole[0]!r}?"
    firsts = [*dict.fromkeys([*(known.split(".")[0] for known in keys), *groups])]
    return nearest(key, inside or [*keys, *groups], inside or firsts)
