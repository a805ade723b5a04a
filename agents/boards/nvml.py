"""A GPU through NVIDIA's management library, where the package nvidia-ml-py is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

from agents.boards.parse.nvidia_smi import GpuReading

#: nvml.h: the sensor of the chip, the SM's and the memory's clock, and the power of this moment:
#: nvmlDeviceGetPowerUsage is a mean over a second on Ampere and later.
_TEMPERATURE_GPU = 0
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_POWER_INSTANT = 186


class Nvml:
    """One GPU; each call is an ioctl of the driver, well below a millisecond.

    Args:
        index: of the GPU.

    Raises:
        OSError: no library, no driver, or no such GPU.
    """

    def __init__(self, index: int = 0) -> None:
        # A plug-in of the platform: without the package, the driver or a GPU it raises what it likes.
        try:
            self._library: Any = import_module("pynvml")
            self._library.nvmlInit()
        except Exception as error:  # noqa: BLE001 - see above
            raise OSError(f"no NVML: {error}") from None
        try:
            self._gpu = self._library.nvmlDeviceGetHandleByIndex(index)
        except Exception as error:  # noqa: BLE001 - see above
            self.close()
            raise OSError(f"NVML: no GPU {index}: {error}") from None
        self._index = index

    def read(self) -> GpuReading:
        """The sensors now; what this GPU does not support is None."""
        library, gpu = self._library, self._gpu
        return GpuReading(
            index=self._index,
            name=self._text(lambda: library.nvmlDeviceGetName(gpu)),
            utilization_percent=self._number(lambda: library.nvmlDeviceGetUtilizationRates(gpu).gpu),
            temperature_c=self._number(lambda: library.nvmlDeviceGetTemperature(gpu, _TEMPERATURE_GPU)),
            power_mw=self._power_mw(),
            sm_clock_mhz=self._number(lambda: library.nvmlDeviceGetClockInfo(gpu, _CLOCK_SM)),
            memory_clock_mhz=self._number(lambda: library.nvmlDeviceGetClockInfo(gpu, _CLOCK_MEMORY)),
            reasons=self._reasons(),
        )

    def details(self) -> dict[str, str]:
        """Driver, name and limits, by the names of `Identity.details`; what is unknown is missing."""
        library, gpu = self._library, self._gpu
        limit_mw = self._number(lambda: library.nvmlDeviceGetEnforcedPowerLimit(gpu))
        most_mhz = self._number(lambda: library.nvmlDeviceGetMaxClockInfo(gpu, _CLOCK_SM))
        found = {
            "gpu": self._text(lambda: library.nvmlDeviceGetName(gpu)),
            "driver": self._text(library.nvmlSystemGetDriverVersion),
            "power_limit_w": f"{limit_mw / 1e3:g}" if limit_mw is not None else None,
            "gpu_max_clock_mhz": f"{most_mhz:g}" if most_mhz is not None else None,
        }
        return {name: text for name, text in found.items() if text}

    def close(self) -> None:
        """Let go of the library."""
        with contextlib.suppress(Exception):
            self._library.nvmlShutdown()

    def _power_mw(self) -> float | None:
        def instant() -> float:
            (value,) = self._library.nvmlDeviceGetFieldValues(self._gpu, [_POWER_INSTANT])
            if value.nvmlReturn:
                raise OSError(value.nvmlReturn)
            return float(value.value.uiVal)

        found = self._number(instant)
        return found if found is not None else self._number(lambda: self._library.nvmlDeviceGetPowerUsage(self._gpu))

    def _reasons(self) -> int | None:
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            call = getattr(self._library, name, None)
            found = self._number(lambda: call(self._gpu)) if call is not None else None  # noqa: B023 - called at once
            if found is not None:
                return int(found)
        return None

    @staticmethod
    def _number(call: Callable[[], Any]) -> float | None:
        try:
            return float(call())
        except Exception:  # noqa: BLE001 - the library raises its own errors for whatever a GPU does not support
            return None

    @staticmethod
    def _text(call: Callable[[], Any]) -> str | None:
        try:
            found = call()
        except Exception:  # noqa: BLE001 - as above
            return None
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
