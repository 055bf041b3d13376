"""The strict harness: no silent broadcasting, fake devices, no network."""

import os
import shutil

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of the suite's time is compiling, and most of that is optimising what runs once.
# With 0 in its place the tests run as users compile.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()

from session_folder import session_folder  # noqa: E402

from hiper_jax.experiments.cli import room_for_fake_devices  # noqa: E402

room_for_fake_devices()

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests start many runs of equal shape; what one has compiled the next one reads, in
# every worker. The folder lives as long as the session: nothing stale is ever read.
_OURS = "HIPER_TEST_PROGRAMS" not in os.environ
if _OURS:
    _PROGRAMS, _LOCK = session_folder("hiper-programs-")
    os.environ["HIPER_TEST_PROGRAMS"] = _PROGRAMS
_PROGRAMS = os.environ["HIPER_TEST_PROGRAMS"]
jax.config.update("jax_compilation_cache_dir", _PROGRAMS)
# What a test starts in a process of its own leaves the user's folder alone, too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _PROGRAMS)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_unconfigure():
    if _OURS:  # not in a worker, whose siblings may still read
        _LOCK.close()
        shutil.rmtree(_PROGRAMS, ignore_errors=True)
