"""`python -m seawall.cli`: the `seawall` command without its script."""

from seawall.cli import main

main()
