"""Ray Job: features of a manifest's videos. The same as `ptune extract` with the arguments given."""

import sys

from ptune.cli import main

if __name__ == "__main__":
    main(["extract", *sys.argv[1:]])
