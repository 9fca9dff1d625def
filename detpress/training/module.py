"""What Lightning calls while the detector is trained: step, schedule, moving average, checkpoints, progress."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, DistributedSampler

from detpress.detector.images import network_input
from detpress.errors import StageError
from detpress.training.augment import augment
from detpress.training.average_scores import AverageScores
from detpress.training.config import TrainingConfig, chooses_best
from detpress.training.dataset import TrainingSet, collate
from detpress.training.history import LossHistory
from detpress.training.loss import Targets
from detpress.training.moving_average import MovingAverage
from detpress.training.objective import (
    Objective,
    Terms,
    TrainingStep,
    checked_terms,
    held,
    outputs_of,
    total,
    without_replaced,
)
from detpress.training.parts import Frozen, at_backbone_rate
from detpress.training.process import Report, seeded
from detpress.training.step import new_optimizer, new_schedule, parameters_of

COMBINED_UNTIL = 0.9  # share of the epochs; the last ones see images as they are
CHECKPOINT_SECONDS = 10.0  # at least, between two checkpoints; they are made at the end of an epoch


class DetectorTraining(pl.LightningModule):
    """Steps, optimizers, schedule and moving average of one training.

    objectives: all that take part, prepared, the detection loss among them. optimizer: the network's, instead of the
    ordinary one; each group's learning rate is the highest of the schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        frozen: Frozen,
        objectives: Sequence[Objective],
        optimizer: Optimizer | None,
        config: TrainingConfig,
        data: TrainingSet,
        seed: int,
        scratch: Path,
        report: Report,
        log: logging.Logger,
        score: Callable[[nn.Module], float] | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.frozen = frozen
        self.objectives: Any = nn.ModuleList(objectives)
        self.given_optimizer = optimizer
        self.own_optimizers: dict[int, Optimizer] = {}  # of objectives, by their place
        self.average = MovingAverage(config.ema)
        self.history = LossHistory(config.epochs)
        self.losses: list[float] = []  # of this epoch's steps
        self.config = config
        self.data = data
        self.seed = seed
        self.scratch = scratch
        self.report = report
        self.states: list[Any] = []  # of the objectives, read from a checkpoint, not yet given back
        self.scores = AverageScores(config, score, scratch / "validation.csv", log)
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
        """The network's, with its schedule, then those that objectives have of their own."""
        own = {i: objective.optimizer() for i, objective in enumerate(self.objectives)}
        self.own_optimizers = {i: optimizer for i, optimizer in own.items() if optimizer is not None}
        apart = {id(p) for optimizer in self.own_optimizers.values() for p in parameters_of(optimizer)}
        joined = [p for p in self.objectives.parameters() if p.requires_grad and id(p) not in apart]
        optimizer = self.given_optimizer
        if optimizer is None:
            slower = at_backbone_rate(self.network, self.data.architecture, self.config)
            optimizer = new_optimizer(chain(self.network.parameters(), joined), self.config, slower=slower)
        elif joined:
            optimizer.add_param_group({"params": joined})
        schedule = new_schedule(optimizer, int(self.trainer.estimated_stepping_batches), self.config)
        first = {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        return [first, *({"optimizer": other} for other in self.own_optimizers.values())]

    def on_train_start(self) -> None:
        self.average.to(self.device)
        for objective, state in zip(self.objectives, self.states, strict=False):
            objective.load_state(state)

    def on_train_epoch_start(self) -> None:
        self.losses = []

    def training_step(self, batch: tuple[Tensor, Targets], step: int) -> None:
        gpus = [] if self.device.index is None else [self.device.index]
        with seeded(_number(np.uint32, self.seed, self.current_epoch, step, self.global_rank, 1), gpus):
            self._step(self._augmented(batch, step), step)

    def _augmented(self, batch: tuple[Tensor, Targets], step: int) -> tuple[Tensor, Targets]:
        raw, targets = batch
        generator = _generator(self.seed, self.current_epoch, step, self.global_rank)
        combine = self.current_epoch < COMBINED_UNTIL * self.config.epochs
        with torch.autocast(raw.device.type, enabled=False):
            return augment(network_input(raw), targets, self.config.augmentation, combine, generator)

    def _step(self, batch: tuple[Tensor, Targets], step: int) -> None:
        images, targets = batch
        self.frozen.hold_statistics()
        with outputs_of(self.network, [name for objective in self.objectives for name in objective.layers]) as outputs:
            maps = self.network(images)
        batches = int(self.trainer.num_training_batches)
        number, steps = self.current_epoch * batches + step, self.config.epochs * batches
        now = TrainingStep(images, targets, self.network, maps, outputs, number, steps)
        own = self._own_turns(now.detached(), step)
        waits = any(objective.network_waits(now) for objective in self.objectives)
        terms = {} if waits else self._network_turn(now, own, step)
        with torch.autocast(images.device.type, enabled=False):
            schedule: Any = self.lr_schedulers()
            schedule.step()
            for objective in self.objectives:
                objective.after_step(now.detached())
            if not waits:
                self.average.update(self.network)
        every = terms | without_replaced(list(self.objectives), lambda objective: own.get(objective))
        values = torch.stack([term.detach().double() for term in every.values()]).tolist() if every else []
        self.history.add(self.current_epoch, dict(zip(every, values, strict=True)))

    def _own_turns(self, now: TrainingStep, step: int) -> dict[Objective, Terms | None]:
        """What each objective with an optimizer of its own gave for it; its optimizer has stepped on that."""
        own: dict[Objective, Terms | None] = {}
        for place, (i, optimizer) in enumerate(self.own_optimizers.items(), start=1):
            objective = self.objectives[i]
            given = objective.own_terms(now)
            own[objective] = terms = None if given is None else checked_terms(objective, given)
            if any(term.requires_grad for term in (terms or {}).values()):
                loss = self._finite_total(terms or {}, step)
                with torch.autocast(loss.device.type, enabled=False):
                    optimizer.zero_grad()
                    self.manual_backward(loss)
                    self._lightning_optimizers()[place].step()
        return own

    def _network_turn(self, now: TrainingStep, own: dict[Objective, Terms | None], step: int) -> Terms:
        """The terms of the network's loss; its optimizer has stepped on their sum, and so have those without a loss
        of their own."""
        optimizers = dict(zip(self.own_optimizers, self._lightning_optimizers()[1:], strict=True))
        apart = [i for i in self.own_optimizers if own[self.objectives[i]] is not None]
        with held([p for i in apart for p in parameters_of(self.own_optimizers[i])]):
            terms = without_replaced(list(self.objectives), lambda one: checked_terms(one, one.terms(now)))
        loss = self._finite_total(terms, step)
        self.losses.append(float(loss.detach()))
        stepping = [self._lightning_optimizers()[0], *(optimizers[i] for i in optimizers if i not in apart)]
        with torch.autocast(loss.device.type, enabled=False):
            for optimizer in stepping:
                optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(stepping[0], gradient_clip_val=self.config.clip, gradient_clip_algorithm="norm")
            for optimizer in stepping:
                optimizer.step()
        return terms

    def _lightning_optimizers(self) -> list[Any]:
        found: Any = self.optimizers()
        return found if isinstance(found, list) else [found]

    def _finite_total(self, terms: Terms, step: int) -> Tensor:
        """The sum of the terms. Raises StageError where none can be learnt, and where it is not finite."""
        if not any(term.requires_grad for term in terms.values()):
            raise StageError("no objective gives a term to learn; expected one, or `network_waits` for this step")
        loss = total(terms)
        if not torch.isfinite(loss):
            before = "" if self.last_loss is None else f"; it was {self.last_loss:.4g} a step before"
            raise StageError(
                f"the loss is not finite in epoch {self.current_epoch + 1}, step {step + 1} "
                f"({', '.join(f'{name} {float(term.detach()):.4g}' for name, term in terms.items())}, "
                f"learning rate {self.trainer.optimizers[0].param_groups[0]['lr']:.3g}{before}): "
                f"try a lower learning_rate or clip"
            )
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, step: int) -> None:
        if self.losses:
            self.last_loss = self.losses[-1]
        if self.trainer.is_global_zero:
            epoch, steps = self.current_epoch, int(self.trainer.num_training_batches)
            mean = sum(self.losses) / max(1, len(self.losses))
            what = f"epoch {epoch + 1} of {self.config.epochs}, loss {mean:.2f}{self.scores.shown}"
            self.report((what, epoch * steps + step + 1, self.config.epochs * steps))

    def on_train_epoch_end(self) -> None:
        if self.trainer.is_global_zero:
            self.history.write(self.scratch / "training.csv", self.current_epoch + 1)
        self.scores.after_epoch(self.current_epoch + 1, self.network, self.average)
        late = self.trainer.strategy.broadcast(time.monotonic() - self.last_checkpoint >= CHECKPOINT_SECONDS)
        if late and self.current_epoch + 1 < self.config.epochs:
            self._save_checkpoint()
            self.last_checkpoint = time.monotonic()

    def on_train_end(self) -> None:
        if chooses_best(self.config):
            self.average.tensors = self.scores.best.tensors
        self.average.give_to(self.network)  # here, since with several devices the network's tensors alone come back

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
        checkpoint["best"] = self.scores.best.state()
        checkpoint["history"] = self.history.state()
        checkpoint["objectives"] = [objective.state() for objective in self.objectives]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also makes room for tensors that an engine first makes, or gives their shape, while it trains."""
        self.average.updates, self.average.tensors = checkpoint["average"]["updates"], checkpoint["average"]["tensors"]
        if "best" in checkpoint:  # not in those of older versions, which kept no average but the last
            self.scores.best.load(checkpoint["best"])
        if "history" in checkpoint:
            self.history.load(checkpoint["history"])
            self.states = checkpoint["objectives"]
        else:  # of an older version, where nothing but an engine had a state
            self.history.load_means(checkpoint["state_dict"].pop("history"))
            self.states = [checkpoint["engine"]]
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
    return torch.Generator().manual_seed(_number(np.uint64, *key))


def _number(kind: type[np.uint32 | np.uint64], *key: int) -> int:
    """A number of that kind that `key` alone decides, and that looks drawn at random."""
    return int(np.random.SeedSequence(key).generate_state(1, kind)[0])
