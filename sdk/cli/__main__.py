"""`python -m edgekit.cli`: the same as the console script."""

from edgekit.cli import main

main()
