"""A map keeps together what is together, for ten points as for hundreds, and is the same every time."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier

from heatmill_workers.job_maps.tsne import Layout, Tsne, fitted_perplexity, neighbourhoods


def clusters(
    points: int, groups: int = 3, width: int = 64, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Gaussian clusters that do not overlap, and which point is of which."""
    random = np.random.default_rng(seed)
    of = np.arange(points) % groups
    return (random.normal(0, 3, (groups, width))[of] + random.normal(0, 1, (points, width))).astype(np.float32), of


def nearest_is_of_its_group(layout: Layout, of: NDArray[np.int64]) -> float:
    fitted = KNeighborsClassifier(2).fit(layout.points, of)
    return float((of[fitted.kneighbors(return_distance=False)[:, 0]] == of).mean())


def test_clusters_stay_apart() -> None:
    features, of = clusters(90)

    layout = Tsne().embed(features)

    assert nearest_is_of_its_group(layout, of) == 1
    assert layout.perplexity == pytest.approx(89 / 3)


def test_ten_points_are_laid_out_by_their_clusters() -> None:
    features, of = clusters(10, groups=2)

    layout = Tsne().embed(features)

    assert layout.perplexity == 3
    assert nearest_is_of_its_group(layout, of) == 1


@pytest.mark.parametrize("points", [3, 4, 5])
def test_the_fewest_points_have_a_map(points: int) -> None:
    layout = Tsne().embed(clusters(points)[0])
    assert layout.points.shape == (points, 2)
    assert np.isfinite(layout.points).all()


@pytest.mark.parametrize("width", [1, 2, 64])
def test_items_that_are_the_same_have_a_map(width: int) -> None:
    same = np.ones((6, width), np.float32)
    some = np.vstack([same, 2 * same])
    for features in (same, some):
        assert np.isfinite(Tsne().embed(features).points).all()


def test_the_same_features_and_seed_give_the_same_bytes() -> None:
    features, _ = clusters(60)
    first, second = Tsne(seed=3).embed(features), Tsne(seed=3).embed(features)
    assert first.points.tobytes() == second.points.tobytes()
    assert first.kl_divergence == second.kl_divergence
    assert first.neighbourhoods == second.neighbourhoods


def test_large_jobs_take_the_grid_and_are_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("GRID_POINTS", 10), ("EARLY_ITERATIONS", 60), ("ITERATIONS", 40)):
        monkeypatch.setattr(f"heatmill_workers.job_maps.tsne.{name}", value)
    features, of = clusters(60)
    first, second = Tsne().embed(features), Tsne().embed(features)
    assert first.points.tobytes() == second.points.tobytes()
    assert nearest_is_of_its_group(first, of) == 1


def test_digits_keep_their_neighbours_as_well_as_sklearn_measures() -> None:
    features = load_digits().data[:400].astype(np.float32)

    layout = Tsne().embed(features)

    assert trustworthiness(features, layout.points, n_neighbors=10) > 0.97
    near = layout.neighbourhoods
    assert near.k == 10
    assert near.kept > 0.5 > 10 * near.chance


def test_the_measurement_is_one_for_a_perfect_map_and_chance_for_a_random_one() -> None:
    random = np.random.default_rng(0)
    flat = random.normal(size=(500, 2)).astype(np.float32)
    turned = flat @ np.array([[0.6, -0.8], [0.8, 0.6]], np.float32)

    perfect = neighbourhoods(np.hstack([flat, np.zeros((500, 3), np.float32)]), turned)
    worthless = neighbourhoods(flat, random.normal(size=(500, 2)))

    assert perfect.kept > 0.999
    assert worthless.kept == pytest.approx(worthless.chance, abs=0.01)


@pytest.mark.parametrize(("asked", "points", "used"), [(30, 3, 1), (30, 10, 3), (30, 91, 30), (200, 20_000, 200)])
def test_perplexity_fits_the_number_of_points(asked: float, points: int, used: float) -> None:
    assert fitted_perplexity(asked, points) == used


def test_it_can_be_stopped_on_the_way() -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError):
        Tsne().embed(clusters(30)[0], stop)


def test_what_has_no_map_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 3"):
        Tsne().embed(clusters(2)[0])
    with pytest.raises(ValueError, match="NaN"):
        Tsne().embed(np.full((5, 4), np.nan, np.float32))
