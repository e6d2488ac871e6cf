"""Each module imports only from modules above it, and `import pdsearch` stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pdsearch

PACKAGE = Path(pdsearch.__file__).parent

# From the first, which imports nothing of ours, to the last, which may import everything.
ORDER = (
    "errors",
    "plain",
    "files",
    "interrupt",
    "processes",
    "masking",
    "text",
    "style",
    "launchers",
    "userfile",
    "apart",
    "expression",
    "enclosure",
    "saturating",
    "choices",
    "text_nodes",
    "scaled",
    "torch_source",
    "reach",
    "codegen",
    "family",
    "float32_source",
    "triton_source",
    "float32_family",
    "compose",
    "kernels",
    "autograd",
    "criteria",
    "data",
    "networks",
    "models",
    "trial",
    "statistics",
    "study",
    "confirm",
    "insight",
    "report",
    "export",
    "native",
    "doctor",
    "starter",
    "cli",
    "__main__",
)
# The package's own __init__ hands names on; the starter family is a user's file.
OUTSIDE = {PACKAGE / "__init__.py", PACKAGE / "starter" / "my_family.py"}


def _files() -> list[Path]:
    files = [path for path in PACKAGE.rglob("*.py") if "search_spaces" not in path.parts]
    return sorted(set(files) - OUTSIDE)


def _owner(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that may run: what only a type checker reads imports nothing."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _walk(child)


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of ours (first level) of each import, those inside functions too."""
    for node in _walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = (
                [f"pdsearch.{alias.name}" for alias in node.names]
                if node.module == "pdsearch"
                else [node.module or ""]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("pdsearch.") and name != "pdsearch.__version__":
                yield node.lineno, name.split(".")[1]
            assert name != "pdsearch", f"{path}:{node.lineno}: imports the whole package"


def test_every_module_has_its_place_in_the_order() -> None:
    assert {_owner(path) for path in _files()} <= set(ORDER)


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_above(path: Path) -> None:
    place = ORDER.index(_owner(path))
    for line, name in _imported(path):
        assert name in ORDER, f"{path}:{line}: {name} has no place in the order"
        if name != _owner(path):
            assert ORDER.index(name) < place, f"{path}:{line}: {name} is below {_owner(path)}"


def test_files_inside_a_folder_form_no_cycle() -> None:
    """Where a module is a folder, its files import one another without a cycle."""
    for folder in sorted({path.parent for path in _files()} - {PACKAGE}):
        graph: dict[str, set[str]] = {}
        for path in folder.glob("*.py"):
            if path in OUTSIDE:
                continue
            prefix = ".".join(("pdsearch", *folder.relative_to(PACKAGE).parts))
            graph[path.stem] = {
                name
                for node in _walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.ImportFrom) and node.module
                for name in (
                    [node.module.removeprefix(prefix + ".").split(".")[0]]
                    if node.module.startswith(prefix + ".")
                    else [alias.name for alias in node.names]
                    if node.module == prefix
                    else []
                )
                if (folder / f"{name}.py").exists()
            }
        while graph:
            leaves = {name for name, needs in graph.items() if not needs & set(graph)}
            assert leaves, f"{folder}: a cycle among {', '.join(sorted(graph))}"
            graph = {name: needs for name, needs in graph.items() if name not in leaves}


def test_importing_pdsearch_imports_nothing_heavy() -> None:
    script = (
        "import sys, pdsearch; print(pdsearch.__version__); dir(pdsearch); "
        "heavy = {'torch', 'optuna', 'sympy', 'numpy', 'plotly', 'sklearn'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == pdsearch.__version__


def test_defining_a_family_imports_no_torch() -> None:
    """`pdsearch families` and a file of families need none; torch alone takes over a second."""
    script = (
        "import sys; from pdsearch import Family, x, library; library(); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", pdsearch.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(pdsearch, name) is not None
    assert name in dir(pdsearch)


def test_the_public_names_are_what_the_module_promises() -> None:
    assert sorted(pdsearch._OWNERS) == sorted(pdsearch.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = pdsearch.serach


def test_reading_a_study_imports_no_torch(begun: Path) -> None:
    commands = [
        ["status", "pdsearch"],
        ["status", "pdsearch", "--json"],
        ["export", "pdsearch", "--trial", "0", "-o", "g.json", "--force"],
        ["export", "pdsearch", "--trial", "0", "-o", "g.tex", "--force"],
        ["export", "leaky", "-o", "g.json", "--force"],
    ]
    script = (
        "import sys\nfrom pdsearch.cli import main\n"
        f"for words in {commands!r}:\n"
        "    assert main(words) == 0, words\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=begun)
    assert done.returncode == 0, done.stderr


def test_the_op_imports_no_compiler() -> None:
    """`pdsearch check` needs none; torch._dynamo takes longer to import than torch."""
    script = "import sys, pdsearch.autograd; assert 'torch._dynamo' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study in the default storage."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pdsearch.search(families=["leaky"], train=lambda g: 0.5, trials=4, progress=False)
    return folder
