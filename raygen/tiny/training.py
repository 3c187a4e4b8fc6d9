"""What the trainings of the denoiser and of the segmenter share: the model with its averaged twin, steps and time."""

import copy
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from raygen.tiny.muon import Muon
from raygen.tiny.processes import Clock, Process, load_state, save_state, warm_up_then_decay

logger = logging.getLogger(__name__)

WEIGHT_DECAY = 0.01
FIRST_EXPORT_STEP = 100

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is trained.

    Attributes:
        name: Of the model, for the log.
        minutes: Processor time.
        muon_rate: Learning rate of the weights inside.
        adam_rate: Of embeddings, norms, biases, the first and the last convolution.
        warm_up: Share of the time in which the rates rise.
        hold: Share of the time after which they fall.
        ema_decay: Of the averaged twin; less in the first steps.
        log_every: Steps.
        save_every_s: A checkpoint.
        export_every_s: The model as it is, to look at; and once after FIRST_EXPORT_STEP steps.
    """

    name: str
    minutes: float
    muon_rate: float
    adam_rate: float
    warm_up: float
    hold: float
    ema_decay: float
    log_every: int
    save_every_s: float
    export_every_s: float


class Training(Generic[Model]):
    """A training's state; taken from its checkpoint if there is one.

    Args:
        process: Whose it is.
        model: On the process's device.
        outer: Parts of it that are AdamW's.
        checkpoint: Where the state is saved.
        plan: How it is trained.
    """

    def __init__(
        self, process: Process, model: Model, outer: Iterable[nn.Module], checkpoint: Path, plan: Plan
    ) -> None:
        self._process, self._checkpoint, self._plan = process, checkpoint, plan
        self.model, self.average = model, copy.deepcopy(model).eval().requires_grad_(False)
        self._parameters = list(model.parameters())
        not_inside = {id(p) for module in outer for p in module.parameters()}
        inside = [p for p in self._parameters if p.ndim > 1 and id(p) not in not_inside]
        ids = {id(p) for p in inside}
        rest = [p for p in self._parameters if id(p) not in ids]
        self._optimizers: list[torch.optim.Optimizer] = [
            Muon(inside, lr=plan.muon_rate, momentum=0.95, weight_decay=WEIGHT_DECAY, process=process),
            torch.optim.AdamW(rest, lr=plan.adam_rate, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98), fused=True),
        ]
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        self.step, spent_s = 0, 0.0
        if checkpoint.exists():
            state = load_state(checkpoint)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, inner in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(inner)
            self.step, spent_s = state["step"], state["spent_s"]
        self._clock = Clock(plan.minutes * 60, spent_s=spent_s)

    def run(self, loss_of: Callable[[], Tensor], export: Callable[[], None]) -> None:
        """Trains until the time is spent, and marks that beside the checkpoint.

        Args:
            loss_of: The loss of the next step.
            export: Saves the averaged twin as a model, and a sheet of pictures; called by the leading process.
        """
        if self._process.leads:
            logger.info("%s: %.2f M parameters", self._plan.name, sum(p.numel() for p in self._parameters) / 1e6)
        first_step, mean_loss = self.step, 0.0
        last_save_s = last_export_s = self._clock.spent_s
        while (fraction := self._process.agree(self._clock.fraction)) < 1:
            loss = loss_of()
            self.model.zero_grad()
            loss.backward()
            self._process.average_gradients(self._parameters)
            self._update(warm_up_then_decay(fraction, warm_up=self._plan.warm_up, hold=self._plan.hold))
            if not self._process.leads:
                continue
            keep, spent_s = min(0.98, (self.step - first_step - 1) / (self.step - first_step)), self._clock.spent_s
            mean_loss = keep * mean_loss + (1 - keep) * float(loss.detach())
            if self.step % self._plan.log_every == 0:
                told = (self._plan.name, self.step, 100 * fraction, mean_loss, spent_s)
                logger.info("%s step %d (%.1f%%): loss %.4f, %.0f s", *told)
            if spent_s - last_save_s > self._plan.save_every_s:
                last_save_s = spent_s
                self._save()
            if self.step == FIRST_EXPORT_STEP or spent_s - last_export_s > self._plan.export_every_s:
                last_export_s = spent_s
                export()
        if self._process.leads:
            self._save()
            export()
            self._checkpoint.with_suffix(".done").write_text(f"{self.step} steps\n")

    def _update(self, rate: float) -> None:
        """One step along the gradients, with all learning rates times `rate`."""
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate
            optimizer.step()
        self.step += 1
        decay = min(self._plan.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), [p.detach() for p in self._parameters], 1 - decay)

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "step": self.step,
            "spent_s": self._clock.spent_s,
        }
        save_state(self._checkpoint, state)
