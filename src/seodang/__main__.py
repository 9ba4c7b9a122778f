"""`python -m seodang`, which several processes start too: `torchrun --nproc-per-node 2 -m seodang tune RECIPE`."""

from seodang.cli import main

if __name__ == "__main__":
    main()
