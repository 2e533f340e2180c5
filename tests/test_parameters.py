"""What parameters may be: annotations against values, by a second reading of both, and mistakes written by hand.

`python tests/test_parameters.py` prints how many bad values were tried on each estimator, and the exit codes.
"""

import enum
import math
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
import numpy as np
import pytest
import tomli_w
from pydantic import Field, PositiveInt
from sklearn.base import clone

import mongebench as mb
from mongebench import cli, plugins
from mongebench.core import parameters
from mongebench.core.estimator import idle
from mongebench.run.experiment import read
from mongebench.run.tuning import Tuning

ESTIMATORS = plugins.estimators()
CANDIDATES = [
    *(True, False, None, math.nan, math.inf, -math.inf, -1, 0, 1, 3, 2**100, -0.5, 0.5, 1.0, 1.5, 1e300),
    *("", "a", "1", "auto", "nan", [], [1], [0.5], ["a"], [-1.0], {"a": 1}),
]

BY_HAND: dict[str, list[dict[str, Any]]] = {
    "entropic": [
        *({"epsilon": -1}, {"epsilon": 0}, {"epsilon": True}, {"epsilon": "validate"}, {"epsilon": math.nan}),
        *({"scale": "mean"}, {"backend": "pot"}, {"backend": None}, {"tolerance": "1e-5"}, {"max_iterations": 1e4}),
        *({"max_iterations": 0}, {"folds": 1}, {"folds": 2.5}, {"epsilom": 0.1}, {"tolerance": math.inf}),
    ],
    "bures": [
        *({"regularisation": value} for value in (-1e-9, 1, 1.5, True, "0", None, math.nan, math.inf, [0.1])),
        *({"regularization": 0.1}, {"epsilon": 0.1}),
    ],
    "kernel_sos": [
        *({"bandwidth": "automatic"}, {"bandwidth": 0}, {"bandwidth": False}, {"lambda1": -1e-3}, {"lambda2": None}),
        *({"max_pairs": 7}, {"rounds": -1}, {"rank": 0}, {"rank": "all"}, {"folds": 1}, {"max_steps": True}),
        *({"tolerance": 0.0}, {"lambda": 1.0}),
    ],
    "flow_newton": [
        *({"family": "quadartic"}, {"family": ["ridge"]}, {"units": 0}, {"units": 64.0}, {"depth": "2"}),
        *({"tau": -1}, {"tau": math.nan}, {"steps": True}, {"warm_steps": -1}, {"curvature_points": 0}),
        *({"divergence": "KL"}, {"batch_size": None}, {"dtype": "float16"}, {"dtype": 32}, {"epsilom": 0.1}),
        *({"steps": 3, "warm_steps": 3}, {"family": "quadratic", "units": 64}, {"epsilon": 0.1}),
    ],
    "flow_implicit": [
        *({"inner": "adma"}, {"inner_steps": 0}, {"tolerance": 0}, {"share": 1.0}, {"share": 0}, {"share": "0.5"}),
        *({"tau": True}, {"schedule": "linear"}, {"steps": 1.5}, {"learning_rate": 0.01}, {"schedule": "cosine"}),
        *({"inner": "adam", "tolerance": 0.01}, {"inner": "adam", "learning_rate": -0.01}, {"units": []}),
    ],
}


def allows(annotation: Any, value: Any) -> bool:
    """Whether a value suits an annotation: a second reading, without pydantic."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        marks = [single for mark in arguments[1:] for single in (mark, *getattr(mark, "metadata", ()))]
        return allows(arguments[0], value) and all(keeps(mark, value) for mark in marks)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin in (Union, types.UnionType):
        return any(allows(argument, value) for argument in arguments)
    if origin is tuple:
        return isinstance(value, list) and all(allows(arguments[0], entry) for entry in value)
    if annotation is types.NoneType:
        return value is None
    if annotation is int:
        return type(value) is int
    assert annotation is float, f"no annotation of an estimator was {annotation} so far"
    return type(value) in (int, float) and math.isfinite(value)


def keeps(mark: Any, value: Any) -> bool:
    """Whether a value is within one bound."""
    match mark:
        case annotated_types.Gt(gt):
            return value > gt
        case annotated_types.Ge(ge):
            return value >= ge
        case annotated_types.Lt(lt):
            return value < lt
        case annotated_types.Le(le):
            return value <= le
        case annotated_types.MinLen(least):
            return len(value) >= least
    return True


def annotations(name: str) -> dict[str, Any]:
    cls = plugins.find(plugins.ESTIMATORS, name).load()
    hints = get_type_hints(cls.__init__, include_extras=True) if parameters.parameters_of(cls) else {}
    return {parameter: hints[parameter] for parameter in parameters.parameters_of(cls)}


def literals(annotation: Any) -> Iterator[str]:
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        yield from arguments
    for argument in arguments if get_origin(annotation) in (Union, types.UnionType) else ():
        yield from literals(argument)


def bad(name: str) -> list[dict[str, Any]]:
    """Parameters that an estimator must refuse: values of each that it has, and names that it has not."""
    found = [
        {parameter: value}
        for parameter, annotation in annotations(name).items()
        for value in [*CANDIDATES, *(word[:-1] + "x" for word in literals(annotation))]
        if not allows(annotation, value)
    ]
    names = [parameter + "s" for parameter in annotations(name)] + [f"no_such_parameter_{k}" for k in range(10)]
    return found + [{wrong: 1} for wrong in names if wrong not in annotations(name)]


def in_toml(given: dict[str, Any]) -> bool:
    return None not in given.values() and 2**100 not in given.values()


def experiment(folder: Path, name: str, given: dict[str, Any]) -> Path:
    """A grid of one estimator; a list within a list is a value that is a list."""
    content = {
        "name": "grid",
        "estimators": [{"name": name} | {parameter: [value] for parameter, value in given.items()}],
        "problems": [{"name": "gaussian"}],
    }
    file = folder / "grid.toml"
    file.write_text(tomli_w.dumps(content))
    return file


def dry_run(folder: Path, name: str, given: dict[str, Any]) -> int:
    """The exit code of `mongebench run FILE --dry-run`."""
    import sys

    arguments = sys.argv
    sys.argv = ["mongebench", "run", str(experiment(folder, name, given)), "--dry-run", "--out", str(folder / "run")]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = arguments
    return 0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_refuses_what_its_annotations_do_not_allow_and_nothing_else(name) -> None:
    cls = plugins.find(plugins.ESTIMATORS, name).load()
    refused = bad(name)
    assert len(refused) >= 10
    for given in refused:
        (parameter,) = given
        with pytest.raises(mb.InvalidParameter, match=parameter):
            mb.estimator(name, **given)
        if parameter in annotations(name):  # held by one that was made by hand until it is used
            with pytest.raises(mb.InvalidParameter, match=f"{cls.__name__} has invalid parameters: {parameter} must"):
                cls(**given).fit([[0.0], [1.0]], [[0.0], [1.0]])
    for parameter, annotation in annotations(name).items():
        for value in [*CANDIDATES, *literals(annotation)]:
            if allows(annotation, value):
                read_as = parameters.complete(cls, {parameter: value}, name)[parameter]
                assert read_as == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("name", BY_HAND)
def test_mistakes_by_hand_are_refused_in_python_and_by_a_dry_run(name, tmp_path, capsys) -> None:
    assert len(BY_HAND[name]) >= 10
    for given in BY_HAND[name]:
        with pytest.raises(mb.InvalidParameter, match="|".join(given)):
            mb.estimator(name, **given)
        if in_toml(given):
            assert dry_run(tmp_path, name, given) == 2, given
            assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("least", [3, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_dry_run_refuses_bad_values_with_exit_code_2(name, least, tmp_path, capsys) -> None:
    assert dry_run(tmp_path, name, {}) == 0
    refused = [given for given in bad(name) if in_toml(given)]
    chosen = refused[:: len(refused) // least]
    assert len(chosen) >= least
    for given in chosen:
        capsys.readouterr()
        assert dry_run(tmp_path, name, given) == 2, given
        assert next(iter(given)) in capsys.readouterr().err


@pytest.mark.parametrize("name", ESTIMATORS)
def test_defaults_are_what_annotations_allow_and_nothing_is_idle_that_matters(name) -> None:
    cls = plugins.find(plugins.ESTIMATORS, name).load()
    hints = annotations(name)
    for parameter, found in parameters.parameters_of(cls).items():
        default = list(found.default) if isinstance(found.default, tuple) else found.default
        assert allows(hints[parameter], default)
    for parameter, conditions in cls.matters_with.items():
        for other, values in conditions.items():
            assert hasattr(cls(), other)
            for value in values:
                assert other not in hints or allows(hints[other], value), (parameter, other, value)
    kept = mb.estimator(name)
    assert clone(kept).get_params() == kept.get_params() == cls().get_params()


def test_mistakes_are_a_sentence() -> None:
    for given, words in (
        ({"family": "quadartic"}, r"family must be .*'quadratic'.*, got 'quadartic' \(did you mean 'quadratic'\?\)"),
        ({"tau": -1}, r"Estimator 'flow_newton' has invalid parameters: tau must be .* greater than 0, got -1\."),
        ({"tau": -1, "steps": True}, r"tau must be .*, got -1; steps must be a whole number greater than 0, got True"),
        ({"stepz": 3}, r"Unknown parameter of estimator 'flow_newton' 'stepz'\. Did you mean 'steps'\? Valid: .*tau"),
        ({"epsilon": 0.1}, r"epsilon=0\.1 does nothing with divergence='kl'.*leave it out.*divergence='kl_score'"),
    ):
        with pytest.raises(mb.InvalidParameter, match=words):
            mb.estimator("flow_newton", **given)
    with pytest.raises(mb.InvalidParameter, match=r"learning_rate=0\.5 does nothing with inner='newton'"):
        mb.estimator("flow_explicit", learning_rate=0.5)
    assert mb.estimator("flow_explicit", inner="adam", learning_rate=0.5).learning_rate == 0.5


class Colour(enum.StrEnum):
    RED = "red"


def takes(
    count: PositiveInt = 1,
    ratio: float = 0.5,
    unbounded: Annotated[float, Field(allow_inf_nan=True)] = 1.0,
    file: Path = Path("a"),
    sizes: tuple[int, ...] = (1, 2),
    colour: Colour = Colour.RED,
    implicit: int = None,  # type: ignore[assignment]  # noqa: RUF013
    bare=None,
    array: np.ndarray | None = None,
) -> None: ...


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"count": np.int64(3)}, 3),
        ({"ratio": 1}, 1.0),
        ({"ratio": np.float32(0.25)}, 0.25),
        ({"unbounded": math.inf}, math.inf),
        ({"file": "b/c"}, Path("b/c")),
        ({"sizes": [3]}, (3,)),
        ({"colour": "red"}, Colour.RED),
        ({"implicit": None}, None),
        ({"bare": object}, object),
        ({"array": "anything"}, "anything"),
    ],
)
def test_values_are_read_as_an_experiment_file_has_them(given, expected) -> None:
    (name,) = given
    found = parameters.complete(takes, given, "takes")[name]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "given", [{"count": True}, {"count": "3"}, {"ratio": math.nan}, {"sizes": [1.5]}, {"colour": "blue"}, {"file": 3}]
)
def test_values_of_another_type_are_refused(given) -> None:
    with pytest.raises(mb.InvalidParameter, match=f"^Takes has invalid parameters: {next(iter(given))} must be"):
        parameters.complete(takes, given, "takes")


def test_one_fit_has_one_key(tmp_path) -> None:
    cells = {
        str(given): read(str(experiment(tmp_path, "entropic", given))).cells()[0].key
        for given in ({"epsilon": 1}, {"epsilon": 1.0}, {"epsilon": 0.05}, {})
    }
    assert cells["{'epsilon': 1}"] == cells["{'epsilon': 1.0}"]
    assert cells["{'epsilon': 0.05}"] == cells["{}"]
    assert len(set(cells.values())) == 2


@pytest.mark.parametrize(
    ("name", "given", "changed"),
    [
        ("entropic", {}, {"folds": 5}),
        ("smoothed_plugin", {"smoother": "interpolation"}, {"bandwidth": 0.1}),
        ("kernel_sos", {"bandwidth": 2.0, "lambda2": 1e-4, "max_pairs": 20}, {"folds": 2}),
        ("flow_newton", {"family": "quadratic", "steps": 2, "batch_size": 20}, {"units": 3, "depth": 1}),
        ("flow_implicit", {"units": 2, "steps": 1, "batch_size": 20}, {"learning_rate": 9.0, "schedule": "cosine"}),
    ],
)
def test_idle_parameters_do_nothing(name, given, changed) -> None:
    problem, made = mb.problem("gaussian"), mb.estimator(name, **given)
    assert set(changed) <= set(idle(made))
    one, other = (
        mb.fit(problem, estimator, n_source=40, n_target=40) for estimator in (made, clone(made).set_params(**changed))
    )
    points = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_array_equal(one.transform(points), other.transform(points))


def test_a_tuning_proposes_nothing_that_is_idle(tmp_path) -> None:
    tuning = Tuning("flow_natural", tmp_path)
    tuning._space()
    assert tuning._changed({"family": "quadratic", "units": 8, "tolerance": 1e-4}) == {
        "family": "quadratic",
        "tolerance": 1e-4,
    }
    assert tuning._changed({"family": "ridge", "units": 8, "damping": 0.1}) == {"units": 8}


THEIRS = """
from __future__ import annotations
from typing import TYPE_CHECKING
import mongebench as mb
if TYPE_CHECKING:
    from nowhere import Thing

class Theirs(mb.MapEstimator):
    needs = frozenset()
    def __init__(self, bare=1, thing: Thing = None, layers: tuple[int, ...] = (8, 8), size: int = 3):
        self.bare, self.thing, self.layers, self.size = bare, thing, layers, size
    def fit(self, source, target, *, seed=0, trace=None):
        return self
    def transform(self, X):
        return X
"""


def test_somebody_elses_annotations_hold_where_they_can_be_read(tmp_path) -> None:
    (tmp_path / "theirs.py").write_text(THEIRS)
    plugins.add_file(tmp_path / "theirs.py")
    made = mb.estimator("theirs", bare="x", thing=Path("thing"), layers=[4])
    assert (made.bare, made.thing, made.layers) == ("x", Path("thing"), (4,))
    assert clone(made).fit([[0.0]], [[1.0]]).transform([[2.0]]).tolist() == [[2.0]]
    with pytest.raises(mb.InvalidParameter, match="size must be a whole number, got 'x'"):
        mb.estimator("theirs", size="x")


def table() -> Iterator[str]:
    """How many bad values were tried on each estimator, and how they ended."""
    import contextlib
    import io
    import tempfile

    yield f"{'estimator':22}{'InvalidParameter':>18}{'--dry-run':>11}  exit codes"
    for name in ESTIMATORS:
        tried = [*bad(name), *BY_HAND.get(name, [])]
        raised, codes = 0, Counter[int]()
        for given in tried:
            try:
                mb.estimator(name, **given)
            except mb.InvalidParameter:
                raised += 1
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            for given in tried:
                if in_toml(given):
                    codes[dry_run(Path(folder), name, given)] += 1
        ends = ", ".join(f"{code}: {count} times" for code, count in sorted(codes.items()))
        yield f"{name:22}{f'{raised} of {len(tried)}':>18}{codes.total():>11}  {ends}"


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
