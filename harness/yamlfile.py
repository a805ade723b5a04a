"""YAML files that a person writes: read with line numbers, so that every mistake is one line that says where.

    document = read_yaml(Path("job.yaml"))
    job = validate(document, JobFile)      # a pydantic model that forbids unknown fields
    # UserError: job.yaml:7: unknown field 'metod' in quantize; did you mean 'method'?

Only plain data is built (mappings, lists, text, numbers, true/false, null): a tag that would construct an object is
refused, and so are files beyond a size, nesting beyond a depth, and aliases that expand without end.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from harness.errors import UserError

#: A lab of a thousand boards is about 200 kB; the parser is pure Python and takes seconds per MB.
MAX_SIZE_BYTES = 1 << 20
#: The files of the contract nest five deep.
MAX_DEPTH = 32
#: Values after aliases are expanded; "billion laughs" reaches this before it reaches the memory.
MAX_VALUES = 100_000

#: pydantic's words for a wrong kind of value speak of Python classes; a YAML file has none.
_SHAPES = {
    "model_type": "a mapping such as {field: value}",
    "dict_type": "a mapping such as {name: value}",
    "list_type": "a list such as [a, b]",
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}
_TAG = "tag:yaml.org,2002:"
Path_ = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


class FileModel(BaseModel):
    """Base of every file's model: unknown fields are errors, and nothing is converted silently ("1" is not 1)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Document:
    """The plain data of one file and the line of every key and value in it.

    Args:
        label: how messages name the file; the path as it was given.
        data: the top-level mapping.
        lines: (1-based line of the key, 1-based line of the value), by position such as ("data", "seed").
    """

    label: str
    data: dict[str, Any]
    lines: Mapping[Path_, tuple[int, int]] = field(default_factory=dict)

    def error(self, where: Path_, message: str, *, at_key: bool = False) -> UserError:
        """A UserError that starts with the file and the line of `where` (or of its nearest parent)."""
        line = self.line_of(where, at_key=at_key)
        return UserError(f"{self.label}:{line}: {message}" if line else f"{self.label}: {message}")

    def line_of(self, where: Path_, *, at_key: bool = False) -> int | None:
        """The 1-based line of `where`; None for data that came from no file."""
        if not self.lines:
            return None
        at = _known(where, self.data)
        if len(at) < len(where):  # the thing itself is absent: point at the key of what should contain it
            at_key = True
        return self.lines[at][0 if at_key else 1]


def read_yaml(path: Path) -> Document:
    """Read one YAML file.

    Raises:
        UserError: missing, a folder, not UTF-8, too large, not YAML, not a mapping, duplicate keys, object tags.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the YAML file in it")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SIZE_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path, or write one with `quantrig init`") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(raw) <= MAX_SIZE_BYTES:  # else the cut itself may have split a character
            bad = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
            raise UserError(f"{path}: not UTF-8 text ({bad}); save it as UTF-8") from None
        text = raw.decode("utf-8-sig", errors="replace")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, label: str) -> Document:
    """Like `read_yaml`, from text; `label` names the file in messages."""
    if len(text) > MAX_SIZE_BYTES:
        raise UserError(f"{label}: larger than {MAX_SIZE_BYTES >> 20} MiB; this is not a file written by hand")
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except RecursionError:
        raise UserError(f"{label}: nested deeper than {MAX_DEPTH} levels; flatten it") from None
    except MarkedYAMLError as error:
        raise _syntax_error(label, error) from None
    except YAMLError as error:
        problem = str(error).partition("\n")[0]
        raise UserError(f"{label}: not YAML text ({problem}); save it as plain UTF-8 text") from None
    if root is None or (isinstance(root, ScalarNode) and not root.value):
        raise UserError(f"{label}: the file is empty; write one with `quantrig init`")
    if not isinstance(root, MappingNode):
        raise UserError(f"{label}:{_line_of(root)}: expected fields such as `name: value` at the top level")
    builder = _Builder(label)
    data = builder.build(root, ())
    builder.lines[()] = (1, 1)
    return Document(label, data, builder.lines)


def validate(document: Document, model: type[Model]) -> Model:
    """The document as a value of `model`.

    Raises:
        UserError: the most telling of pydantic's errors, with the line of the very key or value.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        # A misspelt field is reported twice, as unknown and as missing: the former tells what to do.
        order = {"extra_forbidden": 0, "missing": 2}
        worst = min(details, key=lambda d: (order.get(d["type"], 1), document.line_of(d["loc"], at_key=True) or 0))
        raise _explain(document, model, worst) from None


def suggest(word: object, choices: Iterable[str]) -> str:
    """The tail of a message about a wrong word: "; did you mean 'method'?", or "" when nothing is close."""
    close = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def one_of(word: object, choices: Iterable[str]) -> str:
    """Like `suggest`, and lists the choices when nothing is close."""
    names = list(choices)
    return suggest(word, names) or f"; known: {', '.join(names)}"


class _Builder:
    """Turns composed nodes into plain data, remembering lines."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.lines: dict[Path_, tuple[int, int]] = {}
        self.count = 0

    def build(self, node: Node, at: Path_) -> Any:  # noqa: ANN401 - YAML data is any plain data
        self.count += 1
        if self.count > MAX_VALUES or len(at) > MAX_DEPTH:
            what = f"nested deeper than {MAX_DEPTH} levels" if len(at) > MAX_DEPTH else f"over {MAX_VALUES} values"
            raise self.error(node, f"{what} once its aliases (*name) are expanded; write the values out")
        if isinstance(node, MappingNode):
            self.check_tag(node, "map")
            return self.mapping(node, at)
        if isinstance(node, SequenceNode):
            self.check_tag(node, "seq")
            items = []
            for index, item in enumerate(node.value):
                self.lines[(*at, index)] = (_line_of(item), _line_of(item))
                items.append(self.build(item, (*at, index)))
            return items
        return self.scalar(node)

    def mapping(self, node: MappingNode, at: Path_) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise self.error(key_node, "a list or mapping cannot be a field's name")
            key = str(key_node.value)
            if key in data:
                first = self.lines[(*at, key)][0]
                raise self.error(key_node, f"field '{key}' appears twice (first in line {first}); remove one")
            empty = isinstance(value_node, ScalarNode) and not value_node.value  # its mark is that of what follows
            self.lines[(*at, key)] = (_line_of(key_node), _line_of(key_node if empty else value_node))
            data[key] = self.build(value_node, (*at, key))
        return data

    def scalar(self, node: Node) -> str | int | float | bool | None:
        text, tag = str(node.value), str(node.tag).removeprefix(_TAG)
        try:
            if tag == "int":
                return int(text.replace("_", ""), 0) if not re.fullmatch(r"[-+]?[0-9_]+", text) else int(text)
            if tag == "float":
                return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise self.error(node, f"{_short(text)} is not a number; quote it if it is text") from None
        if tag == "bool":
            return text.lower() == "true"
        if tag == "null":
            return None
        if tag in {"str", "timestamp"}:  # a date is text to us
            return text
        raise self.error(node, f"tag '{node.tag}' is not allowed: only plain data is read; remove the tag")

    def check_tag(self, node: Node, expected: str) -> None:
        if str(node.tag) != _TAG + expected:
            raise self.error(node, f"tag '{node.tag}' is not allowed: only plain data is read; remove the tag")

    def error(self, node: Node, message: str) -> UserError:
        return UserError(f"{self.label}:{_line_of(node)}: {message}")


def _explain(document: Document, model: type[BaseModel], detail: Any) -> UserError:  # noqa: ANN401 - ErrorDetails
    where: Path_ = detail["loc"]
    kind = detail["type"]
    at = _known(where, document.data)
    parent = ".".join(str(part) for part in at[:-1])
    if kind == "extra_forbidden":
        place = f" in {parent}" if parent else ""
        hint = one_of(where[-1], sorted(_fields_at(model, where[:-1])))
        return document.error(where, f"unknown field '{where[-1]}'{place}{hint}", at_key=True)
    if kind == "missing":
        place = ".".join(str(part) for part in _known(where[:-1], document.data))
        return document.error(where, f"{f'{place}: ' if place else ''}field '{where[-1]}' is missing; add it")
    name = ".".join(str(part) for part in at) or "the file"
    if kind == "value_error":
        return document.error(where, f"{name}: {detail['ctx']['error']}")
    if kind in _SHAPES:
        return document.error(where, f"{name} should be {_SHAPES[kind]}, not {_short(detail['input'])}")
    message = str(detail["msg"]).removeprefix("Input ").removeprefix("Value ")
    hint = suggest(detail["input"], re.findall(r"'([^']*)'", message)) if kind == "literal_error" else ""
    return document.error(where, f"{name} {message}, not {_short(detail['input'])}{hint}")


def _fields_at(model: type[BaseModel], where: Path_) -> set[str]:
    """Names of the fields that the model allows at a position; parts that only name a union's member are skipped."""
    frontier: list[Any] = [model]
    for part in where:
        inner: list[Any] = []
        for annotation in _alternatives(frontier):
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                inner += [
                    info.annotation for name, info in annotation.model_fields.items() if part in {name, info.alias}
                ]
            elif get_origin(annotation) is dict:
                inner.append(get_args(annotation)[1])
            elif get_origin(annotation) is list:
                inner.append(get_args(annotation)[0])
        frontier = inner or frontier
    models = [a for a in _alternatives(frontier) if isinstance(a, type) and issubclass(a, BaseModel)]
    return {info.alias or name for found in models for name, info in found.model_fields.items()}


def _alternatives(annotations: Iterable[Any]) -> list[Any]:
    """Unions and Annotated opened up."""
    found: list[Any] = []
    for annotation in annotations:
        origin = get_origin(annotation)
        if origin is None or origin in {dict, list, tuple}:
            found.append(annotation)
        else:
            inner = get_args(annotation)
            found += _alternatives(inner[:1] if origin is Annotated else inner)
    return found


def _known(where: Path_, data: Any) -> Path_:  # noqa: ANN401 - YAML data is any plain data
    """The position in the data that `where` describes; pydantic adds parts that are not in the file."""
    at: Path_ = ()
    for part in where:
        inside = data if isinstance(data, Mapping) else range(len(data)) if isinstance(data, list) else ()
        if part in inside:
            at, data = (*at, part), data[part]
    return at


def _syntax_error(label: str, error: MarkedYAMLError) -> UserError:
    mark = error.problem_mark or error.context_mark
    line = f":{mark.line + 1}" if mark is not None else ""
    problem = error.problem or error.context or "not YAML"
    if "\\t" in problem:
        return UserError(f"{label}{line}: a tab where YAML wants spaces; indent with spaces")
    if "another document" in problem:
        return UserError(f"{label}{line}: a second document (`---`); keep one per file")
    return UserError(f"{label}{line}: not valid YAML: {problem}; check indentation, colons and brackets")


def _line_of(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
