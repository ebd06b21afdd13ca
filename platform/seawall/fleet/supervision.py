"""Runs the fleet's programs in the foreground until a signal ends it.

One thread and one loop: signals arrive through a wakeup descriptor, output and notifications by the same
poll, and everything that is due at some instant (a restart, a deadline) is `Member.due`. The exit
of a child arrives as SIGCHLD.

The first SIGINT or SIGTERM drains: the programs finish their work, those that `outlives_others` last. The
second stops: running work is dropped, the broker delivers it again. The third kills. A phase that outlasts
its time goes on to the next by itself. SIGHUP restarts the programs that declare readiness one after
another, each when the one before is ready again; a version that does not start stops the rolling there.
`seawall restart` asks for the same through `control`, and hears how it goes.
The output's reader going away counts as the first signal.

Exit status of `run`:

    ====  ==============================================================================================
    0     everything finished its work
    1     something had to be killed, the drain was not done in time, a program that declares readiness
          crashed while it drained, or a program was crash-looping at the end
    130   a second SIGINT cut the drain short and all obeyed
    143   the same for SIGTERM
    ====  ==============================================================================================

When `run` is over, also by an exception, no process of any child's session is left.
"""

import contextlib
import math
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from seawall.errors import ConfigError
from seawall.fleet.child import Child
from seawall.fleet.console import Console
from seawall.fleet.control import Control
from seawall.fleet.keeper import Keeper
from seawall.fleet.program import PHASES, Program, State, exit_in_words, may_follow
from seawall.fleet.restart import History, RestartPolicy

_NEXT_PHASE: Final = {
    None: State.DRAINING,
    State.DRAINING: State.STOPPING,
    State.STOPPING: State.KILLING,
    State.KILLING: State.KILLING,
}
_QUOTED: Final = 200  # characters of a last line
_QUIET: Final = 0.2  # seconds without a line: what programs say as they start stands above "fleet ready"
_ANNOUNCES_WITHIN: Final = 10.0  # seconds that a fleet whose workers are ready waits for that and for URLs
_NO_LINK: Final = "no program of this fleet takes a link: its dashboard asks for a password, or does not run"
_ANNOUNCEMENT: Final = {
    State.DRAINING: "draining, at most {drain:g} s (the next signal stops at once)",
    State.STOPPING: "stopping, running work is dropped, at most {stop:g} s (the next signal kills)",
    State.KILLING: "killing",
}


@dataclass(slots=True)
class Member:
    """One program in the fleet. `due`: when its state wants attention, as `Fleet._overdue` says."""

    program: Program
    state: State = State.STOPPED
    child: Child | None = None
    due: float = math.inf
    status: str = "no status given"
    url: str = ""
    link: str = ""
    history: History = field(default_factory=History)

    def transition(self, state: State, *, due: float = math.inf) -> None:
        """Go to `state`; only as the table in `program` allows."""
        if not may_follow(state, self.state):
            raise AssertionError(f"{self.program.name} cannot go from {self.state.value} to {state.value}")
        self.state, self.due = state, due


class Fleet:
    """The programs and what keeps them running. Durations in seconds; call `run` once, in the main thread.

    `started`: the monotonic instant that "ready in ... s" counts from, now if not given.
    `on_ready` is called once, when every program that declares readiness is ready, `on_stopping` when the end
    begins, `on_turn` at least every `turn_within` seconds; they must not block. `control` is closed at last.
    `describe` gives the lines below "fleet ready" from the addresses of the programs that have one, by name.
    A link that lets one in stands among them only if the console is a terminal.

    Raises:
        ConfigError: there is no program, or two share a name.
    """

    def __init__(  # noqa: PLR0913 - all keyword-only
        self,
        programs: Sequence[Program],
        *,
        console: Console,
        drain_timeout: float = 30.0,
        stop_timeout: float = 10.0,
        start_timeout: float = 60.0,
        restarts: RestartPolicy | None = None,
        started: float | None = None,
        on_ready: Callable[[], object] | None = None,
        on_stopping: Callable[[], object] | None = None,
        on_turn: Callable[[], object] | None = None,
        describe: Callable[[Mapping[str, str]], Iterable[str]] = lambda _: (),
        turn_within: float = math.inf,
        control: Control | None = None,
    ) -> None:
        names = [program.name for program in programs]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"programs={names} must be at least one, each with a name of its own")
        self._members = [Member(program) for program in programs]
        self._console = console
        self._drain_timeout = drain_timeout
        self._stop_timeout = stop_timeout
        self._start_timeout = start_timeout
        self._restarts = restarts or RestartPolicy()
        self._started = time.monotonic() if started is None else started
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._on_turn = on_turn
        self._describe = describe
        self._turn_within = turn_within
        self._turn_due = 0.0 if on_turn else math.inf
        self._control = control
        self._phase: State | None = None
        self._screen_due: float | None = None  # None until every program that declares readiness is ready
        self._last_line = -math.inf
        self._announced_ready = False
        self._failed = False
        self._cut_short_by: int | None = None
        self._rolling: deque[Member] = deque()
        self._replacing: Member | None = None
        self._replaced: list[str] = []
        self._poll = select.poll()  # selectors cannot watch for nothing but an error
        self._handlers: dict[int, Callable[[], object]] = {}
        console.introduce(names)

    def run(self) -> int:
        """Start everything, keep it running, and return the exit status once a signal has ended it."""
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context(
                _caught(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
            )
            self._keeper = Keeper()
            stack.callback(self._keeper.close)
            self._watch(signals.fileno(), lambda: self._on_signals(signals.recv(64)))
            if self._control is not None:
                stack.callback(self._control.close)
                self._watch(self._control.fileno(), self._on_client)
            stack.callback(self._close_children)
            for member in self._members:
                self._start(member)
            while self._phase is None or any(member.state is not State.STOPPED for member in self._members):
                self._step()
        self._summarise()
        self._console.flush(timeout=2.0)
        return self._exit_status()

    # -- the loop

    def _step(self) -> None:
        self._report_ready()
        soonest = min(self._turn_due, self._looks_again_at(), *(member.due for member in self._members))
        timeout = None if soonest == math.inf else max(0, math.ceil((soonest - time.monotonic()) * 1000))
        self._watch_console()
        for fd, events in self._poll.poll(timeout):
            if fd == self._console.fileno():
                self._console.attend(events)
            else:
                self._handlers[fd]()
        for member in self._members:
            if member.child is not None and member.child.has_exited():
                self._on_exit(member, member.child)
            if member.due <= time.monotonic():
                self._overdue(member)
        if self._turn_due <= time.monotonic():
            self._turn_due = time.monotonic() + self._turn_within
            self._call(self._on_turn, "on_turn")
        if self._phase is State.DRAINING:
            self._drain_last()
        elif self._phase is None and self._console.closed:
            self._enter(State.DRAINING, "the output was closed")
        elif self._phase is None:
            self._roll()

    def _watch(self, fd: int, handler: Callable[[], object]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _watch_console(self) -> None:
        fd = self._console.fileno()
        if not self._console.closed:  # asked for nothing, poll still reports a reader that is gone
            self._poll.register(fd, select.POLLOUT if self._console.behind else 0)
        else:
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)

    def _overdue(self, member: Member) -> None:
        name = member.program.name
        if member.state is State.BACKING_OFF:
            self._start(member)
        elif member.state is State.STARTING:
            member.due = math.inf
            late = f"{name} is not ready after {self._start_timeout:g} s ({member.status})"
            self._say(f"{late}; it is kept running", loud=True)
            if member is self._replacing:
                self._dismiss({"failed": f"{late}: the others were left as they are"})
        elif member.state is self._phase:
            self._failed = True
            self._enter(_NEXT_PHASE[self._phase], "out of time")
        else:  # it was being replaced, the others have their own time
            self._say(f"{name} is out of time: {_NEXT_PHASE[member.state].value}", loud=True)
            self._end(member, _NEXT_PHASE[member.state])

    # -- one program's life

    def _start(self, member: Member) -> None:
        now = time.monotonic()
        program = member.program
        member.transition(State.STARTING, due=now + self._start_timeout)
        try:
            child = Child(program, now=now)
        except OSError as exc:
            self._back_off(member, f"cannot be started: {exc}", now=now, uptime=0.0)
            return
        member.child = child
        self._keeper.opened(child.pid)
        self._watch(child.output.fileno(), lambda: self._on_output(child))
        self._watch(child.notifications.fileno(), lambda: self._on_notifications(member, child))
        if not program.needs_ready:
            member.transition(State.READY)

    def _on_output(self, child: Child) -> None:
        lines = child.read()
        if lines is None:
            self._forget(child.output.fileno())
        for line in lines or ():
            self._last_line = time.monotonic()
            self._console.line(child.program.name, line)

    def _on_notifications(self, member: Member, child: Child) -> None:
        for key, value in child.notified():
            if key == "STATUS":
                member.status = value
            elif key == "X_SEAWALL_LINK":
                member.link = value
            elif key == "X_SEAWALL_URL":
                member.url = value
                if self._announced_ready:
                    self._console.say(f"{member.program.name} is at {self._address(member)}")
            elif (key, value) == ("READY", "1") and member.state is State.STARTING:
                member.transition(State.READY)

    def _report_ready(self) -> None:
        """Once all are ready and have said where they are, or have had the time to, say what runs where."""
        awaited = [member for member in self._members if member.program.needs_ready] or self._members
        if self._announced_ready or any(member.state is not State.READY for member in awaited):
            return
        now = time.monotonic()
        if self._screen_due is None:
            self._screen_due = now + _ANNOUNCES_WITHIN
            self._last_line = now  # the line that says so too is still on its way
            self._call(self._on_ready, "on_ready")
        late = [one for one in self._members if one.program.announces_url and not one.url]
        waits = any(one.state is State.READY for one in late) or now < self._last_line + _QUIET
        if waits and now < self._screen_due:
            return
        self._announced_ready = True
        self._say(f"fleet ready in {now - self._started:.1f} s: {_names(awaited)}")
        addresses = {one.program.name: self._address(one) for one in self._members if one.url}
        for line in self._describe(addresses):
            self._console.say(line)  # not to clients: a link may be among them

    def _looks_again_at(self) -> float:
        """When `_report_ready` may have something to say although nothing happens."""
        if self._screen_due is None or self._announced_ready:
            return math.inf
        return min(self._screen_due, time.monotonic() + _QUIET)

    def _address(self, member: Member) -> str:
        return (member.link if self._console.is_terminal else "") or member.url

    def _call(self, hook: Callable[[], object] | None, name: str) -> None:
        try:
            if hook is not None:
                hook()
        except Exception as exc:  # noqa: BLE001 - a broken hook must not end the fleet
            self._say(f"{name} failed: {exc!r}", loud=True)

    def _say(self, text: str, *, loud: bool = False) -> None:
        self._console.say(text, loud=loud)
        if self._control is not None:
            self._control.tell({"said": text})

    def _on_exit(self, member: Member, child: Child) -> None:
        self._forget(child.output.fileno())
        self._forget(child.notifications.fileno())
        status, lines = child.close()
        self._keeper.closed(child.pid)
        for line in lines:
            self._console.line(member.program.name, line)
        member.child = None
        member.url = member.link = ""
        now = time.monotonic()
        uptime = now - child.started
        if self._phase is None and member.state not in PHASES:
            last = f" (its last line: {child.last_line.strip()[:_QUOTED]!r})" if child.last_line else ""
            what = f"{exit_in_words(status)} after {uptime:.1f} s{last}"
            self._back_off(member, what, now=now, uptime=uptime)
            return
        if self._restarts.is_healthy(uptime):
            member.history = History()
        self._ended(member, status)

    def _back_off(self, member: Member, what: str, *, now: float, uptime: float) -> None:
        decision = self._restarts.after_exit(member.history, now=now, uptime=uptime)
        exits, looping = decision.history.exits, decision.history.looping
        member.history = decision.history
        member.transition(State.BACKING_OFF, due=now + decision.delay)
        name = f"{member.program.name} is crash-looping, exit {exits}: it" if looping else member.program.name
        self._say(f"{name} {what}; restart in {decision.delay:.1f} s", loud=looping)
        if member is self._replacing:
            self._dismiss({"failed": f"{member.program.name} {what}: the others were left as they are"})

    def _ended(self, member: Member, status: int) -> None:
        """It exited because we wanted it to, or while everything ends."""
        program, phase = member.program, member.state
        as_asked = status in (0, -program.drain_signal, 128 + program.drain_signal)
        if program.needs_ready and phase not in (State.STOPPING, State.KILLING) and not as_asked:
            self._failed = True
        member.transition(State.STOPPED)
        self._say(f"{program.name} {exit_in_words(status, by_fleet=phase is State.KILLING)}")
        if self._phase is None:  # it was being replaced
            self._start(member)

    # -- the end, in phases

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGHUP and self._phase is None:
                self._begin_roll("SIGHUP")
            elif number in (signal.SIGINT, signal.SIGTERM):
                if self._phase is State.DRAINING:
                    self._cut_short_by = number
                self._enter(_NEXT_PHASE[self._phase], signal.Signals(number).name)

    def _enter(self, phase: State, why: str) -> None:
        if self._phase is None:
            self._call(self._on_stopping, "on_stopping")
        self._phase = phase
        for member in self._members:
            if member.state is State.BACKING_OFF:
                member.transition(State.STOPPED)
        running = [member for member in self._members if member.child is not None]
        what = _ANNOUNCEMENT[phase].format(drain=self._drain_timeout, stop=self._stop_timeout)
        self._say(f"{why}: {what}: {_names(running)}", loud=phase is not State.DRAINING)
        for member in running:
            if phase is not State.DRAINING or not member.program.outlives_others:
                self._end(member, phase)

    def _end(self, member: Member, phase: State) -> None:
        """Bring `member` to `phase`, unless it is there or beyond."""
        if member.child is None:
            return
        program = member.program
        signum, patience = {
            State.DRAINING: (program.drain_signal, self._drain_timeout),
            State.STOPPING: (program.stop_signal, self._stop_timeout),
            State.KILLING: (signal.SIGKILL, math.inf),
        }[phase]
        due = time.monotonic() + patience
        if may_follow(phase, member.state):
            member.transition(phase, due=due)
            member.child.signal(signum)
            self._failed |= phase is State.KILLING
        elif member.state is phase:
            member.due = due

    def _drain_last(self) -> None:
        """Once the others are gone, their observers may go too."""
        left = [member for member in self._members if member.state is not State.STOPPED]
        if all(member.program.outlives_others for member in left):
            for member in left:
                if member.state is not State.DRAINING:
                    self._end(member, State.DRAINING)

    # -- one after another

    def _on_client(self) -> None:
        assert self._control is not None  # noqa: S101 - it is what is watched
        if (client := self._control.accept()) is not None:
            self._watch(client.fileno(), lambda: self._on_request(client))

    def _on_request(self, client: socket.socket) -> None:
        """A client asks, or has gone; it stays to hear how it goes."""
        assert self._control is not None  # noqa: S101
        self._forget(client.fileno())
        asked = self._control.request(client)
        if asked is None:
            return
        known = {member.program.name for member in self._members if member.program.needs_ready}
        only = list(asked.get("only", ()))
        if asked.get("do") == "link":
            links = [member.link for member in self._members if member.link]
            self._control.tell({"done": links} if links else {"failed": _NO_LINK}, client)
            self._control.drop(client)
        elif asked.get("do") != "restart" or not known or not known.issuperset(only):
            unknown = ", ".join(sorted({*map(str, only)} - known)) or "nothing to restart"
            self._control.tell(
                {"failed": f"no worker {unknown}: there are {', '.join(sorted(known))}"}, client
            )
            self._control.drop(client)
        elif self._phase is not None:
            self._dismiss({"failed": "the fleet is ending"})
        else:
            self._begin_roll("asked", only or known)

    def _begin_roll(self, why: str, names: Collection[str] | None = None) -> None:
        wanted = [
            member
            for member in self._members
            if member.program.needs_ready and (names is None or member.program.name in names)
        ]
        self._rolling.extend(member for member in wanted if member not in self._rolling)
        self._say(f"{why}: restarting one after another: {_names(self._rolling)}")

    def _roll(self) -> None:
        """Replace the next one when the one before is ready again."""
        if self._replacing is not None and self._replacing.state is State.READY:
            self._replaced.append(self._replacing.program.name)
            self._replacing = None
            if not self._rolling:
                replaced, self._replaced = self._replaced, []
                self._console.say(f"restarted: {', '.join(replaced)}")  # clients hear it as their last word
                self._dismiss({"done": replaced})
        if self._replacing is None and self._rolling:
            self._replacing = self._rolling.popleft()
            self._end(self._replacing, State.DRAINING)

    def _dismiss(self, last_word: dict[str, Any]) -> None:
        if self._control is not None:
            self._control.dismiss(last_word)

    def _close_children(self) -> None:
        for member in self._members:
            if member.child is not None:
                member.child.close()
                self._keeper.closed(member.child.pid)

    def _summarise(self) -> None:
        for member in self._members:
            if member.history.looping:
                exits = f"{member.history.exits} exits"
                self._say(f"{member.program.name} was crash-looping: {exits}", loud=True)
        lived = time.monotonic() - self._started
        self._say(f"fleet stopped after {lived:.1f} s, exit status {self._exit_status()}")

    def _exit_status(self) -> int:
        if self._failed or any(member.history.looping for member in self._members):
            return 1
        return 0 if self._cut_short_by is None else 128 + self._cut_short_by


def _names(members: Iterable[Member]) -> str:
    return ", ".join(member.program.name for member in members) or "nothing"


@contextlib.contextmanager
def _caught(*signals: signal.Signals) -> Iterator[socket.socket]:
    """While the block runs, each of `signals` arrives as one byte. One that nohup ignores stays ignored."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.settimeout(0.0)
        writer.settimeout(0.0)
        caught = [
            one for one in signals if one is not signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN
        ]
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        before = {one: signal.signal(one, lambda *_: None) for one in caught}
        try:
            yield reader
        finally:
            for one, handler in before.items():
                signal.signal(one, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(wakeup)
