"""The folder listing is the data flow: a module imports only from modules above it.

The list is the README's map, read from there. In the library it must also be what `ls`
shows, folder by folder, so that the listing itself tells the flow.
"""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# Folders of the map and the packages they are installed as.
ROOMS = {
    "hiper_jax": "hiper_jax",
    "kernels": "hiper_jax.kernels",
    "experiments": "hiper_jax.experiments",
}


def map_lines():
    """The map's code block, line by line."""
    text = (ROOT / "README.md").read_text()
    return text.split("## The map")[1].split("```")[1].splitlines()[1:]


def mapped(lines):
    """Module files in the map's order, and its folders, as paths without `.py`.

    A line is `name, name, ...  description`; a folder's name ends in `/`, and what
    stands in it is indented by two spaces more.
    """
    files, folders, above = [], [], []
    for line in filter(str.strip, lines):
        depth = (len(line) - len(line.lstrip())) // 2
        head = line.strip().split("  ")[0]
        above = above[:depth]
        if head.endswith("/"):
            above.append(head.rstrip("/"))
            folders.append("/".join(above))
        else:
            names = (name.strip().removesuffix(".py") for name in head.split(","))
            files += ["/".join([*above, name]) for name in names if name]
    return files, folders


def source_files():
    """(path without `.py`, file) of every module; links for static tools left out."""
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            path = file.relative_to(ROOT)
            if not any((ROOT / part).is_symlink() for part in path.parents):
                yield str(path.with_suffix("")), file


def module_name(path):
    room, _, rest = path.removesuffix("/__init__").partition("/")
    return ".".join(filter(None, (ROOMS[room], rest.replace("/", "."))))


def imports(file):
    """Everything of ours that a file imports, wherever in it, as dotted names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def place(name, order):
    """The place in the map of the module that a dotted name lies in, or None."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in order:
            return order[".".join(parts[:end])]
    return None


def faults(listing, order):
    """What is wrong with (module, names it imports) pairs, given module -> place."""
    for name, imported in listing:
        if name not in order:
            yield f"{name} is not in the README's map"
            continue
        for other in imported:
            if not other.startswith("hiper_jax"):
                continue
            there = place(other, order)
            inside = name.startswith(("hiper_jax.lm", "hiper_jax.networks"))
            inside |= name.startswith("hiper_jax.experiments")
            if name.startswith("hiper_jax.kernels"):
                if not other.startswith("hiper_jax.kernels"):
                    yield f"{name} imports {other}: kernels import nothing of ours"
                    continue
            elif name.startswith("hiper_jax.lm"):
                if not other.startswith("hiper_jax.lm"):
                    yield f"{name} imports {other}: the language model is a leaf"
                    continue
            elif other.startswith("hiper_jax.lm") and not inside:
                yield f"{name} imports {other}: the model is handed over"
            if other.startswith("hiper_jax.kernels") and "kernels" not in name:
                continue  # a leaf that everybody may use
            if there is not None and there > order[name]:
                yield f"{name} imports {other}, which stands below it"


def listing():
    """(module, imports) of every module that is not a package's own file."""
    for path, file in source_files():
        if not path.endswith("__init__"):
            yield module_name(path), list(imports(file))


def order_of(files):
    return {module_name(path): place for place, path in enumerate(files)}


def test_every_module_imports_only_from_above():
    files, _ = mapped(map_lines())
    found = list(listing())
    assert len(found) > 80
    assert list(faults(found, order_of(files))) == []


def test_the_map_names_every_module_once():
    files, folders = mapped(map_lines())
    files = [f for f in files if f.split("/")[0] in ROOMS]
    assert len(set(files)) == len(files)
    real = {p for p, _ in source_files() if not p.endswith("__init__")}
    assert set(files) == real, (set(files) - real, real - set(files))
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_the_library_is_mapped_as_ls_lists_it():
    """Names of a folder, files and folders together, sorted by their bytes."""
    files, _ = mapped(map_lines())
    for room in ("hiper_jax", "kernels"):
        ours = [(f"{path}.py").split("/") for path in files if path.startswith(room)]
        assert ours == sorted(ours)


def test_packages_gather_only_what_is_in_them():
    for path, file in source_files():
        if path.endswith("__init__") and path.count("/") > 1:
            inside = module_name(path)
            ours = [i for i in imports(file) if i.startswith("hiper_jax")]
            strangers = [i for i in ours if not i.startswith(inside)]
            files, _ = mapped(map_lines())
            order = order_of(files)
            first = min(
                (at for name, at in order.items() if name.startswith(inside + ".")),
                default=0,
            )
            low = [i for i in strangers if (place(i, order) or 0) > first]
            assert not low, (path, low)


def test_the_check_sees_a_fault():
    files = [
        "hiper_jax/act/stack",
        "hiper_jax/lm/qwen",
        "hiper_jax/update/step",
        "kernels/scan",
    ]
    order = order_of(files)

    def wrong(name, other):
        return list(faults([(name, [other])], order))

    assert wrong("hiper_jax.act.stack", "hiper_jax.update.step.init")
    assert wrong("hiper_jax.update.step", "hiper_jax.lm.qwen.forward")
    assert wrong("hiper_jax.lm.qwen", "hiper_jax.act.stack.stack")
    assert wrong("hiper_jax.kernels.scan", "hiper_jax.act.stack.stack")
    assert wrong("hiper_jax.stray", "numpy.array")
    assert not wrong("hiper_jax.update.step", "hiper_jax.act.stack.stack")
    assert not wrong("hiper_jax.act.stack", "hiper_jax.kernels.scan.scan")


def test_importing_the_package_costs_next_to_nothing():
    heavy = (
        "{'jax', 'numpy', 'flax', 'transformers', 'tokenizers', 'textworld', "
        "'alfworld', 'torch', 'matplotlib', 'tyro', 'orbax', 'chex', 'safetensors'}"
    )
    code = (
        "import sys; import hiper_jax; "
        f"print(sorted({heavy} & {{m.split('.')[0] for m in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_public_names_are_all_there():
    import hiper_jax

    for name in hiper_jax.__all__:
        assert getattr(hiper_jax, name) is not None
        assert name in dir(hiper_jax)
    source = ast.parse(pathlib.Path(hiper_jax.__file__).read_text())
    told = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("hiper_jax.")
        for alias in node.names
    }
    lazy = {
        f"hiper_jax.{module}.{name}"
        for module, names in hiper_jax._NAMES.items()
        for name in names
    }
    assert told == lazy  # what type checkers see is what there is
