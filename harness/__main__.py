"""`python -m harness` is `quantrig`."""

from harness.cli import main

if __name__ == "__main__":
    main()
