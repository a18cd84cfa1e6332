"""Train a model with sentence-transformers' trainer: guarded, resumable, seeded.

The guard scores the select half on a pooled corpus before the first step and at every checkpoint;
the best checkpoint is kept, and where none beats the base, the base is kept and the run says so.
"""

import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from finetune import adapter as adapters
from finetune import hardware, losses, processes, strategy
from finetune import model as models
from finetune.adapter.prefix import PrefixTransformer
from finetune.batching import Share
from finetune.check import OWN
from finetune.checkpoints import (
    Curves,
    MarkComplete,
    Patience,
    ended,
    last_complete,
    step_of,
)
from finetune.config import Precision, Train
from finetune.evaluation.artifacts import score
from finetune.mixing import Batches, Examples, Part, examples
from finetune.records import AnyRow, AnySet, Pair, read_json, write_json

log = logging.getLogger(__name__)

CURVES = "curves.jsonl"
RESULT = "training.json"


@dataclass(frozen=True)
class Plan:
    """What a training run is made of; ``chunk`` as in `finetune.losses.build`."""

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


def train(
    base: Path,
    rows: Sequence[AnyRow] | Examples,
    select: AnySet,
    plan: Plan,
    out: Path,
    others: Sequence[Pair] = (),
    mixed: Sequence[Part] = (),
) -> dict[str, Any]:
    """Train, or continue the training that a killed run left in ``out``.

    In a run of several processes all call it, and the first writes.

    Args:
        base: Folder of the model to start from.
        rows: Training rows (of their negatives, as many are used as the poorest has), or examples
            that are ready.
        select: Queries of the select half on a pooled corpus, or scored pairs of it.
        plan: Settings.
        out: Gets ``model/`` (the best checkpoint, or the base), ``curves.jsonl`` and
            ``training.json`` (what this function returns); of LoRA also ``adapter/``, unmerged.
        others: Pairs that are not trained on, whose positives are no negatives all the same.
        mixed: Further sets that a share of the batches comes from.

    Returns:
        ``{"base", "best", "best_step", "improved", "steps", "stopped_at", "pairs_per_second",
        "parameters", "trainable_parameters"}`` (nothing in processes other than the first), and
        ``requires`` where ``model/`` does not load without it. ``stopped_at`` is the step at which
        the guard ended training early, else None.
    """
    processes.connect(plan.device, plan.threads)
    hardware.bound_kernel_caches()
    set_seed(plan.seed)
    checkpoints = out / "checkpoints"
    if processes.once((out / RESULT).is_file):  # killed while tidying up
        if not processes.first():
            return {}
        shutil.rmtree(checkpoints, ignore_errors=True)
        return dict(read_json(out / RESULT))
    model = models.load(base, plan.device, plan.attention)
    model.model_card_data.generate_widget_examples = False
    _set_dropout(model, plan.train.dropout)
    window = model.max_seq_length or plan.train.max_length
    model.max_seq_length = min(window, plan.train.max_length)
    fed = rows if isinstance(rows, Examples) else examples(
        [Part(OWN, rows, plan.loss), *mixed], others, model.prompts, plan.train.batch_size,
        plan.seed,
    )  # fmt: skip
    resume = processes.once(lambda: last_complete(checkpoints))
    guard = Guard(select, plan.precision, plan.encode_tokens)
    curves = Curves(
        out / CURVES if processes.first() else Path(os.devnull),
        guard.score,
        keep_until=step_of(resume),
    )
    base_score = processes.once(lambda: _base_score(curves, guard, model))
    finish = _attach(model, fed.texts, select, plan, out)
    trainer = Trainer(
        fed.batches,
        model=model,
        args=_arguments(plan, fed, checkpoints, guard.score),
        train_dataset=fed.dataset,
        loss=_losses(plan, mixed, model),
        evaluator=guard,
        callbacks=[curves, Patience(plan.train.patience, curves), MarkComplete()],
    )
    strategy.check(trainer, plan.precision)
    trainer.remove_callback(PrinterCallback)  # `Curves` logs the same, in a line
    if not processes.first():  # another dropout for other rows
        torch.manual_seed(plan.seed + processes.rank())
    start = time.perf_counter()
    if resume and ended(resume, plan.train.patience, guard.score):
        trainer.restore(resume)
    else:
        with _columns(plan.device):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = time.perf_counter() - start
    if not processes.first():
        return {}
    result = _outcome(trainer.state, base_score) | adapters.counts(model)
    done = trainer.state.global_step - step_of(resume)
    result["pairs_per_second"] = round(done * plan.train.batch_size / seconds, 2)
    if result["improved"]:
        finish(out)
        if isinstance(model[0], PrefixTransformer):
            result["requires"] = "finetune"  # what model/ loads with
        model.max_seq_length = window
        models.save(model, out / "model")
    else:
        log.warning(
            "not improved: no checkpoint beats the base on the select half (%.4f); base kept",
            base_score,
        )
        shutil.copytree(base, out / "model", dirs_exist_ok=True)
    write_json(out / RESULT, result)
    shutil.rmtree(checkpoints)
    return result


class Trainer(SentenceTransformerTrainer):
    """The trainer with our batches: as an argument they would be pickled with its settings."""

    def __init__(self, sampler: Batches, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sampler = sampler

    def get_batch_sampler(self, *args: Any, **kwargs: Any) -> Batches | Share:
        """Return the length-bucketed batches, or this process's share of each."""
        if processes.count() == 1:
            return self._sampler
        return Share(self._sampler, processes.rank(), processes.count())

    # Of several sets, the library asks for each one's batches first and does not need them.
    get_multi_dataset_batch_sampler = get_batch_sampler

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader as it is: accelerate's would give other batches to every process."""
        if processes.count() == 1:
            return super().get_train_dataloader()
        return self._build_dataloader(
            self.train_dataset, self.args.train_batch_size, dataset_kind="train"
        )

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
    """Scores a model on the select half; the trainer keeps the checkpoint that scores best."""

    def __init__(self, select: AnySet, precision: Precision, tokens: int | None = None) -> None:
        super().__init__()
        self.select = select
        self.tokens = tokens
        self.autocast = _autocast(precision)
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
        return {self.select.main: float(self.values(model).mean())}

    def values(self, model: SentenceTransformer) -> NDArray[np.float64]:
        """Return ``[n]`` values, one a query or pair, whose mean is the score."""
        encoder = models.TorchEncoder(model, autocast=self.autocast, tokens=self.tokens)
        return score(encoder, self.select).metrics[self.select.main]


def _autocast(precision: Precision) -> torch.dtype | None:
    dtypes = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16, Precision.fp32: None}
    return dtypes[precision]


def _attach(
    model: SentenceTransformer,
    texts: Sequence[str],
    select: AnySet,
    plan: Plan,
    out: Path,
) -> adapters.Finish:
    """Add the adapter that the plan names; return what brings the model into its saved form."""
    if not plan.adapter:
        return lambda folder: None
    prompts = {name: model.prompts.get(name) or "" for name in ("query", "passage")}
    guarded = [prompts[name] + text for name, text in select.prompted]
    if not processes.first():
        guarded = []
    reads = adapters.Reads(texts, guarded, plan.train.epochs, _autocast(plan.precision), out)
    adapter: adapters.Adapter = instantiate(plan.adapter, _convert_="all")
    return adapter.attach(model, reads)


def _set_dropout(model: SentenceTransformer, probability: float) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability


def _columns(device: str) -> AbstractContextManager[None]:
    """Encode queries, positives and negatives apart on a CPU, each as wide as its own longest text.

    The library joins the passages' columns into one batch, which fills a GPU better; on a CPU the
    padding and the larger activations cost more than that gives.
    """
    return column_merging_disabled() if device == "cpu" else nullcontext()


def _arguments(
    plan: Plan, fed: Examples, folder: Path, score_name: str
) -> SentenceTransformerTrainingArguments:
    train = plan.train
    steps = max(1, round(len(fed.batches) * train.epochs))
    every = max(1, -(-steps // train.checkpoints))
    arguments = SentenceTransformerTrainingArguments(
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
        dataloader_num_workers=plan.workers,
        torch_compile=plan.compile,
    )
    # With several GPUs in one process, torch's DataParallel would cut batches up behind our back.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _losses(
    plan: Plan, mixed: Sequence[Part], model: SentenceTransformer
) -> torch.nn.Module | dict[str, torch.nn.Module]:
    """The loss of the only set, or that of each by name."""
    nodes = {OWN: plan.loss} | {part.name: part.loss for part in mixed}
    made = {name: losses.build(strategy.gathering(node), model, plan.chunk)
            for name, node in nodes.items()}  # fmt: skip
    return made if mixed else made[OWN]


def _base_score(curves: Curves, guard: Guard, model: SentenceTransformer) -> float:
    """Score before the first step, measured once over all attempts."""
    known = curves.base_score()
    if known is not None:
        return known
    score = guard(model)[guard.select.main]
    curves.write({"step": 0, guard.score: score})
    return score


def _outcome(state: TrainerState, base_score: float) -> dict[str, Any]:
    best = float(state.best_metric or 0.0)
    return {
        "base": base_score,
        "best": best,
        "best_step": state.best_global_step,
        "improved": best > base_score,
        "steps": state.global_step,
        "stopped_at": state.global_step if state.global_step < state.max_steps else None,
    }
