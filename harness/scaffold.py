"""The files a newcomer starts from: what `quantrig init` and `quantrig targets add` write."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node

from harness.data import locate_source, network_inputs, open_data
from harness.data.guess import Guess, guess
from harness.errors import UserError
from harness.job import parse_job, slug
from harness.targets.lab import LAB_FILE, load_lab, parse_lab

JOB_FILE = "job.yaml"

_LAB_TEXT = """\
# The lab: the boards that `quantrig run` measures on. Ask `quantrig targets check` after every change.
#
#   board        which kind it is: its identity, telemetry and throttling
#   environment  whose arithmetic quantizes the network: gpu, cpu, fpga, or host (independent of any target)
#   via          how to reach it: `local` (this machine, really measured), `emulated` (a stand-in on this machine that
#                computes what the board would; accuracy only, never a time), or the address of the agent on the board
targets:
  this-machine: {board: generic, environment: cpu, via: local}
  jetson-emulated: {board: jetson-orin-nano, environment: gpu, via: emulated}
  rpi-emulated: {board: raspberry-pi-4, environment: cpu, via: emulated}
  zcu102-emulated:
    board: zcu102
    environment: fpga
    via: emulated
    bitstream: {float: zcu102_single, int8: zcu102_int8}
  # A real board: its agent's address, and the lab's certificates (`quantrig targets add` writes such an entry).
  # rpi5-lab:
  #   board: raspberry-pi-5
  #   environment: cpu
  #   via: {address: "rpi5.lab:50443", tls: lab}
"""


def init_files(model: Path, data: str, folder: Path) -> list[Path]:
    """Write a first job.yaml, and a targets.yaml where the folder has none.

    What can be read off the network and the data is filled in; what cannot is filled in too, and its line says
    "guessed". Both files load as they are.

    Args:
        model: a float ONNX network.
        data: any DATA form; a path relative to the current folder, or module:function (looked for beside job.yaml).
        folder: where the files go; made when missing.

    Returns:
        The files that were written.

    Raises:
        UserError: the network or the data cannot be used, or job.yaml exists (nothing is overwritten).
    """
    job_path, lab_path = folder / JOB_FILE, folder / LAB_FILE
    if job_path.exists():
        raise UserError(f"{job_path}: exists already; remove it, or choose another --folder")
    inputs = network_inputs(model)
    source = locate_source(str(data), Path.cwd())
    found = guess(model, inputs, source)
    named = data if source is None else _relative(source, folder)
    text = _job_text(found, slug(model.stem), _relative(model, folder), named)
    job = parse_job(text, job_path)
    if source is not None:
        open_data(job.data, job.preprocess, inputs, job.base).read([0])  # what does not fit shows now
    _make_folder(folder)
    written = [job_path]
    _write_new(job_path, text)
    if not lab_path.exists():
        _write_new(lab_path, _LAB_TEXT)
        written.append(lab_path)
    load_lab(lab_path)
    return written


#: What a lab file begins with.
NEW_LAB = "# The boards of the lab. Every field: docs/lab-file.md.\ntargets:\n"


def add_target(lab_path: Path, name: str, fields: Mapping[str, Any]) -> None:
    """Add one target to a lab file. What stands there keeps its order, its comments and its spacing.

    Args:
        lab_path: targets.yaml, replaced at once or not at all; made when it is not there.
        name: of the new target.
        fields: as in targets.yaml.

    Raises:
        UserError: the name is taken, the fields are not valid, or the file cannot be changed.
    """
    if lab_path.exists():
        if name in load_lab(lab_path).targets:
            raise UserError(f"{lab_path}: target '{name}' exists already; choose another name, or edit the file")
        text = lab_path.read_text(encoding="utf-8-sig")
    else:
        text = NEW_LAB
    changed = _inserted(text, {name: dict(fields)})
    parse_lab(changed, lab_path)
    _replace(lab_path, changed)


def _job_text(found: Guess, name: str, model: str, data: str) -> str:
    """job.yaml with a comment on every field."""
    steps = found.preprocess
    offset = f"  label_offset: {found.label_offset}"
    lines = [
        "# What to compare, on which data, by which metric. Every field: docs/job-file.md.",
        "# Lines marked 'guessed' cannot be read off the network or the data: check them first.",
        f"name: {name}",
        f"model: {_scalar(model)} # paths are relative to this file; inputs: {found.inputs}",
        "data:",
        f"  source: {_scalar(data)} # {found.summary}",
        f"  calibration: {found.calibration} # samples (or a fraction) that calibrate; the rest validate",
        "  seed: 0 # of that split",
        f"{offset} # {found.offset_reason}" if found.offset_reason else "  # label_offset: 1 # added to every label",
        f"# resize -> crop -> channels -> scale -> (x - mean) / std -> layout; {found.reason}",
        f"preprocess: {steps}" if steps else "# preprocess: {scale: 1/255}",
        *(f"#   {line}" for line in found.alternatives),
        "# postprocess: module:function # outputs -> what the metric takes (boxes, masks, ...)",
        f"batch: {found.batch} # the network insists on it" if found.batch else "# batch: 1 # the network takes any",
        "# state: {in: out} # of a recurrent network: which output is fed back to which input",
        f"metrics: [{', '.join(found.metrics)}] # or module:function",
        "quantize: {method: auto, exclude: []} # per environment too: {gpu: {method: mse}}",
        "# quantized: own.int8.onnx # your own int8 network in place of quantize",
    ]
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """Text as one YAML value: bare where nobody could take it for something else, quoted otherwise."""
    bare = re.fullmatch(r"(\.\.?/|/)*[A-Za-z_][\w./:-]*", text, re.ASCII) and not text.endswith(":")
    return text if bare and text.lower() not in {"true", "false", "null"} else json.dumps(text, ensure_ascii=False)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _inserted(text: str, entry: dict[str, Any]) -> str:
    """The text with the entry after the last target."""
    root = YAML(typ="safe", pure=True).compose(text)
    targets = next((value for key, value in root.value if key.value == "targets"), None)
    if not isinstance(targets, MappingNode) or targets.flow_style or not targets.value:
        return _round_trip(text, entry)
    lines = text.splitlines(keepends=True)
    at = _last_line(targets.value[-1][1], lines)
    if not lines[at - 1].endswith("\n"):
        lines[at - 1] += "\n"
    indent = " " * int(targets.value[0][0].start_mark.column)
    lines.insert(at, "".join(f"{indent}{line}" for line in _dumped(entry).splitlines(keepends=True)))
    return "".join(lines)


def _last_line(node: Node, lines: list[str]) -> int:
    """Number of the line that the node ends in; a block's own mark stands after the comments that follow it."""
    at = min(int(node.end_mark.line) + 1, len(lines))
    if int(node.end_mark.column) == 0 and at > 1 and int(node.end_mark.line) > int(node.start_mark.line):
        at = min(int(node.end_mark.line), len(lines))
    while at > int(node.start_mark.line) + 1 and lines[at - 1].split("#")[0].strip() == "":
        at -= 1
    return at


def _dumped(entry: dict[str, Any]) -> str:
    """The entry as block YAML, values in flow style as in the files we write."""
    name, fields = next(iter(entry.items()))
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # block outside, flow for what holds only plain values
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel declares None
    yaml.width = 4096
    yaml.dump(fields, text)
    body = text.getvalue()
    if body.startswith("{"):
        return f"{name}: {body}"
    return f"{name}:\n" + "".join(f"  {line}" for line in body.splitlines(keepends=True))


def _round_trip(text: str, entry: dict[str, Any]) -> str:
    """The same for a file whose targets are empty or in flow style; comments are kept, spacing may change."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    document = yaml.load(text)
    if document["targets"]:
        document["targets"].update(entry)
    else:
        document["targets"] = entry
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another --folder") from None


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --folder") from None


def _replace(path: Path, text: str) -> None:
    """Atomically put the text in place of the file, keeping its mode; a link stays a link."""
    real = path.resolve()
    try:
        handle, temporary = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, real.stat().st_mode & 0o7777 if real.exists() else 0o644)
            os.replace(temporary, real)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise UserError(f"{path}: cannot be changed ({error.strerror}); check its folder's permissions") from None
