"""The trainer of sentence-transformers as we use it: its plan, its arguments, batches and guard."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import Trainer as PlainTrainer
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from finetune import adapter as adapters
from finetune import model as models
from finetune.config import Train
from finetune.config.choices import Precision
from finetune.evaluation.artifacts import score
from finetune.machine import processes
from finetune.sets import AnySet
from finetune.training import losses, memory
from finetune.training.batching import BatchSamplerShard
from finetune.training.mixing import Batches, Examples

ENCODE_FEWER = "lower hardware.encode_tokens, what is encoded at once"


@dataclass(frozen=True)
class Plan:
    """What a training run is made of; ``chunk`` as in `finetune.training.losses.build`."""

    train: Train
    loss: dict[str, Any]
    precision: Precision
    device: str
    threads: int
    seed: int
    adapter: dict[str, Any] = field(default_factory=dict)  # none: all parameters are trained
    chunk: int | None = None
    attention: str = "sdpa"
    compile: bool = False
    encode_tokens: int | None = None
    workers: int = 0


class Trainer(SentenceTransformerTrainer):
    """The trainer with our batches: as an argument they would be pickled with its settings."""

    def __init__(self, sampler: Batches, guard: "Guard", **kwargs: Any) -> None:
        super().__init__(evaluator=guard, **kwargs)
        self._sampler = sampler
        self._guard = guard

    def get_batch_sampler(self, *args: Any, **kwargs: Any) -> Batches | BatchSamplerShard:
        """Return the length-bucketed batches, or this process's share of each."""
        if processes.count() == 1:
            return self._sampler
        return BatchSamplerShard(self._sampler, processes.rank(), processes.count())

    # Of several sets, the library asks for each one's batches first and does not need them.
    get_multi_dataset_batch_sampler = get_batch_sampler

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader as it is: accelerate's would give other batches to every process."""
        if processes.count() == 1:
            return super().get_train_dataloader()
        return self._build_dataloader(
            self.train_dataset, self.args.train_batch_size, dataset_kind="train"
        )

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Train on a batch; several processes that work in chunks halve them together."""
        several = isinstance(self.loss, dict)  # one for each set
        every: list[Any] = [*self.loss.values()] if several else [self.loss]
        loss: Any = self.loss[inputs["dataset_name"]] if several else self.loss
        shared = getattr(model, "_orig_mod", model)  # where torch has compiled it
        work = partial(super().training_step, model, inputs, num_items_in_batch)
        if several and not losses.splits(loss):  # smaller chunks are for the others
            rows = self.args.per_device_train_batch_size
            with memory.advising(
                f"with train.batch_size={rows} in a batch of {inputs['dataset_name']}, whose loss "
                "cannot work in chunks; lower train.batch_size"
            ):
                return work()
        if not memory.chunked(loss) or not isinstance(shared, DistributedDataParallel):
            return work()

        def alone() -> Tensor:
            with shared.no_sync():
                return work()

        rows = self.args.per_device_train_batch_size
        return memory.in_step(alone, shared, memory.chunked(*every), rows)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Score with the guard in all processes: the library's own lets the others wait."""
        output = PlainTrainer.evaluation_loop(self, *args, **kwargs)  # there are no batches
        scores = {f"eval_{name}": value for name, value in self._guard(self.model).items()}
        return output._replace(metrics={**(output.metrics or {}), **scores})

    def restore(self, checkpoint: Path) -> None:
        """Take up a training that had ended: resumed, the library's would train a step more."""
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        self._load_best_model()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not processes.first():  # the library calls this in all
            return
        save = adapters.save_trained if adapters.is_frozen(self.model) else models.save
        save(self.model, Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if adapters.is_frozen(self.model):
            adapters.load_trained(self.model, Path(resume_from_checkpoint))
            return
        # The library's own would give the copy it loads a random pooler, and then fail.
        self.model.load_state_dict(models.load(Path(resume_from_checkpoint)).state_dict())

    def _load_best_model(self) -> None:
        # The library's own only logs an error when it fails, and goes on with the last weights.
        if self.state.best_model_checkpoint and processes.first():
            self._load_from_checkpoint(self.state.best_model_checkpoint)


class Guard(BaseEvaluator):
    """Scores a model on the select half; the trainer keeps the checkpoint that scores best.

    Args:
        select: Queries of the select half on a pooled corpus, or scored pairs of it.
        precision: What to compute in.
        tokens: As `finetune.model.TorchEncoder` takes them.
        window: Tokens of a text that the published model reads, of which training may see fewer;
            None where the model has its own length.
        together: All processes score the same model at once: each encodes its share, and all get
            the score that the first found.
    """

    def __init__(
        self,
        select: AnySet,
        precision: Precision,
        tokens: int | None = None,
        *,
        window: int | None = None,
        together: bool = False,
    ) -> None:
        super().__init__()
        self.select = select
        self.tokens = tokens
        self.window = window
        self.together = together
        self.autocast = autocast(precision)
        self.primary_metric = select.main
        self.score = f"eval_{select.main}"  # the trainer's name for it

    def __call__(  # type: ignore[override] # our trainer hands over nothing else
        self,
        model: SentenceTransformer,
        output_path: str | None = None,
        epoch: float = -1,
        steps: int = -1,
    ) -> dict[str, float]:
        """Return mean NDCG@10 or Spearman; the other arguments are the trainer's and not used."""
        with memory.advising(f"while the guard encodes; {ENCODE_FEWER}"):
            score = float(self.values(model).mean())
        if self.together:  # another machine's may differ in its last digits
            score = processes.once(lambda: score)
        return {self.select.main: score}

    def values(self, model: SentenceTransformer) -> NDArray[np.float64]:
        """Return ``[n]`` values, one a query or pair, whose mean is the score."""
        encoder = models.TorchEncoder(
            model, autocast=self.autocast, tokens=self.tokens, together=self.together
        )
        with _reading(model, self.window):
            return score(encoder, self.select).metrics[self.select.main]


@contextmanager
def _reading(model: SentenceTransformer, window: int | None) -> Iterator[None]:
    """Let a model read so many tokens of a text."""
    if window is None:
        yield
        return
    trained, model.max_seq_length = model.max_seq_length, window
    try:
        yield
    finally:
        model.max_seq_length = trained


def autocast(precision: Precision) -> torch.dtype | None:
    """Number format of the forward pass, None for the weights' own."""
    dtypes = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16, Precision.fp32: None}
    return dtypes[precision]


def columns(device: str) -> AbstractContextManager[None]:
    """Encode queries, positives and negatives apart on a CPU, each as wide as its own longest text.

    The library joins the passages' columns into one batch, which fills a GPU better; on a CPU the
    padding and the larger activations cost more than that gives.
    """
    return column_merging_disabled() if device == "cpu" else nullcontext()


def arguments(
    plan: Plan, fed: Examples, folder: Path, score_name: str
) -> SentenceTransformerTrainingArguments:
    """Translate a plan for the trainer.

    Args:
        plan: Settings.
        fed: What it trains on.
        folder: Of the checkpoints.
        score_name: By which it tells the best of them.
    """
    train = plan.train
    steps = max(1, round(len(fed.batches) * train.epochs))
    every = max(1, -(-steps // train.checkpoints))
    made = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        disable_tqdm=not sys.stderr.isatty(),
        per_device_train_batch_size=train.batch_size // processes.count(),
        learning_rate=train.learning_rate,
        warmup_steps=round(train.warmup * steps),
        weight_decay=train.weight_decay,
        bf16=plan.precision is Precision.bf16,
        fp16=plan.precision is Precision.fp16,
        use_cpu=plan.device == "cpu",
        seed=plan.seed,
        prompts=fed.prompts,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=score_name,
        greater_is_better=True,
        logging_steps=max(1, every // 5),
        report_to=[],
        dataloader_pin_memory=plan.device != "cpu",
        dataloader_drop_last=processes.count() > 1,  # our batches never read it; the trainer warns
        ddp_find_unused_parameters=False,  # every trained weight has a part in every batch
        ddp_broadcast_buffers=False,  # constants; else each step would begin with an exchange
        dataloader_num_workers=plan.workers,
        torch_compile=plan.compile,
    )
    # With several GPUs in one process, torch's DataParallel would cut batches up behind our back.
    made._n_gpu = min(1, made.n_gpu)
    return made
