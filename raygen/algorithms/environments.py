"""EIIL: two environments of each class from a classifier's errors (Creager et al. 2021, arXiv 2010.07249)."""

# N rows, C classes

import numpy as np
import torch

from raygen.algorithms.heads import softmax


def risk_gradients(logits_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Derivative of each row's cross entropy by a scalar that multiplies its logits, at 1, (N,) float.

    sum_c p_c z_c - z_y. With two classes -m * sigmoid(-m), m the margin of the label, which is above 0 exactly where
    the label is not predicted.
    """
    own_N = logits_NC[np.arange(len(label_N)), label_N]
    return np.asarray((softmax(logits_NC) * logits_NC).sum(axis=1) - own_N)


def eiil(gradient_N: np.ndarray, *, num_steps: int, learning_rate: float, rng: np.random.Generator) -> np.ndarray:
    """Which of two environments each row is in, (N,) int, by Adam on soft assignments from random ones.

    Maximises mean(q g)^2 + mean((1 - q) g)^2, q = sigmoid(u). Its maximum has q = 1 where g > 0 and 0 elsewhere, or the
    two swapped. Rows whose g is next to 0, of large margins, move so slowly that they keep their random start.

    Args:
        gradient_N: g, as `risk_gradients` gives it.
        num_steps: Steps.
        learning_rate: Of Adam.
        rng: Draws the start, u from a normal distribution.
    """
    gradient = torch.from_numpy(gradient_N)
    u_N = torch.from_numpy(rng.normal(size=len(gradient_N))).requires_grad_()
    optimizer = torch.optim.Adam([u_N], lr=learning_rate)
    for _ in range(num_steps):
        with torch.no_grad():
            q_N = u_N.sigmoid()
            first, second = (q_N * gradient).mean(), ((1 - q_N) * gradient).mean()
            # Of minus the objective, by hand: (A^2 + B^2)' = 2 (A - B) g q (1 - q) / N.
            u_N.grad = -2 * (first - second) * gradient * q_N * (1 - q_N) / len(gradient)
        optimizer.step()
    return np.asarray((u_N.detach() > 0).numpy().astype(np.int64))
