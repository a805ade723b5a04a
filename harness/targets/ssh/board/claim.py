"""Make the agent's folder on a board ours, and note every directory that was made for it: those alone are taken away.

Arguments: the folder, the JSON of the claim, further directories to make. Doing it twice is doing it once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def make(path: Path) -> list[str]:
    """Make a directory and its parents; those that were not there, outermost first."""
    made: list[str] = []
    for one in [*reversed(path.parents), path]:
        try:
            one.mkdir(mode=0o755)
        except FileExistsError:
            continue
        made.append(str(one))
    return made


def main(folder: Path, claim: str, *others: str) -> None:
    """Claim `folder`."""
    os.umask(0o022)
    path = folder / "quantrig.json"
    made = [made for one in (folder, *map(Path, others)) for made in make(one)]
    wanted = json.loads(claim)
    try:
        earlier = json.loads(path.read_text())
    except (OSError, ValueError):
        earlier = {}
    # Kept until that service has been ended, which the claim itself does not do.
    former = earlier.get("former")
    if earlier.get("kind", wanted["kind"]) != wanted["kind"]:
        former = former or {"kind": earlier["kind"], "unit": earlier.get("unit")}
    if wanted.pop("settled", False):
        former = None
    new = path.with_suffix(".new")
    facts = {**wanted, "former": former, "made": [*earlier.get("made", []), *made]}
    new.write_text(json.dumps(facts, indent=1) + "\n")
    new.replace(path)
    for name in ("wheels", "releases", "run", "tls", "data"):
        (folder / name).mkdir(mode=0o755 if name in {"wheels", "releases"} else 0o700, exist_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
