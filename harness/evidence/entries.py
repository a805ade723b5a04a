"""Which entries a bundle has: everything in it is named by its format or by the record of a run, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from harness.evidence.manifest import ENVIRONMENT, PAGE, POLICY, PUBLIC_KEY, RunPart
from harness.judge.reference import apart_file, outputs_file
from harness.record.run import RunRecord, SourceFile

#: Entries of the whole bundle, beside the manifest and its signature.
GENERAL = frozenset({POLICY, PAGE, ENVIRONMENT, PUBLIC_KEY})
#: A name of an entry has eight parts at most; `runs/<id>/functions/` takes three.
_MOST_PARTS = 5


def source_entry(source: SourceFile) -> str:
    """Where the source of a function goes, relative to its run's part."""
    path = PurePath(source.path)
    if path.is_absolute() or ".." in path.parts or len(path.parts) > _MOST_PARTS or max(map(len, path.parts)) > 60:
        return f"functions/elsewhere/{source.sha256[:16]}-{path.name[-60:]}"
    return f"functions/{source.path}"


def network_digests(record: RunRecord) -> dict[str, str]:
    """sha256 of every network that the run is about, and what it is."""
    wanted = {record.model_digest: "the float network"}
    for target in record.targets:
        for shipment in target.shipments:
            wanted[shipment.digest] = f"{shipment.network} of {target.name}"
        if target.quantized is not None:
            wanted[target.quantized.digest] = f"the int8 network for {target.environment}"
    return wanted


def own_specs(record: RunRecord) -> list[str]:
    """The job's own functions by their "module:function": its metrics and its postprocessing."""
    metrics, last = record.job.get("metrics"), record.job.get("postprocess")
    named = [*(metrics if isinstance(metrics, list | tuple) else ()), last]
    return [one for one in named if isinstance(one, str) and ":" in one]


def named_digests(record: RunRecord, outputs: Mapping[str, Any]) -> dict[str, str]:
    """Files that the record or outputs.json name with their sha256, relative to the run's part."""
    named = {kept.path: kept.digest for target in record.targets for kept in target.samples}
    for networks in outputs.values():
        for chunks in networks.values():
            named |= {str(one["path"]): str(one["sha256"]) for one in chunks}
    named |= {f"networks/{digest}.onnx": digest for digest in network_digests(record)}
    return named | {source_entry(file): file.sha256 for one in record.functions for file in one.files}


def unnamed(names: Iterable[str], part: RunPart, record: RunRecord, outputs: Mapping[str, Any]) -> list[str]:
    """Entries of a run's part that nothing names.

    Args:
        names: of all entries.
        part: of the run.
        record: its run.json.
        outputs: its outputs.json.
    """
    known = {part.name(one) for one in ("run.json", "comparison.csv", "job.yaml", "outputs.json")}
    known |= {part.name(one) for one in named_digests(record, outputs)}
    for target in record.targets:
        known |= {part.name(apart_file(target.name)), part.name(outputs_file(target.name))}
    own = part.name("")
    return [name for name in names if name.startswith(own) and name not in known and not _older(name, own, record)]


def _older(name: str, own: str, record: RunRecord) -> bool:
    """Sources of a run that noted none: an older version's bundle holds them by the name of their file."""
    return not record.functions and name.startswith(f"{own}functions/") and name.count("/") == own.count("/") + 1
