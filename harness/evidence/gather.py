"""What of a run goes into a bundle: raw blocks, samples, outputs or their digests, networks, code of its functions."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
from harness._version import __version__
from harness.data.functions import import_function
from harness.errors import UserError
from harness.evidence.entries import network_digests, own_specs, source_entry
from harness.evidence.manifest import RunPart, dump_json
from harness.host import host_environment
from harness.judge.reference import apart_file, outputs_file
from harness.record.figure import Network
from harness.record.run import RunRecord, SourceFile
from harness.report.csvfile import comparison_csv
from harness.report.runjson import dump
from harness.store import Store

#: Beyond it outputs are represented by their digests: nobody wants to send a bundle of gigabytes by accident.
MOST_OUTPUT_BYTES = 512 << 20
#: What decides and what words it: modules, templates, tables.
_CODE = (".py", ".j2", ".css", ".csv")
Contents = dict[str, bytes | Path]


@dataclass
class Gathered:
    """The entries of one run, by their name in the bundle.

    Args:
        contents: bytes, or the file to copy.
        absent: what is not there, and why.
    """

    contents: Contents = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def gather_run(record: RunRecord, folder: Path, store: Store, *, outputs: bool) -> Gathered:
    """Everything of a run that a verifier needs.

    Args:
        record: with the gates of the policy decided.
        folder: of the run.
        store: knows the digests of the outputs.
        outputs: include the outputs themselves.

    Raises:
        UserError: a file that the record names is missing or was changed since.
    """
    part, found = RunPart(record.run_id), Gathered()
    found.contents[part.name("run.json")] = dump(record).encode()
    found.contents[part.name("comparison.csv")] = comparison_csv(record).encode()
    _job(record, part, found)
    _samples(record, folder, part, found)
    _outputs(record, folder, store, part, found, include=outputs)
    _networks(record, folder, part, found)
    return found


def _job(record: RunRecord, part: RunPart, found: Gathered) -> None:
    path = Path(str(record.job.get("path", "")))
    if path.is_file():
        found.contents[part.name("job.yaml")] = path.read_bytes()
    else:
        found.absent["job.yaml"] = "the job came from no file"
    for function in record.functions:
        for source in function.files:
            _source(record, source, path.parent, part, found)
    if not record.functions:
        _sources_of_older(record, path, part, found)


def _source(record: RunRecord, source: SourceFile, base: Path, part: RunPart, found: Gathered) -> None:
    """A file of the job's own code, which must be the one that the figures were computed by.

    Raises:
        UserError: it is another one now.
    """
    where = base / source.path
    if not where.is_file():
        found.absent[source_entry(source)] = f"{where} is gone; run.json has its sha256"
        return
    content = _read(where)
    if hashlib.sha256(content).hexdigest() != source.sha256:
        judged = f"run {record.run_id} was judged by another text"
        remedy = f"put it back as it was, or let `quantrig resume {record.run_id}` judge the run by it"
        raise UserError(f"{where}: {judged}; {remedy}")
    found.contents[part.name(source_entry(source))] = content


def _sources_of_older(record: RunRecord, path: Path, part: RunPart, found: Gathered) -> None:
    """Of a run that noted no sources: the files as they are now; the verifier is told."""
    for spec in own_specs(record):
        try:
            code = getattr(import_function(spec, path.parent), "__code__", None)
            source = Path(code.co_filename) if code is not None else None
        except UserError:
            source = None
        if source is not None and source.is_file():
            found.contents[part.name(f"functions/{_plain(source.name)}")] = source.read_bytes()
        else:
            found.absent[spec] = "its source was not found"


def _samples(record: RunRecord, folder: Path, part: RunPart, found: Gathered) -> None:
    for target in record.targets:
        for kept in target.samples:
            content = _read(folder / kept.path)
            if hashlib.sha256(content).hexdigest() != kept.digest:
                raise UserError(f"{folder / kept.path}: changed since the run; `quantrig resume {record.run_id}`")
            found.contents[part.name(kept.path)] = content
        apart = folder / apart_file(target.name)
        if apart.is_file():
            found.contents[part.name(apart_file(target.name))] = apart.read_bytes()


def _outputs(record: RunRecord, folder: Path, store: Store, part: RunPart, found: Gathered, *, include: bool) -> None:
    digests: dict[str, dict[str, list[dict[str, object]]]] = {}
    files: dict[str, Path] = {}
    for target in record.targets:
        for network in (Network.FLOAT, Network.QUANTIZED):
            chunks = store.outputs(record.run_id, target.name, network)
            listed = []
            for number, (relative, digest) in sorted(chunks.items()):
                listed.append({"chunk": number, "path": relative, "sha256": digest})
                files[relative] = folder / relative
            digests.setdefault(target.name, {})[network.value] = listed
        if (folder / outputs_file(target.name)).is_file():
            files[outputs_file(target.name)] = folder / outputs_file(target.name)
    found.contents[part.name("outputs.json")] = dump_json(digests)
    total = sum(path.stat().st_size for path in files.values() if path.is_file())
    if not include:
        found.absent["outputs"] = "the policy says `outputs: digests`"
    elif total > MOST_OUTPUT_BYTES:
        found.absent["outputs"] = f"{total >> 20:,} MiB, more than {MOST_OUTPUT_BYTES >> 20} MiB: their digests only"
    else:
        for relative, path in files.items():
            if not path.is_file():
                raise UserError(f"{path}: missing; `quantrig resume {record.run_id}` runs it again")
            found.contents[part.name(relative)] = path


def _networks(record: RunRecord, folder: Path, part: RunPart, found: Gathered) -> None:
    """Networks by digest, under which the boards got them."""
    wanted = network_digests(record)
    named = [Path(str(record.job[key])) for key in ("model", "quantized") if key in record.job]
    for path in [*named, *sorted((folder / "artifacts").glob("*.onnx"))]:
        if path.is_file() and (digest := _digest(path)) in wanted:
            found.contents[part.name(f"networks/{digest}.onnx")] = path
            del wanted[digest]
    found.absent |= {digest: f"{what}: no file of that digest" for digest, what in wanted.items()}


def environment_json() -> bytes:
    """This machine, and the code that judged: versions of all packages, digest of our own source, commit."""
    packages = {
        name: distribution.version
        for distribution in importlib.metadata.distributions()
        if (name := distribution.metadata["Name"])
    }
    return dump_json(
        {
            "host": _plain_json(host_environment()),
            "packages": dict(sorted(packages.items())),
            "code": {"quantrig": __version__, "sha256": code_digest(), "commit": _commit()},
        }
    )


@functools.cache
def code_digest() -> str:
    """sha256 over the names and contents of all modules and templates of `harness`: which code decided.

    Read once: a process goes on with what it loaded, whatever becomes of the files.
    """
    root = Path(harness.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(one for end in _CODE for one in root.rglob(f"*{end}")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _commit() -> str | None:
    """The commit of a source tree, with `-dirty` where files differ; None for an installed package."""
    root = Path(harness.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


def _plain_json(value: Mapping[str, object]) -> Any:  # noqa: ANN401 - plain JSON
    return json.loads(json.dumps(value, default=str))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".-")[:90] or "function.py"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run the job again") from None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
