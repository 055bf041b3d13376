"""What a stranger tries first, with the wheel alone in an empty environment.

Run it outside the checkout: `python smoke.py` puts its own folder on the path, which
holds no package.
"""

import importlib.metadata
import importlib.util
import json
import pathlib
import subprocess
import sys

import hiper_jax as hj

HIPER = pathlib.Path(sys.executable).parent / "hiper"


def hiper(*words: str) -> str:
    """Runs `hiper` and returns what it printed; a failure ends the smoke test."""
    done = subprocess.run(
        [HIPER, *words], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        sys.exit(f"hiper {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def check_the_package() -> None:
    folder = pathlib.Path(hj.__file__).parent
    assert "site-packages" in folder.parts, folder
    assert hj.__version__ == importlib.metadata.version("hiper-jax")
    for name in ("kernels", "experiments"):
        assert importlib.util.find_spec(name) is None, name
        assert importlib.util.find_spec(f"hiper_jax.{name}") is not None, name
    assert (folder / "py.typed").is_file()
    for agent in ("warmstart", "warmstart-flat", "warmstart-webshop"):
        assets = folder / "experiments" / "assets" / agent
        json.loads((assets / "config.json").read_text())
        for file in ("model.safetensors", "critic/model.safetensors", "tokenizer.json"):
            assert (assets / file).stat().st_size > 1000, assets / file
    assert list((folder / "experiments" / "report").glob("*.css"))


def check_hae() -> None:
    """Two segments of two turns, worked by hand: gamma 1, every lambda 1."""
    import numpy as np

    credit = hj.hae(
        np.float32([0, 0, 0, 1]),
        np.array([False, False, False, True]),
        np.ones(4, bool),
        np.array([True, False, True, False]),
        np.float32([0.1, 0.2, 0.3, 0.4]),
        np.float32([0.5, 0.5, 0.25, 0.25]),
        np.float32([0.5, 0.5, 0.25, 0.25]),
        lambda_segment=1.0,
    )
    np.testing.assert_allclose(credit.advantage_low, [0.15, 0.05, 0.7, 0.6], atol=1e-6)
    assert np.isfinite(credit.advantage_high).all()


def check_the_command() -> None:
    assert hj.__version__ in hiper("--version")
    assert "train" in hiper("--help")
    plan = hiper("plan", "--model", "qwen2.5-0.5b", "--devices", "8", "--hbm", "16")
    assert "GiB" in plan, plan


if __name__ == "__main__":
    check_the_package()
    check_hae()
    check_the_command()
    print(f"hiper-jax {hj.__version__}: the wheel works on its own")
