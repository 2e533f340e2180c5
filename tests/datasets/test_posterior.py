"""Posteriors of regressions: V against textbook likelihoods, reference draws against V, and how draws are made."""

import bz2
from importlib.machinery import ModuleSpec

import jax
import numpy as np
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

import mongebench as mb
from mongebench import cli
from mongebench.datasets import posterior, references
from mongebench.datasets.posterior import MODELS, Regression

by_model = pytest.mark.parametrize("model", MODELS)


def log_posterior(regression: Regression, b: np.ndarray) -> np.ndarray:
    """Log likelihood and log prior by scipy.stats, (n, d) -> (n,)."""
    predicted = b @ regression.features.T
    if regression.model == "diabetes_poisson":
        terms = stats.poisson.logpmf(regression.response, np.exp(predicted))
    elif regression.model == "diabetes_robust":
        terms = stats.t.logpdf(regression.response, 4, loc=predicted, scale=0.7)
    else:
        terms = stats.bernoulli.logpmf(regression.response > 0, 1 / (1 + np.exp(-predicted)))
    return terms.sum(axis=1) + stats.norm.logpdf(b, scale=regression.prior).sum(axis=1)


@by_model
def test_v_is_minus_the_log_posterior_and_its_gradient(model) -> None:
    regression = Regression.of(model, 0.7)
    b = 0.3 * np.random.default_rng(0).standard_normal((6, regression.dim))
    total = regression.potential(b) + log_posterior(regression, b)
    np.testing.assert_allclose(total, total[0], rtol=1e-9)
    with jax.enable_x64(True):
        slopes = jax.grad(lambda b: regression.potential(b).sum())(jax.numpy.asarray(b))
    np.testing.assert_allclose(regression.gradient(b), slopes, rtol=1e-8, atol=1e-8)
    values = regression.potential(torch.tensor(b, dtype=torch.float32))
    np.testing.assert_allclose(values, regression.potential(b), rtol=1e-5)


@pytest.mark.parametrize(("model", "d"), list(zip(MODELS, (31, 14, 16, 11, 11), strict=True)))
def test_reference_draws_are_those_of_v(model, d) -> None:
    """Stein's identities hold the draws against the gradient of V, which NUTS never saw in this form."""
    problem = mb.problem("posterior", model=model, source="laplace")
    assert problem.dim == d
    assert problem.strong_convexity == (None if model == "diabetes_robust" else 1.0)
    certificate = mb.certify(problem, n=500)
    assert {"target_stein", "target_scale", "target_shape"} <= {check.name for check in certificate.checks}
    assert certificate.ok, str(certificate)


def test_draws_of_another_prior_are_refused_by_their_own_v() -> None:
    """The same draws under V of a narrower prior: Stein's identities notice."""
    problem, other = mb.problem("posterior", model="wine"), Regression.of("wine", 0.9)
    target = {"potential": other.potential, "gradient": other.gradient, "dim": 14}
    wrong = mb.Target(**target, sampler=problem.evaluation[1].sampler, size=6000)
    moved = mb.Problem(source=problem.source, target=wrong, held_out=(problem.source, wrong), dim=14, version=1)
    assert {"target_stein", "target_scale"} & set(mb.certify(moved, n=500).failed)


@by_model
def test_the_certificate_that_comes_with_draws_is_that_of_these_draws(model) -> None:
    from arviz_stats.base import array_stats

    regression = Regression.of(model, 1.0)
    found = references.load(regression.digest, regression.potential, regression.how)
    chains = np.column_stack([found.draws, regression.potential(found.draws)]).reshape(8, 1500, -1)
    r_hat = max(float(array_stats.rhat(chains[:, :, j])) for j in range(chains.shape[2]))
    bulk = min(float(array_stats.ess(chains[:, :, j])) for j in range(chains.shape[2]))
    assert r_hat < 1.01
    assert bulk > 10_000
    # Draws were rounded since: of the ranks that these are made of, few changed.
    assert r_hat == pytest.approx(found.certificate["r_hat"], abs=1e-4)
    assert bulk == pytest.approx(found.certificate["bulk"], rel=1e-2)
    assert found.certificate["divergent"] == 0


def test_both_parts_are_draws_and_no_draw_is_in_both() -> None:
    problem = mb.problem("posterior", model="wine")
    x, y = problem.target.sample(6000), problem.evaluation[1].sample(6000)
    assert not set(map(tuple, x)) & set(map(tuple, y))
    # Of 14 means each, with standard errors of (2 / 6000)^1/2 deviations.
    assert np.abs((x.mean(axis=0) - y.mean(axis=0)) / y.std(axis=0)).max() < 5 * np.sqrt(2 / 6000)


def test_laplace_is_at_the_mode_and_diagnose_says_how_far_it_is() -> None:
    problem = mb.problem("posterior", model="digits", source="laplace")
    normal = Regression.of("digits", 1.0).laplace()
    assert np.abs(problem.target.gradient(normal.mean[None])).max() < 1e-5
    found = mb.diagnose(lambda x: x, problem.source, problem.target)
    moved = mb.diagnose(lambda x: x + 0.5 * normal.factor.sum(axis=1), problem.source, problem.target)
    assert 4 * found.kl_se < found.kl < 2
    assert moved.divergence > found.divergence + 4 * moved.divergence_se


def test_missing_draws_and_those_of_another_v_are_a_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(mb.InvalidInput, match="mongebench references build wine --prior 2"):
        mb.problem("posterior", model="wine", prior=2.0)
    wine, wider = Regression.of("wine", 1.0), Regression.of("wine", 2.0)
    found = references.load(wine.digest, wine.potential, wine.how)
    references.save(found, wider.digest, wine.potential, references.cache())
    with pytest.raises(mb.InvalidInput, match="made for another potential"):
        mb.problem("posterior", model="wine", prior=2.0)
    references.save(found, wider.digest, wider.potential, references.cache())
    assert mb.problem("posterior", model="wine", prior=2.0).strong_convexity == 0.25
    (path,) = references.cache().iterdir()
    np.savez(path, draws=found.draws)
    with pytest.raises(mb.InvalidInput, match="holds no reference draws"):
        mb.problem("posterior", model="wine", prior=2.0)


def test_nuts_draws_from_a_gaussian(monkeypatch) -> None:
    """One compilation of NUTS takes seconds."""
    monkeypatch.setattr(references, "BULK", 1000)
    monkeypatch.setattr(references, "KEPT", 500)
    monkeypatch.setattr(references, "WARM_UP", 200)
    covariance = np.array([[2.0, 0.6], [0.6, 0.5]])
    precision, mean = np.linalg.inv(covariance), np.array([3.0, -1.0])

    def potential(y):
        return ((y - mean) @ precision * (y - mean)).sum(axis=1) / 2

    said = []
    found = references.sample(potential, mean + 0.1, 1.3 * np.linalg.cholesky(covariance), say=said.append)
    assert found.draws.shape == (4000, 2)
    bulk = found.certificate["bulk"]
    assert found.certificate["r_hat"] < 1.01
    assert bulk > 1000
    assert said[-1].endswith(f"bulk effective sample size {bulk:.0f}")
    standard = (found.draws - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
    assert np.abs(standard.mean(axis=0)).max() < 5 / np.sqrt(bulk)
    assert np.abs(np.cov(standard.T) - np.eye(2)).max() < 5 * np.sqrt(2 / bulk)

    monkeypatch.setattr(references, "BULK", 1e9)
    monkeypatch.setattr(references, "ROUNDS", 1)
    with pytest.raises(mb.NotConverged, match=r"after 500 draws of each of 8 chains; expected below 1\.01"):
        references.sample(potential, mean, np.eye(2), say=said.append)


def invoke(*words: str):
    return CliRunner().invoke(cli.app, ["references", *words])


def test_the_command_builds_lists_and_refuses(tmp_path, monkeypatch) -> None:
    listed = invoke("list", "wine", "digits")
    assert listed.output.splitlines()[0].startswith("wine: 12000 draws, d = 14, R-hat 1.000")
    assert (
        "references build digits --prior 3" in invoke("list", "digits", "--prior", "3", "--out", str(tmp_path)).output
    )

    def sample(self, seed, say):
        say(f"seed {seed}")
        return references.load(Regression.of("wine", 1.0).digest, Regression.of("wine", 1.0).potential, "")

    monkeypatch.setattr(posterior.Regression, "sample", sample)
    built = invoke("build", "wine", "--prior", "3", "--out", str(tmp_path / "draws"))
    assert built.exit_code == 0, built.output
    (path,) = (tmp_path / "draws").iterdir()
    assert path.name == f"{Regression.of('wine', 3.0).digest}.npz"
    assert "12000 draws" in built.output
    for words, said in ((["make"], "Valid: build, list"), (["list", "wines"], "Did you mean 'wine'")):
        assert said in str(invoke(*words).exception)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The files of sbibm's two tasks as its wheel has them, with data of our own."""
    rng = np.random.default_rng(0)
    data, design = rng.standard_normal(10), rng.standard_normal((100, 10)).astype(np.float32)
    draws = data / 2 + np.sqrt(0.05) * rng.standard_normal((10_000, 10))
    spikes = rng.integers(2, size=100) @ design
    head = ",".join(f"x_{j}" for j in range(10)) + "\n"
    for task, seen in (("gaussian_linear", data), ("bernoulli_glm", spikes)):
        folder = tmp_path / "sbibm" / "tasks" / task / "files" / "num_observation_3"
        folder.mkdir(parents=True)
        (folder / "observation.csv").write_text(head + ",".join(map(repr, seen.tolist())) + "\n", encoding="utf-8")
        rows = "\n".join(",".join(map(str, row)) for row in draws.round(6).tolist())
        with bz2.open(folder / "reference_posterior_samples.csv.bz2", "wt", encoding="utf-8") as file:
            file.write(head + rows)
    torch.save(torch.tensor(design), folder.parent / "design_matrix.pt")
    spec = ModuleSpec("sbibm", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "sbibm")]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    return data, design.astype(float), spikes


def test_no_truth_metrics_follow_the_true_error_where_it_is_known(wheel) -> None:
    problem = mb.problem("sbibm", task="gaussian_linear", observation=3)
    assert mb.certify(problem, n=1000).ok
    assert problem.strong_convexity == pytest.approx(20)
    exact = mb.evaluate(problem.truth, problem, n=5000)
    for name in ("mean_error", "covariance_error", "energy_distance"):
        assert exact[name].value <= exact[name].floor
    before = 0.0
    for shift in (0.05, 0.1, 0.2):  # in posterior standard deviations, in each coordinate
        wrong = mb.evaluate(lambda x, s=shift: problem.truth(x) + s * np.sqrt(0.05), problem, n=5000)
        true_error = np.sqrt(wrong["l2_error"].value / 10 / 0.05)
        assert wrong["mean_error"].value == pytest.approx(true_error, abs=4 * wrong["mean_error"].standard_error)
        assert wrong["energy_distance"].value > before
        before = wrong["energy_distance"].value
        found = mb.diagnose(lambda x, s=shift: problem.truth(x) + s * np.sqrt(0.05), problem.source, problem.target)
        assert found.kl == pytest.approx(10 * shift**2 / 2, abs=4 * found.kl_se)
        assert wrong["l2_error"].value <= found.error_bound


def test_bernoulli_glm_is_the_likelihood_of_its_statistics(wheel) -> None:
    _, design, spikes = wheel
    problem = mb.problem("sbibm", task="bernoulli_glm", observation=3)
    b = np.random.default_rng(1).standard_normal((5, 10))
    logits = b @ design.T
    first = np.eye(9) - np.eye(9, k=-1)
    weights = first @ first + np.diag(np.sqrt(np.arange(9) / 9))
    prior = b[:, 0] ** 2 / 4 + ((b[:, 1:] @ weights.T) ** 2).sum(axis=1) / 2
    expected = np.log1p(np.exp(logits)).sum(axis=1) - b @ spikes + prior
    np.testing.assert_allclose(problem.target.potential(b), expected, rtol=1e-6)
    with jax.enable_x64(True):
        slopes = jax.grad(lambda b: problem.target.potential(b).sum())(jax.numpy.asarray(b))
    np.testing.assert_allclose(problem.target.gradient(b), slopes, rtol=1e-8, atol=1e-8)
    assert problem.strong_convexity == pytest.approx(min(0.5, np.linalg.eigvalsh(weights.T @ weights)[0]))


def test_sbibm_that_is_not_there_or_another_is_a_sentence(wheel, monkeypatch) -> None:
    with pytest.raises(mb.InvalidInput, match=r"cannot be read.*expected version 1\.1"):
        mb.problem("sbibm", task="gaussian_linear", observation=4)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="--no-deps will do"):
        mb.problem("sbibm", task="gaussian_linear")
