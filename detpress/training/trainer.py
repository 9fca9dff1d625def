"""The one trainer: PyTorch Lightning around the shared detector.

The same data, configuration and seed give the same weights on the same machine, also when the training was killed
and went on: the order of the images is drawn from (seed, epoch), every random change of them from (seed, epoch, step,
process), and a checkpoint holds weights, moving average, objectives, optimizers and schedule.

What is learnt are objectives (`detpress.training.objective`). An engine that has a say in the training (a pruner that
scores weights by their gradients, a quantizer that learns scales) is one, too, which replaces the detection loss by its
own, and brings the network's optimizer. A step is always

    maps = network(images); critics step; loss = sum of terms; loss.backward(); clip; optimizer.step(); masks and the
    like; moving average

so what an engine does in `optimizer.step` finds the gradients of this batch.
"""

import copy
import logging
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detpress.builtin import find_bundle
from detpress.detector.architecture import Architecture
from detpress.detector.model import Model, apply_masks
from detpress.encodings.bundle import load_bundle
from detpress.engine_log import engine_messages
from detpress.errors import InputError, StageError
from detpress.progress import Progress
from detpress.training.config import TrainingConfig, chooses_best
from detpress.training.dataset import TrainingSet
from detpress.training.detection import Detection
from detpress.training.moving_average import averaged_tensors
from detpress.training.objective import Objective, TrainingStart, TrainingStep, check_devices, check_layers
from detpress.training.parts import Frozen
from detpress.training.process import across_processes, ctrl_c_left_alone, deterministic, seeded
from detpress.training.step import steps_per_epoch
from detpress.voc.devkit import Devkit

VERSION = 1  # raised when the same data, options and seed train to other weights: it enters every stage's key


@dataclass(frozen=True)
class TrainingContext:
    """What a training works on and with.

    split: the image set that is trained on. seed: decides every random number.
    scratch: a folder of this training's own; gone on from its checkpoint where there is one. `training.csv` there has
        the mean loss of every epoch, `validation.csv` the mAP after those that were scored.
    note: is told what a person should know of how the training went; without it, the log alone is.
    load: gives objectives the model of a bundle that they name.
    """

    devkit: Devkit
    split: str
    seed: int
    scratch: Path
    log: logging.Logger
    progress: Progress
    note: Callable[[str], None] | None = None
    load: Callable[[str], Model] = lambda name: load_bundle(find_bundle(name))


class HeldMasks(Objective):
    """What masks hold at zero stays there."""

    on_several_devices = True

    def __init__(self, masks: dict[str, Tensor]) -> None:
        super().__init__()
        self.masks = masks

    def after_step(self, step: TrainingStep) -> None:
        if self.masks:
            apply_masks(step.network, self.masks)


def fit(
    model: Model,
    config: TrainingConfig,
    context: TrainingContext,
    objectives: Sequence[Objective] = (),
    score: Callable[[Model], float] | None = None,
) -> Model:
    """A trained copy of `model`, its masks held. The rest is as in `train`."""

    def score_network(average: nn.Module) -> float:
        assert score
        return score(replace(model, network=average))

    network = copy.deepcopy(model.network)
    scored = score_network if score and config.devices == 1 else None
    train(network, model.architecture, config, context, (HeldMasks(model.masks), *objectives), score=scored)
    return replace(model, network=network)


def train(
    network: nn.Module,
    architecture: Architecture,
    config: TrainingConfig,
    context: TrainingContext,
    objectives: Sequence[Objective] = (),
    optimizer: Optimizer | None = None,
    score: Callable[[nn.Module], float] | None = None,
) -> None:
    """Trains `network` where it stands; it ends as a moving average of its weights, in eval mode, on the CPU.

    network: any module that gives the raw maps of `architecture`, with whatever an engine has hung into it. All its
        parameters are trained, but for those of layers that `config` has frozen.
    objectives: what is learnt beside the detection loss, or instead of it.
    optimizer: over the network's parameters, instead of the ordinary one; each group's learning rate is the highest of
        the ordinary schedule.
    score: mAP of a network, after every epoch where `config` chooses the best; otherwise it is shown beside the loss
        after an epoch now and then, and nothing is decided by it.
    Raises StageError when the loss or a weight is not finite, InputError when an objective that has a state, or an
    optimizer that was given, should train on many devices, and when there is no score to choose by.
    """
    import pytorch_lightning as pl  # which takes seconds, and most stages train nothing

    from detpress.training.module import DetectorTraining

    everything = _with_detection(objectives)
    check_devices(config.devices, everything, optimizer is not None)
    if chooses_best(config) and not score:
        raise InputError("choose: best: expected `last` where no validation images are scored in the training")
    data = TrainingSet(context.devkit, context.split, architecture, processes=max(1, config.workers))
    seed, scratch, log = context.seed, context.scratch, context.log
    gpu = torch.cuda.is_available()
    checkpoint = scratch / "last.ckpt"
    network.train().requires_grad_(True)
    frozen = Frozen(network, architecture, config.frozen)
    if frozen.text:
        (context.note or log.info)(frozen.text)
    steps = config.epochs * steps_per_epoch(len(data), config)
    start = TrainingStart(network, architecture, config, steps, seed, log, context.load)
    with (
        seeded(seed),
        engine_messages(log, "pytorch_lightning", "lightning.pytorch", "lightning.fabric"),
        deterministic(),
        ctrl_c_left_alone(),
        across_processes(context.progress, config.devices) as report,
    ):
        for objective in everything:
            objective.prepare(start)
        check_layers(everything, network)
        module = DetectorTraining(
            network, frozen, everything, optimizer, config, data, seed, scratch, report, log, score
        )
        trainer = pl.Trainer(
            max_epochs=config.epochs,
            accelerator="gpu" if gpu else "cpu",
            devices=config.devices,
            # Not `ddp`, which starts this program anew: every process would wait for the lock on its own stage.
            strategy="ddp_spawn" if config.devices > 1 else "auto",
            precision=_precision(config, gpu),
            default_root_dir=scratch,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        going_on = _is_whole(checkpoint, log)
        if going_on:
            log.info("going on from %s", checkpoint)
        trainer.fit(module, ckpt_path=checkpoint if going_on else None, weights_only=True)
    log.info("mean loss by epoch:\n%s", (scratch / "training.csv").read_text().rstrip())
    if comparison := module.scores.comparison():
        (context.note or log.info)(comparison)
    network.cpu().eval()
    module.objectives.cpu()
    if not all(tensor.isfinite().all() for tensor in averaged_tensors(network).values()):
        raise StageError("the last step left a weight that is not finite; try a lower learning_rate or clip")


def _with_detection(objectives: Sequence[Objective]) -> list[Objective]:
    """The detection loss comes first, unless it is there already or all that it would give is replaced."""
    replaced = {name for objective in objectives for name in objective.replaces}
    there = any(isinstance(objective, Detection) for objective in objectives)
    return list(objectives) if there or replaced >= Detection.TERMS else [Detection(), *objectives]


def _is_whole(checkpoint: Path, log: logging.Logger) -> bool:
    """Whether there is one that can be read; another one is put aside, and the training begins anew."""
    if not checkpoint.is_file():
        return False
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, ValueError, EOFError, LookupError, pickle.UnpicklingError) as error:
        aside = checkpoint.with_name("broken.ckpt")
        checkpoint.replace(aside)
        log.warning("%s cannot be read (%s): put aside as %s", checkpoint, str(error).splitlines()[0], aside.name)
        return False
    return True


def _precision(config: TrainingConfig, gpu: bool) -> Any:
    return automatic_precision(gpu) if config.precision == "auto" else config.precision


def automatic_precision(gpu: bool) -> str:
    """What `auto` means here: bf16 where the device computes in it, since it would be slower than float32 elsewhere."""
    bf16 = torch.cuda.is_bf16_supported() if gpu else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-mixed" if bf16 else "32-true"
