"""Episodes as a TFDS data set of RLDS steps, in array_record, without TensorFlow.

    for episode in hj.data.episodes(DIR): ...           # as they were written
    tfds.builder_from_directory(DIR).as_data_source()   # examples, see `from_example`
    pandas.DataFrame(hj.data.turns(DIR))                # a row for each turn

`hiper data export` and `hiper train --data` write one. Needs the extra `data`.
"""

from hiper_jax.workdir.data.example import (
    Entry,
    features,
    from_example,
    tfds,
    to_example,
)
from hiper_jax.workdir.data.read import entries, episodes, folders, sources, turns

__all__ = [
    "Entry",
    "entries",
    "episodes",
    "features",
    "folders",
    "from_example",
    "sources",
    "tfds",
    "to_example",
    "turns",
]
