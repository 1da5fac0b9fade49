"""`python -m ptune.cli` is `ptune`."""

from ptune.cli import main

main()
