"""The names of Flower that `seawall.dashboard` stands on."""

import inspect
from pathlib import Path

import flower
import pytest
from flower.app import Flower
from flower.views import BaseHandler


def test_pages_and_api_ask_the_handler_for_their_broker() -> None:
    from flower.api.tasks import GetQueueLengths
    from flower.views.broker import BrokerView

    for handler in (BrokerView, GetQueueLengths):
        assert issubclass(handler, BaseHandler)
        source = inspect.getsource(handler)
        assert "self.get_broker()" in source
        assert "await broker.queues(self.get_active_queue_names())" in source


def test_the_application_is_known_to_the_handler() -> None:
    assert "self.capp = " in inspect.getsource(Flower.__init__)


@pytest.mark.parametrize("field", ["messages", "messages_ready", "messages_unacknowledged", "consumers"])
def test_the_page_prints(field: str) -> None:
    page = Path(flower.__file__).parent / "templates" / "broker.html"
    assert f"queue.get('{field}')" in page.read_text()
