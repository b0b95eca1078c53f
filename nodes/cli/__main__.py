"""`python -m nodes.cli` is `tongxing`."""

from nodes.cli import main

main()
