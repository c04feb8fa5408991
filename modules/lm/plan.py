"""Former name of the command `python -m modules.lm.resource_plan`."""

import sys

from modules.lm.resource_plan import main

if __name__ == "__main__":
    print("`python -m modules.lm.plan` is called `python -m modules.lm.resource_plan` now", file=sys.stderr)
    main()
