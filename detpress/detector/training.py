"""The one trainer: PyTorch Lightning around the shared detector.

The same data, configuration and seed give the same weights on the same machine, also when the training was killed
and went on: the order of the images is drawn from (seed, epoch), every random change of them from (seed, epoch, step,
process), and a checkpoint holds weights, moving average, optimizer and schedule.

An engine that has a say in the training (a pruner that scores weights by their gradients, a quantizer that learns
scales) gives an `EngineTraining`: its optimizer and its training step take the place of the ordinary ones, in the
same loop. A step is always

    loss = step(batch, network); loss.backward(); clip; optimizer.step(); masks and hooks; moving average

so what an engine does in `optimizer.step` finds the gradients of this batch.
"""

import copy
import csv
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, DistributedSampler

from detpress.detector.architecture import Architecture
from detpress.detector.augment import augment
from detpress.detector.dataset import TrainingSet, collate
from detpress.detector.loss import Targets
from detpress.detector.moving_average import MovingAverage, averaged_tensors
from detpress.detector.training_config import TrainingConfig
from detpress.detector.training_process import Progress, Report, across_processes, ctrl_c_left_alone, deterministic
from detpress.detector.training_step import (
    AfterStep,
    DetectionStep,
    EngineTraining,
    ExtraLoss,
    TrainingStep,
    new_optimizer,
)
from detpress.engine_log import engine_messages
from detpress.errors import InputError, StageError
from detpress.model import Model, apply_masks
from detpress.voc.devkit import Devkit

MOSAIC_UNTIL = 0.9  # share of the epochs; the last ones see images as they are
CHECKPOINT_SECONDS = 10.0  # at least, between two checkpoints; they are made at the end of an epoch
LOSS_PARTS = ("box", "objectness", "classes")


def fit(
    model: Model,
    config: TrainingConfig,
    devkit: Devkit,
    split: str,
    seed: int,
    scratch: Path,
    log: logging.Logger,
    progress: Progress,
    losses: Sequence[ExtraLoss] = (),
    after_step: Sequence[AfterStep] = (),
) -> Model:
    """A trained copy of `model`, its masks held. The rest is as in `train`."""
    network = copy.deepcopy(model.network)
    hold_masks = partial(apply_masks, masks=model.masks)
    hooks: tuple[AfterStep, ...] = (hold_masks, *after_step)
    train(network, model.architecture, config, devkit, split, seed, scratch, log, progress, losses, hooks)
    return replace(model, network=network)


def train(
    network: nn.Module,
    architecture: Architecture,
    config: TrainingConfig,
    devkit: Devkit,
    split: str,
    seed: int,
    scratch: Path,
    log: logging.Logger,
    progress: Progress,
    losses: Sequence[ExtraLoss] = (),
    after_step: Sequence[AfterStep] = (),
    engine: EngineTraining | None = None,
) -> None:
    """Trains `network` where it stands; it ends as the moving average of its weights, in eval mode, on the CPU.

    network: any module that gives the raw maps of `architecture`, with whatever an engine has hung into it. All its
        parameters are trained.
    scratch: a folder of this training's own; gone on from its checkpoint where there is one. `training.csv` there has
        the mean loss of every epoch.
    losses: further terms of the loss. after_step: what else happens to the network after each step of the optimizer.
        With several devices they are pickled, and so cannot be local functions.
    engine: has its own optimizer and step; `losses` are then the business of its step.
    Raises StageError when the loss or a weight is not finite, InputError when an engine should train on many devices.
    """
    if engine and config.devices > 1:
        raise InputError(f"devices: expected 1 where an engine takes part in the training, got {config.devices}")
    data = TrainingSet(devkit, split, architecture)
    gpu = torch.cuda.is_available()
    checkpoint = scratch / "last.ckpt"
    network.train().requires_grad_(True)
    with (
        engine_messages(log, "pytorch_lightning", "lightning.pytorch", "lightning.fabric"),
        deterministic(),
        ctrl_c_left_alone(),
        across_processes(progress, config.devices) as report,
    ):
        step = engine.step if engine else DetectionStep(architecture, config, losses)
        module = DetectorTraining(network, step, config, data, seed, scratch, report, after_step, engine)
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
        if checkpoint.is_file():
            log.info("going on from %s", checkpoint)
        trainer.fit(module, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
    log.info("mean loss by epoch:\n%s", (scratch / "training.csv").read_text().rstrip())
    network.cpu().eval()
    if not all(tensor.isfinite().all() for tensor in averaged_tensors(network).values()):
        raise StageError("the last step left a weight that is not finite; try a lower learning_rate or clip")


class DetectorTraining(pl.LightningModule):
    """Step, optimizer, schedule and moving average of one training."""

    history: Tensor  # float64 (epochs, 3): the mean loss parts of every finished epoch; a buffer, so checkpointed

    def __init__(
        self,
        network: nn.Module,
        step: TrainingStep,
        config: TrainingConfig,
        data: TrainingSet,
        seed: int,
        scratch: Path,
        report: Report,
        after_step: Sequence[AfterStep],
        engine: EngineTraining | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.average = MovingAverage(config.ema)
        self.register_buffer("history", torch.zeros(config.epochs, len(LOSS_PARTS), dtype=torch.float64))
        self.step = step
        self.config = config
        self.data = data
        self.seed = seed
        self.scratch = scratch
        self.report = report
        self.after_step = after_step
        self.engine = engine
        self.engine_state: dict[str, Any] | None = None  # read from a checkpoint, not yet given back
        self.last_loss: float | None = None
        self.last_checkpoint = time.monotonic()

    def train_dataloader(self) -> DataLoader[Any]:
        sampler: DistributedSampler[Any] = DistributedSampler(
            self.data, self.trainer.world_size, self.trainer.global_rank, shuffle=True, seed=self.seed
        )
        workers = self.config.workers
        return DataLoader(
            self.data,
            min(self.config.batch_size, len(sampler)),
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            drop_last=True,
            persistent_workers=workers > 0,
        )

    def configure_optimizers(self) -> Any:
        optimizer = self.engine.optimizer if self.engine else new_optimizer(self.network, self.config)
        schedule = OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=self.config.warmup,
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        self.average.to(self.device)
        if self.engine and self.engine_state is not None:
            self.engine.load_state(self.engine_state)

    def training_step(self, batch: tuple[Tensor, Targets], step: int) -> None:
        raw, targets = batch
        generator = _generator(self.seed, self.current_epoch, step, self.global_rank)
        mosaic = self.current_epoch < MOSAIC_UNTIL * self.config.epochs
        with torch.autocast(raw.device.type, enabled=False):
            augmented = augment(raw.float() / 255, targets, self.config.augmentation, mosaic, generator)
        loss, parts = self.step(augmented, self.network)
        self._check_finite(loss, parts, step)
        self.history[self.current_epoch] += parts.double() / self.trainer.num_training_batches
        with torch.autocast(raw.device.type, enabled=False):
            self._optimize(loss)

    def _optimize(self, loss: Tensor) -> None:
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=self.config.clip, gradient_clip_algorithm="norm")
        optimizer.step()
        schedule.step()

    def _check_finite(self, loss: Tensor, parts: Tensor, step: int) -> None:
        if not torch.isfinite(loss):
            before = "" if self.last_loss is None else f"; it was {self.last_loss:.4g} a step before"
            raise StageError(
                f"the loss is not finite in epoch {self.current_epoch + 1}, step {step + 1} "
                f"({', '.join(f'{name} {part:.4g}' for name, part in zip(LOSS_PARTS, parts.tolist(), strict=True))}, "
                f"learning rate {self.trainer.optimizers[0].param_groups[0]['lr']:.3g}{before}): "
                f"try a lower learning_rate or clip"
            )
        self.last_loss = float(loss.detach())

    def on_train_batch_end(self, outputs: Any, batch: Any, step: int) -> None:
        for change in self.after_step:
            change(self.network)
        self.average.update(self.network)
        if self.trainer.is_global_zero:
            epoch, steps = self.current_epoch, int(self.trainer.num_training_batches)
            mean = float(self.history[epoch].sum()) * steps / (step + 1)
            what = f"epoch {epoch + 1} of {self.config.epochs}, loss {mean:.2f}"
            self.report((what, epoch * steps + step + 1, self.config.epochs * steps))

    def on_train_epoch_end(self) -> None:
        if self.trainer.is_global_zero:
            self._write_history()
        late = self.trainer.strategy.broadcast(time.monotonic() - self.last_checkpoint >= CHECKPOINT_SECONDS)
        if late and self.current_epoch + 1 < self.config.epochs:
            self._save_checkpoint()
            self.last_checkpoint = time.monotonic()

    def on_train_end(self) -> None:
        self.average.give_to(self.network)  # here, since with several devices the network's tensors alone come back

    def _write_history(self) -> None:
        with (self.scratch / "training.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("epoch", *LOSS_PARTS))
            for epoch, parts in enumerate(self.history[: self.current_epoch + 1].tolist(), start=1):
                table.writerow((epoch, *(f"{part:.6f}" for part in parts)))

    def _save_checkpoint(self) -> None:
        """A kill leaves the checkpoint before or the new one, never half of one."""
        unfinished = self.scratch / "last.unfinished"
        self.trainer.save_checkpoint(unfinished, weights_only=False)
        if self.trainer.is_global_zero:
            unfinished.replace(self.scratch / "last.ckpt")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["average"] = {"updates": self.average.updates, "tensors": self.average.tensors}
        checkpoint["engine"] = self.engine.state() if self.engine else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also makes room for tensors that an engine first makes, or gives their shape, while it trains."""
        self.average.updates, self.average.tensors = checkpoint["average"]["updates"], checkpoint["average"]["tensors"]
        self.engine_state = checkpoint["engine"]
        for name, saved in checkpoint["state_dict"].items():
            place, _, attribute = name.rpartition(".")
            owner = self.get_submodule(place)
            current = getattr(owner, attribute)
            if current is None:
                setattr(owner, attribute, torch.empty_like(saved))
            elif current.shape != saved.shape:
                current.data = torch.empty_like(saved)

    def teardown(self, stage: str) -> None:
        if self.trainer.world_size > 1:  # Lightning leaves it to exit handlers, which spawned processes do not run
            torch.distributed.destroy_process_group()

    def transfer_batch_to_device(self, batch: tuple[Tensor, Targets], device: torch.device, index: int) -> Any:
        images, targets = batch
        return images.to(device), targets.to(device)


def _precision(config: TrainingConfig, gpu: bool) -> Any:
    """What `auto` means here: bf16 where the device computes in it, since it would be slower than float32 elsewhere."""
    if config.precision != "auto":
        return config.precision
    bf16 = torch.cuda.is_bf16_supported() if gpu else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-mixed" if bf16 else "32-true"


def _generator(*key: int) -> torch.Generator:
    """A generator on the CPU that `key` alone decides."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
