"""``python -m lightning_modules`` is ``attention-blocks``."""

from lightning_modules.cli.main import main

if __name__ == "__main__":
    main()
