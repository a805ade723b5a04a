"""examples/logonet does what its README says, and its figures are those that come out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import harness

REPOSITORY = Path(__file__).parents[2]


def test_the_script_writes_the_network_and_the_readme_quotes_its_estimates(tmp_path: Path) -> None:
    path = tmp_path / "logonet.onnx"
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples/logonet/build.py"), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(path)
    readme = (REPOSITORY / "examples/logonet/README.md").read_text(encoding="utf-8")
    single = harness.estimate(path, bitstream="zcu102_single")
    assert single.cycles is not None
    assert f"# {single.cycles / 1e6:.2f} M cycles, {single.fps:.3f} FPS" in readme
    assert f"# {harness.estimate(path, bitstream='zcu102_int8').fps:.2f} FPS" in readme
