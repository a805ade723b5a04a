"""The command line: `quantrig`. Commands are thin; heavy packages load inside them, so that `--help` stays instant."""

from harness.cli.main import main

__all__ = ["main"]
