"""`python -m mmc`."""

from mmc.cli import main

main()
