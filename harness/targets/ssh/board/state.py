"""What lies in the agent's folder on a board: one line of JSON on stdout. Argument: the folder.

Changes nothing. Runs under the board's own Python, 3.10 or newer.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def main(folder: Path, *files: str) -> None:
    """Print the state of `folder`, and the digests of the named files wherever they are."""
    wheels = folder / "wheels"
    releases = folder / "releases"
    present = sorted(wheels.iterdir()) if wheels.is_dir() else []
    current = folder / "current"
    sys.stdout.write(
        json.dumps(
            {
                "exists": folder.is_dir(),
                "claim": _text(folder / "quantrig.json"),
                "empty": folder.is_dir() and not any(folder.iterdir()),
                "current": current.readlink().name if current.is_symlink() else None,
                "accepted": (_text(folder / "accepted") or "").strip() or None,
                "releases": {
                    path.name: (path / "release.json").is_file()
                    for path in (sorted(releases.iterdir()) if releases.is_dir() else [])
                },
                "wheels": {path.name: _digest(path) for path in present if path.suffix == ".whl"},
                "parts": {path.name: path.stat().st_size for path in present if path.suffix == ".part"},
                "files": {name: _digest(Path(name)) for name in files if Path(name).is_file()},
                "ca": _text(folder / "tls" / "ca.pem"),
                "certificate": _text(folder / "tls" / "agent.pem"),
                "key": (folder / "tls" / "agent-key.pem").is_file(),
                "free_bytes": _free(folder),
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
