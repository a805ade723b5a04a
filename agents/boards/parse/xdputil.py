"""What `xdputil query` prints of the DPUs in the programmable logic, and `show_dpu` of Vitis AI before it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_SHOWN = re.compile(
    r"device_core_id=\d+.*?fingerprint\s*=\s*(0x[0-9a-fA-F]+)(?:\s+batch\s*=\s*\d+)?(?:\s+full_cu_name=(\S+))?"
)
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Dpu:
    """One DPU core.

    Attributes:
        arch: "DPUCZDX8G_ISA1_B4096"; "" when not told.
        fingerprint: which instruction set and configuration a compiled network must match, "0x101000016010407".
        clock_mhz: None when not told.
        unit: name of the compute unit.
    """

    arch: str
    fingerprint: str
    clock_mhz: float | None
    unit: str


@dataclass(frozen=True)
class DpuQuery:
    """The whole answer.

    Attributes:
        cores: the DPU cores; other compute units of the design (fingerprint 0, no architecture) are left out.
        ip_version: of the DPU's IP, "v4.0.0"; "" when not told.
        target_version: older tools' "DPU Target Version"; "" when not told.
        vart_version: of libvart-runner, "2.5.0"; "" when not told.
    """

    cores: tuple[Dpu, ...]
    ip_version: str = ""
    target_version: str = ""
    vart_version: str = ""


def parse_xdputil(text: str) -> DpuQuery | None:
    """The answer, whatever log lines stand before it; None when there is no such JSON in the text."""
    found = _first_object(text)
    kernels = found.get("kernels") if found is not None else None
    if found is None or not isinstance(kernels, list):
        return None
    specification, versions = found.get("DPU IP Spec"), found.get("VAI Version")
    return DpuQuery(
        cores=tuple(dpu for kernel in kernels if (dpu := _core(kernel)) is not None),
        ip_version=_text(specification, "IP version"),
        target_version=_text(specification, "DPU Target Version"),
        vart_version=_version(_text(versions, "libvart-runner.so")),
    )


def parse_show_dpu(text: str) -> DpuQuery | None:
    """The lines of `show_dpu`: fingerprints and names only; None when there are none."""
    cores = tuple(
        Dpu(arch="", fingerprint=found[1].lower(), clock_mhz=None, unit=found[2] or "")
        for found in _SHOWN.finditer(text)
        if int(found[1], 16)
    )
    return DpuQuery(cores) if cores else None


def _first_object(text: str) -> dict[str, object] | None:
    """The first JSON object that has kernels or a DPU's specification; braces in log lines are no objects."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"\{", text):
        try:
            value, _ = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and ("kernels" in value or "DPU IP Spec" in value):
            return value
    return None


def _core(kernel: object) -> Dpu | None:
    arch, fingerprint = _text(kernel, "DPU Arch"), _text(kernel, "fingerprint").lower()
    if not _HEXADECIMAL.fullmatch(fingerprint) or int(fingerprint, 16) == 0:
        return None
    clock = kernel.get("DPU Frequency (MHz)") if isinstance(kernel, dict) else None
    if isinstance(clock, bool) or not isinstance(clock, (int, float)) or not 0 < clock < 1e5:
        clock = None
    return Dpu(arch, fingerprint, None if clock is None else float(clock), _text(kernel, "cu_name"))


def _text(fields: object, name: str) -> str:
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, str) else ""


def _version(text: str) -> str:
    found = re.search(r"Version:\s*(\d+(?:\.\d+)+)", text)
    return found[1] if found else ""
