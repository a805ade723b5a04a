from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# A shell that starts tests in the background lets them ignore Ctrl-C, and every process that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What an example costs depends on who else uses the machine; a fifth of a second is no property of the code.
settings.register_profile("any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
