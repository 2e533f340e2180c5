"""The pairs of Korotin et al.: a tiny pair of our own everywhere, the published ones where their files are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import mongebench as mb
from mongebench.check.certificate import certify
from mongebench.cli import app
from mongebench.core.errors import InvalidInput, InvalidParameter
from mongebench.datasets.korotin import REPOSITORY, VARIABLE
from mongebench.datasets.truths.make_pair import make_pair

DIM = 3
DATA = os.environ.get(VARIABLE, "")


@pytest.fixture(autouse=True)
def _no_data_of_the_users(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("pair")
    make_pair(directory, DIM, seed=1)
    return directory


@pytest.fixture
def forward(folder):
    return mb.problem("korotin", dim=DIM, directory=folder)


@pytest.fixture
def reversed_(folder):
    return mb.problem("korotin", dim=DIM, direction="reversed", directory=folder)


def by_hand(folder: Path, x: np.ndarray) -> np.ndarray:
    """psi_1 + psi_2 at x (n, d), in NumPy: a second implementation, from the format as the data's README has it."""

    def celu(z):
        return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))

    total = np.zeros(len(x))
    for version in (1, 2):
        state = torch.load(folder / f"{DIM}_v{version}.pt", weights_only=True)
        s = {name: tensor.numpy().astype(np.float64) for name, tensor in state.items()}

        def q(k, s=s):
            layer = f"quadratic_layers.{k}."
            squares = (x @ s[layer + "quadratic_decomposed"][:, 0, :]) ** 2
            return squares + x @ s[layer + "weight"].T + s[layer + "bias"]

        z = q(0)
        z = z @ s["convex_layers.0.weight"].T + q(1)
        z = celu(z) @ s["convex_layers.1.weight"].T + q(2)
        total += celu(z) @ s["final_layer.weight"][0] + 0.005 * (x**2).sum(axis=1)
    return total


def test_the_map_is_the_gradient_of_the_stored_networks(forward, folder):
    """By central differences of the second implementation; their error is h^2 and the rounding 1e-16 / h."""
    x = forward.source.sample(50, seed=1)
    constants = json.loads((folder / "standardisation.json").read_text())[str(DIM)]
    h = 1e-5
    slopes = [(by_hand(folder, x + step) - by_hand(folder, x - step)) / (2 * h) for step in h * np.eye(DIM)]
    expected = constants["scale"] * (np.stack(slopes, axis=1) - constants["shift"])
    np.testing.assert_allclose(forward.truth(x), expected, atol=1e-8)


def test_the_source_is_the_mixture_of_the_rule(forward):
    """NumPy's legacy generator, as the authors have it; components found by the nearest centre of the rule."""
    rs = np.random.RandomState(0)
    centres = np.stack([rs.choice([0, 1, 2], 3, replace=False) for _ in range(DIM)], axis=1) - 1.0
    matrices = rs.normal(size=(3, DIM, DIM))
    matrices /= np.linalg.norm(matrices, axis=2, keepdims=True)
    unit = np.sqrt((centres**2).sum(axis=1).mean() + DIM * 0.16) / np.sqrt(DIM)
    centres, factors = centres / unit, 0.4 * matrices / unit
    x = forward.source.sample(40_000, seed=3)
    second = np.mean([np.outer(c, c) + f @ f.T for c, f in zip(centres, factors, strict=True)], axis=0)
    np.testing.assert_allclose(x.T @ x / len(x), second, atol=5 * 2 / np.sqrt(len(x)))
    covariances = [f @ f.T for f in factors]
    logs = [
        -0.5 * np.einsum("ni,ij,nj->n", x[:9] - c, np.linalg.inv(s), x[:9] - c)
        - 0.5 * np.linalg.slogdet(2 * np.pi * s)[1]
        for c, s in zip(centres, covariances, strict=True)
    ]
    # The rule is in float32; a factor of small determinant magnifies its rounding.
    np.testing.assert_allclose(forward.source.log_density(x[:9]), np.logaddexp.reduce(logs) - np.log(3), atol=1e-3)


def test_both_directions_are_certified(forward, reversed_):
    for problem in (forward, reversed_):
        certificate = certify(problem, n=500, seed=3)
        assert certificate.ok, str(certificate)


def test_the_way_back_is_the_other_problem(forward, reversed_):
    x = forward.source.sample(200, seed=2)
    y = forward.truth(x)
    np.testing.assert_allclose(reversed_.truth(y), x, atol=1e-9)
    np.testing.assert_allclose(forward.truth_inverse(y), x, atol=1e-9)
    np.testing.assert_array_equal(reversed_.truth_inverse(x), y)
    assert forward.strong_convexity is None
    assert reversed_.strong_convexity is None
    np.testing.assert_allclose(forward.target.potential(y), -reversed_.source.log_density(y), rtol=1e-12)


def test_scores_are_gradients(forward, reversed_):
    """By central differences, whose error is h^2. Q has no score: its density jumps."""
    assert not forward.target.gradient
    assert not reversed_.source.score
    h = 1e-4
    for value, derivative, points in (
        (forward.source.log_density, forward.source.score, forward.source.sample(20)),
        (reversed_.target.potential, reversed_.target.gradient, reversed_.target.sample(20)),
    ):
        slopes = [(value(points + step) - value(points - step)) / (2 * h) for step in h * np.eye(DIM)]
        np.testing.assert_allclose(derivative(points), np.stack(slopes, axis=1), atol=1e-4)


def test_flows_can_trace_v_of_the_reversed_pair(reversed_):
    y = reversed_.target.sample(5)
    traced = jax.jit(jax.grad(lambda y: reversed_.target.potential(y).sum()))(jax.numpy.asarray(y, np.float32))
    np.testing.assert_allclose(traced, reversed_.target.gradient(y), rtol=1e-3, atol=1e-4)


def test_the_image_is_standardised(forward):
    """By other draws than those of the rule: to their sampling error, and that of 2^14 draws."""
    y = forward.target.sample(1 << 14, seed=5)
    spread = np.sqrt(2 / (1 << 14))
    assert np.abs(y.mean(axis=0)).max() < 5 * spread * y.std(axis=0).max()
    squares = ((y - y.mean(axis=0)) ** 2).sum(axis=1)
    assert abs(squares.mean() - DIM) < 5 * np.sqrt(2 / len(y)) * squares.std()


def test_constants_are_stored_once_and_then_read(tmp_path):
    make_pair(tmp_path, DIM, seed=2)
    first = mb.problem("korotin", dim=DIM, directory=tmp_path)
    stored = tmp_path / "standardisation.json"
    content = stored.read_text()
    assert mb.problem("korotin", dim=DIM, directory=tmp_path).digest == first.digest
    assert stored.read_text() == content
    constants = json.loads(content)
    constants[str(DIM)]["scale"] *= 2
    stored.write_text(json.dumps(constants))
    twice = mb.problem("korotin", dim=DIM, directory=tmp_path)
    x = first.source.sample(5)
    np.testing.assert_allclose(twice.truth(x), 2 * first.truth(x))
    assert twice.digest != first.digest
    stored.write_text("[1, 2]")
    with pytest.raises(InvalidInput, match=r"standardisation\.json is no file of scales"):
        mb.problem("korotin", dim=DIM, directory=tmp_path)


def test_other_networks_are_another_problem(forward, tmp_path, folder):
    (tmp_path / "standardisation.json").write_text((folder / "standardisation.json").read_text())
    make_pair(tmp_path, DIM, seed=3)
    assert mb.problem("korotin", dim=DIM, directory=tmp_path).fingerprint != forward.fingerprint


def test_a_missing_file_says_where_to_get_it(tmp_path, folder, monkeypatch):
    with pytest.raises(InvalidParameter, match="no directory is named") as error:
        mb.problem("korotin")
    assert all(word in str(error.value) for word in (REPOSITORY, "2_v1.pt", "2_v2.pt", VARIABLE))
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(InvalidParameter, match=r"found no 16_v1\.pt and 16_v2\.pt in"):
        mb.problem("korotin", dim=16)
    (tmp_path / "korotin").symlink_to(folder)
    assert mb.problem("korotin", dim=DIM).dim == DIM
    shown = CliRunner().invoke(app, ["show", "korotin"]).output
    assert REPOSITORY in shown.replace("\n", "")
    assert VARIABLE in shown


def test_a_file_of_something_else_is_refused(tmp_path):
    make_pair(tmp_path, DIM)
    path = tmp_path / f"{DIM}_v2.pt"
    state = torch.load(path, weights_only=True)
    torch.save({**state, "final_layer.weight": -state["final_layer.weight"]}, path)
    with pytest.raises(InvalidInput, match="negative: it is not convex"):
        mb.problem("korotin", dim=DIM, directory=tmp_path)
    torch.save({**state, "quadratic_layers.0.weight": state["quadratic_layers.0.weight"] * np.nan}, path)
    with pytest.raises(InvalidInput, match=r"quadratic_layers\.0\.weight has entries that are not finite"):
        mb.problem("korotin", dim=DIM, directory=tmp_path)
    assert not (tmp_path / "standardisation.json").exists()
    whole = (tmp_path / f"{DIM}_v1.pt").read_bytes()
    for content in (b"not a checkpoint", b"", whole[:-10], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=rf"{path.name} \({len(content)} bytes\) is no checkpoint"):
            mb.problem("korotin", dim=DIM, directory=tmp_path)
    for version in (1, 2):
        (tmp_path / f"5_v{version}.pt").write_bytes((tmp_path / f"{DIM}_v1.pt").read_bytes())
    with pytest.raises(InvalidInput, match=f"points of dimension {DIM}"):
        mb.problem("korotin", dim=5, directory=tmp_path)


def linear_map(problem, n=20_000):
    return mb.estimator("bures").fit(problem.source.sample(n, seed=3), problem.target.sample(n, seed=4)).transform


@pytest.mark.skipif(not DATA, reason=f"the authors' files are not here: {VARIABLE}")
@pytest.mark.parametrize(("dim", "identity", "linear"), [(2, 32.3, 14.3), (8, 58.4, 26.6), (16, 88.9, 41.9)])
def test_reference_rows_of_the_published_pairs(dim, identity, linear):
    """As reported: 5 x 2000 points, standard deviation of one below 1.2, so of a mean below 0.54; four of both."""
    problem = mb.problem("korotin", dim=dim, directory=DATA)
    for map, expected in ((lambda x: x, identity), (linear_map(problem), linear)):
        assert abs(mb.evaluate(map, problem, n=10_000)["uvp"].value - expected) < 4 * 0.54 * np.sqrt(2)


def test_reference_rows_of_the_tiny_pair(forward, folder):
    """As of the published pairs, with the second implementation for the truth."""
    constants = json.loads((folder / "standardisation.json").read_text())[str(DIM)]
    x, h = forward.source.sample(4000, seed=9), 1e-5
    slopes = [(by_hand(folder, x + step) - by_hand(folder, x - step)) / (2 * h) for step in h * np.eye(DIM)]
    truth = constants["scale"] * (np.stack(slopes, axis=1) - constants["shift"])
    for map in (lambda x: x, linear_map(forward)):
        squares = ((map(x) - truth) ** 2).sum(axis=1)
        found = mb.evaluate(map, forward, n=4000)["uvp"]
        expected, noise = 100 * squares.mean() / DIM, 100 * squares.std() / DIM / np.sqrt(4000)
        assert abs(found.value - expected) < 4 * noise * np.sqrt(2)
        assert expected > 1
