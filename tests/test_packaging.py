"""What is packed is the tree: every package, every name, one version."""

import configparser
import importlib.metadata
import pathlib
import subprocess
import sys

import pytest

import hiper_jax

ROOT = pathlib.Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def packages():
    """The packages of the tree, under the names they are installed as."""
    for folder, name in (
        ("hiper_jax", "hiper_jax"),
        ("kernels", "hiper_jax.kernels"),
        ("experiments", "hiper_jax.experiments"),
    ):
        for file in (ROOT / folder).rglob("__init__.py"):
            parts = file.parent.relative_to(ROOT / folder).parts
            # The links in hiper_jax/ are not walked: the folders come by their name.
            yield ".".join((name, *parts))


def test_the_package_list_is_the_tree():
    listed = SETUP["options"]["packages"].split()
    assert len(listed) == len(set(listed))
    assert sorted(listed) == sorted(packages())
    # A folder with modules but without __init__.py would be left out in silence.
    for folder in ("hiper_jax", "kernels", "experiments"):
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file


def test_the_version_is_said_once():
    assert hiper_jax.__version__ == importlib.metadata.version("hiper-jax")
    assert SETUP["metadata"]["version"] == "attr: hiper_jax.__version__"
    said = (ROOT / "hiper_jax" / "__init__.py").read_text()
    assert said.count(f'"{hiper_jax.__version__}"') == 1
    assert f"## {hiper_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_nothing_but_hiper_jax_is_a_top_level_name(tmp_path):
    code = (
        "from importlib.util import find_spec; import hiper_jax.experiments; "
        "import hiper_jax.kernels.segmented_scan; "
        "print(find_spec('kernels'), find_spec('experiments'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == ["None", "None"], done.stdout + done.stderr


@pytest.mark.parametrize("name", ["kernels", "experiments"])
def test_tools_that_only_read_find_what_setup_cfg_installs(name):
    """`hiper_jax.kernels` is a path, too: pyright and editors read no package_dir."""
    link = ROOT / "hiper_jax" / name
    if (ROOT / "PKG-INFO").exists():
        pytest.skip("an sdist carries no links; its wheel has real folders")
    assert link.is_symlink() and link.resolve() == ROOT / name
    # A relative link, or it would break in the next clone.
    assert link.readlink() == pathlib.Path("..", name)
    assert SETUP["options"]["package_dir"].count(f"hiper_jax.{name} = {name}") == 1


def test_types_and_licence_come_with_the_package():
    assert (ROOT / "hiper_jax" / "py.typed").read_text() == ""
    assert SETUP["options.package_data"]["hiper_jax"] == "py.typed"
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and "Version 2.0, January 2004" in licence
    told = importlib.metadata.metadata("hiper-jax")
    assert told["License-Expression"] == "Apache-2.0"
    assert "https://arxiv.org/abs/2602.16165" in str(told.get_all("Project-URL"))


def test_every_file_beside_the_modules_is_packed_or_known_not_to_be():
    """Data that a module reads would be missing from the wheel, and only there."""
    packed = set()
    for package, patterns in SETUP["options.package_data"].items():
        folder = ROOT.joinpath(*package.removeprefix("hiper_jax.").split("."))
        folder = folder if folder.is_dir() else ROOT.joinpath(*package.split("."))
        for pattern in patterns.split():
            packed |= set(folder.glob(pattern))
    for room in ("hiper_jax", "kernels", "experiments"):
        for file in (ROOT / room).rglob("*"):
            left_out = file.suffix in (".py", ".pyc") or not file.is_file()
            inside = file.relative_to(ROOT).parts
            left_out |= inside[:2] in (("experiments", "results"),)
            left_out |= inside == ("experiments", "LOG.md")
            assert left_out or file in packed, f"{file} is in no package_data"
