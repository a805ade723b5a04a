from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import agents
import harness

ROOT = Path(__file__).parents[2]


def test_every_public_name_loads() -> None:
    for name in harness.__all__:
        assert getattr(harness, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = harness.nonsense


def test_both_packages_carry_one_version_and_the_host_asks_for_it() -> None:
    assert agents.__version__ == harness.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"quantrig-agent[onnxruntime]=={agents.__version__}" in project["dependencies"]


HEAVY = ["numpy", "onnx", "onnxruntime", "pandas", "scipy", "sqlalchemy", "grpc", "pydantic", "sklearn"]


@pytest.mark.parametrize("module", ["harness", "harness.cli", "harness.pytest_plugin"])
def test_the_front_doors_import_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_agent_side_never_imports_the_host_side() -> None:
    for path in (ROOT / "agents").rglob("*.py"):
        text = path.read_text()
        assert "import harness" not in text, path
        assert "from harness" not in text, path


def test_the_host_side_imports_only_the_protocol_of_the_agent_side() -> None:
    for path in (ROOT / "harness").rglob("*.py"):
        for line in path.read_text().splitlines():
            if line.strip().startswith(("from agents", "import agents")):
                allowed = line.strip().startswith("from agents.protocol") or line == "from agents import protocol"
                assert allowed, f"{path}: {line}"
