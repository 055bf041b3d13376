"""Says what differs between two wheels; exits with 1 if anything does.

The wheel built from the sdist must be the wheel built from the tree, no file may be in
it twice, and nothing but `hiper_jax` may be importable from it.
"""

import sys
import zipfile


def contents(path: str) -> dict[str, bytes]:
    """The files of a wheel. RECORD lists the others, in an order of its own."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            sys.exit(f"{path} holds these files twice: {sorted(twice)}")
        return {name: wheel.read(name) for name in names if "RECORD" not in name}


def main() -> None:
    one, other = (contents(path) for path in sys.argv[1:])
    tops = {name.split("/")[0] for name in one if ".dist-info/" not in name}
    if tops != {"hiper_jax"}:
        sys.exit(f"the wheel installs {sorted(tops)}, not hiper_jax alone")
    odd = sorted(name for name in one | other if one.get(name) != other.get(name))
    if odd:
        sys.exit(f"the wheels from the sdist and from the tree differ: {odd}")
    print(f"{len(one)} files, the same from the sdist and from the tree")


if __name__ == "__main__":
    main()
