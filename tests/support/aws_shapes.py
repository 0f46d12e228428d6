"""Records every request that boto3 is about to send, and checks it against AWS's own service model.

botocore checks required and unknown members, types and least values; its model also carries
patterns, enumerations and largest values, which only the service itself enforces. moto does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.handlers
from botocore.model import OperationModel, Shape
from botocore.validate import ParamValidator


@dataclass(frozen=True)
class Request:
    """One call: the service's name for IAM (``s3``), the operation, its parameters as given."""

    service: str
    operation: str
    params: dict[str, Any]
    model: OperationModel

    @property
    def problems(self) -> list[str]:
        """What the service would refuse; empty for a valid request."""
        return problems(self.model, self.params)


@contextmanager
def recorded() -> Iterator[list[Request]]:
    """The requests of all boto3 sessions that are made inside, those of the SageMaker SDK too."""
    requests: list[Request] = []
    handler = _listen(requests.append)
    try:
        yield requests
    finally:
        botocore.handlers.BUILTIN_HANDLERS.remove(handler)


def record_to(file: str) -> None:
    """Append a line of JSON for each request of this process, from now on: service, operation,
    params (what is not JSON as text) and problems."""

    def keep(request: Request) -> None:
        facts = {name: getattr(request, name) for name in ("service", "operation", "params")}
        line = json.dumps({**facts, "problems": request.problems}, default=repr)
        with Path(file).open("a") as stream:
            stream.write(f"{line}\n")

    _listen(keep)


def _listen(keep: Callable[[Request], None]) -> tuple[str, Callable[..., None]]:
    def record(params: dict[str, Any], model: OperationModel, **_: Any) -> None:
        service = model.service_model.signing_name
        keep(Request(service, model.name, _copy(params), model))

    # Every new session gets botocore's built-in handlers, which is how moto gets in, too.
    handler = ("before-parameter-build.*.*", record)
    botocore.handlers.BUILTIN_HANDLERS.insert(0, handler)
    return handler


def _copy(value: Any) -> Any:
    """A copy of the containers alone: a body may be an open file."""
    if isinstance(value, dict):
        return {name: _copy(part) for name, part in value.items()}
    return [_copy(part) for part in value] if isinstance(value, list) else value


def problems(model: OperationModel, params: dict[str, Any]) -> list[str]:
    """What is wrong with the parameters of an operation, a sentence each."""
    shape = model.input_shape
    if shape is None:
        return []
    report = ParamValidator().validate(params, shape)
    found = [report.generate_report()] if report.has_errors() else []
    return found + list(_walk(params, shape, model.name))


def _walk(value: Any, shape: Shape, place: str) -> Iterator[str]:
    yield from _limits(value, shape, place)
    if shape.type_name == "structure" and isinstance(value, dict):
        for name in value.keys() & shape.members.keys():
            yield from _walk(value[name], shape.members[name], f"{place}.{name}")
    elif shape.type_name == "list" and isinstance(value, list | tuple):
        for position, part in enumerate(value):
            yield from _walk(part, shape.member, f"{place}[{position}]")
    elif shape.type_name == "map" and isinstance(value, dict):
        for name, part in value.items():
            yield from _walk(name, shape.key, f"{place} key")
            yield from _walk(part, shape.value, f"{place}[{name!r}]")


def _limits(value: Any, shape: Shape, place: str) -> Iterator[str]:
    """Pattern, enumeration and the least and largest value or length."""
    limits = shape.metadata
    if isinstance(value, str) and "pattern" in limits and not _matches(limits["pattern"], value):
        yield f"{place}={value!r} does not match {limits['pattern']}"
    if "enum" in limits and value not in limits["enum"]:
        yield f"{place}={value!r} is none of the {len(limits['enum'])} values of {shape.name}"
    measured = value if shape.type_name in ("integer", "long", "float", "double") else None
    if isinstance(value, str | bytes | list | dict):
        measured = len(value)
    if isinstance(measured, int | float):
        if measured < limits.get("min", measured):
            yield f"{place} is {measured}, less than {limits['min']}"
        if measured > limits.get("max", measured):
            yield f"{place} is {measured}, more than {limits['max']}"


# What Python's re lacks of Java's, by something as wide or wider.
_JAVA = {
    r"\p{L}": r"\w",
    r"\p{M}": "",
    r"\p{N}": r"\d",
    r"\p{Z}": r"\s",
    r"\p{P}": "!-/:-@",
    r"\p{S}": "$+<=>^`|~",
    r"\p{Alnum}": "a-zA-Z0-9",
    r"\p{Print}": "[ -~]",
    r"\p{ASCII}": r"[\x00-\x7f]",
    r"\uD800\uDC00-\uDBFF\uDFFF": "",
    "${1,128}": "",  # how often an end is repeated
    "${1,256}": "",
}


def _matches(pattern: str, value: str) -> bool:
    for name, wider in _JAVA.items():
        pattern = pattern.replace(name, wider)
    return re.fullmatch(pattern, value) is not None
