"""The one trainer: PyTorch Lightning around the shared detector.

The same data, configuration and seed give the same weights on the same machine, also when the training was killed
and went on: the order of the images and every random change are drawn from (seed, epoch, step), and a checkpoint
after every epoch holds weights, moving average, optimizer and schedule.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from detpress.errors import StageFailed
from detpress.model import Model, apply_masks
from detpress.voc.devkit import Devkit

ExtraLoss = Callable[[nn.Module, Tensor, Sequence[Tensor]], Tensor]  # network, images, raw maps -> scalar
AfterStep = Callable[[nn.Module], None]
Progress = Callable[[str, int, int], None]
MOSAIC_UNTIL = 0.9  # share of the epochs; the last ones see images as they are


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

    scratch: a folder of this training's own; a checkpoint found there is gone on from.
    losses: further terms of the loss. after_step: what else happens to the network after each step of the optimizer.
    Raises StageFailed when the loss is not finite.
    """
    data = TrainingSet(devkit, split, model.architecture)
    network = copy.deepcopy(model.network).train()
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    module = DetectorTraining(network, model, config, data, seed, log, progress, losses, after_step)
    checkpoint = scratch / "last.ckpt"
    with engine_messages(log, "pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        trainer = pl.Trainer(
            max_epochs=config.epochs,
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            devices=config.devices if torch.cuda.is_available() else 1,
            strategy=config.strategy,
            precision=config.precision,
            gradient_clip_val=config.clip,
            callbacks=[_Checkpoint(checkpoint)],
            default_root_dir=scratch,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        if checkpoint.is_file():
            log.info("going on from %s", checkpoint)
        try:
            trainer.fit(module, ckpt_path=checkpoint if checkpoint.is_file() else None, weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
    result = module.average.module if config.ema else module.network
    return replace(model, network=copy.deepcopy(result).cpu().eval().requires_grad_(False))


class DetectorTraining(pl.LightningModule):
    """Loss, optimizer, schedule, masks and moving average of one training."""

    def __init__(
        self,
        network: nn.Module,
        model: Model,
        config: TrainingConfig,
        data: TrainingSet,
        seed: int,
        log: logging.Logger,
        progress: Progress,
        losses: Sequence[ExtraLoss],
        after_step: Sequence[AfterStep],
    ) -> None:
        super().__init__()
        self.network = network
        self.average = AveragedModel(network, multi_avg_fn=_moving_average(config.ema), use_buffers=True)
        self.config = config
        self.architecture = model.architecture
        self.masks = model.masks
        self.data = data
        self.seed = seed
        self.stage_log = log
        self.progress = progress
        self.losses = losses
        self.after_step = after_step
        self.sums: dict[str, float] = {}

    def train_dataloader(self) -> DataLoader[Any]:
        sampler: DistributedSampler[Any] = DistributedSampler(
            self.data, self.trainer.world_size, self.trainer.global_rank, shuffle=True, seed=self.seed
        )
        workers = self.config.workers
        return DataLoader(
            self.data,
            min(self.config.batch_size, len(self.data)),
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
        generator = torch.Generator()
        generator.manual_seed(hash((self.seed, self.current_epoch, step, self.global_rank)) & (2**63 - 1))
        mosaic = self.current_epoch < MOSAIC_UNTIL * self.config.epochs
        with torch.autocast(raw.device.type, enabled=False):
            images, targets = augment(raw.float() / 255, targets, self.config.augmentation, mosaic, generator)
        maps = self.network(images)
        loss = yolo_loss(maps, targets, self.architecture, self.config)
        total = loss.total
        for extra in self.losses:
            total = total + extra(self.network, images, maps)
        if not torch.isfinite(total):
            raise StageFailed(
                f"the loss is not finite (box {float(loss.box):g}, objectness {float(loss.objectness):g}, "
                f"classes {float(loss.classes):g}) in epoch {self.current_epoch}, step {step}, "
                f"learning rate {self.optimizers().param_groups[0]['lr']:.3g}; try a lower learning_rate or clip"
            )
        for name, part in (("box", loss.box), ("objectness", loss.objectness), ("classes", loss.classes)):
            self.sums[name] = self.sums.get(name, 0.0) + float(part.detach())
        return total

    def on_train_batch_end(self, outputs: Any, batch: Any, step: int) -> None:
        apply_masks(self.network, self.masks)
        for change in self.after_step:
            change(self.network)
        self.average.update_parameters(self.network)
        steps = int(self.trainer.num_training_batches)
        mean = sum(self.sums.values()) / (step + 1)
        what = f"epoch {self.current_epoch + 1} of {self.config.epochs}, loss {mean:.2f}"
        self.progress(what, self.current_epoch * steps + step + 1, self.config.epochs * steps)

    def on_train_epoch_end(self) -> None:
        steps = int(self.trainer.num_training_batches)
        parts = ", ".join(f"{name} {total / steps:.4f}" for name, total in self.sums.items())
        self.stage_log.info("epoch %d of %d: %s", self.current_epoch + 1, self.config.epochs, parts)
        self.sums = {}

    def transfer_batch_to_device(self, batch: tuple[Tensor, Targets], device: torch.device, index: int) -> Any:
        images, targets = batch
        return images.to(device), targets.to(device)


class _Checkpoint(pl.Callback):
    """Saves everything after every epoch; a kill leaves the checkpoint before or the new one, never half of one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            return
        unfinished = self.path.with_suffix(".unfinished")
        trainer.save_checkpoint(unfinished)
        if trainer.is_global_zero:
            unfinished.replace(self.path)


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential moving average; its decay grows from 0.1 to `decay`, so that short trainings forget their start."""

    @torch.no_grad()
    def update(average: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
        now = min(decay, (1 + int(steps)) / (10 + int(steps)))
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, 1 - now)
        else:
            torch._foreach_copy_(average, current)

    return update

