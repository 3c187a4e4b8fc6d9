"""Slow, obvious versions of what the package computes quickly. They follow the papers' formulas, not our code."""

import math

import numpy as np
import torch


def gaussian_weights(features_ND: np.ndarray) -> np.ndarray:
    """SCGS eq. (3), normalised: the density of each point under the Gaussian fitted to all of them."""
    num, dims = features_ND.shape
    mean = [sum(row[d] for row in features_ND) / num for d in range(dims)]
    covariance = np.zeros((dims, dims))
    for row in features_ND:
        for a in range(dims):
            for b in range(dims):
                covariance[a, b] += (row[a] - mean[a]) * (row[b] - mean[b]) / (num - 1)
    inverse = np.linalg.inv(covariance)
    densities = [math.exp(-0.5 * float((row - mean) @ inverse @ (row - mean))) for row in features_ND]
    return np.array(densities) / sum(densities)


def dilate(mask_HW: np.ndarray, radius_px: int) -> np.ndarray:
    """Every pixel within the radius of a True pixel."""
    height, width = mask_HW.shape
    grown = np.zeros_like(mask_HW)
    for y in range(height):
        for x in range(width):
            for v in range(height):
                for u in range(width):
                    if mask_HW[v, u] and (y - v) ** 2 + (x - u) ** 2 <= radius_px**2:
                        grown[y, x] = True
    return grown


def grad_cam_plus_plus(activations_KHW: np.ndarray, weight_K: np.ndarray) -> np.ndarray:
    """Grad-CAM++ of convolution -> global average -> linear, min-max scaled: the gradient is weight / (H W)."""
    channels, height, width = activations_KHW.shape
    cam = np.zeros((height, width))
    for k in range(channels):
        g = weight_K[k] / (height * width)
        total = activations_KHW[k].sum()
        alpha = g**2 / (2 * g**2 + total * g**3 + 1e-6)
        cam += height * width * max(g, 0) * alpha * activations_KHW[k]
    cam = np.maximum(cam, 0)
    return (cam - cam.min()) / (cam.max() - cam.min())


def integrated_gradients(
    classifier: torch.nn.Module, generated_CHW: torch.Tensor, original_CHW: torch.Tensor, target: int, steps: int
) -> torch.Tensor:
    """Midpoint rule, one point of the path at a time."""
    total_CHW = torch.zeros_like(generated_CHW)
    for step in range(steps):
        share = (step + 0.5) / steps
        point_CHW = (original_CHW + share * (generated_CHW - original_CHW)).requires_grad_(True)
        logit = classifier(point_CHW[None])[0, target]
        total_CHW += torch.autograd.grad(logit, point_CHW)[0] / steps
    return total_CHW * (generated_CHW - original_CHW)


def successive_draw_probability(weights: list[float], drawn: list[int]) -> float:
    """Probability of drawing these items in this order, one by one without replacement."""
    left, probability = sum(weights), 1.0
    for item in drawn:
        probability *= weights[item] / left
        left -= weights[item]
    return probability
