"""The comparison with this host, as far as no board is needed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from harness.targets.cross_isa import stored


def test_boards_that_are_asked_at_once_are_all_sent_the_whole_network(tmp_path: Path) -> None:
    together = Barrier(8)

    def ask(model: bytes) -> int:
        together.wait(60)
        path, _ = stored(model, tmp_path)
        return path.stat().st_size

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert set(pool.map(ask, [os.urandom(2 << 20)] * 8)) == {2 << 20}
    assert len(list(tmp_path.iterdir())) == 20
