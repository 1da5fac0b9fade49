"""Ray Job: run, resume or extend a study. The same as `ptune sweep` with the arguments given."""

import sys

from ptune.cli import main

if __name__ == "__main__":
    main(["sweep", *sys.argv[1:]])
