"""SCGS's Gaussian sampling (arXiv 2412.19457, eq. 3): clusters of images, and weighted draws from each."""

# N images, D features, d components, K clusters

from collections.abc import Sequence
from typing import Literal

import numpy as np

Covariance = Literal["pca", "ledoit_wolf", "uniform", "full"]


def gaussian_log_weights(
    features_ND: np.ndarray, *, covariance: Covariance, max_components: int, temperature: float
) -> np.ndarray:
    """Log of the normalised weights of one cluster's images, (N,) float64: eq. (3) up to its constant.

    log w = -m^2 / (2 T) + const, with m^2 the squared Mahalanobis distance from the cluster's mean, unbiased
    covariance. In the first d principal components m_i^2 = (N - 1) sum_{j<=d} U_ij^2, where U holds the left
    singular vectors of the centred features: no inverse and no density, which overflows in 2048 dimensions.

    Args:
        features_ND: Features of the cluster's images, (N, D).
        covariance: See `raygen.synthesis.scgs.ScgsConfig`.
        max_components: Bound of d for "pca".
        temperature: T.
    """
    num_images = len(features_ND)
    if covariance == "uniform" or num_images == 1:
        return np.full(num_images, -np.log(num_images))
    if covariance == "ledoit_wolf":
        from sklearn.covariance import LedoitWolf

        distance_N = LedoitWolf().fit(features_ND).mahalanobis(features_ND)
    else:
        left_Nd, scale_d, _ = np.linalg.svd(features_ND - features_ND.mean(axis=0), full_matrices=False)
        # Below this, numpy's matrix_rank calls a singular value 0; its singular vector is arbitrary.
        rank = int((scale_d > scale_d.max() * max(features_ND.shape) * np.finfo(np.float64).eps).sum())
        components = rank if covariance == "full" else min(rank, pca_components(num_images, at_most=max_components))
        distance_N = (num_images - 1) * (left_Nd[:, :components] ** 2).sum(axis=1)
    log_weight_N = -0.5 * distance_N / temperature
    return np.asarray(log_weight_N - np.logaddexp.reduce(log_weight_N))


def pca_components(num_images: int, *, at_most: int) -> int:
    """Components in which a cluster of that size is weighed: max(1, min(at_most, (N - 1) // 4))."""
    return max(1, min(at_most, (num_images - 1) // 4))


def sample_without_replacement(log_weight_N: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of `num` successive weighted draws without replacement, in the order drawn, (num,) int.

    The largest of log w + Gumbel noise: the same distribution as drawing one by one (Kool et al. 2019, arXiv
    1903.06059), also where weights are too small for a float.
    """
    return np.argsort(-(log_weight_N + rng.gumbel(size=len(log_weight_N))), kind="stable")[:num]


def largest_remainder(total: int, sizes_K: Sequence[int] | np.ndarray) -> list[int]:
    """`total` split in proportion to sizes, whole numbers that sum to it; equal remainders: the first one."""
    share_K = total * np.asarray(sizes_K) / np.sum(sizes_K)
    split_K = np.floor(share_K).astype(int)
    missing = total - int(split_K.sum())
    split_K[np.argsort(-(share_K - split_K), kind="stable")[:missing]] += 1
    return [int(part) for part in split_K]


def kmeans_clusters(features_ND: np.ndarray, *, num_clusters: int, seed: int) -> np.ndarray:
    """K-means cluster of each image, (N,) int; raw features, no more clusters than distinct images."""
    from sklearn.cluster import KMeans

    num_distinct = len(np.unique(features_ND, axis=0))
    # scikit-learn's seeds are 32-bit.
    kmeans = KMeans(min(num_clusters, num_distinct), n_init=10, random_state=seed % 2**32)
    return np.asarray(kmeans.fit_predict(features_ND), dtype=np.int64)
