"""Experiment files: what spans, what pairs, and what every mistake is answered with."""

from pathlib import Path

import pytest

from mongebench.core.errors import ExperimentError, InvalidParameter, MongebenchError, UnknownName
from mongebench.run.experiment import duration, packaged, read, select

GOOD = """
name = "example"
time_limit = "90s"
seeds = 3
[[estimators]]
name = ["bures", "exact"]
[[estimators]]
name = "entropic"
epsilon = [0.02, 0.05]
[[problems]]
name = "gaussian"
dim = [2, 8, 32]
[budget]
n_source = [500, 2000]
n_target = [500, 2000]
"""


def cells_of(tmp_path: Path, text: str):
    path = tmp_path / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return read(str(path)).cells()


def test_lists_span_and_budgets_pair(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, GOOD)
    assert len(cells) == (2 + 2) * 3 * 2 * 3
    assert {(cell.n_source, cell.n_target) for cell in cells} == {(500, 500), (2000, 2000)}
    assert {cell.seed for cell in cells} == {0, 1, 2}
    epsilons = {cell.estimator.parameters["epsilon"] for cell in cells if cell.estimator.name == "entropic"}
    assert epsilons == {0.02, 0.05}
    assert len({cell.key for cell in cells}) == len(cells)


def test_defaults_are_part_of_the_identity(tmp_path: Path) -> None:
    (cell,) = {
        cell.problem.label: cell for cell in cells_of(tmp_path, GOOD) if cell.problem.parameters["dim"] == 2
    }.values()
    assert {"dim", "condition", "seed"} <= set(cell.problem.parameters)


def test_a_cell_written_twice_is_one_cell(tmp_path: Path) -> None:
    twice = GOOD.replace('["bures", "exact"]', '["bures", "bures"]')
    assert len(cells_of(tmp_path, twice)) == (1 + 2) * 3 * 2 * 3


def test_a_problem_may_bring_its_budget(tmp_path: Path) -> None:
    own = GOOD.replace("dim = [2, 8, 32]", "dim = 2\nbudget = {n_source = 50, n_target = 'unlimited'}")
    assert {(cell.n_source, cell.n_target) for cell in cells_of(tmp_path, own)} == {(50, None)}


def test_a_problem_may_set_parameters_of_the_estimators_on_it(tmp_path: Path) -> None:
    both = GOOD.replace('name = ["bures", "exact"]', 'name = "sinkhorn_divergence"\nepsilon = 0.1')
    own = both.replace("[budget]", '[[problems]]\nname = "mixture"\nparameters = { epsilon = 0.5 }\n[budget]')
    cells = cells_of(tmp_path, own)
    assert {cell.estimator.parameters["epsilon"] for cell in cells if cell.problem.name == "mixture"} == {0.5}
    assert {cell.estimator.parameters["epsilon"] for cell in cells if cell.problem.name == "gaussian"} == {
        0.02,
        0.05,
        0.1,
    }


def test_a_problem_may_set_parameters_of_one_estimator(tmp_path: Path) -> None:
    own = GOOD.replace("[budget]", "parameters.entropic = { epsilon = [0.1, 0.2] }\n[budget]")
    cells = cells_of(tmp_path, own)
    assert {cell.estimator.name for cell in cells} == {"bures", "exact", "entropic"}
    assert {cell.estimator.parameters["epsilon"] for cell in cells if cell.estimator.name == "entropic"} == {0.1, 0.2}


def test_a_list_of_tables_makes_a_row_of_each(tmp_path: Path) -> None:
    tables = "[{ epsilon = 0.1, folds = 2 }, { epsilon = 0.2, folds = 4 }]"
    cells = cells_of(tmp_path, GOOD.replace("[budget]", f"parameters.entropic = {tables}\n[budget]"))
    given = [cell.estimator.parameters for cell in cells if cell.estimator.name == "entropic"]
    assert {(parameters["epsilon"], parameters["folds"]) for parameters in given} == {(0.1, 2), (0.2, 4)}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "dim = [2, 8, 32]",
            "parameters.entropc = [{ epsilon = 1.0 }]",
            ["'gaussian'", "entropc", "Did you mean 'entropic'"],
        ),
        (
            "dim = [2, 8, 32]",
            "parameters.entropc = { epsilon = 1.0 }",
            ["'gaussian'", "entropc", "Did you mean 'entropic'"],
        ),
        ("dim = [2, 8, 32]", "parameters = 3", ["'gaussian'", "table of parameters", "got 3"]),
        ("dim = [2, 8, 32]", "parameters = { family = 'ridge' }", ["family", "estimator 'bures'"]),
        ("seeds = 3", "sedes = 3", ["sedes", "Did you mean 'seeds'", "time_limit"]),
        ("n_source = [500, 2000]", "n_source = [500]", ["paired", "1 values", "2"]),
        ("n_source = [500, 2000]", "n_sources = [500, 2000]", ["n_sources", "n_source"]),
        ("n_source = [500, 2000]", "n_source = [0, 2000]", ["n_source"]),
        ('time_limit = "90s"', 'time_limit = "90 parsecs"', ["time_limit", "parsecs", "90s", "ms, s, m, h"]),
        ('time_limit = "90s"', 'time_limit = "-1s"', ["time_limit"]),
        ('time_limit = "90s"', 'memory_limit = "4 heaps"', ["memory_limit", "4 heaps", "4GiB"]),
        ('time_limit = "90s"', "memory_limit = true", ["memory_limit", "1048576"]),
        ("seeds = 3", "seeds = 0", ["seeds"]),
        ('name = "gaussian"', "", ["[[problems]] needs a name"]),
        ('name = "example"', 'name = "a/b"', ["name"]),
        ("[budget]", "[budget", ["TOML"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(MongebenchError) as caught:
        cells_of(tmp_path, GOOD.replace(old, new))
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_parameter_lists_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"epsilom.*Did you mean 'epsilon'.*Valid: .*epsilon"):
        cells_of(tmp_path, GOOD.replace("epsilon", "epsilom"))


def test_an_unknown_name_lists_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"entropik.*Did you mean 'entropic'.*bures"):
        cells_of(tmp_path, GOOD.replace('"entropic"', '"entropik"'))


def test_a_problem_may_name_its_estimators(tmp_path: Path) -> None:
    own = """
[[problems]]
name = "mixture"
estimators = "bures"
"""
    cells = cells_of(tmp_path, GOOD + own)
    assert {cell.estimator.name for cell in cells if cell.problem.name == "mixture"} == {"bures"}
    everywhere = {cell.estimator.name for cell in cells_of(tmp_path, GOOD)}
    assert {cell.estimator.name for cell in cells if cell.problem.name != "mixture"} == everywhere > {"bures"}
    with pytest.raises(MongebenchError, match=r"mixture.*burse.*Did you mean 'bures'"):
        cells_of(tmp_path, GOOD + own.replace('"bures"', '"burse"'))


def test_an_unknown_experiment_lists_the_packaged_ones() -> None:
    with pytest.raises(MongebenchError, match="quickstart"):
        read("quikstart")


@pytest.mark.parametrize("name", list(packaged()))
def test_packaged_experiments_can_be_planned(name: str) -> None:
    assert read(name).cells()


def test_select_by_name_pattern_and_label(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, GOOD)
    assert {cell.estimator.name for cell in select(cells, "bures")} == {"bures"}
    assert {cell.estimator.name for cell in select(cells, "e*")} == {"bures", "exact", "entropic"}  # an anchor
    assert {cell.problem.parameters["dim"] for cell in select(cells, "dim=32")} == {32}
    with pytest.raises(MongebenchError, match="matches no cell"):
        select(cells, "nobody")


def test_quantities() -> None:
    assert [duration(text) for text in ("90s", "10m", "3h", "250ms", 5)] == [90, 600, 10800, 0.25, 5]


@pytest.mark.parametrize(("given", "found"), [('"512MiB"', 512 << 20), ('"2GiB"', 2 << 30), ("3_000_000", 3_000_000)])
def test_sizes(tmp_path: Path, given: str, found: int) -> None:
    path = tmp_path / "sized.toml"
    path.write_text(GOOD.replace('time_limit = "90s"', f"memory_limit = {given}"), encoding="utf-8")
    assert read(str(path)).memory_limit == found


@pytest.mark.parametrize("name", [".", "..", ".hidden", "...", "", "a\\n", "x" * 101])
def test_a_name_that_leads_out_of_the_runs_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MongebenchError, match="name"):
        cells_of(tmp_path, GOOD.replace('"example"', f'"{name}"'))


@pytest.mark.parametrize(
    ("old", "new", "count"),
    [
        ("seeds = 3", "seeds = 1_000_000_000", 24 * 10**9),
        ("seeds = 3", "seeds = 100_000_000_000_000_000_000", 24 * 10**20),
        ("dim = [2, 8, 32]", f"dim = {[2] * 1000}\ncondition = {[4.0] * 1000}\nseed = {list(range(1000))}", 24 * 10**9),
        ("[0.02, 0.05]", f"{[0.02] * 100_000}", 3 * (2 + 100_000) * 2 * 3),
        ("dim = [2, 8, 32]", f"dim = 2\nparameters.entropic = {{ epsilon = {[0.1] * 200_000} }}", (2 + 200_000) * 6),
    ],
)
def test_a_grid_that_is_too_large_is_refused_before_it_is_spanned(tmp_path: Path, old: str, new: str, count) -> None:
    assert old in GOOD
    with pytest.raises(ExperimentError, match=f"example has {count} cells; at most 1000000"):
        cells_of(tmp_path, GOOD.replace(old, new))


def test_the_count_of_a_grid_is_that_of_its_cells(tmp_path: Path) -> None:
    for text in (
        GOOD,
        GOOD.replace("[budget]", "parameters.entropic = [{ epsilon = [0.1, 0.2] }, { folds = 2 }]\n[budget]"),
        GOOD.replace("dim = [2, 8, 32]", "dim = 2\nbudget = {n_source = [50, 60, 70], n_target = [1, 2, 3]}"),
    ):
        cells = cells_of(tmp_path, text)
        assert read(str(tmp_path / "experiment.toml"))._count() == len(cells)


@pytest.mark.parametrize("text", [f"seeds = 1{'0' * 5000}", f"x = {'[' * 100_000}", "name = '\x00'"])
def test_text_that_breaks_the_parser_is_a_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(ExperimentError, match="is not TOML"):
        cells_of(tmp_path, text)
