"""A run that goes on in a store: the folder of this disk in which it is written."""

import contextlib
import os
import shutil
from collections.abc import Iterator

from hiper_jax._disk import cache_folder
from hiper_jax.workdir.copies import COMING, Mirror, key_of
from hiper_jax.workdir.lock import locked


@contextlib.contextmanager
def spool(url: str) -> Iterator[Mirror]:
    """A folder of this process's own for a run that goes on in a store.

    What killed processes left of the same run is removed. Nothing is asked of the store
    and nothing sent here: see `Mirror`.

    Args:
      url: the path of the run.
    """
    above = cache_folder() / "spool"
    begin = key_of(url)
    for left in above.glob(f"{begin}-*"):
        with contextlib.suppress(ValueError, OSError), locked(left):
            shutil.rmtree(left, ignore_errors=True)
    place = above / f"{begin}-{os.getpid()}"
    with locked(place):
        mirror = Mirror(url, place / url.rstrip("/").rpartition("/")[2])
        mirror.folder.mkdir()
        mirror.point()
        try:
            yield mirror
        finally:
            shutil.rmtree(mirror.folder, ignore_errors=True)
            shutil.rmtree(place / COMING, ignore_errors=True)
