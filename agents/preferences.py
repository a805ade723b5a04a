"""Which runtime a board runs networks with when a host names none."""

from __future__ import annotations

#: By family, best first; the first one that works is taken. XNNPACK is nobody's default: the public packages of
#: ONNX Runtime come without it, and nobody has compared its arithmetic with the CPU provider's on a board yet.
_BY_FAMILY = {
    "jetson": ("tensorrt", "cuda", "onnxruntime"),
    "nvidia": ("tensorrt", "cuda", "onnxruntime"),
    "xilinx": ("vitisai", "onnxruntime"),
}
_USUAL = ("onnxruntime",)


def preferred(family: str, *, emulated: bool) -> tuple[str, ...]:
    """Names of runtimes, best first. A stand-in has only the board's arithmetic, which the CPU provider runs."""
    return _USUAL if emulated else _BY_FAMILY.get(family, _USUAL)
