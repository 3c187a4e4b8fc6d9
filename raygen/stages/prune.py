"""The pruner's stage: generated pictures in, psi and rho out. What is kept is decided later, from them."""

# N rows of a model call

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from raygen.classifier import load_frozen
from raygen.classifier.framing import as_input
from raygen.pruners.attribution import integrated_gradients, integrated_gradients_to_tolerance, logit_difference
from raygen.pruners.confidence import label_probability
from raygen.stages.pictures import decode_framed, decode_masks
from raygen.stages.spec import (
    NOT_FINITE,
    Batch,
    ModelStage,
    Prepared,
    empty_column,
    fail_row,
    fill_slots,
    ok_rows,
    with_own_status,
)

Scores = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Originals, generated pictures and repaint masks of a call's slots, at the classifier's size."""

    original_NCHW: torch.Tensor
    generated_NCHW: torch.Tensor
    repaint_NHW: torch.Tensor


class PruneStage(ModelStage[_Pictures | None, Scores]):
    """DBB's two scores of each row's generated picture (arXiv 2503.17226, eq. 3-5).

    Args:
        classifier_folder: The classifier that judges.
        attribution: "exact" is the target logit's difference, equal to rho where only pixels inside the
            repaint mask changed; "ig" runs integrated gradients.
        num_steps: Path points of "ig"; ignored by "exact". The authors of DBB take captum's 50.
        completeness_tolerance: "ig" stops for a row once its attributions sum to the logit difference but for this
            share of it (of 1, where it is smaller), after at most `num_steps` points; None takes all of them.
        device: "cpu" or "cuda".
    """

    reads: ClassVar = frozenset(
        {"image_png", "generated_png", "repaint_png", "source_label", "target_label", "status", "error"}
    )
    writes: ClassVar = frozenset({"source_probability", "attribution_inside", "convergence_delta"})

    def __init__(
        self,
        *,
        classifier_folder: str,
        attribution: Literal["exact", "ig"],
        num_steps: int = 200,
        completeness_tolerance: float | None = None,
        device: str = "cpu",
    ) -> None:
        self._classifier = load_frozen(Path(classifier_folder), device)
        self._attribution, self._num_steps, self._device = attribution, num_steps, device
        self._tolerance = completeness_tolerance

    def prepare(self, batch: Batch) -> Prepared[_Pictures | None]:
        """The decoded pictures, at the classifier's size; None where no row is left to process."""
        batch = with_own_status(batch)
        frame = self._classifier.frame
        originals = decode_framed(batch, ok_rows(batch), "image_png", [frame])
        generated = decode_framed(batch, ok_rows(batch), "generated_png", [frame])
        repaints = decode_masks(batch, ok_rows(batch), "repaint_png")
        if not (rows := ok_rows(batch)):
            return Prepared(batch, None)
        slots = fill_slots(rows, len(batch["status"]))
        repaint_NHW = np.stack([frame.mask(repaints[i]) for i in slots])
        pictures = _Pictures(
            as_input(torch.from_numpy(np.stack([originals[i][frame] for i in slots]))),
            as_input(torch.from_numpy(np.stack([generated[i][frame] for i in slots]))),
            torch.from_numpy(repaint_NHW),
        )
        return Prepared(batch, pictures, 2 * pictures.original_NCHW.nbytes)

    def work(self, prepared: Prepared[_Pictures | None]) -> Scores:
        """The three scores of each slot, (N,) each; none where no row is left to process."""
        batch, pictures = prepared.batch, prepared.inputs
        if pictures is None:
            return {}
        slots = fill_slots(ok_rows(batch), len(batch["status"]))
        original_NCHW, generated_NCHW = (
            images_NCHW.to(self._device) for images_NCHW in (pictures.original_NCHW, pictures.generated_NCHW)
        )
        target_N = torch.tensor([int(batch["target_label"][i]) for i in slots], device=self._device)
        with torch.inference_mode():
            logits_NC = self._classifier(generated_NCHW).float().cpu().numpy()
        source_N = np.array([batch["source_label"][i] for i in slots], dtype=np.int64)
        if self._attribution == "exact":
            rho_N = logit_difference(self._classifier, generated_NCHW, original_NCHW, target_N=target_N)
            delta_N = np.zeros(len(slots), dtype=np.float32)
        else:
            path = integrated_gradients
            if self._tolerance is not None:
                path = partial(integrated_gradients_to_tolerance, tolerance=self._tolerance)
            rho_N, delta_N = path(
                self._classifier,
                generated_NCHW,
                original_NCHW,
                repaint_NHW=pictures.repaint_NHW.to(self._device),
                target_N=target_N,
                num_steps=self._num_steps,
            )
        psi_N = label_probability(logits_NC, source_N)
        return {"source_probability": psi_N, "attribution_inside": rho_N, "convergence_delta": delta_N}

    def finish(self, prepared: Prepared[_Pictures | None], outputs: Scores) -> Batch:
        """The rows with psi, rho and the convergence delta; a row that fails has none."""
        batch = prepared.batch
        columns = {name: empty_column(len(batch["status"])) for name in sorted(self.writes)}
        for i in ok_rows(batch):
            if not all(np.isfinite(values_N[i]) for values_N in outputs.values()):
                fail_row(batch, i, NOT_FINITE)
                continue
            for name, values_N in outputs.items():
                columns[name][i] = float(values_N[i])
        return {**batch, **columns}
