"""Which files a job's own functions come from, and their digests: a figure is only as good as the text behind it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path

from harness.data.functions import import_function, is_function_spec
from harness.errors import UserError
from harness.job import Job
from harness.record.run import FunctionRecord, SourceFile


def function_records(job: Job) -> tuple[FunctionRecord, ...]:
    """The job's own metrics and its postprocessing, each with the files that it comes from as they are now.

    Args:
        job: whose functions can be imported.

    Raises:
        UserError: one of them cannot.
    """
    specs = [*job.metrics, *([job.postprocess] if job.postprocess is not None else [])]
    return tuple(
        FunctionRecord(spec, tuple(source_file(path, job.base) for path in function_files(spec, job.base)))
        for spec in dict.fromkeys(specs)
        if is_function_spec(spec)
    )


def function_files(spec: str, base: Path) -> tuple[Path, ...]:
    """Files of a "module:function": its module, the modules beside the job that this imports, and where its code is.

    Of installed packages only the file of the function itself; their versions are noted elsewhere.

    Args:
        spec: "module:function".
        base: folder of the job file.

    Raises:
        UserError: it cannot be imported.
    """
    base = base.resolve()
    function = import_function(spec, base)
    module = spec.partition(":")[0]
    found: dict[Path, None] = dict.fromkeys(_beside(module, base))
    if not found and (installed := _installed(module)) is not None:
        found[installed] = None
    waiting = [path for path in found if path.is_relative_to(base)]
    while waiting:
        for path in _imported_beside(waiting.pop(), base):
            if path not in found:
                found[path] = None
                waiting.append(path)
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is not None and (own := Path(code.co_filename)).is_file():
        found[own.resolve()] = None
    return tuple(found)


def source_file(path: Path, base: Path) -> SourceFile:
    """A file as the record names it: from the job's folder where it lies in there.

    Raises:
        UserError: it cannot be read.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); the job's functions come from it") from error
    base = base.resolve()
    name = path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)
    return SourceFile(name, digest)


def _beside(module: str, folder: Path) -> Iterator[Path]:
    """Files that importing a module from a folder runs: packages on the way, then the module; nothing if not there.

    The last word may be a name within the module: `from decode import boxes` asks for `decode.boxes` too.
    """
    parts = module.split(".")
    for number, part in enumerate(parts):
        file, package = folder / f"{part}.py", folder / part
        if file.is_file() and (number == len(parts) - 1 or not package.is_dir()):
            yield file
            return
        if not package.is_dir():
            return
        if (package / "__init__.py").is_file():
            yield package / "__init__.py"
        folder = package


def _imported_beside(path: Path, base: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # it changed since it was imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _beside(alias.name, base)
        elif isinstance(node, ast.ImportFrom):
            folder = base if node.level == 0 else path.parents[min(node.level, len(path.parents)) - 1]
            module = f"{node.module}." if node.module else ""
            for alias in node.names:
                yield from _beside(f"{module}{alias.name}", folder)


def _installed(module: str) -> Path | None:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None or not Path(found.origin).is_file():
        return None
    return Path(found.origin).resolve()
