"""Weighted ridge agrees with scikit-learn's, and its errors with what another draw does."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from heatmill_workers.engine.perturbation.ridge import fit


def draws(seed: int, samples: int = 300, features: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros and ones, two outputs that are not linear in them, and weights."""
    shown = torch.from_numpy(np.random.RandomState(seed).randint(0, 2, (samples, features))).double()
    outputs = torch.stack([shown[:, 0] * shown[:, 1] + shown[:, 2], torch.sigmoid(shown.sum(1) - 4)], 1)
    return shown, outputs, 0.1 + shown.mean(1)


@pytest.mark.parametrize("alpha", [1.0, 0.01])
def test_it_is_scikit_learns(alpha: float) -> None:
    features, outputs, weights = draws(0)

    found = fit(features, outputs, weights, alpha)

    for output in range(2):
        ridge = Ridge(alpha).fit(features, outputs[:, output], weights)
        np.testing.assert_allclose(found.coefficients[:, output], ridge.coef_, atol=1e-10)
        assert float(found.r2[output]) == pytest.approx(ridge.score(features, outputs[:, output], weights))


def test_the_standard_error_is_how_far_other_draws_scatter() -> None:
    fits = [fit(*draws(seed)) for seed in range(200)]
    scatter = torch.stack([each.coefficients for each in fits]).std(0)
    said = torch.stack([each.errors for each in fits]).mean(0)

    np.testing.assert_allclose(said, scatter, rtol=0.25)


def test_an_output_that_does_not_vary_is_explained_by_nothing() -> None:
    features, _, weights = draws(0)

    found = fit(features, torch.ones(len(features), 1, dtype=torch.float64), weights)

    assert not found.coefficients.any()
    assert float(found.r2[0]) == 1


def test_fewer_samples_than_features_are_no_failure_but_a_large_error() -> None:
    few, many = fit(*draws(0, samples=8, features=20)), fit(*draws(0, samples=400, features=20))

    assert few.errors.isfinite().all()
    assert few.errors.mean() > 3 * many.errors.mean()
