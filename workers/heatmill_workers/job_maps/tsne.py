"""t-SNE: a 2-D map of feature vectors that keeps neighbours together.

van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 9, 2008; computed by openTSNE (Poličar, Stražar and Zupan,
JSS 109, 2024) with its published defaults: early exaggeration for 250 iterations, then 500, and a learning rate that
grows with the number of points (Belkina et al., 2019). Started from the two main axes rather than at random, so that
also distances between groups mean something (Kobak and Berens, 2019).

Neighbours are exact, whatever the size: openTSNE's own approximate index orders ties by how its threads run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from openTSNE import TSNE, TSNEEmbedding
from openTSNE.affinity import PerplexityBasedNN
from openTSNE.nearest_neighbors import PrecomputedNeighbors
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

MIN_POINTS = 3
# Beyond as many axes distances hardly change, and neighbours are found many times faster.
MAX_COMPONENTS = 50
EARLY_ITERATIONS = 250
ITERATIONS = 500
# Below this the exact tree (Barnes-Hut) is faster than the grid of Fourier transforms.
GRID_POINTS = 5_000
# Relative to the spread of the features, far below what a neighbourhood spans: it parts items that are the same.
JITTER = 1e-3
START_SPREAD = 1e-4
QUALITY_NEIGHBOURS = 10
QUALITY_POINTS = 1000

Matrix = NDArray[np.floating]


@dataclass(frozen=True)
class Neighbourhoods:
    """How many of each point's `k` nearest neighbours in feature space are among its `k` nearest on the map.

    Args:
        kept: The fraction, over at most 1,000 points.
        chance: What a random map would keep.
    """

    k: int
    kept: float
    chance: float


@dataclass(frozen=True)
class Layout:
    """A finished map.

    Args:
        points: (N, 2) float32, centred.
        perplexity: The one that was used.
        components: Axes of the features that the neighbours were found along.
        explained_variance: Fraction of the features' variance that lies along them.
    """

    points: NDArray[np.float32]
    perplexity: float
    kl_divergence: float
    components: int
    explained_variance: float
    neighbourhoods: Neighbourhoods


@dataclass(frozen=True)
class Tsne:
    """How to lay out.

    Args:
        perplexity: Roughly how many neighbours a point has; fitted to the number of points.
        seed: Of the jitter, the only thing that is drawn.
        threads: Sums differ in their last digits from run to run where there are several.
    """

    perplexity: float = 30.0
    seed: int = 0
    threads: int = 1

    def embed(self, features: Matrix, check: Callable[[], None] = lambda: None) -> Layout:
        """The map of (N, D) features, the same for the same features and seed.

        Args:
            features: Finite; N at least `MIN_POINTS`.
            check: Called every 50 iterations; what it raises ends the work.

        Raises:
            ValueError: There are too few points, or one is not finite.
        """
        if len(features) < MIN_POINTS:
            raise ValueError(f"{len(features)} points; a map needs {MIN_POINTS}")
        reduced, explained = _main_axes(features, self.seed)
        perplexity = fitted_perplexity(self.perplexity, len(features))
        embedding = self._optimized(reduced, perplexity, check)
        points = np.asarray(embedding - embedding.mean(0), np.float32)
        return Layout(
            points=points,
            perplexity=perplexity,
            kl_divergence=float(embedding.kl_divergence),
            components=reduced.shape[1],
            explained_variance=explained,
            neighbourhoods=neighbourhoods(features, points),
        )

    def _optimized(self, reduced: Matrix, perplexity: float, check: Callable[[], None]) -> TSNEEmbedding:
        distances, indices = _neighbours(reduced, min(len(reduced) - 1, int(3 * perplexity)))
        affinities = PerplexityBasedNN(
            knn_index=PrecomputedNeighbors(indices, distances),
            perplexity=perplexity,
            n_jobs=self.threads,
            random_state=self.seed,
        )
        method = TSNE(
            early_exaggeration_iter=EARLY_ITERATIONS,
            n_iter=ITERATIONS,
            n_jobs=self.threads,
            random_state=self.seed,
            negative_gradient_method="bh" if len(reduced) < GRID_POINTS else "fft",
            callbacks=lambda *_: check(),
        )
        return method.fit(affinities=affinities, initialization=_start(reduced))


def fitted_perplexity(asked: float, points: int) -> float:
    """The perplexity for a number of points: each unit of it takes three neighbours, and there must be as many."""
    return max(1.0, min(asked, (points - 1) / 3))


def neighbourhoods(features: Matrix, points: Matrix) -> Neighbourhoods:
    """Measure a map (N, 2) against its features (N, D)."""
    count = len(features)
    k = max(1, min(QUALITY_NEIGHBOURS, (count - 1) // 2))
    sample = np.random.default_rng(0).permutation(count)[:QUALITY_POINTS]
    before, after = (_neighbours_of(sample, space, k) for space in (features, points))
    kept = [len(np.intersect1d(*pair)) for pair in zip(before, after, strict=True)]
    return Neighbourhoods(k=k, kept=float(np.mean(kept)) / k, chance=k / (count - 1))


def _main_axes(features: Matrix, seed: int) -> tuple[Matrix, float]:
    """(N, at most 50) in units of the largest spread, jittered, and the fraction of the variance that they hold."""
    exact = np.asarray(features, np.float64)
    components = min(MAX_COMPONENTS, *exact.shape)
    solver = "covariance_eigh" if len(exact) > exact.shape[1] else "full"
    # What does not vary at all has no main axis, and PCA divides by the variance.
    if (np.ptp(exact, axis=0) == 0).all():
        return _jittered(np.zeros((len(exact), max(2, components))), seed), 0.0
    pca = PCA(components, svd_solver=solver)
    reduced = pca.fit_transform(exact)
    reduced /= reduced[:, 0].std()
    if components == 1:
        reduced = np.hstack([reduced, np.zeros_like(reduced)])
    return _jittered(reduced, seed), float(pca.explained_variance_ratio_.sum())


def _jittered(reduced: Matrix, seed: int) -> Matrix:
    return reduced + np.random.default_rng(seed).normal(0, JITTER / np.sqrt(reduced.shape[1]), reduced.shape)


def _start(reduced: Matrix) -> Matrix:
    start = reduced[:, :2]
    return np.ascontiguousarray(start / start[:, 0].std() * START_SPREAD)


def _neighbours(points: Matrix, k: int) -> tuple[Matrix, NDArray[np.int64]]:
    """Distances and indices of each point's `k` nearest others, nearest first."""
    distances, indices = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors()
    return distances, indices


def _neighbours_of(sample: NDArray[np.int64], points: Matrix, k: int) -> list[NDArray[np.int64]]:
    """The `k` nearest others of some points; of items that are the same, any may be the nearest."""
    search = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(points)
    found = search.kneighbors(points[sample], return_distance=False)
    return [row[row != own][:k] for own, row in zip(sample, found, strict=True)]
