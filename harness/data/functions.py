"""Functions that a job names as "module:function": where they are looked for and how their failures read."""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.errors import UserError
from harness.yamlfile import suggest

_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_import_lock = threading.RLock()  # sys.path is the process's: one import of a job's module at a time


def is_function_spec(text: str) -> bool:
    """Whether the text has the form "module:function" (or "package.module:function")."""
    return _SPEC.fullmatch(text) is not None


def import_function(spec: str, base: Path) -> Callable[..., Any]:
    """Import "module:function", from the folder of the job file first, else from the installed packages.

    A module found beside the job file is loaded under a private name (two jobs may each have a `decode.py`), and
    again after its file changed. While its top level runs, and only then, `base` stands first in `sys.path`, so it
    may import its neighbours; an import inside a function that runs later does not see them. A function found this
    way cannot be pickled: hand the spec, not the function, to another process.

    Args:
        spec: "module:function".
        base: folder of the job file.

    Raises:
        UserError: not of that form, no such module or function, or the module fails while it is imported.
    """
    if not is_function_spec(spec):
        raise UserError(f"'{spec}' is not of the form module:function, such as decode:boxes")
    module_name, _, name = spec.partition(":")
    with _import_lock:
        try:
            module = _load_beside(module_name, base.resolve())
            if module is None:
                module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
                where = f"no {module_name.replace('.', '/')}.py in {base}, and no installed package of that name"
                raise UserError(f"{spec}: module not found: {where}") from None
            raise UserError(f"{spec}: importing {module_name} failed: {_reason(error)}") from error
        except Exception as error:  # a plug-in's top level may raise anything
            raise UserError(f"{spec}: importing {module_name} failed: {_reason(error)}") from error
    function = getattr(module, name, None)
    if function is None:
        hint = suggest(name, [n for n in vars(module) if not n.startswith("_")])
        raise UserError(f"{spec}: {module_name} has no '{name}'{hint or '; define it there'}")
    if not callable(function):
        raise UserError(f"{spec}: '{name}' is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def call_function(spec: str, base: Path, *arguments: object) -> Any:  # noqa: ANN401 - a plug-in returns what it likes
    """Import and call "module:function".

    Raises:
        UserError: it cannot be imported, or it raises; the message has the line of the module that did.
    """
    function = import_function(spec, base)
    try:
        return function(*arguments)
    except UserError:
        raise
    except Exception as error:  # a plug-in may raise anything
        raise plugin_error(spec, error) from error


def plugin_error(spec: str, error: Exception) -> UserError:
    """One line about an exception that came out of a job's function."""
    return UserError(f"{spec} failed: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """The error's kind and text, and the last line of code it passed through."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace is not None else ""
    if isinstance(error, SyntaxError):
        place = f" ({Path(error.filename or '?').name}:{error.lineno})"
        return f"SyntaxError: {error.msg}{place}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def _load_beside(module_name: str, base: Path) -> ModuleType | None:
    """The module from `base`, under a private name; None when `base` has no such module."""
    top, _, rest = module_name.partition(".")
    file, folder = base / f"{top}.py", base / top
    if rest:
        if not (folder / (rest.replace(".", "/") + ".py")).is_file() and not (folder / rest.replace(".", "/")).is_dir():
            return None
        source = folder
    elif file.is_file():
        source = file
    elif (folder / "__init__.py").is_file():
        source = folder
    else:
        return None
    private = f"_quantrig_{_fingerprint(source)}_{top}"
    with _first_in_path(base):
        if private not in sys.modules:
            _execute(private, source)
        return importlib.import_module(f"{private}.{rest}") if rest else sys.modules[private]


def _execute(private: str, source: Path) -> None:
    """Run a module's file, or a package's `__init__` where it has one, as `sys.modules[private]`."""
    init = source / "__init__.py" if source.is_dir() else source
    search = [str(source)] if source.is_dir() else None
    if init.is_file():
        spec = importlib.util.spec_from_file_location(private, init, submodule_search_locations=search)
    else:
        spec = importlib.machinery.ModuleSpec(private, None, is_package=True)
        spec.submodule_search_locations = search
    if spec is None:
        raise ModuleNotFoundError(f"{init} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    if spec.loader is None:
        return
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[private]  # a half-run module must not be found next time
        raise


def _fingerprint(source: Path) -> str:
    files = sorted(source.rglob("*.py")) if source.is_dir() else [source]
    stamps = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]


@contextmanager
def _first_in_path(folder: Path) -> Iterator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
