"""Terms of the loss that every algorithm of the loop can have: "not y", the saliency penalty, smoothed labels.

Chang et al. 2021 (arXiv 2106.01127) give counterfactual pictures the label "not y", penalise the gradient outside of
the object ("Sal": GradMask, Simpson et al. 2019, arXiv 1904.07478), and compare with mixup (`raygen.algorithms.mixing`)
and label smoothing (Szegedy et al. 2016, arXiv 1512.00567).

Defects of the authors' code that are not copied: -log(1 - p + 1e-20), which is at most 46 and has no gradient there;
and the gradient of `logits[:, y].sum()`, which for a batch of B labels is that of B x B logits, not of each row's own.
"""

# B images of a batch, C classes, S side of the classifier's square

import math

import torch
import torch.nn.functional as F

from raygen.inpainters.fills import NotLabel


def row_losses(
    logits_BC: torch.Tensor,
    target_B: torch.Tensor,
    *,
    counterfactual_B: torch.Tensor | None = None,
    not_label: NotLabel = "exact",
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Loss of each row, (B,): cross entropy of its label, or of "not its label".

    Args:
        logits_BC: Float32.
        target_B: Labels y, int.
        counterfactual_B: Which rows say "not y", bool; None: none.
        not_label: What is asked of those; see `not_label_losses`.
        smoothing: What the label gives to all classes alike, of the other rows.
    """
    losses_B = F.cross_entropy(logits_BC, target_B, reduction="none", label_smoothing=smoothing)
    if counterfactual_B is None:
        return losses_B
    return torch.where(counterfactual_B, not_label_losses(logits_BC, target_B, kind=not_label), losses_B)


def not_label_losses(logits_BC: torch.Tensor, target_B: torch.Tensor, *, kind: NotLabel) -> torch.Tensor:
    """How much each row speaks for its label y, (B,).

    "exact": -log(1 - p_y), the cross entropy of "any other class", as the difference of two logsumexps, which is exact
    where p_y is 1 but for less than float32 can tell. "uniform": the cross entropy with 1/C for each class.
    "uniform_except": with 1/(C - 1) for each class but y. For two classes the first and the last are the cross entropy
    of the other class.
    """
    is_target_BC = F.one_hot(target_B, logits_BC.shape[1]).bool()
    if kind == "exact":
        others_B = logits_BC.masked_fill(is_target_BC, -math.inf).logsumexp(1)
        return logits_BC.logsumexp(1) - others_B
    log_p_BC = logits_BC.log_softmax(1)
    if kind == "uniform":
        return -log_p_BC.mean(1)
    return -log_p_BC.masked_fill(is_target_BC, 0).sum(1) / (logits_BC.shape[1] - 1)


def saliency_sum(
    logits_BC: torch.Tensor, target_B: torch.Tensor, inputs_BCSS: torch.Tensor, object_BSS: torch.Tensor
) -> torch.Tensor:
    """Sum over rows of the mean of (d logit_y / dx * (1 - object))^2 over 3 x S x S; to be differentiated again.

    A row without an object counts 0: there is nothing to look away from. Batch normalisation in training mode joins the
    rows of a batch, so there a row's gradient holds what its pixels do to the other rows' logits, as in the authors'
    code; other layers keep rows apart.

    Args:
        logits_BC: Of the inputs, float32.
        target_B: Labels y, int.
        inputs_BCSS: Pictures in [0, 1] that the logits were computed from, with `requires_grad`. (The authors' are in
            [-1, 1], where a gradient is half as large: their weight of the penalty is 4 times that of here.)
        object_BSS: Where the object is, bool.
    """
    own_B = logits_BC.gather(1, target_B[:, None]).sum()
    (gradient_BCSS,) = torch.autograd.grad(own_B, inputs_BCSS, create_graph=True)
    outside_BSS = ~object_BSS & object_BSS.flatten(1).any(1)[:, None, None]
    squares_BCSS = (gradient_BCSS[: len(object_BSS)] * outside_BSS[:, None]) ** 2
    return squares_BCSS.flatten(1).mean(1).sum()
