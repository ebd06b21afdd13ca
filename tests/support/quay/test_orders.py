"""The project's own tests, which Django's runner finds: tasks run where they are submitted."""

from django.test import TestCase, TransactionTestCase

from support.quay.celery import app
from support.quay.orders import tasks
from support.quay.orders.models import Order


class EagerTest(TestCase):  # type: ignore[misc]
    """Each test is a transaction that is rolled back."""

    def test_a_task_works_in_the_transaction_of_its_test(self) -> None:
        assert app.conf.task_always_eager
        Order.objects.create(number=1, process=0, backend=0)
        assert tasks.count.delay(1).get() == 1
        assert tasks.record.delay(1).get() == 1
        assert Order.objects.filter(number=1).count() == 2

    def test_what_follows_a_commit_runs_when_the_test_says_so(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as called:
            tasks.place.delay(5)
        assert len(called) == 2
        assert Order.objects.count() == 3

    def test_what_a_task_raises_reaches_the_test(self) -> None:
        with self.assertRaisesMessage(ValueError, "rolled back"):
            tasks.place.delay(5, fail="fail")
        assert not Order.objects.exists()


class CommittingTest(TransactionTestCase):  # type: ignore[misc]
    """Each test commits."""

    def test_what_follows_a_commit_runs_at_once(self) -> None:
        tasks.place.delay(5)
        assert Order.objects.count() == 3
