"""Lab: the boards a run may use, read from targets.yaml.

lab = load_lab(find_lab(None, job.path))
for target in lab.select(["rpi5-lab"]):
    print(target.via.kind, target.timed)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.targets.lab_file import TargetFile, target_of
from harness.targets.target import Target
from harness.yamlfile import Document, FileModel, one_of, parse_yaml, read_yaml, validate

LAB_FILE = "targets.yaml"


@dataclass(frozen=True, slots=True)
class Lab:
    """All targets of a lab file, in its order."""

    path: Path
    targets: Mapping[str, Target]

    def select(self, names: Sequence[str] | None) -> list[Target]:
        """The named targets in the order of `names`, each once; all of them when there are no names.

        Raises:
            UserError: an unknown name.
        """
        for name in names or ():
            if name not in self.targets:
                raise UserError(f"{self.path}: no target '{name}'{one_of(name, self.targets)}")
        return [self.targets[name] for name in dict.fromkeys(names or self.targets)]


class _LabFile(FileModel):
    targets: dict[str, TargetFile] | None  # all of them may be commented out


def load_lab(path: Path) -> Lab:
    """Read a lab file.

    Raises:
        UserError: one line with the file, the line and the remedy.
    """
    return _lab(read_yaml(path), path)


def parse_lab(text: str, path: Path) -> Lab:
    """Like `load_lab`, from the text that `path` would hold."""
    return _lab(parse_yaml(text, str(path)), path)


def find_lab(lab: Path | None = None, job: Path | None = None) -> Path:
    """The lab file to use: the given one, else targets.yaml here, else beside the job file.

    Raises:
        UserError: there is none.
    """
    if lab is not None:
        return lab
    places = [Path(LAB_FILE)] + ([job.parent / LAB_FILE] if job is not None else [])
    for path in places:
        if path.is_file():
            return path
    where = "here" if job is None else f"here nor in {job.parent}"
    raise UserError(f"no {LAB_FILE} {where}; give one with --lab, or write one with `quantrig init`")


def _lab(document: Document, path: Path) -> Lab:
    file = validate(document, _LabFile)
    base = path.resolve().parent
    return Lab(path, {name: target_of(document, name, one, base) for name, one in (file.targets or {}).items()})
