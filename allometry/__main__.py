"""`python -m allometry` is the `allometry` command."""

from allometry.cli import main

main()
