"""The `hiper` command: help for everything, one line for every mistake."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

_FAKE = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def room_for_fake_devices() -> None:
    """Gives XLA's CPU client threads enough for fake devices; before JAX starts.

    A fake device may wait in several collectives at once, a thread in each. XLA starts
    one thread a device, and with all of them waiting the program never ends.
    """
    count = _FAKE.search(os.environ.get("XLA_FLAGS", ""))
    if count:
        os.environ.setdefault("PJRT_NPROC", str(8 * int(count[1])))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; exits with 0, or with one line that says what to do.

    The exit code is 2 after a mistake, 130 after Ctrl-C and 143 after SIGTERM.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    room_for_fake_devices()
    try:
        sys.exit(_run(argv))
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one changes nothing
        print("\nhiper: stopped; what was finished is kept", file=sys.stderr)
        _end(getattr(stop, "code", 130))
    except BrokenPipeError:
        os._exit(1)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("HIPER_TRACEBACK"):
            raise
        print(f"hiper: {_one_line(error)}", file=sys.stderr)
        _end(2)
    except Exception as error:
        if os.environ.get("HIPER_TRACEBACK"):
            raise
        print(
            f"hiper: {type(error).__name__}: {_one_line(error)}; this is a fault of "
            "hiper_jax; set HIPER_TRACEBACK=1 to see where",
            file=sys.stderr,
        )
        _end(3)


def _end(code: int) -> NoReturn:
    """Ends this process, which may be one of several."""
    if joined := sys.modules.get("hiper_jax.experiments.join"):
        joined.leave(code)
    sys.exit(code)


def _run(argv: list[str]) -> int:
    from hiper_jax.experiments import commands, flags
    from hiper_jax.experiments.programs import keep_programs

    early = flags.some(
        commands.Early,
        argv,
        "--config needs a YAML or JSON file, --world.environment the name of a world, "
        "--estimator that of an estimator, --hardware that of a machine",
    )
    tree = commands.tree(early, argv)
    if argv[:1] == ["launch"]:
        from hiper_jax.experiments import launch

        argv = launch.split(argv)
    if not argv:
        with contextlib.suppress(SystemExit):
            flags.parse(tree, ["--help"], "hiper")
        return 2
    chosen = flags.parse(tree, argv, "hiper")
    if chosen is not None:
        keep_programs(lambda line: print(f"hiper: {line}", file=sys.stderr))
        said = chosen.loaded.run(chosen.settings)
        if said is not None:
            print(said)
    return 0


def _one_line(error: BaseException) -> str:
    from hiper_jax.experiments.visible import visible

    return " ".join(visible(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
