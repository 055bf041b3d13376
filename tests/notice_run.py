"""A process of several that plays iterations of unequally many turns until it is told.

Used by tests/test_notice.py: FILE, then where the others are.
"""

import contextlib
import sys
import time

from hiper_jax.experiments import join, meeting, progress


class Guard:
    together = False


def main() -> None:
    notice, _, coordinator, _, processes, _, process = sys.argv[1:]
    asked = join.Hosts(
        coordinator=coordinator,
        processes=int(processes),
        process=int(process),
        lost_after=20,
        notice=f"{notice}-{process}",
    )
    with contextlib.suppress(progress.Terminated), join.joined(asked) as hosts:
        guard, turns = Guard(), 0
        with meeting.together(hosts, guard, "iteration 1"):
            print("playing", flush=True)
            while True:  # one that is not told plays for ever
                time.sleep(0.02 + 0.1 * hosts.index)
                turns += 1
                progress.stop_if_asked(hosts.asked)
    time.sleep(int(process))  # the first, the coordinator, is gone well before others
    print(f"together {guard.together} after {turns}", flush=True)
    join.leave(143)


if __name__ == "__main__":
    main()
