"""From an empty folder to a board reached over mutual TLS, with the commands of the README."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.warm import process as warm


def quantrig(folder: Path, *arguments: str, code: int = 0) -> Any:  # noqa: ANN401 (a JSON document)
    done = warm.quantrig(*arguments, "--json", cwd=folder)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_a_lab_from_nothing(tmp_path: Path) -> None:
    assert quantrig(tmp_path, "certificates", "create", "my-lab") == {"folder": "lab-ca"}
    quantrig(tmp_path, "certificates", "agent", "board", "--address", "127.0.0.1", "--out", "tls-board")
    quantrig(tmp_path, "certificates", "host", "desk", "--out", "tls-desk")
    process = subprocess.Popen(
        [sys.executable, "-m", "agents", "serve", "--listen", "127.0.0.1:0", "--tls", str(tmp_path / "tls-board"),
         "--data", str(tmp_path / "data"), "--ready-json", "--exit-on-stdin-eof"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["listening"]
        added = quantrig(
            tmp_path, "targets", "add", "board", "--board", "generic", "--via", address, "--tls", "tls-desk"
        )
        assert added == {"added": "board", "lab": "targets.yaml"}
        (listed,) = quantrig(tmp_path, "targets", "list")
        assert (listed["name"], listed["address"], listed["timed"]) == ("board", address, True)
        (health,) = quantrig(tmp_path, "targets", "check")
        assert health["fit"]
        assert health["canary"] == "exact"
        quantrig(tmp_path, "certificates", "create", "other", "--folder", "other-ca")
        quantrig(tmp_path, "certificates", "host", "thief", "--folder", "other-ca", "--out", "tls-thief")
        quantrig(tmp_path, "targets", "add", "stolen", "--board", "generic", "--via", address, "--tls", "tls-thief")
        stranger = quantrig(tmp_path, "targets", "check", "--targets", "stolen", code=3)
        assert not stranger[0]["fit"]
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def test_a_target_is_added_once_and_comments_stay(tmp_path: Path) -> None:
    lab = tmp_path / "targets.yaml"
    lab.write_text("# our lab\ntargets:\n  here: {board: generic, environment: cpu, via: local} # the desk\n")
    quantrig(tmp_path, "targets", "add", "pi", "--board", "raspberry-pi-5", "--tag", "dotprod")
    text = lab.read_text()
    assert "# our lab" in text
    assert "# the desk" in text
    assert [one["name"] for one in quantrig(tmp_path, "targets", "list")] == ["here", "pi"]
    again = subprocess.run(
        [sys.executable, "-m", "harness", "targets", "add", "pi", "--board", "raspberry-pi-5"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 2
    assert "exists already" in again.stderr
