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
