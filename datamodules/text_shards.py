"""Former name of the command `python -m datamodules.shards.text_shards`."""

import sys

from datamodules.shards.text_shards import main

if __name__ == "__main__":
    print(
        "`python -m datamodules.text_shards` is called `python -m datamodules.shards.text_shards` now", file=sys.stderr
    )
    main()
