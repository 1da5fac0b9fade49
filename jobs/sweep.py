"""Ray Job: run, resume or extend a study. The same as `ptune sweep` with the arguments given.

For `ray job submit ... -- python jobs/sweep.py ...`; `ptune submit sweep ...` runs the same and needs no such file.
"""

import sys

from ptune.cli import main

if __name__ == "__main__":
    main(["sweep", *sys.argv[1:]])
