"""What is tried again, how often and how soon: Seawall's policy beside Celery's own ways."""

import itertools
import socket
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import Retry as CeleryRetry
from celery.result import AsyncResult

from seawall import settings, submit_many
from seawall.cluster import connect
from seawall.retries import RetryBudget
from seawall.retries.budget import ALWAYS
from seawall.worker.task import retry_budget
from support import shop
from support.nodes import StartWorker, ThreadWorker
from support.waiting import wait_until

# Celery's Redis backend calls setex, which redis-py deprecates; here it runs in this process.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


def test_a_retryable_failure_is_tried_exactly_max_attempts_times_within_the_cap(
    shop_app: Celery, thread_worker: ThreadWorker
) -> None:
    with thread_worker(shop_app):
        result = shop_app.tasks["shop.unreachable"].delay()
        with pytest.raises(ConnectionError, match="the dependency is away"):
            result.get(timeout=20)
    lines = [line.split() for line in shop.journal(shop_app)]
    assert [line[1] for line in lines] == ["0", "1", "2"]
    times = [float(line[3]) for line in lines]
    # The cap is 0.1 s; the rest is the broker's polling and the timer's resolution.
    assert all(later - earlier < 3.0 for earlier, later in itertools.pairwise(times))


def test_only_failures_that_deserve_it_are_tried_again(shop_app: Celery, thread_worker: ThreadWorker) -> None:
    tasks = shop_app.tasks
    with thread_worker(shop_app):
        with pytest.raises(ValueError, match="would not help"):
            tasks["shop.mistaken"].delay().get(timeout=20)
        with pytest.raises(KeyError):
            tasks["shop.picky"].delay("listed").get(timeout=20)
        with pytest.raises(ConnectionError):
            tasks["shop.picky"].delay("unlisted").get(timeout=20)
        assert tasks["shop.recovering"].delay().get(timeout=20) == 2
    assert shop.journal(shop_app) == ["attempt 0", "listed 0", "listed 1", "unlisted 0"]


@pytest.mark.parametrize("name", ["shop.retries_by_hand", "shop.retries_by_celery"])
def test_celerys_own_retries_keep_their_meaning(
    shop_app: Celery, thread_worker: ThreadWorker, name: str
) -> None:
    with thread_worker(shop_app), pytest.raises(ValueError, match="by "):
        shop_app.tasks[name].delay().get(timeout=20)
    assert shop.journal(shop_app) == ["attempt 0", "attempt 1"]


def test_a_task_called_as_a_function_raises_its_own_error(shop_app: Celery) -> None:
    with pytest.raises(ConnectionError):
        shop_app.tasks["shop.unreachable"]()


def test_eager_tasks_know_their_request_and_their_retries(shop_app: Celery) -> None:
    try:
        assert shop_app.tasks["shop.recovering"].apply().get() == 2
    except (ConnectionError, CeleryRetry) as exc:
        pytest.fail(f"an eager task was not retried: {exc!r}")


def test_an_outage_costs_the_cluster_its_budget_of_retries_and_no_more(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        budgets = [RetryBudget(lambda: client) for _ in range(4)]  # four processes
        granted = 0
        for number in range(400):
            budget = budgets[number % 4]
            budget.first_attempt("t")
            granted += budget.take("t", 0.2)
        assert granted == ALWAYS + 80
        assert 0 < client.ttl("seawall:{retries:t}") <= 70


def test_a_budget_without_an_answer_goes_on_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        budget = RetryBudget(lambda: connect(f"redis://127.0.0.1:{unused.getsockname()[1]}"))
        assert sum(budget.take("t", 0.2) for _ in range(50)) == ALWAYS
    assert len(caplog.records) < 50, "it asks seldom while Redis is away"


def test_a_retry_over_the_budget_fails_with_its_own_error_and_a_note(
    shop_app: Celery, thread_worker: ThreadWorker
) -> None:
    task = shop_app.tasks["shop.unreachable"]
    share = settings().retry.budget
    try:
        while retry_budget.take(task.name, share):
            pass
        with thread_worker(shop_app):
            result = task.delay()
            with pytest.raises(ConnectionError, match="the dependency is away"):
                result.get(timeout=20)
    finally:
        retry_budget.forget()
    assert len(shop.journal(shop_app)) == 1
    assert "have used their budget, 0.2 of first attempts" in str(result.traceback)


def test_the_other_side_may_ask_for_a_longer_wait(
    shop_app: Celery, thread_worker: ThreadWorker, caplog: pytest.LogCaptureFixture
) -> None:
    with thread_worker(shop_app), caplog.at_level("INFO", "celery"), pytest.raises(ConnectionError):
        shop_app.tasks["shop.told_to_wait"].delay().get(timeout=20)
    first, second = (float(line.split()[1]) for line in shop.journal(shop_app))
    assert second - first >= 0.9


def test_no_secret_reaches_the_log_or_the_headers(start_worker: StartWorker, shop_app: Celery) -> None:
    worker = start_worker("support.shop", "--concurrency=1")
    task = shop_app.tasks["shop.leaky"]
    for result in (
        task.delay("hunter2secret", card="hunter2secret"),
        submit_many([task.s("hunter2secret", card="hunter2secret")], app=shop_app)[0],
    ):
        with pytest.raises(ValueError, match="cannot log in"):
            AsyncResult(str(getattr(result, "id", result)), app=shop_app).get(timeout=30)
    logs = wait_until(lambda: logs_with(worker, '"event": "failed"', 2), timeout=20)
    assert "hunter2secret" not in logs
    assert "postgresql://u:***@db" in logs


def logs_with(worker: Any, words: str, times: int) -> str | None:
    logs: str = worker.container.logs()
    return logs if logs.count(words) >= times else None
