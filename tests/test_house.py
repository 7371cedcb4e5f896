"""The order of the house: what its code may look like, whatever it does."""

import ast
import graphlib

from helpers import SCRIPTS

PACKAGE = SCRIPTS.parent / "cifar10"
MAX_PARAMETERS = 8

# From the ground up. A wing imports from those below it; a module of a wing, from those before it in their own order.
FLOORS = (
    "errors version",
    "machine",
    "data",
    "network",
    "cifar10_input",
    "bridges",
    "runs",
    "cluster",
    "evaluation exporting serving",
    "validation",
    "settings",
    "api",
    "flags",
    "__init__",
    "v1",
)


def modules():
    """Returns {dotted name below the package: path} of all its modules; a package's __init__ has the package's name."""
    paths = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    return {".".join(path.parts[:-1] if path.name == "__init__" else path.parts): paths[path] for path in paths}


def imports(path):
    """Returns the dotted names, below the package, of its modules that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "cifar10":
            for alias in node.names:
                name = f"{node.module}.{alias.name}".partition(".")[2]
                names.add(name if name in modules() else name.rpartition(".")[0])
        elif isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "cifar10" for alias in node.names), path
    return names


def test_wings_import_from_those_below_only():
    floor_of = {room: i for i, rooms in enumerate(FLOORS) for room in rooms.split()}
    for name, path in modules().items():
        wing = name.split(".")[0] or "__init__"
        for imported in imports(path):
            other = imported.split(".")[0]
            assert floor_of[other] < floor_of[wing] or (other == wing and "." in name), f"{name} imports {imported}"


def test_modules_import_each_other_in_no_circle():
    graph = {name: imports(path) for name, path in modules().items()}
    assert tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_flags_are_read_at_the_edge_only():
    for name, path in modules().items():
        if name not in ("", "flags"):
            assert "absl" not in path.read_text() and "FLAGS" not in path.read_text(), path


def test_no_submodule_hides_a_function_of_the_package():
    functions = {"inputs", "distorted_inputs", "inference", "loss", "train"}
    assert not functions & {name.split(".")[0] for name in modules()}


# --- functions and objects ---


def sources():
    """Yields (path, syntax tree) of the package's modules and of the scripts."""
    for path in (*PACKAGE.rglob("*.py"), *SCRIPTS.glob("*.py")):
        yield path, ast.parse(path.read_text())


def functions(tree):
    """Returns the functions and methods, also those inside of others."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def parameters(function):
    """Returns the names of a function's parameters, but for a method's first one."""
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def test_a_function_has_few_parameters_unless_they_are_a_scripts_flags():
    checked = 0
    for path, tree in sources():
        for function in functions(tree):
            if not (path.parent == SCRIPTS and function.name == "run"):
                assert len(parameters(function)) <= MAX_PARAMETERS, f"{path}: {function.name}"
                checked += 1
    assert checked > 300


def test_no_function_swallows_options():
    for path, tree in sources():
        for function in functions(tree):
            options = function.args.kwarg and function.args.kwarg.arg
            assert not (options and options.startswith("_")), f"{path}: {function.name} takes **{options}"


def test_options_are_handed_on_once_only():
    """Where a function hands its **options on, the function that gets them takes them by name."""
    taking = {f.name for _, tree in sources() for f in functions(tree) if f.args.kwarg}
    for path, tree in sources():
        for function in (f for f in functions(tree) if f.args.kwarg):
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                handed = [k for k in call.keywords if k.arg is None and isinstance(k.value, ast.Name)]
                called = getattr(call.func, "id", getattr(call.func, "attr", None))
                hands_on = function.args.kwarg.arg in [k.value.id for k in handed]
                assert not (hands_on and called in taking), f"{path}: {function.name} hands its options on to {called}"


def assigned_attributes(node):
    """Returns the names of the attributes of self that are assigned below a node."""
    targets = [n for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
    return {target.attr for target in targets if getattr(target.value, "id", None) == "self"}


def test_no_attribute_is_first_set_outside_of_init():
    classes = {node.name: node for _, tree in sources() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}

    def born(node):
        """Returns the attributes that a class has from its own body, its __init__, and the classes it is made from."""
        names = {
            name.id
            for n in node.body
            if not isinstance(n, ast.FunctionDef)
            for name in ast.walk(n)
            if isinstance(name, ast.Name)
        }
        for method in functions(node):
            names |= assigned_attributes(method) if method.name == "__init__" else set()
        for base in node.bases:
            base_name = getattr(base, "id", getattr(base, "attr", None))
            if base_name in classes and base_name != node.name:
                names |= born(classes[base_name])
        return names

    assert len(classes) > 20
    for name, node in classes.items():
        for method in functions(node):
            assert assigned_attributes(method) <= born(node), f"{name}.{method.name}"
