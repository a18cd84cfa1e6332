"""The encoder that runs a bundle with ONNX Runtime."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from finetune import cpu
from finetune.errors import UserError
from finetune.inference.batches import CHUNK, TOKEN_BUDGET, token_budget_batches
from finetune.inference.bundle import TOKENIZER_FILE, BundleInfo, sha256
from finetune.inference.encoder import check_texts, shortened
from finetune.inference.machine import settings
from finetune.inference.script import converter
from finetune.inference.sessions import Session, on_gpu, runs_on_gpu, start_model, start_session

# Characters tokenised at once. What the tokeniser tells of a text, offsets and what lies beyond the
# window included, takes some 70 bytes a character; of a whole chunk of long texts that is a GB.
PART = 2**18

# Inputs of the graph by name, `[batch, sequence]` each.
Feed = dict[str, NDArray[np.int64]]


class OnnxEncoder:
    """Encodes texts with one model of a bundle.

    Safe to call from several threads at once: nothing of a call is kept, and the tokeniser and the
    session are only read. The session's own threads work on one batch together and are shared by
    the callers.

    With dynamic INT8 a text's vector depends a little (cosine > 0.999) on the texts that share its
    batch, since activations are scaled by batch; the same input always gives the same output.
    """

    def __init__(
        self,
        info: BundleInfo,
        tokenizer: Tokenizer,
        session: Session,
        budget: int = TOKEN_BUDGET,
        dim: int | None = None,
    ) -> None:
        self.info = info
        self.dim = info.length(dim)
        self._tokenizer = tokenizer
        self._session = session
        self._budget = budget
        self._convert = converter(info.script)

    @classmethod
    def load(
        cls,
        folder: Path,
        precision: str | None = None,
        threads: int | None = None,
        dim: int | None = None,
        budget: int | None = None,
        device: str = "auto",
    ) -> "OnnxEncoder":
        """Load a bundle.

        Args:
            folder: The bundle.
            precision: Which of its models to run; ``openvino-int8`` needs the package openvino.
                None takes ``int8-dynamic``, or the fastest there is where the bundle lacks it.
            threads: Threads of the runtime; None takes what ``finetune tune-threads`` found on this
                machine, else every CPU this process may run on.
            dim: One of the bundle's ``dims`` that vectors are cut to, and normalised again, or
                its own ``dim``, which leaves them whole; None takes its ``default_dim``.
            budget: Tokens of a batch, padding included; None as for the threads.
            device: ``auto`` runs fp16 on a GPU where ONNX Runtime has one, and all else on the CPU;
                ``cuda`` runs fp16 or fp32 on a GPU or raises.

        Raises:
            UserError: The folder is no bundle, is damaged, or lacks the precision or the length, or
                the device cannot run it.
        """
        info = BundleInfo.read(folder)
        info.length(dim)
        precision = info.chosen(folder, precision)
        model = info.model_file(folder, precision)
        tokenizer = _load_tokenizer(folder, info)
        model_sha = info.precisions[precision].sha256
        gpu = on_gpu(precision, device)
        count, tokens = settings(folder, precision, model_sha, threads, budget, gpu=gpu)
        session = start_model(model, precision, count, gpu=gpu, required=device == "cuda")
        if gpu and not runs_on_gpu(session):  # a CPU has batches, and threads, of its own
            return cls.load(folder, precision, threads, dim, budget, "cpu")
        return cls(info, tokenizer, session, tokens, dim)

    @property
    def gpu(self) -> bool:
        """Whether a GPU runs it."""
        return runs_on_gpu(self._session)

    def running(self, model: Path, threads: int | None = None) -> "OnnxEncoder":
        """Return an encoder of the same texts that runs another graph, on ONNX Runtime."""
        session = start_session(model, threads or cpu.count())
        return OnnxEncoder(self.info, self._tokenizer, session, self._budget, self.dim)

    def batching(self, budget: int) -> "OnnxEncoder":
        """Return an encoder that shares the session, and has batches of so many tokens."""
        return OnnxEncoder(self.info, self._tokenizer, self._session, budget, self.dim)

    def encode(
        self,
        texts: Sequence[str],
        prompt: str = "passage",
        *,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Encode texts; see `finetune.inference.Encoder.encode`.

        Raises:
            UserError: The bundle has no such prompt.
            TypeError: `texts` is one string, or holds something that is no string.
            ValueError: A text holds a lone surrogate.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for indices, batch in self.batches(texts, prompt):
            found = self._session.run(None, batch)[0]
            vectors[indices] = found if self.dim == self.info.dim else shortened(found, self.dim)
            if progress is not None:
                progress(len(indices))
        return vectors

    def batches(
        self, texts: Sequence[str], prompt: str = "passage"
    ) -> Iterator[tuple[NDArray[np.int64], Feed]]:
        """Yield what the graph is fed, batch by batch, with the indices of the texts in it.

        Raises:
            UserError: The bundle has no such prompt.
            TypeError: `texts` is one string, or holds something that is no string.
            ValueError: A text holds a lone surrogate.
        """
        prefix = self.info.prompt(prompt)
        if isinstance(texts, str):
            check_texts(texts)
        for start in range(0, len(texts), CHUNK):
            try:
                ids = self._token_ids(texts[start : start + CHUNK], prefix)
            except (TypeError, AttributeError, UnicodeEncodeError):
                check_texts(texts)  # names the text at fault
                raise
            lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
            for batch in token_budget_batches(lengths, self._budget):
                yield start + batch, _feed([ids[i] for i in batch], self.info.pad_id)

    def _token_ids(self, texts: Sequence[str], prefix: str) -> list[NDArray[np.uint32]]:
        """Tokenise part by part, and keep the ids inside the window alone."""
        return [
            np.array(encoding.ids, np.uint32)
            for part in _parts(texts)
            for encoding in self._tokenizer.encode_batch_fast(
                [prefix + self._convert(text) for text in part]
            )
        ]


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut texts into parts of at most `PART` characters, or of one text that has more."""
    start = size = 0
    for at, text in enumerate(texts):
        if at > start and size + len(text) > PART:
            yield texts[start:at]
            start, size = at, 0
        size += len(text)
    if len(texts) > start:
        yield texts[start:]


def _feed(rows: list[NDArray[np.uint32]], pad_id: int) -> Feed:
    """Pad the token ids of a batch on the right, the longest row first."""
    ids = np.full((len(rows), len(rows[0])), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _load_tokenizer(folder: Path, info: BundleInfo) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise UserError(f"{path}: is not there: copy the bundle again")
    if sha256(path) != info.tokenizer_sha256:
        # Another vocabulary gives plausible vectors that mean nothing, and no error anywhere.
        raise UserError(
            f"{path}: is not the tokeniser this bundle was exported with (its SHA-256 differs from "
            "bundle.json): copy the bundle again"
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(info.max_length)
    return tokenizer
