"""What is tried again, how often and how soon: Seawall's policy beside Celery's own ways."""

import itertools

import pytest
from celery import Celery
from celery.exceptions import Retry as CeleryRetry

from support import shop
from support.nodes import ThreadWorker

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
