"""`python -m seodang`, which torchrun starts in several processes."""

from seodang.cli import main

if __name__ == "__main__":
    main()
