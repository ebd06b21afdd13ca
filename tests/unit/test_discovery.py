"""Where `seawall init` and the messages of `seawall up` look for an application."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from seawall import settings
from seawall.cli import group
from seawall.cli.discovery import guessed_apps, hint, place_below
from seawall.fleet import FleetSpec


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(project: Path, name: str, text: str) -> None:
    path = project / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


MADE = 'from celery import Celery\n\napp = Celery("shop")\n'


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("tasks.py", MADE, "tasks"),
        ("tasks.py", MADE.replace("app", "queue"), "tasks:queue"),
        ("tasks.py", 'import seawall\ncelery: object = seawall.Seawall("shop")\n', "tasks"),
        ("tasks.py", MADE.replace('Celery("shop")', 'seawall.install(Celery("shop"))'), "tasks"),
        ("shop/celery.py", MADE, "shop"),
        ("shop/__init__.py", MADE, "shop"),
        ("shop/web/celery.py", MADE, "shop.web"),
    ],
)
def test_an_application_is_found_where_celery_would_find_it(
    project: Path, file: str, text: str, name: str
) -> None:
    write(project, file, text)
    assert guessed_apps() == [name]
    assert hint() == name


def test_what_is_no_application_of_the_project_is_passed_over(project: Path) -> None:
    write(project, ".venv/lib/celery.py", MADE)
    write(project, "environment/pyvenv.cfg", "")
    write(project, "environment/celery.py", MADE)
    write(project, "tests/celery.py", MADE)
    write(project, "a/b/c/celery.py", MADE)
    write(project, "broken.py", "Celery(\n")
    write(project, "made.py", "def make():\n    app = Celery('x')\n")
    (project / "binary.py").write_bytes(b"Celery\xff\x00")
    assert guessed_apps() == []
    assert hint() == "MODULE"


def test_several_are_all_named_the_nearest_first(project: Path) -> None:
    write(project, "shop/deep/celery.py", MADE)
    write(project, "other.py", MADE)
    assert guessed_apps() == ["other", "shop.deep"]


def test_the_place_for_a_line_is_below_the_one_that_makes_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, "found_by_place.py", "from celery import Celery\n\n\napp = Celery(\n    'shop',\n)\n")
    monkeypatch.syspath_prepend(project)
    __import__("found_by_place")
    try:
        assert place_below("found_by_place") == "below line 6 of found_by_place.py"
        assert place_below("not_loaded") == "below the line that makes it"
    finally:
        del sys.modules["found_by_place"]


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments)


def test_up_outside_of_any_project_says_what_to_type(project: Path) -> None:
    assert "`seawall up -A MODULE` runs one application" in typed("up").output
    write(project, "tasks.py", MADE)
    answer = typed("up")
    assert answer.exit_code == 2
    assert "`seawall up -A tasks` runs one application with defaults" in answer.output
    assert "`seawall init -A tasks` writes the file for it" in answer.output
    assert [path.name for path in project.iterdir()] == ["tasks.py"]


def test_init_chooses_nothing_where_there_is_none_or_are_several_and_overwrites_nothing(
    project: Path,
) -> None:
    assert "no module here makes a Celery application" in typed("init").output
    write(project, "tasks.py", MADE)
    write(project, "other.py", MADE)
    assert "choose one with -A: other, tasks" in typed("init").output
    write(project, "fleet.toml", "mine")
    answer = typed("init", "-A", "tasks")
    assert (answer.exit_code, "fleet.toml is there already" in answer.output) == (2, True)
    assert (project / "fleet.toml").read_text() == "mine"


@pytest.mark.filterwarnings(r"ignore:\s*The 'queue' task attribute:DeprecationWarning")
def test_init_names_every_queue_that_the_application_sends_to(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project)
    routes = 'app.conf.task_routes = {"x.*": {"queue": "bulk"}}\n'
    task = '@app.task(queue="mail")\ndef send() -> None: ...\n'
    write(project, "posted.py", f'import seawall\napp = seawall.Seawall("posted")\n{routes}{task}')
    typed("init")
    monkeypatch.delitem(sys.modules, "posted")
    assert {"celery", "bulk", "mail"} <= {*FleetSpec.load(project / "fleet.toml").workers["default"].queues}


def init_of(project: Path, monkeypatch: pytest.MonkeyPatch, module: str, source: str) -> Result:
    """What `seawall init` answers where that application is; it succeeds."""
    monkeypatch.syspath_prepend(project)
    write(project, f"{module}.py", source)
    answer = typed("init")
    monkeypatch.delitem(sys.modules, module, raising=False)
    assert answer.exit_code == 0, answer.output
    return answer


@pytest.mark.parametrize(
    "routes",
    [
        '{"x.*": "bulk"}',
        '{"x.*": {"queue": Queue("bulk")}}',
        '[[("x.*", {"queue": "bulk"}), ("y", "more")]]',
        '({re.compile("x"): "bulk"},)',
        "lambda name, *_, **__: 'bulk' if name == 'routed.send' else None",
        "[None, lambda *_, **__: {'queue': 'bulk'}]",
    ],
)
def test_init_reads_routes_as_celery_does(
    project: Path, routes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import re\nimport seawall\nfrom kombu import Queue\napp = seawall.Seawall('routed')\n"
        f"app.conf.task_routes = {routes}\n@app.task\ndef send() -> None: ...\n"
        "nightly = {'task': 'routed.send', 'schedule': 9, 'options': {'queue': 'nightly'}}\n"
        "app.conf.beat_schedule = {'a': nightly}"
    )
    init_of(project, monkeypatch, "routed", source)
    queues = {*FleetSpec.load(project / "fleet.toml").workers["default"].queues}
    assert {"celery", "bulk", "nightly"} <= queues <= {"celery", "bulk", "nightly", "more"}


def test_init_says_which_router_it_cannot_ask(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "import seawall\napp = seawall.Seawall('asked')\ndef route(name, args, *_, **__): return args[0]\n"
        "app.conf.task_routes = [route, 'no.such.Router']\n@app.task\ndef send() -> None: ...\n"
    )
    answer = init_of(project, monkeypatch, "asked", source)
    assert (
        "the router route cannot be asked for asked.send without its arguments (IndexError" in answer.stderr
    )
    assert "the router 'no.such.Router' cannot be read (ModuleNotFoundError" in answer.stderr


FAULTY = {
    "include": ('Celery("x", broker="memory://", include=["nope.tasks"])', "No module named 'nope'"),
    "conf": ('Celery("x"); app.config_from_object("nope_conf")', "No module named 'nope_conf'"),
    "object": ("object()", "is of type object: name a module with a Celery app"),
    "leaves": ("exit(0)", "(SystemExit: 0): correct faulty_leaves.py:2, which raised it"),
    "raises": ("1 / 0", "(ZeroDivisionError: division by zero): correct faulty_raises.py:2"),
}


@pytest.mark.parametrize("command", ["init", "up", "doctor"])
@pytest.mark.parametrize("kind", FAULTY)
def test_what_is_wrong_with_the_application_is_said_in_one_line(
    project: Path, kind: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project)
    made, said = FAULTY[kind]
    name = f"faulty_{kind}"
    source = f"from sys import exit; from seawall import Seawall as Celery\napp = {made}\n"
    write(project, f"{name}.py", source)
    answer = typed(command, "-A", name)
    monkeypatch.delitem(sys.modules, name, raising=False)
    assert answer.exit_code == (1 if (kind, command) == ("include", "doctor") else 2), answer.output
    assert said in answer.output
    assert "fault" not in answer.output.replace("faulty", "")
    assert not (project / "fleet.toml").exists()


def test_a_module_is_no_application(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(project)
    write(project, "moduled.py", "x = 1\n")
    answer = typed("doctor", "-A", "moduled:")
    monkeypatch.delitem(sys.modules, "moduled", raising=False)
    assert (answer.exit_code, "app='moduled:' is of type module" in answer.output) == (2, True)


def test_what_the_application_prints_is_no_part_of_json(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project)
    for name in ("talks", "talks_too"):  # what was imported is not imported again
        source = (
            f"import seawall\nprint('loading')\napp = seawall.Seawall('{name}', broker='memory://')\n"
            "@app.task\ndef talk() -> None: print('talking')\n"
        )
        write(project, f"{name}.py", source)
    write(project, "fleet.toml", "app = 'talks'\n[workers.default]\n")
    json.loads(typed("doctor", "-A", "talks_too", "--json").stdout)
    answer = typed("memory", "profile", "talks.talk", "--json", "--runs", "1", "--warm-up", "0")
    for name in ("talks", "talks_too"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["runs"] == 1
    assert answer.stderr.split() == ["loading", "talking"]


def test_the_fleet_is_declared_here_or_else_in_workers(project: Path) -> None:
    assert settings().fleet_file == Path("fleet.toml")
    write(project, "workers/fleet.toml", "")
    assert settings().fleet_file == Path("workers/fleet.toml")
    write(project, "fleet.toml", "")
    assert settings().fleet_file == Path("fleet.toml")
