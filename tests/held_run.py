"""`hiper WORDS...`, whose checkpoints are written to a store and never count.

Used by tests/test_pods.py: FILE, then the words. The file says that one is written.
"""

import pathlib
import runpy
import sys
import time

from hiper_jax.workdir import checked_store


def main() -> None:
    file = pathlib.Path(sys.argv.pop(1))

    def hold(folder: str) -> None:
        file.write_text(folder)
        time.sleep(1000)

    checked_store.seal = hold
    runpy.run_module("hiper_jax.experiments.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
