"""Which bases know more than Chinese."""

from finetune.config import Model
from finetune.config.choices import Hub

# To name where Chinese bases know too little.
ADVISED = ("multilingual-e5-base", "bge-m3")
# The starter, which comes of one of them, is trimmed for Chinese.
_NAMES = (*ADVISED, "multilingual-e5-small", "multilingual-e5-large", "labse")


def is_multilingual(model: Model) -> bool:
    """Say whether a base is known to know other languages: by its name, or that of its files."""
    names = {model.name, (model.id or "").rpartition("/")[2], model.path.name if model.path else ""}
    known = {name.casefold() for name in names} & set(_NAMES)
    return bool(known) and model.hub is not Hub.starter
