"""What is brought to a board: the agent's wheel and everything it needs there, fetched once and kept by a digest.

The board needs no network. pip is asked with this machine's own configuration (indexes, proxies, constraints).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from harness.errors import UserError
from harness.targets.ssh.wheels import WheelChoice, check_wheel, missing_requirements, requirements_of
from harness.targets.validate import clean_text

#: A slow line carries 150 MB in this time.
_PIP_TIMEOUT_S = 1800.0
#: Requirements of requirements that only the board's Python has; each round goes one deeper.
_ROUNDS = 6
#: Wheels are zips, whose dates begin here; a fixed date makes two builds of one source equal.
_ZIP_EPOCH = "315532800"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Wheels for one board.

    Args:
        agent: of `quantrig-agent`.
        wheels: all of them by file name, the agent's and pip's included, with their sha256.
        pip: pip's own, which is run from the file because a board's Python often has none.
        install: what pip is told to install: paths and requirements, from `wheels` alone.
        agent_version: of the agent.
    """

    agent: Path
    wheels: Mapping[Path, str]
    pip: Path
    install: tuple[str, ...]
    agent_version: str

    @property
    def size_bytes(self) -> int:
        """Of all wheels."""
        return sum(path.stat().st_size for path in self.wheels)


def gather(
    target: str,
    choice: WheelChoice,
    *,
    runtime_wheel: Path | None = None,
    agent_wheel: Path | None = None,
    refresh: bool = False,
    say: Say = lambda _: None,
) -> Bundle:
    """Fetch what the board needs, or find it in the cache.

    Args:
        target: name in targets.yaml, for messages.
        choice: of wheels for the board.
        runtime_wheel: a runtime the user brings in place of the public onnxruntime.
        agent_wheel: a ready wheel of the agent; None: that of this installation.
        refresh: ask the index again although the cache has an answer.
        say: is told what takes time.

    Raises:
        UserError: pip cannot be run, or finds no wheel; one line with pip's own reason.
    """
    agent = agent_wheel if agent_wheel is not None else own_agent_wheel(say)
    own = [agent]
    extras = ["onnxruntime"]
    if runtime_wheel is not None:
        check_wheel(target, runtime_wheel, choice)
        own.append(runtime_wheel)
        extras = []
    needed = [str(one) for one in requirements_of(agent, choice, extras)]
    if runtime_wheel is not None:
        needed += [str(one) for one in requirements_of(runtime_wheel, choice)]
    needed = sorted({one.partition(";")[0].strip() for one in needed})
    fetched = _download(target, ["pip", *needed], choice, refresh, say)
    (pip,) = [path for path in fetched if path.name.startswith("pip-")]
    wheels = [*own, *fetched]
    install = tuple(path.name for path in own) + tuple(needed)
    version = agent.name.split("-")[1]
    return Bundle(agent, {path: sha256(path) for path in wheels}, pip, install, version)


def own_agent_wheel(say: Say = lambda _: None) -> Path:
    """The wheel of the agent that this installation speaks to: built from a checkout, fetched for an installed one.

    Raises:
        UserError: it can neither be built nor fetched.
    """
    spec = importlib.util.find_spec("agents")
    assert spec is not None  # harness imports agents.protocol
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    if (folder / "pyproject.toml").is_file():
        return build_agent_wheel(folder, say)
    version = importlib.metadata.version("quantrig-agent")
    home = _cache("agents") / f"release-{version}"
    found = list(home.glob("quantrig_agent-*.whl"))
    if not found:
        say(f"fetching quantrig-agent {version}")
        _pip("the agent", ["download", "--quiet", "--no-deps", "--dest", str(home), f"quantrig-agent=={version}"])
        found = list(home.glob("quantrig_agent-*.whl"))
    return found[0]


def build_agent_wheel(source: Path, say: Say = lambda _: None) -> Path:
    """Build the agent's wheel from its source folder; the same source gives the file that was built before.

    Raises:
        UserError: pip cannot build it.
    """
    files = sorted(
        path
        for path in source.rglob("*")
        if path.is_file() and not {"build", "__pycache__"} & set(path.relative_to(source).parts)
        and ".egg-info" not in str(path.relative_to(source))
    )  # fmt: skip
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(source)}\0{sha256(path)}\0".encode())
    home = _cache("agents") / digest.hexdigest()[:24]
    with FileLock(f"{home}.lock"):
        if not home.is_dir():
            say("building the agent's wheel")
            with tempfile.TemporaryDirectory(prefix="quantrig-wheel-") as folder:
                copy = Path(folder) / "agents"
                for path in files:
                    there = copy / path.relative_to(source)
                    there.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, there)
                out = home.with_suffix(".part")
                shutil.rmtree(out, ignore_errors=True)
                isolation = ["--no-build-isolation"] if _have_setuptools() else []
                _pip(
                    "the agent's wheel",
                    ["wheel", "--quiet", "--no-deps", *isolation, "--wheel-dir", str(out), str(copy)],
                    {"SOURCE_DATE_EPOCH": _ZIP_EPOCH},
                )
                out.replace(home)
    return next(home.glob("quantrig_agent-*.whl"))


def _have_setuptools() -> bool:
    """The build's own requirement (agents/pyproject.toml) is there, so that no index is asked for it."""
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


def _download(target: str, needed: Sequence[str], choice: WheelChoice, refresh: bool, say: Say) -> list[Path]:
    """Wheels for `needed` and all that they need, from the cache or pip."""
    request = json.dumps([*needed, *choice.pip_arguments()])
    home = _cache("wheels") / hashlib.sha256(request.encode()).hexdigest()[:24]
    with FileLock(f"{home}.lock"):
        kept = _kept(home)
        if kept is not None and not refresh:
            return kept
        say(f"fetching wheels for Python {choice.python} on {choice.machine}")
        part = home.with_suffix(".part")  # stays after a failure: pip takes what it finds there
        ask: list[str] = list(needed)
        for _ in range(_ROUNDS):
            _pip(
                target,
                ["download", "--quiet", "--dest", str(part), "--find-links", str(part), *choice.pip_arguments(), *ask],
            )
            wheels = sorted(part.glob("*.whl"))
            missing = missing_requirements(wheels, choice)
            if not missing:
                break
            ask = [*needed, *missing]
        shutil.rmtree(home, ignore_errors=True)
        (part / "wheels.json").write_text(json.dumps({path.name: sha256(path) for path in wheels}, indent=1))
        part.replace(home)
        return [home / path.name for path in wheels]


def _kept(home: Path) -> list[Path] | None:
    """The wheels of an earlier request when they are whole."""
    try:
        known = json.loads((home / "wheels.json").read_text())
        wheels = [home / name for name in known]
        return wheels if all(sha256(path) == known[path.name] for path in wheels) else None
    except (OSError, ValueError):
        return None


def _pip(what: str, arguments: list[str], environment: Mapping[str, str] | None = None) -> None:
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip"]
    elif (found := shutil.which("pip3") or shutil.which("pip")) is not None:
        command = [found]  # an environment made without pip: any other pip can fetch and build
    else:
        raise UserError(f"{what}: no pip on this machine to fetch wheels with; run `python -m ensurepip`")
    try:
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--no-input", *arguments],
            check=False, capture_output=True, text=True, errors="replace", timeout=_PIP_TIMEOUT_S,
            stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{what}: pip took more than {_PIP_TIMEOUT_S:.0f} s; check the network and try again"
        ) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        reason = clean_text(said[-1].removeprefix("ERROR:"), 300) if said else f"exit status {done.returncode}"
        raise UserError(
            f"{what}: pip finds or builds no wheel ({reason}); check pip's index on this machine (`pip config list`)"
        )


def _cache(part: str) -> Path:
    folder = user_cache_path("quantrig") / part
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: Path) -> str:
    """Of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
