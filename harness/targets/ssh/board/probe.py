"""What one Python interpreter of a board is; runs under any Python 3 so that one that is too old can be named.

One line of JSON on stdout.
"""

import json
import os
import platform
import struct
import sys
import sysconfig


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError, AttributeError):
        return ""


def _has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


sys.stdout.write(
    json.dumps(
        {
            "executable": os.path.realpath(sys.executable),
            "version": list(sys.version_info[:3]),
            "implementation": sys.implementation.name,
            "bits": struct.calcsize("P") * 8,
            "machine": platform.machine(),
            "libc": _libc(),
            "abiflags": getattr(sys, "abiflags", ""),
            "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
            "venv": _has("venv"),
        }
    )
    + "\n"
)
