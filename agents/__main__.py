"""`python -m agents`: the same as the command `quantrig-agent`."""

import sys

from agents.cli import main

if __name__ == "__main__":
    sys.exit(main())
