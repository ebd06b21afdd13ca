"""What `seawall doctor -A` says of applications that are plain Celery, or use Seawall already."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.nodes import ROOT

Done = subprocess.CompletedProcess[str]
Doctor = Callable[..., Done]
MOVING = ROOT / "tests" / "support" / "moving"
PLACE = re.compile(r" \(([^()]+):(\d+)\)")

EVERY_TASK = {
    *("again", "batch", "coroutine", "early", "flask", "hooked", "killer", "limits", "pickled", "plain"),
    *("polite", "rated", "registered", "report", "tenant", "twice", "twin", "urgent"),
}


def tasks(*names: str) -> set[str]:
    return {f"mart.{name}" for name in names}


def all_but(*names: str) -> set[str]:
    return tasks(*(EVERY_TASK - set(names)))


EXPECTED: dict[tuple[str, str], set[str]] = {
    ("changes", "settings.max_memory_per_child"): {"worker_max_memory_per_child"},
    ("changes", "broker.priorities"): {"mart.urgent", "priority in task_routes"},
    ("changes", "tasks.acks_late"): all_but("early", "killer"),
    ("changes", "tasks.no_time_limit"): all_but("early", "limits", "report", "twice"),
    ("changes", "tasks.hard_limit_follows"): {"mart.report"},
    ("changes", "tasks.retries"): all_but("again", "registered"),
    ("changes", "tasks.autoretry"): {"mart.again"},
    ("changes", "tasks.strategy"): {"mart.batch"},
    ("changes", "calls.priority"): {"task.apply_async(priority=9)", "task.apply_async(priority=255)"},
    ("changes", "commands.max-memory-per-child"): {"celery --max-memory-per-child"},
    ("loses its meaning", "settings.worker_prefetch_multiplier"): {"worker_prefetch_multiplier"},
    ("loses its meaning", "settings.worker_pool_restarts"): {"worker_pool_restarts"},
    ("loses its meaning", "settings.worker_state_db"): {"worker_state_db"},
    ("loses its meaning", "settings.reject_on_worker_lost"): {"task_reject_on_worker_lost"},
    ("loses its meaning", "broker.visibility_timeout"): {"visibility_timeout in broker_transport_options"},
    ("loses its meaning", "broker.priority_steps"): {"priority_steps in broker_transport_options"},
    ("loses its meaning", "broker.sep"): {"sep in broker_transport_options"},
    ("loses its meaning", "broker.queue_order_strategy"): {
        "queue_order_strategy in broker_transport_options"
    },
    ("loses its meaning", "queues.arguments"): {"fast in task_queues", "safe in task_queues"},
    ("loses its meaning", "tasks.reject_on_worker_lost"): {"mart.killer"},
    ("loses its meaning", "tasks.request"): {"mart.hooked"},
    ("loses its meaning", "commands.O"): {"celery -O"},
    ("loses its meaning", "commands.prefetch-multiplier"): {"celery --prefetch-multiplier"},
    ("check", "settings.unknown"): {"CELERY_WORKER_PREFETCH_MULTIPLER"},
    ("check", "apps"): {"app", "reports"},
    ("check", "settings.accept_content"): {"accept_content"},
    ("check", "settings.result_serializer"): {"result_serializer"},
    ("check", "settings.always_eager"): {"task_always_eager"},
    ("check", "settings.bootsteps"): {"support.moving.app.Probe"},
    ("check", "settings.beat"): {"beat_schedule"},
    ("check", "settings.schedule"): {"beat_schedule: forgotten"},
    ("check", "results.backend"): {"result_backend"},
    ("check", "tasks.same_name"): {"mart.twin"},
    ("check", "tasks.coroutine"): {"mart.coroutine"},
    ("check", "tasks.said_twice"): {"mart.twice"},
    ("check", "tasks.ignore_result"): {"mart.killer"},
    ("check", "tasks.limits_contradict"): {"mart.limits"},
    ("check", "tasks.serializer"): {"mart.pickled"},
    ("check", "tasks.registered"): {"mart.registered"},
    ("check", "tasks.rate_limit"): {"mart.rated", "task_default_rate_limit"},
    ("check", "calls.list"): {'client.llen("celery")', "client.lrange(FAST, 0, -1)"},
    ("check", "calls.priority_range"): {"task.apply_async(priority=255)"},
    ("check", "calls.serializer"): {'task.apply_async(countdown=60, serializer="pickle")'},
    ("check", "commands.B"): {"celery -B"},
    ("check", "commands.beat"): {"celery beat"},
    ("check", "commands.pool"): {"celery -P gevent"},
    ("fits", "settings.max_tasks_per_child"): {"worker_max_tasks_per_child"},
    ("fits", "broker.redis"): {"broker_url"},
    ("fits", "tasks.call"): {"mart.flask", "mart.tenant", "mart.polite"},
    ("fits", "tasks.class"): {"mart.hooked"},
    ("fits", "calls.delay"): {
        "task.apply_async(countdown=24 * 60 * 60)",
        "task.apply_async(eta=datetime.now(UTC) + timedelta(days=2))",
    },
    ("fits", "commands.pool"): {"celery -P prefork"},
    ("fits", "settings"): {"include", "timezone"},
}


def depends_on_others(check: str) -> bool:
    """Whether a notice comes of the environment or of our defaults, and not of the application alone."""
    return check.startswith("versions.")


FITTING = """
from celery import Celery
from seawall import Retry, policy

app = Celery("fit", broker="redis://cache.example/0", backend="redis://cache.example/1")
app.conf.task_acks_late = True
app.conf.task_time_limit = 70


@app.task
@policy(retry=Retry(max_attempts=1))
def double(number):
    return 2 * number
"""
USING_SEAWALL = (
    FITTING.replace("Celery(", "seawall.install(Celery(")
    .replace('/1")', '/1"))')
    .replace("from celery", "import seawall\nfrom celery")
)
SIGNING = (
    FITTING
    + '''
from kombu.serialization import register


def dumps(message):
    """Sign it: CELERY_WORKER_MAX_TASKS_PER_CHILD=1, and worker_max_tasks_per_child=1 of old."""
    return message  # worker_max_tasks_per_child = 1


register("signed", dumps, dumps, content_type="application/x-signed", content_encoding="utf-8")
app.conf.update(
    task_serializer="signed",
    result_serializer="signed",
    accept_content=["application/json", "application/x-signed"],
    worker_max_tasks_per_child=1,
)
'''
)


FORKING = """
import json, os, sys
import seawall.doctor.adoption
from seawall.cli import main
for line in sys.stdin:
    directory, stdout, stderr, *words = json.loads(line)
    if (child := os.fork()) == 0:
        os.chdir(directory)
        for path, stream in ((stdout, sys.stdout), (stderr, sys.stderr)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
        sys.argv = ["seawall", *words]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""`seawall`, each time in a process of its own, which has imported what every application needs."""


def environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SEAWALL_", "CELERY_"))}
    return {**own, "NO_COLOR": "1", "PYTHONPATH": str(ROOT / "tests")}


def command(directory: Path, app: str, *options: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "seawall.cli", "doctor", "-A", app, *options],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def doctor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doctor]:
    """As `command`, without its imports."""
    said = [tmp_path_factory.mktemp("said") / name for name in ("stdout", "stderr")]
    with subprocess.Popen(
        [sys.executable, "-c", FORKING],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as parent:
        questions, answers = parent.stdin, parent.stdout
        assert questions
        assert answers

        def run(directory: Path, app: str, *options: str) -> Done:
            asked = [*map(str, (directory, *said)), "doctor", "-A", app, *options]
            questions.write(json.dumps(asked) + "\n")
            status = int(answers.readline())
            return subprocess.CompletedProcess(asked, status, *(path.read_text() for path in said))

        yield run
        questions.close()


def notices(doctor: Doctor, directory: Path, app: str) -> list[dict[str, Any]]:
    done = doctor(directory, app, "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.returncode == any(each["group"] != "fits" for each in found), done.stderr
    return found


def by_group(found: list[dict[str, Any]]) -> dict[tuple[str, str], set[str]]:
    """What each notice is about: names without their places, and of a call its own text."""
    said: dict[tuple[str, str], set[str]] = {}
    for each in found:
        names = {
            call(place) if each["check"].startswith("calls.") else PLACE.sub("", place).partition(": p")[0]
            for place in each["where"]
        }
        said.setdefault((each["group"], each["check"]), set()).update(names)
    return said


def call(place: str) -> str:
    file, _, line = place.rpartition(":")
    return (MOVING / file).read_text().splitlines()[int(line) - 1].strip()


@pytest.fixture(scope="module")
def moving() -> list[dict[str, Any]]:
    return notices(command, MOVING, "support.moving.app")


def test_one_of_everything_is_found_in_its_group_and_nothing_else(moving: list[dict[str, Any]]) -> None:
    said = {key: where for key, where in by_group(moving).items() if not depends_on_others(key[1])}
    assert said == EXPECTED


def test_each_place_is_the_line_that_says_it(moving: list[dict[str, Any]]) -> None:
    places = {place for each in moving for place in each["where"] if PLACE.search(place)}
    assert len(places) > 40
    for place in places:
        [(file, line)] = PLACE.findall(place)
        text = (MOVING / file).read_text().splitlines()[int(line) - 1]
        named = PLACE.sub("", place).partition(": ")[0].rpartition(" in ")[2]
        if named.startswith("mart."):
            assert f'name="{named}"' in text or named == "mart.registered"
        else:
            assert named.removeprefix("celery ").split()[0].lower() in text.lower()


def test_every_notice_says_what_happens_and_what_to_write(moving: list[dict[str, Any]]) -> None:
    for each in moving:
        assert each["reason"]
        assert each["fix"]
        assert (each["severity"] == "info") == (each["group"] == "fits")
        assert "secret" not in json.dumps(each)


def test_the_report_for_people_has_the_groups_and_the_same_notices(moving: list[dict[str, Any]]) -> None:
    done = command(MOVING, "support.moving.app")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert done.stderr == ""
    groups = ["changes", "loses its meaning", "check", "fits"]
    assert [line for line in lines if line in groups] == groups
    for each in moving:
        assert any(line.startswith(f"  {each['check']}: {each['where'][0]}") for line in lines), each
        assert f"    {each['reason']}" in lines


@pytest.mark.parametrize(
    "source", [FITTING, USING_SEAWALL, SIGNING], ids=["plain", "with Seawall", "a serializer of its own"]
)
def test_of_an_application_that_fits_nothing_else_is_said_and_nothing_is_left_behind(
    doctor: Doctor, tmp_path: Path, source: str
) -> None:
    (tmp_path / "fit.py").write_text(source)
    found = [each for each in notices(doctor, tmp_path, "fit") if not depends_on_others(each["check"])]
    assert {each["group"] for each in found} == {"fits"}
    assert {path.name for path in tmp_path.iterdir()} <= {"fit.py", "__pycache__"}


def test_the_place_of_a_setting_is_where_the_program_sets_it_and_no_line_of_prose(
    doctor: Doctor, tmp_path: Path
) -> None:
    (tmp_path / "fit.py").write_text(SIGNING)
    found = {each["check"]: each for each in notices(doctor, tmp_path, "fit")}
    [where] = found["settings.max_tasks_per_child"]["where"]
    [(_, line)] = PLACE.findall(where)
    assert SIGNING.splitlines()[int(line) - 1] == "    worker_max_tasks_per_child=1,"


def test_an_app_that_was_left_plain_beside_one_with_seawall_is_named(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "fit.py").write_text(USING_SEAWALL + '\napp.conf.include = ["jobs"]\n')
    (tmp_path / "jobs.py").write_text(
        "from celery import Celery, current_app\n\nown: Celery = Celery('jobs')\n"
    )
    found = {each["check"]: each for each in notices(doctor, tmp_path, "fit")}
    assert found["apps"]["where"] == ["own (jobs.py:3)"]
    assert found["apps"]["group"] == "check"


def test_an_extension_that_asks_for_another_celery_is_named(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "fit.py").write_text(FITTING)
    (tmp_path / "batches-0.11.dist-info").mkdir()
    (tmp_path / "batches-0.11.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: batches\nVersion: 0.11\nRequires-Dist: celery <5.1,>=5.0\n"
        'Requires-Dist: redis <2 ; extra == "old"\n'
    )
    [found] = [each for each in notices(doctor, tmp_path, "fit") if each["where"] == ["batches 0.11"]]
    assert (found["check"], found["group"], found["severity"]) == ("versions.extension", "check", "error")
    assert "it asks for celery<5.1,>=5.0" in found["reason"]


def test_a_module_that_cannot_be_imported_is_named_and_the_rest_is_read(
    doctor: Doctor, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(FITTING + '\napp.conf.include = ["shop_tasks"]\n')
    (tmp_path / "shop_tasks.py").write_text("from shop import app\n\nimport nowhere\n")
    found = {each["check"]: each for each in notices(doctor, tmp_path, "shop")}
    [where] = found["imports"]["where"]
    assert "No module named 'nowhere'" in where
    assert "shop_tasks.py:3" in where
    assert found["tasks"]["where"] == ["shop.double (shop.py:10)"]


def test_the_configuration_of_another_framework_holds_names_that_are_not_celerys(
    doctor: Doctor, tmp_path: Path
) -> None:
    shared = {
        "SQLALCHEMY_POOL_SIZE": 5,
        "DEBUG": False,
        "CELERY_BROKER_URL": "redis://cache.example/0",
        "CELERY_TASK_TRACK_STARTED": True,
        "CELERYBEAT_SCHEDUL": {},
        "task_time_limt": 5,
    }
    prose = '"""Nobody has set task_time_limt\n:since: 2019\n"""\n'
    source = prose + FITTING + f"\n\napp.conf.update({shared})\n"
    (tmp_path / "fit.py").write_text(source)
    found = {
        each["where"][0]: each
        for each in notices(doctor, tmp_path, "fit")
        if each["check"] == "settings.unknown"
    }
    assert {PLACE.sub("", name) for name in found} == {
        "CELERY_TASK_TRACK_STARTED",
        "CELERYBEAT_SCHEDUL",
        "task_time_limt",
    }
    line = len(source.splitlines())
    assert f"task_time_limt (fit.py:{line})" in found
    passed = found[f"CELERY_TASK_TRACK_STARTED (fit.py:{line})"]
    assert "task_track_started is meant?" in passed["reason"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("json.loads('')", "Expecting value"),
        ("string.Template('$nowhere').substitute()", "KeyError: 'nowhere'"),
    ],
    ids=["a ValueError", "another"],
)
def test_an_import_that_fails_in_a_library_is_told_with_the_line_of_the_application(
    doctor: Doctor, tmp_path: Path, call: str, error: str
) -> None:
    (tmp_path / "broken.py").write_text(f"import json\nimport string\n\n{call}\n")
    done = doctor(tmp_path, "broken")
    assert done.returncode == 2
    assert error in done.stderr
    assert "broken.py:4" in done.stderr
    assert "name a module" not in done.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('raise KeyError("DATABASE_URL")', "KeyError: 'DATABASE_URL'"),
        ("number = 1", "cannot be loaded"),
        (FITTING + "app.conf.update(CELERYD_CONCURRENCY=3)\n", "Cannot mix new and old setting keys"),
    ],
    ids=["it raises", "no application", "Celery refuses its configuration"],
)
def test_what_is_no_application_is_one_line_and_a_wrong_argument(
    doctor: Doctor, tmp_path: Path, source: str, said: str
) -> None:
    (tmp_path / "broken.py").write_text(source)
    done = doctor(tmp_path, "broken")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


RABBITMQ = """
from celery import Celery
from kombu import Queue

app = Celery("mq", broker="amqp://mq.example//", backend="rpc://")
app.conf.broker_transport_options = {"max_retries": 3}
app.conf.task_ignore_result = True
app.conf.worker_pool = "threads"
app.conf.task_queues = [Queue("safe", queue_arguments={"x-queue-type": "quorum"})]
app.conf.task_time_limt = 5
"""


@pytest.mark.parametrize(
    ("more", "silent"),
    [("", set()), ("app.conf.task_queue_max_priority = None\n", {"queues.max_priority"})],
    ids=["as it is", "queues keep what they were declared with"],
)
def test_rabbitmq_has_findings_of_its_own_and_a_pool_in_one_process_is_named(
    doctor: Doctor, tmp_path: Path, more: str, silent: set[str]
) -> None:
    (tmp_path / "mq.py").write_text(RABBITMQ + more)
    said = by_group(notices(doctor, tmp_path, "mq"))
    assert {check for group, check in said if group == "check" and not depends_on_others(check)} == {
        "broker.confirm_publish",
        "queues.quorum",
        "queues.max_priority",
        "results.backend",
        "settings.pool",
        "settings.unknown",
    } - silent
    assert not {key for key in said if key[0] == "loses its meaning"}
