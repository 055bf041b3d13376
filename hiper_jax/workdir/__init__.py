"""TrainState, metrics, episodes <-> disk: one folder per run, every file whole.

config.json                what was asked for, and what made the result
metrics.jsonl              a line per iteration; no times: equal runs, equal files
timing.jsonl               a line per iteration: where the seconds went
tensorboard/               both, as event files
episodes/000007.jsonl.gz   every episode of iteration 7, a line each; of several hosts
                           a file each, 000007-00001-of-00004.jsonl.gz
eval/before-valid_unseen.json
checkpoints/00000007/      Orbax v1: `state` (arrays) and `extra` (JSON); a manifest
data/                      with --data: the episodes as a TFDS data set

In a store (gs://, s3://) the same under the same names; see `copies`.
"""

from hiper_jax.workdir import data
from hiper_jax.workdir.atomic import write_bytes, write_json, write_text
from hiper_jax.workdir.carried import check_writers
from hiper_jax.workdir.checkpoints import latest_step, restore, restore_newest
from hiper_jax.workdir.copies import Mirror, copied, here, here_if_run
from hiper_jax.workdir.episodes import episode_files, read_episodes, write_episodes
from hiper_jax.workdir.lease import leased
from hiper_jax.workdir.lock import locked
from hiper_jax.workdir.metrics import append_metrics, read_lines
from hiper_jax.workdir.publish import Plan, publish
from hiper_jax.workdir.saver import Saver, save
from hiper_jax.workdir.spool import spool
from hiper_jax.workdir.stored import is_stored, stored
from hiper_jax.workdir.truncate import truncate_after

__all__ = [
    "Mirror",
    "Plan",
    "Saver",
    "append_metrics",
    "check_writers",
    "copied",
    "data",
    "episode_files",
    "here",
    "here_if_run",
    "is_stored",
    "latest_step",
    "leased",
    "locked",
    "publish",
    "read_episodes",
    "read_lines",
    "restore",
    "restore_newest",
    "save",
    "spool",
    "stored",
    "truncate_after",
    "write_bytes",
    "write_episodes",
    "write_json",
    "write_text",
]
