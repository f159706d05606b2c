"""Let `python -m mlkit` do what the command `mlkit` does."""

from mlkit.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
