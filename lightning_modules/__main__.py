"""``python -m lightning_modules`` is ``attention-blocks``."""

from lightning_modules.cli.lightning_cli import main

if __name__ == "__main__":
    main()
