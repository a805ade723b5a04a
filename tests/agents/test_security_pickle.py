"""Row 26 of docs/security.md, the host's half: data files with Python objects in them are not executed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.data.arrays import load_npz
from harness.errors import UserError


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.trace,))


def test_row_26_a_pickle_in_a_data_file_is_not_run(tmp_path: Path) -> None:
    trace, path = tmp_path / "executed", tmp_path / "data.npz"
    np.savez(path, x=np.array([Payload(trace)], dtype=object))
    with np.load(path, allow_pickle=True) as archive:
        _ = archive["x"]
    assert trace.exists()  # the attack works where pickles are allowed
    trace.unlink()
    with pytest.raises(UserError, match="Python objects"):
        load_npz(path)
    assert not trace.exists()
