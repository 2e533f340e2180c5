"""Blurred images: the coupling of an image with its blur is optimal; and the palettes of two photographs."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from typer.testing import CliRunner

import mongebench as mb
from mongebench import cli
from mongebench.datasets import images
from mongebench.run.reading import read_run

KINDS = [{"images": "digits", "width": 0.7}, {"images": "patches", "width": 2.0}]


@pytest.mark.parametrize("given", KINDS)
def test_an_image_and_its_blur_are_optimally_coupled(given) -> None:
    """By the assignment problem itself: no permutation of the blurred images is cheaper than the true pairs."""
    problem = mb.problem("blurred", **given)
    x = np.unique(problem.source.sample(300), axis=0)
    y = problem.truth(x)
    costs = ((x[:, None] - y[None]) ** 2).sum(axis=2)
    rows, columns = linear_sum_assignment(costs)
    np.testing.assert_array_equal(rows, columns)
    # Each pair exchanged costs 2 (x - x')^T B (x - x') more, which B, of least eigenvalue b, makes 2 b |x - x'|^2.
    least = np.linalg.eigvalsh(np.stack([problem.truth(row) for row in np.eye(x.shape[1])[:, None]])[:, 0])[0]
    assert least > 0
    i, j = np.triu_indices(len(x), k=1)
    exchanged = costs[i, j] + costs[j, i] - costs[i, i] - costs[j, j]
    assert (exchanged >= 2 * least * ((x[i] - x[j]) ** 2).sum(axis=1) * (1 - 1e-9)).all()


@pytest.mark.parametrize("given", KINDS)
def test_it_is_a_blur(given) -> None:
    problem = mb.problem("blurred", **given)
    d = problem.dim
    side = int(np.sqrt(d))
    matrix = problem.truth(np.eye(d))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-14)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)  # the mean brightness stays
    assert matrix.min() > -1e-15  # rounding
    centre = np.zeros((side, side))
    centre[side // 2, side // 2] = 1
    spread = problem.truth(centre.reshape(1, -1)).reshape(side, side)
    if given["images"] == "digits":  # of a blur that the border does not reach, the variance is the width squared
        offsets = np.arange(side) - side // 2
        assert (spread.sum(axis=0) * offsets**2).sum() == pytest.approx(given["width"] ** 2, rel=0.02)


@pytest.mark.parametrize("given", KINDS)
def test_the_exact_map_is_at_every_floor(given) -> None:
    problem = mb.problem("blurred", **given)
    values = mb.evaluate(problem.truth, problem, n=400)
    assert values["uvp"].value == 0
    for name in ("energy_distance", "mean_error", "covariance_error"):
        assert values[name].value <= values[name].floor


def test_the_problem_is_what_it_claims() -> None:
    """Of patches: pixels of the digits that are never written on leave their law without a density to whiten by."""
    problem = mb.problem("blurred", images="patches")
    certificate = mb.certify(problem, n=400)
    assert {"pushforward_mean", "pushforward_covariance", "monotone", "inverse", "jacobian_symmetric"} <= {
        check.name for check in certificate.checks
    }
    assert certificate.ok, str(certificate)


def test_no_image_comes_with_its_blur_and_seeds_split_anew() -> None:
    problem = mb.problem("blurred")
    sizes = [side.size for side in (problem.source, problem.target, *problem.evaluation)]
    assert sum(sizes) == 1797
    sharp = [problem.source.sample(sizes[0]), problem.truth_inverse(problem.target.sample(sizes[1]))]
    sharp += [problem.evaluation[0].sample(sizes[2]), problem.truth_inverse(problem.evaluation[1].sample(sizes[3]))]
    every = np.concatenate(sharp)
    digits = images._digits()
    # Together they are the digits, each once.
    assert sorted(map(tuple, every.round(6) + 0.0)) == sorted(map(tuple, digits + 0.0))
    again = problem.replicate(1).source.sample(sizes[0])
    assert not np.array_equal(again, sharp[0])
    np.testing.assert_array_equal(problem.replicate(0).source.sample(sizes[0]), sharp[0])


def test_bures_does_not_know_the_blur_and_more_images_tell_it_better() -> None:
    problem = mb.problem("blurred", images="patches")
    errors = []
    for n in (100, 2000):
        fitted = mb.estimator("bures").fit(problem.source.sample(n, seed=1), problem.target.sample(n, seed=2))
        errors.append(mb.evaluate(fitted.transform, problem, n=1000)["uvp"].value)
    assert errors[0] > 2 * errors[1] > 0


def test_colours_are_those_of_the_photographs() -> None:
    problem = mb.problem("colour")
    assert (problem.dim, problem.truth_tier) == (3, "none")
    for side, name in zip(problem.evaluation, ("china.jpg", "flower.jpg"), strict=True):
        picture = images.photograph(name)
        assert picture.shape == (427, 640, 3)
        drawn = side.sample(10_000)
        assert drawn.min() >= 0
        assert drawn.max() <= 1
        # 10 000 of 273 280 pixels: standard errors of a hundredth of a deviation.
        apart = (drawn.mean(axis=0) - picture.reshape(-1, 3).mean(axis=0)) / drawn.std(axis=0)
        assert np.abs(apart).max() < 0.05
    assert not np.array_equal(problem.replicate(1).source.sample(50), problem.source.sample(50))


@pytest.mark.usefixtures("no_children")
def test_a_report_shows_the_picture_that_a_map_recolours(tmp_path) -> None:
    """One run of two cheap estimators, from the experiment to the page."""
    (tmp_path / "colours.toml").write_text(
        'name = "colours"\nevaluation_points = 300\n[[estimators]]\nname = ["identity", "mean_shift"]\n'
        '[[problems]]\nname = "colour"\n[budget]\nn_source = 200\nn_target = 200\n',
        encoding="utf-8",
    )
    experiment, folder, site = (str(tmp_path / name) for name in ("colours.toml", "run", "site"))
    for words in (["run", experiment, "--out", folder], ["report", folder, "--out", site]):
        said = CliRunner().invoke(cli.app, words)
        assert said.exit_code == 0, said.output
    run = read_run(tmp_path / "run")
    sketches = {cell.cell.estimator.name: run.sketch(cell) for cell in run.plan.cells}
    before, same, after = sketches["identity"].pictures
    source, target = (images.photograph(name)[::4, ::4] for name in ("china.jpg", "flower.jpg"))
    np.testing.assert_array_equal(before, np.round(255 * source))
    np.testing.assert_array_equal(same, before)
    np.testing.assert_array_equal(after, np.round(255 * target))
    shifted = sketches["mean_shift"].pictures[1].astype(float) - before
    # A shift of every pixel by one vector, but for rounding and for colours that leave [0, 1].
    inner = (before > 100) & (before < 156)
    for j in range(3):
        assert np.ptp(shifted[:, :, j][inner[:, :, j]]) <= 1
    pages = [path.read_text(encoding="utf-8") for path in (tmp_path / "site").glob("problem-*.html")]
    assert sum("The picture, recoloured" in page and "data:image/png;base64," in page for page in pages) == 1
