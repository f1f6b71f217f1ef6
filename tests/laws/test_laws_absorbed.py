"""How much of the residuals' sum of squares a fit takes away, against simulation."""

import numpy as np
import pytest
from scipy import optimize

from allometry.laws.solver import OBJECTIVES


@pytest.mark.parametrize("spread", [1e-5, 1e-3, 1e-2])
def test_a_mean_fitted_by_huber_takes_what_is_said(spread: float) -> None:
    rng = np.random.default_rng(0)
    objective, n = OBJECTIVES["huber-log"], 15
    left = []
    for noise in spread * rng.standard_normal((1500, n)):
        found = optimize.minimize_scalar(
            lambda m, noise=noise: objective.loss(noise - m, objective.threshold).sum(),
            bounds=(-spread, spread),
            method="bounded",
            options={"xatol": spread * 1e-4},
        )
        left.append(((noise - found.x) ** 2).sum() / spread**2)
    assert np.mean(left) == pytest.approx(n - objective.absorbed(spread), abs=0.35)


def test_least_squares_takes_one_and_absolute_deviations_less() -> None:
    assert OBJECTIVES["lsq-log"].absorbed(0.01) == 1
    assert OBJECTIVES["lad-log"].absorbed(0.01) == pytest.approx(2 - np.pi / 2, abs=1e-3)
