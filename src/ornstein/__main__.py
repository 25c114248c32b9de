"""``python -m ornstein``, the same as ``ornstein``; torchrun needs it."""

from .cli import main

if __name__ == "__main__":
    main()
