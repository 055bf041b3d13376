"""The folder listing is the data flow: a module imports only from modules above it."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent

# The rooms, top to bottom. `lm` is a leaf: only experiments import it.
ORDER = [
    "hiper_jax.kernels",
    "hiper_jax.act.envs.env",
    "hiper_jax.act.envs.parallel",
    "hiper_jax.act.envs.alfworld",
    "hiper_jax.act.envs.webshop",
    "hiper_jax.act.envs.worker",
    "hiper_jax.act.envs.pool",
    "hiper_jax.act.episode",
    "hiper_jax.act.prompt",
    "hiper_jax.act.format",
    "hiper_jax.act.pieces",
    "hiper_jax.act.spans",
    "hiper_jax.act.codec",
    "hiper_jax.act.generate",
    "hiper_jax.act.rollout",
    "hiper_jax.act.stack",
    "hiper_jax.credit",
    "hiper_jax.lm",
    "hiper_jax.advantages",
    "hiper_jax.loss",
    "hiper_jax.minibatch",
    "hiper_jax.update",
    "hiper_jax.events",
    "hiper_jax.workdir",
    "hiper_jax.experiments",
]


def modules():
    for folder, package in (
        ("hiper_jax", "hiper_jax"),
        ("kernels", "hiper_jax.kernels"),
        ("experiments", "hiper_jax.experiments"),
    ):
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            yield ".".join((package, *parts)), file


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def room(name):
    found = [i for i, r in enumerate(ORDER) if name == r or name.startswith(r + ".")]
    return found[-1] if found else None


def faults(listing):
    for name, imported in listing:
        if name in ("hiper_jax", "hiper_jax.act", "hiper_jax.act.envs"):
            continue
        here = room(name)
        if here is None:
            yield f"{name} is in no room; add it to ORDER where it belongs"
            continue
        for other in imported:
            there = room(other) if other.startswith("hiper_jax") else None
            leaf = there is not None and ORDER[there] == "hiper_jax.lm"
            inside = name.startswith(("hiper_jax.lm", "hiper_jax.experiments"))
            if there is not None and there > here:
                yield f"{name} imports {other}, which stands below it"
            elif leaf and not inside:
                yield f"{name} imports {other}: the model is handed over, not imported"


def test_every_module_imports_only_from_above():
    listing = [(name, list(imports(file))) for name, file in modules()]
    assert len(listing) > 30
    assert list(faults(listing)) == []


def test_the_check_sees_a_fault():
    assert list(faults([("hiper_jax.act.stack", ["hiper_jax.update.init"])]))
    assert list(faults([("hiper_jax.update", ["hiper_jax.lm.qwen"])]))
    assert list(faults([("hiper_jax.stray", [])]))


def test_kernels_import_nothing_of_ours():
    for name, file in modules():
        if name.startswith("hiper_jax.kernels"):
            ours = [
                i
                for i in imports(file)
                if i.startswith("hiper_jax") and "hiper_jax.kernels" not in i
            ]
            assert not ours, (name, ours)


def test_importing_the_library_costs_jax_and_flax_only():
    code = (
        "import sys; import hiper_jax; "
        "heavy = {'transformers', 'tokenizers', 'textworld', 'alfworld', 'torch', "
        "'matplotlib', 'tyro', 'orbax', 'chex', 'safetensors'}; "
        "print(sorted(heavy & {m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() in ("[]", "['orbax']"), done.stdout + done.stderr
