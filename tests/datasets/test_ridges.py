"""Ridges: derivatives of the potential, its inverse, and directions that no rotation takes apart."""

import numpy as np
import pytest

import mongebench as mb
from mongebench.datasets.product import RotatedProduct, laws
from mongebench.datasets.ridges import _Ridges


def random_ridges(dim: int, count: int) -> _Ridges:
    rng = np.random.default_rng(1)
    return _Ridges.random(count, 2.0, 5.0, RotatedProduct.with_moments(laws("normal", dim), np.eye(dim)), rng)


def test_derivatives_of_the_potential() -> None:
    psi = random_ridges(3, 7)
    y = np.random.default_rng(2).standard_normal((20, 3))
    h = 1e-5
    for function, derivative in (
        (psi.value, psi.gradient),
        (psi.gradient, psi.hessian),
        (psi.log_determinant, psi.log_determinant_gradient),
    ):
        numeric = np.stack([(function(y + h * e) - function(y - h * e)) / (2 * h) for e in np.eye(3)], axis=-1)
        # h^2 times third derivatives, of the order of sharpness^4, and rounding.
        np.testing.assert_allclose(derivative(y), numeric, atol=h**2 * 5.0**4 * 3 + 1e-9)


@pytest.mark.parametrize("sharpness", [0.01, 5.0, 1000.0])
@pytest.mark.parametrize("dim", [1, 2, 9])
def test_newton_inverts_everywhere(dim: int, sharpness: float) -> None:
    p = mb.problem("ridges", dim=dim, sharpness=sharpness)
    y = np.random.default_rng(0).standard_normal((200, dim)) * np.geomspace(1e-3, 1e3, 200)[:, None]
    # Rounding of x, times the largest slope of the map, 1 over the contraction, and of the curvature it is solved with.
    tolerance = 1e-14 * (1 + sharpness) * (1 + np.linalg.norm(p.truth_inverse(y), axis=1, keepdims=True))
    assert (np.abs(p.truth(p.truth_inverse(y)) - y) < tolerance).all()


@pytest.mark.parametrize("dim", [2, 8, 32])
def test_no_affine_map_will_do_in_any_dimension(dim: int) -> None:
    p = mb.problem("ridges", dim=dim)
    y = p.target.sample(3000)
    x = p.truth_inverse(y)
    affine = np.c_[x, np.ones(len(x))]
    left = y - affine @ np.linalg.lstsq(affine, y, rcond=None)[0]
    assert 8 < 100 * (left**2).sum() / len(x) / p.total_variance < 25


def test_no_basis_takes_the_map_apart() -> None:
    """Hessians of a sum over coordinates or blocks of one basis commute with a matrix that is no multiple of I."""
    hessians = random_ridges(4, 8).hessian(np.random.default_rng(3).standard_normal((50, 4)))
    # vec(H X - X H) = (H (x) I - I (x) H) vec(X) for symmetric H: the common null space is that of multiples of I.
    rows = [np.kron(H, np.eye(4)) - np.kron(np.eye(4), H) for H in hessians]
    values = np.linalg.svd(np.concatenate(rows), compute_uv=False)
    assert values[-1] < 1e-12
    assert values[-2] > 0.1


@pytest.mark.parametrize("parameters", [{"height": 0.0}, {"sharpness": -1.0}, {"target_law": "cauchy"}])
def test_refuses_parameters(parameters: dict[str, object]) -> None:
    with pytest.raises(mb.InvalidParameter, match=next(iter(parameters))):
        mb.problem("ridges", **parameters)
