"""What reports say, in English and Chinese: a table of strings (``words.yaml``)."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from finetune.config.choices import Lang


class Said(str):
    """A sentence of the table in English, which can be said in another language.

    Args:
        key: Of the table.
        values: What is filled in; sentences among them are translated too.
    """

    key: str
    values: Mapping[str, Any]

    def __new__(cls, key: str, **values: Any) -> "Said":
        """Say it in English."""
        said = super().__new__(cls, _filled(key, values, Lang.en))
        said.key, said.values = key, values
        return said

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        """Let it be copied: its text alone says not what it was made from."""
        return (self.key,), dict(self.values)


def say(lang: Lang, key: str, **values: Any) -> str:
    """Say a key of the table in a language."""
    return _filled(key, values, lang)


def translated(lang: Lang, text: str) -> str:
    """Say a sentence of the table in a language; text from elsewhere stays as it is."""
    return _filled(text.key, text.values, lang) if isinstance(text, Said) else text


def _filled(key: str, values: Mapping[str, Any], lang: Lang) -> str:
    filled = {name: translated(lang, value) for name, value in values.items()}
    return table()[key][lang.value].format(**filled)


@cache
def table() -> Mapping[str, Mapping[str, str]]:
    """Return all strings: by key, by language."""
    text = Path(__file__).with_name("words.yaml").read_text(encoding="utf-8")
    content: dict[str, dict[str, str]] = yaml.safe_load(text)
    return content
