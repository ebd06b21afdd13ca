"""`seawall.install` on a plain application of ten lines, started by `celery worker` without other changes."""

from pathlib import Path

import pytest
from celery import Celery

from support.nodes import StartWorker

PLAIN = """
import seawall
from celery import Celery

app = seawall.install(Celery("plain"{arguments}))
{more}

@app.task
def double(number):
    return 2 * number
"""


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        ("", ""),
        pytest.param(", broker={url!r}, backend={url!r}", "", marks=pytest.mark.slow),
        ("", "app.config_from_object({{'broker_url': {url!r}, 'result_backend': {url!r}}})"),
        (", task_cls='celery.app.task:Task'", ""),
    ],
    ids=["settings", "explicit url", "config_from_object", "own task class"],
)
def test_a_plain_app_runs_its_tasks(
    tmp_path: Path, redis_url: str, start_worker: StartWorker, arguments: str, more: str
) -> None:
    source = PLAIN.format(arguments=arguments.format(url=redis_url), more=more.format(url=redis_url))
    (tmp_path / "plain.py").write_text(source)
    worker = start_worker("plain", "--concurrency=1")
    with Celery("caller", broker=redis_url, backend=redis_url, set_as_current=False) as caller:
        # A caller without Seawall uses the stock keys: its messages are taken as well.
        assert caller.send_task("plain.double", (21,)).get(timeout=20) == 42
    assert "seawall" in worker.logs()


def test_a_worker_of_an_app_installed_too_late_says_so(tmp_path: Path, start_worker: StartWorker) -> None:
    source = "import seawall, celery\napp = celery.Celery('late')\napp.finalize()\nseawall.install(app)\n"
    (tmp_path / "late.py").write_text(source)
    worker = start_worker("late", wait=False)
    assert worker.container.wait(30) != 0
    assert "came too late: call it right after Celery(...)" in worker.logs()
