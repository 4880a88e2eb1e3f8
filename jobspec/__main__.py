"""`python -m jobspec`: the `jobspec` command where its script is not on PATH."""

from jobspec.cli import main

main()
