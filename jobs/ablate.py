"""Ray Job: run or resume an ablation. The same as `ptune ablate` with the arguments given.

For `ray job submit ... -- python jobs/ablate.py ...`; `ptune submit ablate ...` runs the same and needs no such file.
"""

import sys

from ptune.cli import main

if __name__ == "__main__":
    main(["ablate", *sys.argv[1:]])
