"""Every module can be the first that a program imports; none relies on another one to be there."""

import subprocess
import sys

from support.nodes import ROOT

FIRST = """
import gc, importlib, os, sys, traceback

for name in [  # what costs time and is not ours
    "celery.bin.celery", "celery.worker.components", "celery.worker.consumer", "celery.app.trace",
    "flower.command", "psutil", "psycopg_pool", "redis.cluster", "redis.sentinel", "kombu.transport.redis",
    "pydantic_settings", "structlog", "click.testing", "prometheus_client", "tornado.web", "asyncio",
    "seawall",  # which the import of any module in it runs first
]:
    importlib.import_module(name)
gc.freeze()
for name in sys.argv[1:]:
    if name == "seawall.config":  # takes longest, and nothing that it imports imports what comes after it
        importlib.import_module(name)
        gc.freeze()
    if not os.fork():
        try:
            importlib.import_module(name)
        except BaseException:
            os.write(1, f"{name}:\\n{traceback.format_exc()}\\n".encode())
        os._exit(0)
    os.wait()
"""


def modules() -> list[str]:
    root = ROOT / "platform"
    files = (each.relative_to(root).with_suffix("") for each in (root / "seawall").rglob("*.py"))
    names = (".".join(file.parts).removesuffix(".__init__") for file in files)
    return sorted(name for name in names if not name.endswith(".__main__"))


def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )


def test_each_module_can_be_imported_first() -> None:
    imported = run("import sys, seawall.config; print(*sys.modules)").stdout.split()
    before = [name for name in modules() if name in imported and name != "seawall.config"]
    assert len(before) > 10
    after = [name for name in modules() if name not in imported]
    done = run(FIRST, *before, "seawall.config", *after)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


BROKEN = """
import importlib, sys, traceback
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

class Broken(MetaPathFinder, Loader):
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.startswith(package + ".") else None
    def exec_module(self, module):
        raise error("the true cause")

for package in sys.argv[1:]:
    module = importlib.import_module(package)
    sys.meta_path.insert(0, Broken())
    for error in (AttributeError, ImportError, NameError, SystemExit):
        lazy = [name for name in module.__all__ if name not in vars(module)]
        assert lazy, package
        for name in lazy:
            for each in [each for each in sys.modules if each.startswith(package + ".")]:
                del sys.modules[each]
            asked = f"import sys; getattr(sys.modules[{package!r}], {name!r}, None)"
            for line in (f"from {package} import {name}", asked):
                try:
                    exec(line, {})
                except BaseException:
                    if "the true cause" in traceback.format_exc():
                        continue
                print(f"{line}: {error.__name__} is hidden")
    sys.meta_path.pop(0)
    try:
        module.nowhere
    except AttributeError:
        continue
    print(f"{package} has everything")
"""


def test_a_package_that_imports_names_later_hides_no_error_of_their_modules() -> None:
    root = ROOT / "platform"
    lazy = [each for each in (root / "seawall").rglob("*.py") if "def __getattr__(name" in each.read_text()]
    packages = [".".join(each.relative_to(root).parent.parts) for each in lazy]
    assert {each.name for each in lazy} == {"__init__.py"}
    assert len(packages) > 2
    for package in packages:
        done = run(BROKEN, package)
        assert done.stdout + done.stderr == ""


def test_no_further_module_bears_the_name_of_a_public_function() -> None:
    """`import seawall.x as x` would give the function; these two have submodules that docs/ names."""
    program = """
import importlib, sys
for name in sys.argv[1:]:
    package, _, last = name.rpartition(".")
    if importlib.import_module(name) is not getattr(sys.modules[package], last):
        print(name)
"""
    done = run(program, *[name for name in modules() if name != "seawall"])
    assert done.stderr == ""
    assert done.stdout.split() == ["seawall.breaker", "seawall.database"]
