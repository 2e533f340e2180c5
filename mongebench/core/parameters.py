"""Parameters of estimators and problems, read off the annotations of whatever takes them: one place that refuses.

An annotation is a type with its bounds: `int`, `PositiveFloat`, `Annotated[float, Field(gt=0, lt=1)]`, `int | None`,
`Literal["newton", "adam"]`, `float | Literal["auto"]`. Values are read as from JSON, strictly, because that is how they
travel from an experiment file to the process that fits: 1 is a number and becomes 1.0 where the annotation says float,
so that it names the same cell; True, "1" and 1.0 are not whole numbers; NaN and infinity are refused unless the
annotation allows them. A parameter without annotation, or with one that pydantic cannot read, takes whatever it is
given, and the default is always allowed.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import os
import reprlib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from mongebench.core.errors import InvalidParameter, one_of

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    types.NoneType: "None",
}
_BOUNDS = {
    "gt": "greater than {}",
    "ge": "of at least {}",
    "lt": "less than {}",
    "le": "of at most {}",
    "min_length": "with {} or more entries",
    "max_length": "with {} or fewer entries",
    "pattern": "that matches {}",
    "allow_inf_nan": "",
}
"""What the metadata of an annotation say, by their attribute."""


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword parameters of an estimator class or a problem family."""
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def complete(function: Callable[..., Any], given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`given`, as the annotations of `function` have it, with the defaults of what was left out.

    Parameters
    ----------
    function
        An estimator class or a problem family.
    given
        By name.
    what
        Begins the message: "estimator 'entropic'".

    Raises
    ------
    InvalidParameter
        A name that does not exist, one that is missing, a value of the wrong type or out of range: all of these that
        there are, each with what was expected.
    """
    known = fields(function)
    for name in given:
        if name not in known:
            raise InvalidParameter(one_of(name, known, f"parameter of {what}"))
    values = {name: given.get(name, field.default) for name, field in known.items()}
    missing = [name for name, value in values.items() if value is inspect.Parameter.empty]
    if missing:
        raise InvalidParameter(f"{what} needs {', '.join(missing)}.")
    return _checked(known, values, what)


def check(made: Any) -> None:
    """Raise `InvalidParameter` unless the attributes of an object suit the annotations of its class's parameters.

    For objects that were made without `complete`, which scikit-learn lets hold anything until they are used.
    """
    cls: Callable[..., Any] = type(made)
    known = fields(cls)
    values = {name: getattr(made, name) for name in known if hasattr(made, name)}
    _checked(known, values, type(made).__name__)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a plan and a record hold them: text for paths and members of enumerations, lists for tuples."""
    from pydantic_core import to_jsonable_python

    return {name: to_jsonable_python(value, fallback=_plain) for name, value in values.items()}


def same(one: Any, other: Any) -> bool:
    """Whether two values are written alike: True is not 1, and a tuple is its list."""
    try:
        return _as_json(one) == _as_json(other)
    except (TypeError, ValueError, RecursionError):
        return one is other


def expectation(annotation: Any) -> str:
    """An annotation in words: "a finite number greater than 0, or 'auto'"; its source where there are none for it."""
    *first, last = _alternatives(annotation)
    return f"{', '.join(first)} or {last}" if first else last


def _alternatives(annotation: Any) -> list[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return [_bounded(expectation(arguments[0]), arguments[1:])]
    if origin is Literal:
        return [repr(choice) for choice in arguments]
    if origin in (Union, types.UnionType):
        return [words for argument in arguments for words in _alternatives(argument)]
    if origin in (list, tuple, Sequence):
        return [f"a list ({' or '.join(expectation(entry) for entry in arguments if entry is not Ellipsis)} each)"]
    return [_WORDS.get(annotation) or inspect.formatannotation(annotation)]


@dataclass(frozen=True)
class Field:
    """One parameter.

    Attributes
    ----------
    default
        `inspect.Parameter.empty` where there is none.
    annotation
        `Any` where there is none that can be read.
    adapter
        Reads a value; None for one that takes any.
    """

    default: Any
    annotation: Any
    adapter: Any

    def read(self, value: Any) -> Any:
        """The value as the annotation has it. Raises `ValueError`."""
        if self.adapter is None:
            return value
        try:
            text = _as_json(value)
        except (TypeError, ValueError, RecursionError):  # no value of an experiment file: an object of Python
            return self.adapter.validate_python(value, strict=True)
        return self.adapter.validate_json(text, strict=True)


# Bounded, because a module that is read afresh brings classes of its own.
@functools.lru_cache(maxsize=256)
def fields(function: Callable[..., Any]) -> dict[str, Field]:
    """The parameters of an estimator class or a problem family, by name."""
    takes = inspect.unwrap(function.__init__ if inspect.isclass(function) else function)
    names = getattr(takes, "__globals__", {})
    found = {}
    for name, parameter in parameters_of(function).items():
        annotation = _evaluated(parameter.annotation, names)
        found[name] = Field(parameter.default, annotation, _adapter(annotation))
    return found


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """An annotation that may be text; `Any` where a name of it exists for type checkers alone."""
    if annotation is inspect.Parameter.empty:
        return Any
    try:
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        return get_type_hints(holder, globalns=names, include_extras=True)["it"]
    except Exception:  # somebody else's annotation
        return Any


def _adapter(annotation: Any) -> Any:
    if annotation is Any:
        return None
    from pydantic import ConfigDict, TypeAdapter

    try:
        return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
    except Exception:  # pydantic has no schema for it, or it has a configuration of its own
        return None


def _checked(known: Mapping[str, Field], values: Mapping[str, Any], what: str) -> dict[str, Any]:
    checked, refused = {}, []
    for name, value in values.items():
        field = known[name]
        try:
            checked[name] = field.read(value)
        except ValueError:
            if same(value, field.default):
                checked[name] = value
            else:
                expected = expectation(field.annotation)
                refused.append(f"{name} must be {expected}, got {_shown(value)}{_hint(value, field)}")
    if refused:
        raise InvalidParameter(f"{what[:1].upper()}{what[1:]} has invalid parameters: {'; '.join(refused)}.")
    return checked


def _shown(value: Any) -> str:
    try:
        return reprlib.repr(value)
    except Exception:  # somebody else's class
        return f"a {type(value).__name__}"


def _hint(value: Any, field: Field) -> str:
    """The literal that was meant, if it is close."""
    close = difflib.get_close_matches(value, _literals(field.annotation), n=1) if isinstance(value, str) else []
    return f" (did you mean {close[0]!r}?)" if close else ""


def _literals(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if isinstance(choice, str)]
    return [name for argument in get_args(annotation) for name in _literals(argument)]


def _bounded(words: str, marks: tuple[Any, ...]) -> str:
    """`words` with the bounds among the metadata of an annotation."""
    found: dict[str, Any] = {}
    for mark in marks:
        for single in (mark, *getattr(mark, "metadata", ())):
            found |= {name: getattr(single, name) for name in _BOUNDS if getattr(single, name, None) is not None}
    if found.get("allow_inf_nan"):
        words = words.replace("finite ", "")
    bounds = [says.format(found[name]) for name, says in _BOUNDS.items() if says and name in found]
    return f"{words} {' and '.join(bounds)}".strip()


def _as_json(value: Any) -> str:
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON has in place of a number or an array of NumPy, or a path. Raises `TypeError` for anything else."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return os.fspath(value)
