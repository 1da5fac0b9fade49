"""Ray Job: features of a manifest's videos. The same as `ptune extract` with the arguments given.

For `ray job submit ... -- python jobs/extract.py ...`; `ptune submit extract ...` runs the same and needs no such file.
"""

import sys

from ptune.cli import main

if __name__ == "__main__":
    main(["extract", *sys.argv[1:]])
