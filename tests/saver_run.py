"""A process of several that saves its part of a state while it changes the state.

Used by tests/test_saver.py: FOLDER and what happens, then where the others are.

held: the second checkpoint is written, and never comes to count
full: the disk of the second process takes no more from the fourth checkpoint on
"""

import functools
import resource
import sys
import time

from hiper_jax.experiments import join


def begun():
    """A state of which each process holds a part, and what changes it."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    noise = np.random.default_rng(0).normal(size=(16, 3000)).astype(np.float32)

    def placed(value, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.make_array_from_callback(
            value.shape, sharding, lambda index: value[index]
        )

    state = {
        "split": placed(noise, PartitionSpec("data")),
        "whole": placed(noise[:3, :7], PartitionSpec()),
    }

    @functools.partial(jax.jit, donate_argnums=0)
    def change(state):  # the mean is over all processes
        mean = state["split"].mean()
        return jax.tree.map(lambda x: 0.9 * x + 0.1 * mean, state)

    return state, change


def same(a, b) -> bool:
    import numpy as np

    pairs = zip(a.addressable_shards, b.addressable_shards, strict=True)
    return all(np.array_equal(x.data, y.data) for x, y in pairs)


def main() -> None:
    folder, how, _, coordinator, _, processes, _, process = sys.argv[1:]
    asked = join.Hosts(
        coordinator=coordinator,
        processes=int(processes),
        process=int(process),
        lost_after=6,
    )
    try:
        with join.joined(asked) as hosts:
            {"held": hold, "full": fill}[how](folder, hosts)
    except (OSError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        join.leave(2)


def hold(folder, hosts) -> None:
    from hiper_jax import workdir
    from hiper_jax.workdir import checked

    state, change = begun()
    saver = workdir.Saver(folder, hosts=hosts)
    saver.begin(1, state)
    saver.wait()
    checked.seal = lambda folder: time.sleep(1000)
    saver.begin(2, state)
    while True:
        state = change(state)
        hosts.exchange("iteration", None)
        saver.check()
        time.sleep(0.05)


def fill(folder, hosts) -> None:
    import jax

    from hiper_jax import workdir
    from hiper_jax.workdir import checked

    seal = checked.seal

    def slowly(folder) -> None:
        time.sleep(0.3)
        seal(folder)

    checked.seal = slowly
    state, change = begun()
    saver = workdir.Saver(folder, keep=0, hosts=hosts)
    for step in (1, 2, 3):
        saver.begin(step, state)
        for _ in range(30):
            state = change(state)
            jax.block_until_ready(state)
        saver.check()
    saver.wait()
    print(f"{workdir.latest_step(folder)} counts", flush=True)
    state, change = begun()
    for step in (1, 2, 3):
        found, _ = workdir.restore(folder, state, step, hosts=hosts)
        print(step, all(map(same, *map(jax.tree.leaves, (found, state)))), flush=True)
        for _ in range(30):
            state = change(state)
    if hosts.index == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    saver.begin(4, state)
    while True:
        hosts.exchange("iteration", None)
        saver.check()
        time.sleep(0.05)


if __name__ == "__main__":
    main()
