"""`hiper WORDS...`, whose checkpoints are written and never come to count.

Used by tests/test_pods.py: FILE, then the words. The file says that one is written.
"""

import pathlib
import runpy
import sys
import time

from hiper_jax.workdir import checked


def main() -> None:
    file = pathlib.Path(sys.argv.pop(1))

    def hold(folder: pathlib.Path) -> None:
        file.write_text(str(folder))
        time.sleep(1000)

    checked.seal = hold
    runpy.run_module("hiper_jax.experiments.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
