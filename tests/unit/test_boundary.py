"""The error boundary: logged once, counted, grouped, and never swallowed unless asked to."""

import asyncio
import gc
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from seawall import Category, error_boundary, events
from seawall import boundary as module
from seawall.boundary import ErrorCaught

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def caught() -> Iterator[list[ErrorCaught]]:
    found: list[ErrorCaught] = []
    stop = events.subscribe(ErrorCaught, found.append)
    yield found
    stop()


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installed in a process without hooks of anybody else's, such as pytest's or a worker's in a thread."""
    module.remove()
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    module.install()
    yield
    module.remove()


def refuse() -> None:
    raise ConnectionRefusedError("no gateway at 10.0.0.1")


def test_an_error_goes_on_and_is_logged_once_with_its_context(
    caught: list[ErrorCaught], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConnectionRefusedError), error_boundary("outer"), error_boundary("import", order=17):
        refuse()
    (record,) = caplog.records
    assert record.getMessage() == "import failed: ConnectionRefusedError"
    assert (record.levelno, vars(record)["at_order"], vars(record)["category"]) == (
        logging.WARNING,
        17,
        "network",
    )
    assert record.exc_info is not None
    assert [(each.where, each.failure.category) for each in caught] == [("import", Category.NETWORK)]


def test_it_stops_an_error_only_when_asked_to(caught: list[ErrorCaught]) -> None:
    with error_boundary(stop=True):
        refuse()
    assert len(caught) == 1


def test_it_decorates_functions_and_coroutine_functions(caught: list[ErrorCaught]) -> None:
    @error_boundary(stop=True)
    def plain() -> None:
        refuse()

    @error_boundary(stop=True)
    async def asynchronous() -> None:
        refuse()

    plain()
    asyncio.run(asynchronous())
    assert [each.where.rpartition(".")[2] for each in caught] == ["plain", "asynchronous"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_the_end_of_the_process_passes_unseen(kind: type[BaseException], caught: list[ErrorCaught]) -> None:
    with pytest.raises(kind), error_boundary(stop=True):
        raise kind
    assert caught == []


def test_what_nobody_catches_in_a_thread_is_caught(hooks: None, caught: list[ErrorCaught]) -> None:
    thread = threading.Thread(target=refuse, name="poller")
    thread.start()
    thread.join()
    assert [each.where for each in caught] == ["thread poller"]


def test_what_a_destructor_raises_is_caught(hooks: None, caught: list[ErrorCaught]) -> None:
    class Noisy:
        def __del__(self) -> None:
            refuse()

    Noisy()
    gc.collect()
    assert len(caught) == 1
    assert "__del__" in caught[0].where


def test_a_task_that_nobody_awaits_is_caught(hooks: None, caught: list[ErrorCaught]) -> None:
    async def main() -> None:
        async def fail() -> None:
            refuse()

        task = asyncio.create_task(fail(), name="refresh")
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(main())
    assert [each.where for each in caught] == ["asyncio refresh"]


def test_the_last_exception_of_a_process_is_caught_and_hooks_of_others_are_called(
    hooks: None, caught: list[ErrorCaught], monkeypatch: pytest.MonkeyPatch
) -> None:
    module.remove()
    seen: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda *arguments: seen.append(arguments))
    module.install()
    module.install()
    error = ValueError("last words")
    sys.excepthook(ValueError, error, None)
    assert [each.where for each in caught] == ["process"]
    assert len(seen) == 1
    module.remove()
    assert sys.excepthook is not module._hooks.process


def test_a_broken_observer_or_exception_harms_nobody(caught: list[ErrorCaught]) -> None:
    class Broken(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError("cannot say")

    stop = events.subscribe(ErrorCaught, lambda _event: 1 / 0)
    with pytest.raises(Broken), error_boundary("here"):
        raise Broken
    stop()
    assert len(caught) == 1
