"""Job: model, data, preprocessing and metric, read from job.yaml.

job = load_job(Path("examples/squeezenet/job.yaml"))
job.quantize.for_environment("fpga").method
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from harness.data import DataSpec, Preprocess, PreprocessFile, import_function, is_function_spec, locate_source
from harness.data.label_map import LabelMap
from harness.data.network_files import network_digest
from harness.data.opening import DEFAULT_CALIBRATION
from harness.errors import UserError
from harness.judge.gates_file import GateFile, gates_as_json, gates_of
from harness.judge.gates_values import Gate
from harness.yamlfile import Document, FileModel, parse_yaml, read_yaml, validate

__all__ = ["Job", "QuantizeSpec", "import_function", "job_from_mapping", "load_job", "parse_job"]

Method = Literal["auto", "minmax", "histogram", "entropy", "percentile", "mse"]
Step = Literal[
    "bias-correction", "rounding", "sequential-bias-correction", "equalization", "absorption", "border-scaling"
]
LayerMethod = Literal["minmax", "histogram", "entropy", "percentile", "mse"]
DEFAULT_METRICS = ("accuracy_top1",)
_NAME = re.compile(r"[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class QuantizeSpec:
    """How the network is quantized.

    Args:
        method: how ranges are chosen; "auto" leaves it to the rule book of the environment.
        exclude: layers that stay float.
        recover: steps that may win accuracy back, by name; None allows all of them.
        overrides: layer → {method, weights, activation} of its own (docs/quantization.md, 'One layer at a time').
        per_environment: by environment (gpu, cpu, fpga, host), the fields that differ there.
    """

    method: str = "auto"
    exclude: tuple[str, ...] = ()
    recover: tuple[str, ...] | None = None
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    per_environment: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def for_environment(self, environment: str) -> QuantizeSpec:
        """The settings that hold in one environment; a field set there replaces the general one as a whole."""
        return replace(self, **{**self.per_environment.get(environment, {}), "per_environment": {}})

    def as_json(self) -> dict[str, Any]:
        """The `quantize:` section that means the same."""
        overrides = {"overrides": {layer: dict(own) for layer, own in self.overrides.items()}} if self.overrides else {}
        recover = {} if self.recover is None else {"recover": list(self.recover)}
        return (
            {"method": self.method, "exclude": list(self.exclude)}
            | recover
            | overrides
            | {
                environment: {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}
                for environment, fields in self.per_environment.items()
            }
        )


@dataclass(frozen=True, slots=True)
class Sweep:
    """Settings that a timed target is measured at, one after the other; empty: its own.

    Args:
        batch: samples per inference.
        threads: of the runtime.
    """

    batch: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()

    def as_json(self) -> dict[str, list[int]]:
        """The `sweep:` section that means the same."""
        return {name: list(v) for name, v in (("batch", self.batch), ("threads", self.threads)) if v}


@dataclass(frozen=True, slots=True)
class Job:
    """What to compare, on which data, by which metric.

    Args:
        name: [a-z0-9-]{1,64}.
        path: the job file (or, for a job from Python, the file it would be); relative names start from its folder.
        model: the float network.
        data: source (absolute path or module:function), split and label offset.
        preprocess: from stored image to tensor.
        postprocess: "module:function" from outputs to what the metric takes, or None.
        batch: the batch size the network is run with; None: what the network insists on, else the runner's choice.
        state: {input: output} of a recurrent network: fed back from one step to the next.
        metrics: names, or "module:function"; none: the networks are only compared with each other, without labels.
        quantize: how the second network is made.
        quantized: a ready int8 network used as it is in place of quantizing, or None.
        gates: what is asked of every target (docs/gates.md).
        sweep: batch sizes and threads that timed targets are measured at.
    """

    name: str
    path: Path
    model: Path
    data: DataSpec
    preprocess: Preprocess = field(default_factory=Preprocess)
    postprocess: str | None = None
    batch: int | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[str, ...] = DEFAULT_METRICS
    quantize: QuantizeSpec = field(default_factory=QuantizeSpec)
    quantized: Path | None = None
    gates: tuple[Gate, ...] = ()
    sweep: Sweep = field(default_factory=Sweep)

    @property
    def base(self) -> Path:
        """The folder that relative names start from."""
        return self.path.parent

    def as_json(self) -> dict[str, Any]:
        """Plain JSON with absolute paths, from which `job_from_mapping` makes an equal job."""
        plain: dict[str, Any] = {
            "name": self.name,
            "path": str(self.path),
            "model": str(self.model),
            "data": {
                "source": self.data.source,
                "calibration": self.data.calibration,
                "seed": self.data.seed,
                "label_offset": self.data.label_offset,
            }
            | ({} if self.data.labels is None else {"labels": self.data.labels})
            | ({} if self.data.label_map is None else {"label_map": self.data.label_map.as_json()}),
            "preprocess": self.preprocess.as_json(),
            "metrics": list(self.metrics),
        }
        if self.quantized is None:
            plain["quantize"] = self.quantize.as_json()
        else:
            plain["quantized"] = str(self.quantized)
        if self.gates:
            plain["gates"] = gates_as_json(self.gates)
        optional = {"postprocess": self.postprocess, "batch": self.batch, "state": dict(self.state) or None}
        sweep = {"sweep": self.sweep.as_json()} if self.sweep != Sweep() else {}
        return plain | sweep | {name: value for name, value in optional.items() if value is not None}

    def digest(self) -> str:
        """sha256 of what the job says, networks by their content and nothing by its place on disk.

        The samples are not part of it: `DataSet.digest` is.

        Raises:
            UserError: a network's file is gone.
        """
        plain = self.as_json()
        del plain["path"]
        plain.pop("sweep", None)  # every setting is a row group of its own
        plain.pop("gates", None)  # they judge what was measured and change nothing of it
        for name in ("model", "quantized"):
            if name in plain:
                plain[name] = network_digest(Path(plain[name]))
        plain["data"]["source"] = Path(self.data.source).name
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


class _DataFile(FileModel):
    source: str = Field(min_length=1)
    calibration: int | float = DEFAULT_CALIBRATION
    seed: int = Field(default=0, ge=0)
    label_offset: int = 0
    labels: str | None = Field(default=None, min_length=1)
    label_map: dict[str | int, str | int] | None = None

    @field_validator("label_map")
    @classmethod
    def _mapping(cls, value: dict[str | int, str | int] | None) -> dict[str | int, str | int] | None:
        if value is not None:
            LabelMap.of(value)  # its own words say what is wrong
        return value

    @field_validator("calibration", mode="before")
    @classmethod
    def _count_or_fraction(cls, value: object) -> object:
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if whole or (isinstance(value, float) and 0 < value < 1):
            return value
        raise ValueError(f"{value!r} is neither a number of samples such as 100 nor a fraction such as 0.2")


class _OverrideFile(FileModel):
    method: LayerMethod | None = None
    weights: Literal["per-tensor", "per-channel"] | None = None
    activation: Literal["symmetric", "asymmetric"] | None = None


class _MethodFile(FileModel):
    method: Method | None = None
    exclude: list[str] | None = None
    recover: list[Step] | None = None
    overrides: dict[str, _OverrideFile] | None = None

    def settings(self) -> dict[str, Any]:
        """The fields that were set."""
        exclude = None if self.exclude is None else tuple(self.exclude)
        recover = None if self.recover is None else tuple(self.recover)
        overrides = None
        if self.overrides is not None:
            overrides = {layer: own.model_dump(exclude_none=True) for layer, own in self.overrides.items()}
        fields = {"method": self.method, "exclude": exclude, "recover": recover, "overrides": overrides}
        return {name: value for name, value in fields.items() if value is not None}


class _QuantizeFile(_MethodFile):
    gpu: _MethodFile | None = None
    cpu: _MethodFile | None = None
    fpga: _MethodFile | None = None
    host: _MethodFile | None = None

    def value(self) -> QuantizeSpec:
        """The section as the value that is handed on."""
        named = {"gpu": self.gpu, "cpu": self.cpu, "fpga": self.fpga, "host": self.host}
        differing = {name: one.settings() for name, one in named.items() if one is not None}
        return QuantizeSpec(**self.settings(), per_environment=differing)


class _SweepFile(FileModel):
    batch: list[Annotated[int, Field(ge=1, le=65_536)]] | None = None
    threads: list[Annotated[int, Field(ge=1, le=1024)]] | None = None


class _JobFile(FileModel):
    name: str | None = None
    model: str = Field(min_length=1)
    data: _DataFile
    preprocess: PreprocessFile | None = None
    postprocess: str | None = None
    batch: int | None = Field(default=None, ge=1, le=65_536)
    state: dict[str, str] | None = None
    metrics: list[str] | None = None
    quantize: _QuantizeFile | None = None
    quantized: str | None = None
    gates: dict[str, GateFile] | None = None
    sweep: _SweepFile | None = None

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        if value is not None and not _NAME.fullmatch(value):
            raise ValueError(f"'{value}' may hold a-z, 0-9 and - only (64 at most); write {slug(value)}")
        return value

    @field_validator("postprocess")
    @classmethod
    def _function(cls, value: str | None) -> str | None:
        if value is not None and not is_function_spec(value):
            raise ValueError(f"'{value}' is not of the form module:function, such as decode:boxes")
        return value

    @field_validator("metrics")
    @classmethod
    def _metric_names(cls, value: list[str] | None) -> list[str] | None:
        for name in value or ():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) and not is_function_spec(name):
                raise ValueError(f"'{name}' is neither a metric such as accuracy_top1 nor module:function")
        if value is not None and len(set(value)) < len(value):
            raise ValueError("a metric is named twice; remove one")
        return value


def load_job(path: Path) -> Job:
    """Read a job file.

    Raises:
        UserError: one line with the file, the line and the remedy.
    """
    return _job(read_yaml(path), path.resolve())


def parse_job(text: str, path: Path, *, there: bool = True) -> Job:
    """Like `load_job`, from the text that `path` would hold.

    Args:
        text: of the file.
        path: for messages; relative names start from its folder.
        there: False: nothing on disk is looked at, and names stay as they are written.
    """
    return _job(parse_yaml(text, str(path)), path.resolve(), there=there)


def job_from_mapping(mapping: Mapping[str, Any], base: Path) -> Job:
    """A job from the fields of a job file (or from `Job.as_json`).

    Args:
        mapping: the fields; `path`, which only `as_json` writes, tells where relative names start in place of `base`.
        base: the folder that relative names start from.

    Raises:
        UserError: as `load_job`, without line numbers.
    """
    fields = dict(mapping)
    path = fields.pop("path", None)
    return _job(Document("job", fields), Path(path) if path is not None else base.resolve() / "job.yaml")


def slug(text: str) -> str:
    """Text as a name of [a-z0-9-]{1,64}: lower case, other characters become one hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:64].strip("-") or "job"


def _job(document: Document, path: Path, *, there: bool = True) -> Job:
    file = validate(document, _JobFile)
    base = path.parent
    if file.quantize is not None and file.quantized is not None:
        raise document.error(
            ("quantized",), "both quantize and quantized: either we quantize or you bring the network; remove one",
            at_key=True,
        )  # fmt: skip
    find = _existing if there else _as_written
    model = find(document, "model", file.model, base)
    quantized = None if file.quantized is None else find(document, "quantized", file.quantized, base)
    try:
        source = locate_source(file.data.source, base) if there else None
    except UserError as error:
        raise document.error(("data", "source"), f"data.source: {error}") from None
    # A file called job.yaml says nothing of what it is about; its model does.
    derived = slug(model.stem if path.stem == "job" else path.stem)
    metrics = DEFAULT_METRICS if file.metrics is None else tuple(file.metrics)
    return Job(
        name=file.name or derived,
        path=path,
        model=model,
        data=DataSpec(
            source=file.data.source if source is None else str(source.resolve()),
            calibration=file.data.calibration,
            seed=file.data.seed,
            label_offset=file.data.label_offset,
            labels=file.data.labels,
            label_map=None if file.data.label_map is None else LabelMap.of(file.data.label_map),
        ),
        preprocess=file.preprocess.value() if file.preprocess is not None else Preprocess(),
        postprocess=file.postprocess,
        batch=file.batch,
        state=dict(file.state or {}),
        metrics=metrics,
        quantize=file.quantize.value() if file.quantize is not None else QuantizeSpec(),
        quantized=quantized,
        gates=gates_of(document, ("gates",), file.gates or {}, metrics),
        sweep=Sweep(tuple(file.sweep.batch or ()), tuple(file.sweep.threads or ())) if file.sweep else Sweep(),
    )


def _as_written(_document: Document, _name: str, text: str, base: Path) -> Path:
    return base / text


def _existing(document: Document, name: str, text: str, base: Path) -> Path:
    path = (base / Path(text).expanduser()).resolve()
    if path.is_dir():
        raise document.error((name,), f"{name}: {path} is a folder; give the .onnx file in it")
    if not path.is_file():
        raise document.error((name,), f"{name}: no file {path}; paths are relative to the job file")
    return path
