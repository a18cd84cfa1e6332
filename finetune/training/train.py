"""Train a model with sentence-transformers' trainer: guarded, resumable, seeded.

The guard scores the select half on a pooled corpus before the first step and at every checkpoint;
the best checkpoint is kept, and where none beats the base, the base is kept and the run says so.
"""

import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from sentence_transformers import SentenceTransformer
from transformers import PrinterCallback, TrainerState, set_seed

from finetune import adapter as adapters
from finetune import model as models
from finetune.adapter.prefix import PrefixTransformer
from finetune.config.check import OWN
from finetune.machine import hardware, processes
from finetune.records import AnyRow, Pair, read_json, write_json
from finetune.sets import AnySet
from finetune.training import losses, memory, strategy
from finetune.training.batching import BucketSampler
from finetune.training.checkpoints import (
    Curves,
    MarkComplete,
    Patience,
    ended,
    last_complete,
    step_of,
)
from finetune.training.mixing import Examples, MixedSampler, Part, examples
from finetune.training.trainer import (
    ENCODE_FEWER,
    Guard,
    Plan,
    Trainer,
    arguments,
    autocast,
    columns,
)

log = logging.getLogger(__name__)

CURVES = "curves.jsonl"
RESULT = "training.json"
ROWS = "rows"  # what is trained on, mapped while it is
_FEW = 0.05  # of the rows may be in no batch without a warning


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
        rows: Training rows (of their negatives, as many are used as half of them have), or
            examples that are ready.
        select: Queries of the select half on a pooled corpus, or scored pairs of it.
        plan: Settings.
        out: Gets ``model/`` (the best checkpoint, or the base), ``curves.jsonl`` and
            ``training.json`` (what this function returns); of LoRA also ``adapter/``, unmerged.
        others: Pairs that are not trained on, whose positives are no negatives all the same.
        mixed: Further sets that a share of the batches comes from.

    Returns:
        ``{"base", "best", "best_step", "improved", "steps", "stopped_at", "rows_left_out",
        "pairs_per_second", "parameters", "trainable_parameters"}`` (nothing in processes other than
        the first), and ``requires`` where ``model/`` does not load without it. ``stopped_at`` is
        the step at which the guard ended training early, else None; ``rows_left_out`` counts rows
        of the domain's own set that are in no batch of the first epoch.
    """
    processes.connect(plan.device, plan.threads)
    hardware.bound_kernel_caches()
    set_seed(plan.seed)
    checkpoints = out / "checkpoints"
    if processes.once((out / RESULT).is_file):  # killed while tidying up
        if not processes.first():
            return {}
        _tidy(out, checkpoints)
        return dict(read_json(out / RESULT))
    model = models.load(base, plan.device, plan.attention)
    model.model_card_data.generate_widget_examples = False
    _set_dropout(model, plan.train.dropout)
    window = model.max_seq_length or plan.train.max_length
    model.max_seq_length = min(window, plan.train.max_length)
    (out / ROWS).mkdir(exist_ok=True)
    fed = rows if isinstance(rows, Examples) else examples(
        [Part(OWN, rows, plan.loss), *mixed], others, model.prompts, plan.train.batch_size,
        plan.seed, out / ROWS,
    )  # fmt: skip
    unused = _unused(fed)
    resume = processes.once(lambda: last_complete(checkpoints))
    guard = Guard(select, plan.precision, plan.encode_tokens, window=window, together=True)
    curves = Curves(
        out / CURVES if processes.first() else Path(os.devnull),
        guard.score,
        keep_until=step_of(resume),
    )
    base_score = _base_score(curves, guard, model)
    start = time.perf_counter()  # what the adapter computes ahead is a part of training
    finish = _attach(model, fed.texts, select, plan, out)
    trainer = Trainer(
        fed.batches,
        guard,
        model=model,
        args=arguments(plan, fed, checkpoints, guard.score),
        train_dataset=fed.dataset,
        loss=_losses(plan, mixed, model),
        callbacks=[curves, Patience(plan.train.patience, curves), MarkComplete()],
    )
    strategy.check(trainer, plan.precision)
    trainer.remove_callback(PrinterCallback)  # `Curves` logs the same, in a line
    if not processes.first():  # another dropout for other rows
        torch.manual_seed(plan.seed + processes.rank())
    if resume and ended(resume, plan.train.patience, guard.score):
        trainer.restore(resume)
    else:
        with columns(plan.device):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = time.perf_counter() - start
    if not processes.first():
        return {}
    result = _outcome(trainer.state, base_score) | adapters.counts(model)
    result["rows_left_out"] = unused
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
    _tidy(out, checkpoints)
    return result


def _tidy(out: Path, checkpoints: Path) -> None:
    shutil.rmtree(checkpoints, ignore_errors=True)
    # A network file system keeps what other processes still map under another name, in the folder.
    shutil.rmtree(out / ROWS, ignore_errors=True)


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
    reads = adapters.Reads(texts, guarded, plan.train.epochs, autocast(plan.precision), out)
    adapter: adapters.Adapter = instantiate(plan.adapter, _convert_="all")
    with memory.advising(f"while the frozen layers run ahead; {ENCODE_FEWER}"):
        return adapter.attach(model, reads)


def _unused(fed: Examples) -> int:
    """Count the domain's own rows that are in no batch of an epoch.

    Warn of each set where they are many.
    """
    if not isinstance(fed.batches, MixedSampler):
        return _unused_of(fed.batches, "")
    named = zip(fed.dataset, fed.batches.samplers, strict=True)
    return [_unused_of(sampler, f" of {name}") for name, sampler in named][0]


def _unused_of(batches: BucketSampler, whose: str) -> int:
    rows, unused = len(batches.lengths), batches.unused()
    if unused > _FEW * rows and processes.first():
        count = -(-rows // batches.batch_size)
        size = rows // count // processes.count() * processes.count()
        log.warning(
            "train.batch_size=%d: %d of %d rows%s (%.0f %%) are in no batch of an epoch: %d are "
            "too few to fill another (train.batch_size=%d leaves out %d), %d have texts that "
            "answer other rows' queries", batches.batch_size, unused, rows, whose,
            100 * unused / rows, batches.remainder, size, rows - count * size, batches.left_out,
        )  # fmt: skip
    return unused


def _set_dropout(model: SentenceTransformer, probability: float) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability


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
    known = processes.once(curves.base_score)
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
