"""Former name of the command `python -m modules.codec.formats.checkpoints`."""

import sys

from modules.codec.formats.checkpoints import main

if __name__ == "__main__":
    print(
        "`python -m modules.codec.checkpoints` is called `python -m modules.codec.formats.checkpoints` now",
        file=sys.stderr,
    )
    main()
