"""Ray Job: refit and register a study's best fused streams. The same as `ptune register` with the arguments given.

For `ray job submit ... -- python jobs/register.py ...`; `ptune submit register ...` needs no such file.
"""

import sys

from ptune.cli import main

if __name__ == "__main__":
    main(["register", *sys.argv[1:]])
