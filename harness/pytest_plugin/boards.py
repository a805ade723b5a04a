"""Which targets a test runs on: the lab, `--targets`, the board marker, and the fixtures `lab` and `target`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from harness.pytest_plugin.options import ENVIRONMENTS

if TYPE_CHECKING:
    from harness.targets.lab import Lab
    from harness.targets.target import Target

_LAB: pytest.StashKey[Lab | None] = pytest.StashKey()
_MISUSE: pytest.StashKey[str] = pytest.StashKey()
_BOARD_ARGUMENTS = ("environment", "tags")


@dataclass(frozen=True, slots=True)
class _Misuse:
    """Stands in for a target where the command line, the lab or a marker is wrong."""

    message: str


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Stop on what turned out to be wrong while tests were collected, where an error would be a traceback.

    Raises:
        pytest.UsageError: the lab file of the root folder is broken, or a marker cannot be understood.
    """
    # a worker of xdist has nobody to tell: there the tests concerned fail with this line
    if _MISUSE in config.stash and not hasattr(config, "workerinput"):
        raise pytest.UsageError(config.stash[_MISUSE])


def _lab_of(config: pytest.Config) -> Lab | None:
    """The lab, None where there is none.

    Raises:
        pytest.UsageError: the file is missing or broken.
    """
    if _LAB not in config.stash:
        config.stash[_LAB] = _load_lab(config)
    return config.stash[_LAB]


def _load_lab(config: pytest.Config) -> Lab | None:
    from harness.errors import UserError
    from harness.targets.lab import LAB_FILE, load_lab

    named = config.getoption("--lab")
    path = config.invocation_params.dir / named if named else config.rootpath / LAB_FILE
    if not named and not path.exists():
        return None
    try:
        return load_lab(path)
    except UserError as error:
        raise pytest.UsageError(str(error)) from error


def targets_of(config: pytest.Config) -> list[Target] | None:
    """The targets of `--targets`; None without a lab.

    Raises:
        pytest.UsageError: no such lab or target.
    """
    from harness.errors import UserError

    lab = _lab_of(config)
    only = config.getoption("--targets")
    if only is None:
        return None if lab is None else list(lab.targets.values())
    names = [name.strip() for name in only.split(",") if name.strip()]
    if lab is None:
        raise pytest.UsageError(f"--targets {only}: no lab: give --lab targets.yaml")
    if not names:
        raise pytest.UsageError(f"--targets {only!r} names no target; it has {', '.join(lab.targets)}")
    try:
        return lab.select(names)
    except UserError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `target` (or `compare`) once for each target it fits."""
    if not _asks_for_ours(metafunc):
        return
    try:
        chosen = _chosen(metafunc)
    except pytest.UsageError as error:
        metafunc.config.stash.setdefault(_MISUSE, str(error))
        chosen = [pytest.param(_Misuse(str(error)), id="misuse")]
    metafunc.parametrize("target", chosen, indirect=True, scope="session")


def _asks_for_ours(metafunc: pytest.Metafunc) -> bool:
    """Whether `target` is our fixture here, and the test does not choose its targets itself."""
    if "target" not in metafunc.fixturenames:
        return False
    for marker in metafunc.definition.iter_markers("parametrize"):
        names = marker.args[0] if marker.args else marker.kwargs.get("argnames", ())
        if "target" in ([name.strip() for name in names.split(",")] if isinstance(names, str) else names):
            return False
    # pytest has no public way to ask whose fixture a name is; without this one, all are taken for ours
    found: Any = getattr(metafunc, "_arg2fixturedefs", {}).get("target")
    return not found or getattr(found[-1].func, "__module__", __name__) == __name__


def _chosen(metafunc: pytest.Metafunc) -> list[object]:
    wanted = [_wanted(marker, metafunc.definition.nodeid) for marker in metafunc.definition.iter_markers("board")]
    targets = targets_of(metafunc.config)
    if targets is None:
        return [_skipped("no-lab", "no lab: give --lab targets.yaml")]
    for environment, tags in wanted:
        targets = [t for t in targets if environment in {None, t.environment} and tags <= set(t.tags)]
    if not targets:
        return [_skipped("no-target", "no chosen target has the environment and tags this test asks for")]
    return [pytest.param(target, id=target.name) for target in targets]


def _wanted(marker: pytest.Mark, where: str) -> tuple[str | None, set[str]]:
    """(environment, tags) of a marker.

    Raises:
        pytest.UsageError: it says something else.
    """
    usage = 'write @pytest.mark.board(environment="cpu", tags=["dotprod"])'
    unknown = [repr(value) for value in marker.args] + [name for name in marker.kwargs if name not in _BOARD_ARGUMENTS]
    if unknown:
        raise pytest.UsageError(f"{where}: board marker does not know {', '.join(unknown)}; {usage}")
    environment, tags = marker.kwargs.get("environment"), marker.kwargs.get("tags", ())
    if environment not in {None, *ENVIRONMENTS}:
        raise pytest.UsageError(
            f"{where}: board marker: environment {environment!r} is none of {', '.join(ENVIRONMENTS)}"
        )
    if not isinstance(tags, list | tuple | set | frozenset) or not all(isinstance(tag, str) for tag in tags):
        raise pytest.UsageError(f"{where}: board marker: tags {tags!r} is no list of words; {usage}")
    return environment, set(tags)


def _skipped(name: str, reason: str) -> object:
    return pytest.param(None, id=name, marks=pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def lab(pytestconfig: pytest.Config) -> Lab:
    """The lab of `--lab`."""
    try:
        found = _lab_of(pytestconfig)
    except pytest.UsageError as error:
        pytest.fail(str(error), pytrace=False)
    if found is None:
        pytest.skip("no lab: give --lab targets.yaml")
    return found


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    """One target of the lab; a test that asks for it runs once for each.

    A test may choose for itself: `@pytest.mark.parametrize("target", ["rpi5-lab"], indirect=True)`.
    """
    chosen: Target | str | _Misuse | None = getattr(request, "param", None)
    if chosen is None:
        pytest.fail("name `target` or `compare` among the test's arguments: each target is a test", pytrace=False)
    if isinstance(chosen, _Misuse):
        pytest.fail(chosen.message, pytrace=False)
    return named_target(chosen, request)


def named_target(chosen: Target | str, request: pytest.FixtureRequest) -> Target:
    """A target by its name in the lab, or as it is; a name that is not there fails the test with one line."""
    from harness.errors import UserError

    if not isinstance(chosen, str):
        return chosen
    lab: Lab = request.getfixturevalue("lab")
    try:
        return lab.select([chosen])[0]
    except UserError as error:
        pytest.fail(str(error), pytrace=False)
