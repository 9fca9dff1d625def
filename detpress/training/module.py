"""What Lightning calls while the detector is trained: step, schedule, moving average, checkpoints, progress."""

import copy
import csv
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from detpress.errors import StageError
from detpress.training.augment import augment
from detpress.training.best_average import BestAverage
from detpress.training.config import ChoosingConfig, TrainingConfig, chooses_best
from detpress.training.dataset import TrainingSet, collate
from detpress.training.loss import Targets
from detpress.training.moving_average import MovingAverage
from detpress.training.process import Report
from detpress.training.step import AfterStep, EngineTraining, TrainingStep, new_optimizer, new_schedule

MOSAIC_UNTIL = 0.9  # share of the epochs; the last ones see images as they are
CHECKPOINT_SECONDS = 10.0  # at least, between two checkpoints; they are made at the end of an epoch
SCORE_SECONDS = 20.0  # of training, at least, before the average is scored for the first time
SCORE_SHARE = 0.1  # of the time, at most, that scoring takes
LOSS_PARTS = ("box", "objectness", "classes")


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
        log: logging.Logger,
        score: Callable[[nn.Module], float] | None,
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
        self.log_file = log
        self.score = score
        self.last_score = ""
        self.best = BestAverage(keeps_tensors=chooses_best(config))
        self.end_map: float | None = None  # of the last average, where it was scored
        self.next_score = time.monotonic() + SCORE_SECONDS
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
        schedule = new_schedule(optimizer, int(self.trainer.estimated_stepping_batches), self.config)
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
            what = f"epoch {epoch + 1} of {self.config.epochs}, loss {mean:.2f}{self.last_score}"
            self.report((what, epoch * steps + step + 1, self.config.epochs * steps))

    def on_train_epoch_end(self) -> None:
        if self.trainer.is_global_zero:
            self._write_history()
        if self.score and self._is_to_be_scored():
            self._score_average(self.score)
        late = self.trainer.strategy.broadcast(time.monotonic() - self.last_checkpoint >= CHECKPOINT_SECONDS)
        if late and self.current_epoch + 1 < self.config.epochs:
            self._save_checkpoint()
            self.last_checkpoint = time.monotonic()

    def _is_to_be_scored(self) -> bool:
        """Always where the best is chosen; otherwise now and then, and at the end to compare it with those seen."""
        if chooses_best(self.config):
            return True
        if self.current_epoch + 1 == self.config.epochs:
            return isinstance(self.config, ChoosingConfig) and self.best.epoch > 0
        return time.monotonic() >= self.next_score

    def on_train_end(self) -> None:
        if chooses_best(self.config):
            self.average.tensors = self.best.tensors
        self.average.give_to(self.network)  # here, since with several devices the network's tensors alone come back

    def comparison(self) -> str | None:
        """That the end is worse than the best average seen, and which of them was kept; None where it is not."""
        if self.end_map is None or self.end_map >= self.best.map:
            return None
        kept = "which was kept" if chooses_best(self.config) else "which `choose: best` would keep"
        return (
            f"mAP on the validation images was {self.best.map:.4f} after epoch {self.best.epoch} of "
            f"{self.config.epochs}, {kept}, and {self.end_map:.4f} at the end"
        )

    def _write_history(self) -> None:
        with (self.scratch / "training.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("epoch", *LOSS_PARTS))
            for epoch, parts in enumerate(self.history[: self.current_epoch + 1].tolist(), start=1):
                table.writerow((epoch, *(f"{part:.6f}" for part in parts)))

    def _score_average(self, score: Callable[[nn.Module], float]) -> None:
        started = time.monotonic()
        average = copy.deepcopy(self.network).eval()
        self.average.give_to(average)
        try:
            average_map = score(average)
        except Exception as error:
            if chooses_best(self.config):
                raise
            # nothing is decided by it, so it is no reason to lose the training
            self.score, self.last_score = None, ""
            self.log_file.warning("no mAP is shown beside the loss: %s", error)
            return
        epoch = self.current_epoch + 1
        self.last_score = f", mAP {average_map:.4f} after {epoch}"
        self.best.see(epoch, average_map, self.average.tensors)
        if epoch == self.config.epochs:
            self.end_map = average_map
        self.log_file.info("epoch %d of %d%s", epoch, self.config.epochs, self.last_score)
        ended = time.monotonic()
        self.next_score = ended + (ended - started) / SCORE_SHARE

    def _save_checkpoint(self) -> None:
        """A kill leaves the checkpoint before or the new one, never half of one."""
        unfinished = self.scratch / "last.unfinished"
        self.trainer.save_checkpoint(unfinished, weights_only=False)
        if self.trainer.is_global_zero:
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
            unfinished.replace(self.scratch / "last.ckpt")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["average"] = {"updates": self.average.updates, "tensors": self.average.tensors}
        checkpoint["best"] = self.best.state()
        checkpoint["engine"] = self.engine.state() if self.engine else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also makes room for tensors that an engine first makes, or gives their shape, while it trains."""
        self.average.updates, self.average.tensors = checkpoint["average"]["updates"], checkpoint["average"]["tensors"]
        if "best" in checkpoint:  # not in those of older versions, which kept no average but the last
            self.best.load(checkpoint["best"])
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


def _generator(*key: int) -> torch.Generator:
    """A generator on the CPU that `key` alone decides."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
