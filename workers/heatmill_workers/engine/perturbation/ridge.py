"""Weighted ridge regression with an intercept, in closed form, and how sure it is of its answer."""

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDING = 1e-12


@dataclass(frozen=True)
class Fit:
    """A linear model of K outputs on S features; float64.

    Args:
        coefficients: (S, K).
        r2: (K,), weighted; 1 is a perfect fit, and an output that does not vary is one.
        errors: (S, K), standard errors of the coefficients over another draw of the samples.
    """

    coefficients: Tensor
    r2: Tensor
    errors: Tensor


def fit(features: Tensor, outputs: Tensor, weights: Tensor, alpha: float = 1) -> Fit:
    """Minimise the weighted squared error plus `alpha` times the squared coefficients; the intercept is free.

    One factorisation serves all outputs. The errors are the jackknife's, as HC3 (MacKinnon, White 1985) states them:
    they hold for residuals of any shape, and grow without bound as the samples become too few for the features.

    Args:
        features: (N, S) float64.
        outputs: (N, K) float64.
        weights: (N,) float64, positive.
        alpha: The penalty.
    """
    share = (weights / weights.sum()).unsqueeze(1)
    centred, centred_outputs = features - (share * features).sum(0), _varying(outputs, share)
    weighted = centred * weights.unsqueeze(1)
    penalty = alpha * torch.eye(features.shape[1], dtype=features.dtype)
    factor = torch.linalg.cholesky(weighted.T @ centred + penalty)
    coefficients = torch.cholesky_solve(weighted.T @ centred_outputs, factor)
    residuals = centred_outputs - centred @ coefficients
    # (S, N): how each sample's output moves each coefficient.
    influence = torch.cholesky_solve(weighted.T, factor)
    leverage = (centred * influence.T).sum(1, keepdim=True) + share
    errors = ((influence**2) @ (residuals / (1 - leverage)) ** 2).sqrt()
    return Fit(coefficients, _r2(residuals, centred_outputs, share), errors)


def _varying(outputs: Tensor, share: Tensor) -> Tensor:
    """Outputs about their means; 0 where they differ by rounding only."""
    centred = outputs - (share * outputs).sum(0)
    return centred * (centred.abs().amax(0) > ROUNDING * outputs.abs().amax(0))


def _r2(residuals: Tensor, centred_outputs: Tensor, share: Tensor) -> Tensor:
    unexplained, total = (share * residuals**2).sum(0), (share * centred_outputs**2).sum(0)
    return torch.where(total > 0, 1 - unexplained / total.clamp_min(torch.finfo(total.dtype).tiny), 1.0)
