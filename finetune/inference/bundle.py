"""``bundle.json``: what a reader must know to run the models of a bundle folder.

The folder is a contract with users' own services::

    bundle/bundle.json              this file
    bundle/tokenizer.json           a `tokenizers` file; the reader sets truncation and padding
    bundle/<precision>/model.onnx   input_ids, attention_mask [batch, sequence] int64
                                    -> sentence_embedding [batch, dim] float32, unit length
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import UserError
from finetune.records import write_json
from finetune.script import KEEP, THERE

log = logging.getLogger(__name__)

FORMAT = 1
FILE = "bundle.json"
TOKENIZER_FILE = "tokenizer.json"
MODEL_FILE = "model.onnx"
DEFAULT = "int8-dynamic"
_BLOCK = 2**20  # bytes read at a time
_FASTEST = (DEFAULT, "int8-static", "fp32")


@dataclass(frozen=True)
class BundleFile:
    """One precision of the model: its file (relative to the folder) and how it was made.

    ``sha256`` and ``bytes`` are of the file, and of its weights where they lie beside it.
    ``plan`` says which nodes were quantised and which were not; ``plan["quality"]`` says why some
    that could be stayed fp32: the budget, and how close the model came before and after. Empty for
    fp32.
    """

    file: str
    sha256: str
    bytes: int
    plan: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, file: Path, folder: Path, plan: Mapping[str, Any] | None = None) -> "BundleFile":
        """Describe a file inside a bundle folder."""
        name, parts = file.relative_to(folder).as_posix(), _parts(file)
        return cls(name, sha256(*parts), _size(parts), plan or {})


@dataclass(frozen=True)
class BundleInfo:
    """The content of ``bundle.json``.

    Attributes:
        name: What the user calls the model.
        dim: Length of a vector.
        max_length: Tokens after which a text is cut, special tokens and prompt included.
        prompts: Put before a text, by name: ``query`` and ``passage``; both may be empty.
        pooling: How token vectors became one (inside the graph; told for the record).
        normalize: Whether vectors have length 1 (inside the graph; always true).
        base_model: Hub id or path of the model that was tuned.
        base_revision: Its revision, or ``unknown``.
        licence: Licence of the base, which the tuned model inherits.
        pad_id: Token id that fills up a batch.
        tokenizer_sha256: Hash of ``tokenizer.json``.
        precisions: The models in the folder, by precision.
        dims: Shorter lengths that the vectors may be cut to (matryoshka training), longest first;
            the file has the key only where there are any.
        default_dim: The one of them that vectors have unless another length is asked for; None
            leaves them whole. The file has the key only where it is set.
        script: OpenCC's conversion of every text before it is tokenised, ``t2s`` for one; the file
            has the key only where it is not ``keep``.
        format: Version of this file's form.
    """

    name: str
    dim: int
    max_length: int
    prompts: Mapping[str, str]
    pooling: str
    normalize: bool
    base_model: str
    base_revision: str
    licence: str
    pad_id: int
    tokenizer_sha256: str
    precisions: Mapping[str, BundleFile]
    dims: tuple[int, ...] = ()
    default_dim: int | None = None
    script: str = KEEP
    format: int = FORMAT

    @property
    def fastest(self) -> str:
        """The precision that a service on a CPU runs: INT8 where there is one."""
        return fastest_of(self.precisions)

    def chosen(self, folder: Path, precision: str | None) -> str:
        """Return the precision asked for; None takes INT8 dynamic, or the fastest there is.

        The latter where INT8 dynamic was not made, or failed its gate; the log says so.
        """
        if precision is not None or DEFAULT in self.precisions or not self.precisions:
            return precision or DEFAULT
        log.warning("%s has no %s (not made, or it failed its gate): %s is taken",
                    folder, DEFAULT, self.fastest)  # fmt: skip
        return self.fastest

    @classmethod
    def read(cls, folder: Path) -> "BundleInfo":
        """Read the ``bundle.json`` of a folder.

        Raises:
            UserError: The folder is no bundle, or its ``bundle.json`` cannot be understood.
        """
        content = _read_object(folder)
        found = content.get("format")
        if found != FORMAT:
            raise UserError(
                f"{folder / FILE}: format is {found!r}; this version of finetune reads {FORMAT}: "
                "install the version that wrote it, or export the model again"
            )
        names = {f.name for f in dataclasses.fields(cls)}
        # A key we do not know may change how texts must be treated: refuse rather than ignore it.
        present = {*content, "dims", "default_dim", "script"}
        if present != names:
            missing, unknown = sorted(names - present), sorted(content.keys() - names)
            raise UserError(
                f"{folder / FILE}: missing keys {missing}, unknown keys {unknown}: "
                "export the model again"
            )
        try:
            files = {name: BundleFile(**entry) for name, entry in content["precisions"].items()}
        except (TypeError, AttributeError) as error:
            raise UserError(
                f"{folder / FILE}: precisions is {content['precisions']!r}; expected file, sha256, "
                "bytes and plan by precision: export the model again"
            ) from error
        if content.get("script", KEEP) not in (KEEP, *THERE):
            raise UserError(
                f"{folder / FILE}: script is {content['script']!r}; this version of finetune "
                f"converts {', '.join(THERE)}: export the model again"
            )
        dims = tuple(content.get("dims", ()))
        return cls(**{**content, "precisions": files, "dims": dims})

    def write(self, folder: Path) -> Path:
        """Write ``bundle.json`` into a folder; return its path."""
        path = folder / FILE
        content = dataclasses.asdict(self)
        if not self.dims:
            del content["dims"]
        if self.default_dim is None:
            del content["default_dim"]
        if self.script == KEEP:
            del content["script"]
        write_json(path, content)
        return path

    def prompt(self, name: str) -> str:
        """Return the text of a prompt.

        Raises:
            UserError: The bundle has no such prompt.
        """
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts))
            raise UserError(f"prompt {name!r} is unknown; this bundle has: {known}")
        return self.prompts[name]

    def length(self, dim: int | None) -> int:
        """Return the length of vectors that are cut to ``dim``; None takes the bundle's default.

        Raises:
            UserError: The model was not trained to be cut to it.
        """
        known = (self.dim, *self.dims)
        if dim is not None and dim not in known:
            raise UserError(
                f"dim {dim}: this bundle's vectors were trained to be used at "
                f"{', '.join(map(str, known))}; train with recipes=matryoshka for other lengths"
            )
        return dim or self.default_dim or self.dim

    def model_file(self, folder: Path, precision: str) -> Path:
        """Return the model file of a precision after checking that it is whole.

        Raises:
            UserError: The bundle has no such precision, or its file is missing or cut short.
        """
        if precision not in self.precisions:
            known = ", ".join(sorted(self.precisions)) or "none"
            raise UserError(f"{folder}: precision {precision!r} is not there; it has: {known}")
        entry = self.precisions[precision]
        path = folder / entry.file
        found = _size(_parts(path)) if path.is_file() else None
        # Hashing 100 MB would double the start-up time; a copy that broke off shows in the size.
        if found != entry.bytes:
            raise UserError(
                f"{path}: {'is not there' if found is None else f'has {found} bytes'}; expected "
                f"{entry.bytes} bytes: copy the bundle again"
            )
        return path


def fastest_of(precisions: Collection[str]) -> str:
    """The one of several precisions, at least one, that a service on a CPU runs."""
    return next((name for name in _FASTEST if name in precisions), min(precisions))


def is_bundle(folder: Path) -> bool:
    """Say whether a folder is a bundle (as opposed to a model folder)."""
    return (folder / FILE).is_file()


def weights_file(model: Path) -> Path:
    """Where the weights of a graph lie that one file cannot hold (over 2 GB)."""
    return model.with_name(f"{model.name}.data")


def sha256(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of several one after another, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _parts(model: Path) -> list[Path]:
    return [path for path in (model, weights_file(model)) if path.is_file()]


def _size(parts: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in parts)


def _read_object(folder: Path) -> dict[str, Any]:
    """Read ``bundle.json`` as an object."""
    path = folder / FILE
    if not path.is_file():
        there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else None
        found = "no such folder" if there is None else f"it holds {', '.join(there) or 'nothing'}"
        raise UserError(
            f"{folder} is no bundle ({found}); expected a folder with {FILE}, {TOKENIZER_FILE} and "
            "<precision>/model.onnx, as a run writes it to <run_dir>/bundle"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both one
        raise UserError(f"{path}: is no JSON ({error}): copy or export the bundle again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected an object")
    return content
