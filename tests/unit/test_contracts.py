"""Private or unstable names of Celery, kombu and billiard that Seawall touches.

Each test says what breaks if it fails after an upgrade. The upper bounds in pyproject.toml stand because of
these.
"""

import atexit
import inspect
import multiprocessing
import re
import threading
import tomllib
from importlib.metadata import requires, version
from types import SimpleNamespace
from typing import Any

import amqp.transport
import billiard.pool
import psycopg
import pytest
import redis as redis_py
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined] # stubs lag
from celery import Celery, Task, signals
from celery.app import defaults, trace
from celery.app.annotations import resolve_all
from celery.app.defaults import NAMESPACES, SETTING_KEYS, flatten
from celery.app.routes import Router
from celery.backends.base import Backend
from celery.backends.redis import RedisBackend
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.prefork import TaskPool
from celery.exceptions import WorkerLostError
from celery.fixups import django as celerys_django
from celery.worker import request as celerys_request
from celery.worker import state
from celery.worker.request import Request
from kombu.asynchronous import Hub
from kombu.asynchronous.timer import Timer
from kombu.transport import redis, virtual
from kombu.utils.objects import cached_property
from packaging.requirements import Requirement
from psycopg_pool import ConnectionPool
from psycopg_pool.pool import WaitingClient
from redis import ConnectionPool as ConnectionPoolOfRedis

from seawall import Seawall, compat
from seawall.logs import console, endings
from seawall.priority import HIGHEST, LOWEST
from seawall.worker import lifecycle, older, result_clients
from seawall.worker.cells.cell import Consumer
from seawall.worker.defaults import PLAIN, LazyDefaults
from seawall.worker.deferral import raised
from support.nodes import ROOT

PINNED = ("celery", "kombu", "redis", "psycopg", "psycopg-pool", "structlog")


def parameters(function: object) -> list[str]:
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_celery_tells_of_a_tasks_end_by_these_templates_or_lines_are_its_sentences() -> None:
    templates = {name: getattr(trace, name).strip() for name in vars(trace) if name.startswith("LOG_")}
    templates["LOG_INTERNAL_ERROR"], known = templates["LOG_FAILURE"], {*endings._NAMED}
    assert known == {*templates.values()}
    source = inspect.getsource(celerys_request)
    assert all(template in source for template in endings._PLACED)
    assert console._NOISE["celery.worker.strategy"] in known


def test_on_failure_keeps_its_signature_or_our_request_is_called_wrongly() -> None:
    assert parameters(Request.on_failure) == ["self", "exc_info", "send_failed_event", "return_ok"]


@pytest.mark.parametrize("name", ["on_failure", "reject", "acknowledge", "send_event", "task_ready"])
def test_what_our_request_calls_exists_or_a_lost_process_is_not_counted(name: str) -> None:
    assert callable(getattr(Request, name, None) or getattr(state, name, None))


def test_a_success_that_was_stored_is_found_by_celery_or_by_us() -> None:
    """`worker/older.py`: else a task whose process dies after its success runs again."""
    if (find := getattr(Request, "_success_was_stored", None)) is not None:
        assert parameters(find) == ["self"]
    else:
        assert parameters(Backend.get_task_meta) == ["self", "task_id", "cache"]


def test_celery_tells_of_a_hard_time_limit_where_we_leave_it_to_celery() -> None:
    """`worker/older.py`: else such a task has no event and no signal, or two of each."""
    source = inspect.getsource(Request.on_timeout)
    assert ("task_failure.send" in source) == older.TELLS_TIMEOUTS
    assert ("acks_on_timeout" in source) == older.TELLS_TIMEOUTS
    ending = inspect.getsource(Request.on_failure)
    assert ("if not exc.requeue" in ending) == older.TELLS_TIMEOUTS
    assert ("SystemExit" in ending) == older.TELLS_TIMEOUTS


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (SystemExit(), "exitcode 0"),
        (SystemExit(3), "exitcode 3"),
        (SystemExit("the catalogue is closed"), "exitcode 1"),
        (SystemExit(-9), "signal 9 (SIGKILL)"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
    ids=repr,
)
def test_the_exit_of_a_task_is_told_in_celerys_words(
    monkeypatch: pytest.MonkeyPatch, end: BaseException, said: str
) -> None:
    """`worker/older.py`: what Celery 5.7 says, with Celery 5.6 too, so that one alert finds both."""
    monkeypatch.setattr(older, "TELLS_TIMEOUTS", False)
    lost: Any = older.storable(end, raised(ValueError()))
    told = str(lost.exception.exc)
    assert told == f"Worker exited prematurely: {said}."
    if (celery := getattr(Request, "_worker_lost_info", None)) is not None:
        assert str(celery(None, end).exception.exc) == told


def test_redis_py_reads_with_a_timeout_of_the_call_or_of_the_socket() -> None:
    """`seawall/compat.py`: else a silent server is waited for longer than a deadline."""
    assert ("timeout" in parameters(redis_py.Connection.read_response)) == compat.READS_WITH_TIMEOUT
    made: Any = vars(redis_py)["Connection"](socket_timeout=3.0, socket_connect_timeout=2.0)
    assert (made.socket_timeout, made.socket_connect_timeout) == (3.0, 2.0)
    assert inspect.signature(ConnectionPoolOfRedis.make_connection).parameters
    assert inspect.getsource(type(made)._connect).count("self.socket_connect_timeout") > 0


def test_multiprocessing_names_its_process_or_tasks_of_prefork_can_start_none() -> None:
    assert vars(multiprocessing.process)["_current_process"] is multiprocessing.current_process()
    assert callable(vars(threading)["_shutdown"])
    assert callable(vars(atexit)["_clear"])
    assert callable(vars(atexit)["_run_exitfuncs"])


def test_pools_of_redis_list_their_connections_or_a_child_keeps_its_parents() -> None:
    pool = ConnectionPoolOfRedis()
    assert isinstance(vars(pool)["_available_connections"], list)
    assert isinstance(vars(pool)["_in_use_connections"], set)
    assert vars(pool.make_connection())["_sock"] is None
    assert callable(vars(Hub(Timer()).poller)["_epoll"].fileno)


def test_requests_keep_their_context_or_strikes_are_not_found() -> None:
    assert isinstance(vars(Request)["_context"], cached_property)


def test_should_terminate_starts_as_none_or_every_death_is_taken_for_a_stop() -> None:
    assert "should_terminate" in vars(state)
    assert not state.should_terminate


def test_on_failure_still_raises_memory_errors_or_our_detour_is_needless() -> None:
    assert "raise MemoryError" in inspect.getsource(Request.on_failure)


def test_billiard_wraps_exceptions_or_lost_processes_go_unrecognised() -> None:
    wrapped = ExceptionWithTraceback(WorkerLostError("gone"), None)
    assert isinstance(wrapped.exc, WorkerLostError)
    assert "exception" in ExceptionInfo.__annotations__ or "self.exception" in inspect.getsource(
        ExceptionInfo
    )


def test_a_task_names_its_request_class_or_ours_is_not_used() -> None:
    assert isinstance(Task.Request, str)


def test_tasks_are_made_by_task_from_fun_or_own_bases_get_no_policy() -> None:
    names = parameters(Celery._task_from_fun)
    assert names[:4] == ["self", "fun", "name", "base"]


def test_what_an_author_wrote_comes_before_celery_s_mark_or_the_doctor_takes_defaults_for_options() -> None:
    app = Celery(set_as_current=False)

    @app.task(name="said", acks_late=False, autoretry_for=(OSError,), shared=False)
    def said() -> None: ...

    task: Any = app.tasks["said"]
    attributes = list(vars(type(task)))
    assert attributes.index("acks_late") < attributes.index("__bound__") < attributes.index("ignore_result")
    assert "_decorated" in attributes
    assert callable(task._orig_run)
    assert vars(app.Task)["_app"] is app
    assert app.conf.prefix is None


def test_old_names_of_settings_are_known_or_the_doctor_takes_them_for_mistakes() -> None:
    names: Any = defaults
    assert names._TO_NEW_KEY["CELERYD_PREFETCH_MULTIPLIER"] == "worker_prefetch_multiplier"
    assert names.DEFAULTS.keys() == names.SETTING_KEYS


def test_the_registry_is_at_tasks_or_foreign_names_get_no_priority() -> None:
    app: Any = Celery(set_as_current=False)
    assert "celery.ping" not in app._tasks
    assert app.finalized is False


def test_defaults_wait_until_they_are_needed_or_making_an_app_starts_servers() -> None:
    asked: list[str] = []
    app = Celery(set_as_current=False)
    app.add_defaults(lambda: asked.append("asked") or {})  # type: ignore[func-returns-value]
    assert asked == []
    assert app.conf.task_always_eager is False
    assert asked == ["asked"]


def test_a_task_is_bound_before_autoretry_wraps_it_or_the_policy_of_its_run_is_lost() -> None:
    source = inspect.getsource(Celery._task_from_fun)
    assert source.index("task.bind(self)") < source.index("autoretry")


def test_binding_fills_defaults_then_annotates_then_calls_on_bound_or_options_are_mistaken() -> None:
    source = inspect.getsource(Task.bind)
    steps = [source.index(step) for step in ("from_config", "cls.annotate()", "cls.on_bound(app)")]
    assert steps == sorted(steps)


def test_annotations_are_resolved_by_name_or_a_default_is_taken_for_what_an_operator_says() -> None:
    app: Any = Celery(set_as_current=False)
    app.conf.task_annotations = {"named": {"acks_late": True}, "*": {"rate_limit": "1/s"}}
    said: list[Any] = [*resolve_all(app.annotations, SimpleNamespace(name="named"))]
    assert said == [{"acks_late": True}, {"rate_limit": "1/s"}]


def test_options_of_a_task_are_kept_at_it_or_each_call_asks_for_them_again() -> None:
    celerys: Any = Task
    source = inspect.getsource(celerys._get_exec_options)
    assert "self._exec_options is None" in source


def test_celery_routes_by_the_router_it_is_given_or_a_default_counts_more_than_a_route() -> None:
    assert "router" in parameters(Celery.send_task)
    assert re.search(
        r"router\.route\(\s*options, route_name or name, args, kwargs, task_type\)",
        inspect.getsource(Celery.send_task),
    )
    assert parameters(Router.route)[1:] == ["options", "name", "args", "kwargs", "task_type"]


def test_a_signal_keeps_its_receivers_in_order_or_hooks_run_before_our_defaults() -> None:
    signal: Any = Celery(set_as_current=False).on_after_configure
    for receiver in (first := lambda **_: 1, second := lambda **_: 2):
        signal.connect(receiver, weak=False)
    assert [receiver for _, receiver in signal.receivers] == [first, second]
    signal.receivers.insert(0, signal.receivers.pop())
    assert [answer for _, answer in signal.send(sender=None)] == [2, 1]


def test_kombu_asks_for_priorities_with_reverse_false_or_nine_comes_last() -> None:
    assert parameters(virtual.Channel._get_message_priority) == ["self", "message", "reverse"]
    calls = re.findall(r"_get_message_priority\((.*?)\)", inspect.getsource(redis))
    assert calls
    assert all(call.endswith("reverse=False") for call in calls)


def test_kombu_serves_the_steps_in_order_or_urgent_tasks_wait() -> None:
    assert redis.Channel.priority_steps == sorted(redis.Channel.priority_steps)
    assert (virtual.Channel.min_priority, virtual.Channel.max_priority) == (LOWEST, HIGHEST)


def test_every_default_is_a_setting_of_celery_or_it_has_no_effect() -> None:
    app = Celery(set_as_current=False)
    # Celery reads broker_transport, and does not list it.
    known = set(SETTING_KEYS) | {"broker_transport"}
    assert {*PLAIN, *LazyDefaults(app)} - known == set()


def test_no_default_is_deprecated_or_workers_warn_at_every_start() -> None:
    options: dict[str, Any] = dict(flatten(NAMESPACES))
    deprecated = {key for key, option in options.items() if option.deprecate_by}
    assert deprecated.isdisjoint(PLAIN)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("_maybe_grow_pool", ["self"]),
        ("_add_connection", ["self", "attempt", "growing"]),
        ("_connect", ["self", "timeout"]),
        ("_close_connection", ["self", "conn"]),
        ("_check_pool_putconn", ["self", "conn"]),
        ("putconn", ["self", "conn"]),
    ],
)
def test_the_pool_keeps_its_ways_in_and_out_or_our_cap_is_passed_by(method: str, expected: list[str]) -> None:
    assert parameters(getattr(ConnectionPool, method)) == expected


def test_the_pool_keeps_its_state_where_our_cap_counts_it() -> None:
    pool = ConnectionPool("", min_size=0, max_size=1, open=False)
    names = {
        "_lock",
        "_pool",
        "_waiting",
        "_nconns",
        "_nconns_min",
        "_max_size",
        "_growing",
        "_stats",
        "_closed",
    }
    assert names <= set(vars(pool))
    assert "_drained_at" in vars(pool)
    source = inspect.getsource(ConnectionPool)
    assert {name for name in ("conn._pool", "_created_at", "_expire_at") if name not in source} == set()
    assert "self._conn = connection" in inspect.getsource(psycopg._cursor_base.BaseCursor)
    assert ConnectionPool._REQUESTS_NUM == "requests_num"
    assert callable(WaitingClient.fail)


def test_a_prefork_child_waits_for_its_results_as_often_as_a_number_says() -> None:
    assert billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL == 0.1
    assert "range(GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT)" in inspect.getsource(
        billiard.pool.Worker._ensure_messages_consumed  # type: ignore[attr-defined] # stubs lack it
    )


def test_a_pool_of_prefork_keeps_what_writes_its_messages_and_tells_its_children_to_end() -> None:
    pool: Any = AsynPool  # the stubs know few of its names
    source = inspect.getsource(pool)
    assert "self._active_writers = set()" in source
    assert "job._writer = ref(cor)" in source
    assert "job._write_to = proc" in source
    assert parameters(pool._stop_task_handler) == ["task_handler"]
    assert "proc.inq.put(None)" in inspect.getsource(pool._stop_task_handler)
    assert "self._stop_task_handler(self._task_handler)" in inspect.getsource(billiard.pool.Pool.join)
    assert "self._cache" in inspect.getsource(billiard.pool.Pool)


def test_a_pool_of_prefork_says_what_its_children_do_or_the_wrong_one_is_killed() -> None:
    pool: Any = AsynPool
    job = vars(billiard.pool.ApplyResult({}, None))
    assert {"_accepted", "_time_accepted", "_worker_pid", "_timeout"} <= set(job)
    assert "self.timeout = timeout" in inspect.getsource(billiard.pool.Pool)
    assert "w.inq._reader.fileno()" in inspect.getsource(pool._help_stuff_finish)
    assert parameters(pool.flush) == parameters(pool.terminate) == ["self"]
    assert "self.flush = getattr(P, 'flush', None)" in inspect.getsource(TaskPool.on_start)
    assert "self._pool.terminate()" in inspect.getsource(TaskPool.on_terminate)
    assert "initializer=process_initializer" in inspect.getsource(TaskPool.on_start)


def test_a_second_ctrl_c_may_interrupt_the_first_while_it_tells_of_the_shutdown() -> None:
    lifecycle.connect()
    told: Any = signals.worker_shutting_down
    assert "with self.lock" in inspect.getsource(type(told)._live_receivers)
    with told.lock:
        assert told.lock.acquire(blocking=False)
        told.lock.release()


def test_psycopg_connects_in_steps() -> None:
    assert parameters(psycopg.Connection._connect_gen) == ["conninfo"]
    assert "gen = cls._connect_gen(conninfo)" in inspect.getsource(psycopg.Connection.connect)


def test_psycopg_copies_what_is_registered_on_a_connection_or_the_next_user_gets_it() -> None:
    """`altered` of a connection compares these parts with the global ones."""
    new = psycopg.adapt.AdaptersMap(psycopg.adapters)
    assert new._loaders[0] is psycopg.adapters._loaders[0]
    assert all(new._dumpers[each] is psycopg.adapters._dumpers[each] for each in new._dumpers)
    assert new._dumpers_by_oid[0] is psycopg.adapters._dumpers_by_oid[0]
    assert new.types._registry is psycopg.adapters.types._registry
    assert psycopg._preparing.PrepareManager().prepare_threshold == 5
    assert psycopg._preparing.PrepareManager().prepared_max == 100


def test_psycopg_waits_with_a_timeout_or_a_silent_server_is_waited_for_without_end() -> None:
    assert parameters(psycopg.Connection.wait) == ["self", "gen", "interval", "timeout"]
    assert issubclass(psycopg.errors._WaitTimeout, Exception)


@pytest.mark.parametrize("name", PINNED)
def test_what_is_installed_lies_within_the_bounds_these_tests_were_made_for(name: str) -> None:
    declared = [Requirement(line) for line in requires("seawall") or []]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"]
    bound = next(one.specifier for one in declared if one.name == name)
    assert any(part.operator == "<" for part in bound)
    assert bound.contains(version(name))


def test_results_are_made_of_what_we_redact() -> None:
    """`worker/discretion.py`: else exceptions or arguments would be stored as they are."""
    assert parameters(Backend.prepare_exception) == ["self", "exc", "serializer"]
    assert parameters(Backend.store_result)[:5] == ["self", "task_id", "result", "state", "traceback"]
    assert parameters(vars(Backend)["_get_result_meta"])[:5] == [
        "self",
        "result",
        "state",
        "traceback",
        "request",
    ]
    assert parameters(Celery._get_backend) == ["self"]  # type: ignore[attr-defined]
    assert type(Seawall("shop", backend="cache+memory://").backend).__mro__[1].__name__ == "Discreet"


def test_celery_counts_chords_with_scripts() -> None:
    """`worker/result_clients.py` has a full server run them; where there are none, the pipelines there."""
    for name in ("_chord_part_return_script", "_chord_claim_extend_script", "_chord_cleanup_script"):
        assert hasattr(RedisBackend, name) == result_clients.COUNTS_WITH_SCRIPTS
    source = inspect.getsource(RedisBackend.on_chord_part_return)
    assert ("pipe.zadd(jkey, {encoded: group_index})" in source) != result_clients.COUNTS_WITH_SCRIPTS
    assert parameters(vars(RedisBackend)["_get_client"]) == ["self"]


def test_celery_s_default_format_of_lines_is_recognised() -> None:
    """`worker/lines.py`: else every format would count as the application's own."""
    from seawall.worker.lines import _CELERYS

    assert Celery().conf.worker_log_format in _CELERYS
    assert Celery().conf.worker_task_log_format in _CELERYS


def test_connections_to_rabbitmq_are_made_by_connect_and_keep_their_socket() -> None:
    """seawall.delivery.rabbitmq closes a forked child's copies: without it a child ends its parent's."""
    abstract: Any = vars(amqp.transport)["_AbstractTransport"]
    assert list(inspect.signature(abstract.connect).parameters) == ["self"]
    assert {"sock", "__weakref__"} <= set(abstract.__slots__)
    assert "shutdown" in inspect.getsource(abstract.close), "else nothing has to be done any more"


def test_no_step_of_a_cell_brings_others_along() -> None:
    """Celery adds what a step requires: its own Events, for one, would stand in the place of ours."""
    blueprint = Consumer.Blueprint()
    found = [step.name for step in blueprint._finalize_steps(blueprint.claim_steps())]
    assert len(found) == len(Consumer.Blueprint.default_steps), sorted(found)


def test_the_fixup_for_django_tells_processes_by_the_name_of_their_pool() -> None:
    """Cells answer for it that they are processes that were forked."""
    celerys: Any = celerys_django
    fixup, app = celerys.DjangoWorkerFixup, Celery("contract", set_as_current=False)
    if hasattr(fixup, "_is_prefork"):  # Celery 5.6 closes a pool in every process
        assert "prefork" in inspect.getsource(fixup._is_prefork)
    assert "close_pool" in inspect.getsource(fixup._close_database)
    assert vars(app)["_fixups"] is not None
