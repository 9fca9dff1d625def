"""The one trainer: PyTorch Lightning around the shared detector.

The same data, configuration and seed give the same weights on the same machine, also when the training was killed
and went on: the order of the images is drawn from (seed, epoch), every random change of them from (seed, epoch, step,
process), and a checkpoint holds weights, moving average, optimizer and schedule.
"""

import copy
import csv
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, DistributedSampler

from detpress.detector.augment import augment
from detpress.detector.dataset import TrainingSet, collate
from detpress.detector.loss import Targets, yolo_loss
from detpress.detector.training_config import TrainingConfig
from detpress.engine_log import engine_messages
from detpress.errors import StageError
from detpress.model import Model, apply_masks
from detpress.voc.devkit import Devkit

ExtraLoss = Callable[[nn.Module, Tensor, Sequence[Tensor]], Tensor]  # network, images, raw maps -> scalar
AfterStep = Callable[[nn.Module], None]
Progress = Callable[[str, int, int], None]
Report = Callable[[tuple[str, int, int]], None]  # `Progress`, its arguments in one
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
    """A trained copy of `model`, its masks held; the moving average of the weights, in eval mode, on the CPU.

    scratch: a folder of this training's own; gone on from its checkpoint where there is one. `training.csv` there has
        the mean loss of every epoch.
    losses: further terms of the loss. after_step: what else happens to the network after each step of the optimizer.
        With several devices they are pickled, and so cannot be local functions.
    Raises StageError when the loss or a weight is not finite.
    """
    data = TrainingSet(devkit, split, model.architecture)
    gpu = torch.cuda.is_available()
    checkpoint = scratch / "last.ckpt"
    with (
        engine_messages(log, "pytorch_lightning", "lightning.pytorch", "lightning.fabric"),
        _deterministic(),
        _ctrl_c_left_alone(),
        _across_processes(progress, config.devices) as report,
    ):
        module = DetectorTraining(model, config, data, seed, scratch, report, losses, after_step)
        trainer = pl.Trainer(
            max_epochs=config.epochs,
            accelerator="gpu" if gpu else "cpu",
            devices=config.devices,
            # Not `ddp`, which starts this program anew: every process would wait for the lock on its own stage.
            strategy="ddp_spawn" if config.devices > 1 else "auto",
            precision=_precision(config, gpu),
            gradient_clip_val=config.clip,
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
    network = copy.deepcopy(module.average.module).cpu().eval().requires_grad_(True)
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise StageError("the last step left a weight that is not finite; try a lower learning_rate or clip")
    return replace(model, network=network)


class DetectorTraining(pl.LightningModule):
    """Loss, optimizer, schedule, masks and moving average of one training."""

    history: Tensor  # float64 (epochs, 3): the mean loss parts of every finished epoch; a buffer, so checkpointed

    def __init__(
        self,
        model: Model,
        config: TrainingConfig,
        data: TrainingSet,
        seed: int,
        scratch: Path,
        report: Report,
        losses: Sequence[ExtraLoss],
        after_step: Sequence[AfterStep],
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(model.network).train().requires_grad_(True)
        self.average = AveragedModel(self.network, multi_avg_fn=partial(_move_average, config.ema), use_buffers=True)
        self.average.requires_grad_(False)
        self.register_buffer("history", torch.zeros(config.epochs, len(LOSS_PARTS), dtype=torch.float64))
        self.config = config
        self.architecture = model.architecture
        self.masks = model.masks
        self.data = data
        self.seed = seed
        self.scratch = scratch
        self.report = report
        self.losses = losses
        self.after_step = after_step
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
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]  # norms and biases
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": self.config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self.config.learning_rate,
        )
        schedule = OneCycleLR(
            optimizer,
            max_lr=self.config.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=self.config.warmup,
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Targets], step: int) -> Tensor:
        raw, targets = batch
        generator = _generator(self.seed, self.current_epoch, step, self.global_rank)
        mosaic = self.current_epoch < MOSAIC_UNTIL * self.config.epochs
        with torch.autocast(raw.device.type, enabled=False):
            images, targets = augment(raw.float() / 255, targets, self.config.augmentation, mosaic, generator)
        maps = self.network(images)
        loss = yolo_loss(maps, targets, self.architecture, self.config)
        total = loss.total
        for extra in self.losses:
            total = total + extra(self.network, images, maps)
        parts = torch.stack([loss.box, loss.objectness, loss.classes]).detach()
        if not torch.isfinite(total):
            before = "" if self.last_loss is None else f"; it was {self.last_loss:.4g} a step before"
            raise StageError(
                f"the loss is not finite in epoch {self.current_epoch + 1}, step {step + 1} "
                f"({', '.join(f'{name} {part:.4g}' for name, part in zip(LOSS_PARTS, parts.tolist(), strict=True))}, "
                f"learning rate {self.trainer.optimizers[0].param_groups[0]['lr']:.3g}{before}): "
                f"try a lower learning_rate or clip"
            )
        self.last_loss = float(total.detach())
        self.history[self.current_epoch] += parts.double() / self.trainer.num_training_batches
        return total

    def on_train_batch_end(self, outputs: Any, batch: Any, step: int) -> None:
        apply_masks(self.network, self.masks)
        for change in self.after_step:
            change(self.network)
        self.average.update_parameters(self.network)
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


@torch.no_grad()
def _move_average(decay: float, average: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
    """Exponentially; the decay grows from 0.1 to `decay`, so that short trainings forget their start."""
    now = min(decay, (1 + int(steps)) / (10 + int(steps)))
    if average[0].is_floating_point():
        torch._foreach_lerp_(average, current, 1 - now)
    else:
        torch._foreach_copy_(average, current)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Sums in a fixed order, on GPUs and for gradients of indexed tensors; what cannot is warned of."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False  # would cost a twentieth of the time, and nothing reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled


@contextmanager
def _ctrl_c_left_alone() -> Iterator[None]:
    """Lightning answers Ctrl-C by leaving the program, and ignores it from then on; here it stays what it was."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _across_processes(progress: Progress, devices: int) -> Iterator[Report]:
    """What calls `progress`; with several devices it can be called in their processes, too."""
    if devices == 1:
        yield lambda message: progress(*message)
        return
    messages = torch.multiprocessing.get_context("spawn").SimpleQueue()

    def hand_on() -> None:
        for message in iter(messages.get, None):
            progress(*message)

    reader = threading.Thread(target=hand_on)
    reader.start()
    try:
        yield messages.put
    finally:
        messages.put(None)
        reader.join()
