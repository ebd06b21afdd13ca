"""The names of Flower that `seawall.dashboard` and `seawall.dashboard_access` stand on."""

import inspect
from pathlib import Path

import flower
import pytest
import tornado.web
from flower import command
from flower.app import Flower
from flower.events import Events, EventsState
from flower.utils.authentication import authenticate, validate_auth_option
from flower.views import BaseHandler
from flower.views.auth import LoginHandler
from flower.views.monitor import Metrics

from seawall.dashboard import Templates


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


def test_a_password_is_known_when_the_settings_are_extracted() -> None:
    source = inspect.getsource(command.flower.callback)
    assert source.index("apply_options(") < source.index("extract_settings()") < source.index("Flower(")
    assert "'--auth'" in inspect.getsource(command.extract_settings)


def test_a_provider_of_ours_is_the_login_page_and_its_user_is_let_in() -> None:
    assert "instantiate(options.auth_provider" in inspect.getsource(LoginHandler.__new__)
    assert validate_auth_option("local")
    assert authenticate("local", "local")
    assert not authenticate("local", "somebody")
    source = inspect.getsource(BaseHandler.get_current_user)
    assert "self.get_secure_cookie('user')" in source
    assert "options.basic_auth or options.auth" in inspect.getsource(BaseHandler.check_xsrf_cookie)


def test_the_port_is_read_when_it_is_bound_and_returned() -> None:
    source = inspect.getsource(Flower.start_http_server)
    assert "self.options.port" in source
    assert "return sockets[0].getsockname()[1]" in source


def test_flower_asks_its_workers_once_as_it_starts() -> None:
    lines = [line.strip() for line in inspect.getsource(Flower.start).splitlines()]
    assert [line for line in lines if line][1:] == [
        "self.events.start()",
        "self.started = True",
        "self.update_workers()",
        "self.io_loop.start()",
    ]
    assert "self.state.event" in inspect.getsource(Events.on_event)


def test_the_buttons_that_may_not_work_are_in_the_template() -> None:
    page = (Path(flower.__file__).parent / "templates" / "worker.html").read_text()
    for part, _ in Templates.WORKS_IF:
        (found,) = part.finditer(page)
        assert found[0].count("<div") == found[0].count("</div>")
        assert found[0].count("<li") == found[0].count("</li>")
        assert found[0].count("<button") == 1


def test_metrics_are_prepared_by_a_handler_that_asks_nobody() -> None:
    assert issubclass(Metrics, BaseHandler)
    assert Metrics.prepare is tornado.web.RequestHandler.prepare
    assert "tornado.web.HTTPError(401)" in inspect.getsource(BaseHandler.get_current_user)


def test_the_state_of_workers_and_tasks_that_is_corrected() -> None:
    state = EventsState(max_tasks_in_memory=1)
    assert {"worker_online", "worker_number_of_currently_executing_tasks"} <= vars(state.metrics).keys()
    assert state.tasks.data is not state.tasks  # iterating over the former makes nothing recent
