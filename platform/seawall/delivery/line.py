"""The connection on which a channel claims and waits: what is asked next, and what an answer means.

A line is either silent, claiming or waiting, and has one command under way at most. A claim never blocks
on the server and its answer is complete, so no message is ever only in a socket: if the answer is lost,
the lease is reconciled or ends. Waiting blocks on the queues' wake-up tokens, which carry nothing.

    silent --claim--> claiming --answer--> silent     settlements ride along, leases are renewed
    silent --wait---> waiting --token or time--> silent     only after a claim left nothing in line

Replies of remote control are the exception (see `replies.py`): waiting blocks on their lists as well, and
what is popped there is the reply itself.

How much is claimed: the free part of the prefetch window, and beyond it as much as is worked off in
`claim_ahead` seconds at the pace of the last moments. So quick tasks share round trips by the dozen, and
of slow ones nothing is hoarded. While some of it is not handed out yet, the claims that carry settlements
also ask for messages that are more urgent than the least urgent one here, and these overtake it.

Far from the server (`distance.py`) as much again is claimed as is worked off in a round trip, and asked for
while so much is here. Claims then carry no settlements, which would have to wait for results to be stored:
the keeper sends them. What is more urgent comes with the next claim, and overtakes as well.
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import NoScriptError

from seawall.cluster import MICROSECONDS, Argument, micros
from seawall.delivery import scripts
from seawall.delivery.claimant import Aboard, Claimant, Settlements
from seawall.delivery.claimed import Claimed
from seawall.delivery.revocation import tell_worker
from seawall.delivery.scripts import WAKE
from seawall.silence import SILENCE

_LONGEST_WAIT = 1.0  # a token given to a consumer that died in the same moment costs the others this much
_UNLIMITED = 1_000_000
_MIN_WAIT = 0.001
_ANY_LEVEL = 10
_MORE = 1  # see claim.lua; what is more than that is an `Aboard`
_ASK_AGAIN_AFTER = 1.0  # seconds, where a server answers that it can do nothing now
_STANDSTILL = 2.0  # seconds between two turns of the loop, which has one each second at least
_EARLY = 0.6  # of `settle_within`: the loop settles before the keeper does


class Line:
    """Asks and understands; it is told what connection to use and when to read it."""

    def __init__(self, claimant: Claimant, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.claimant = claimant
        self.state = "silent"
        self.may_have_more = True
        self.refusals = 0
        """Answers in a row that the server can do nothing now."""
        self._ask_again_at = 0.0
        self._clock = clock
        self._asked: list[str] = []
        self._asked_at = 0.0
        self._sent_at = 0.0
        self._answer_by = float("inf")
        self._looked_at = self._grace = 0.0  # see `overdue`
        self._carried: Settlements = {}
        self._held_back = False  # nothing may be taken for the sake of a suspect: tokens are for others
        self._change_at: float | None = None
        self._pace = 0.0
        self._paced_at = clock()
        self._paced_from = 0
        self._imported_at = 0.0
        self.reply: tuple[bytes, bytes] | None = None  # a list and what was popped from it, to be handed out
        self._command: tuple[list[str], list[Argument]] = ([], [])

    def wish(self, room: int) -> str:
        """What to ask next with `room` messages free in the window: "claim", "wait" or nothing."""
        claimant = self.claimant
        if self._clock() < self._ask_again_at:
            return ""
        hungry = room > 0 and claimant.ahead <= self._meanwhile
        if hungry and self._change_at is not None and self._clock() >= self._change_at:
            self.may_have_more = True
        if (hungry and self.may_have_more) or (not claimant.far and self._has_to_carry(hungry=hungry)):
            return "claim"
        return "wait" if hungry and not claimant.ahead else ""

    def _has_to_carry(self, *, hungry: bool) -> bool:
        claimant = self.claimant
        if claimant.must_settle or (hungry and claimant.decided):
            return True
        # Something more urgent may have come meanwhile.
        return claimant.ahead > 0 and (claimant.outbox_age or 0.0) >= claimant.options.settle_within * _EARLY

    def ask(
        self,
        connection: Any,
        queues: Sequence[str],
        room: int,
        replies: Sequence[str] = (),
        *,
        silence: float = SILENCE,
    ) -> None:
        """Send what `wish` said; waiting is for lists of `replies` too.

        A server that says nothing for `silence` seconds longer than it was asked to wait is `overdue`.
        """
        self._grace, self._looked_at = silence, self._clock()
        if self.wish(room) == "wait":
            self.state = "waiting"
            self.claimant.nudge_at = self._change_at
            wakes = [self.claimant.keys.never] if self._held_back else map(self.claimant.keys.wake, queues)
            keys = [*wakes, *map(self.claimant.keys.stock_list, replies)]
            patience = self._patience()
            self._answer_by = self._clock() + patience + silence
            connection.send_command("BLPOP", *keys, patience)
        else:
            overtaking = self.claimant.ahead > 0 and not self.claimant.far
            wanted = self._room_to_overtake(room) if overtaking else self._appetite(room)
            below = self.claimant.least_urgent if overtaking else _ANY_LEVEL
            self._command = self.prepare(queues, wanted, below=below, carry=not self.claimant.far)
            self._answer_by = self._clock() + silence
            self._send_claim(connection, text=False)

    def overdue(self) -> bool:
        """Whether an answer should have come: this connection leads nowhere, or the server is frozen.

        The loop asks this at every turn. One that stood still meanwhile, as its process was stopped or found
        no core, gives the answer its time once more.
        """
        now = self._clock()
        stood_still, self._looked_at = now - self._looked_at > _STANDSTILL, now
        if stood_still and self._grace:
            self._answer_by, self._grace = max(self._answer_by, now + self._grace), 0.0
        return self.state != "silent" and now > self._answer_by

    def _send_claim(self, connection: Any, *, text: bool) -> None:
        self.state = "claiming"
        self._sent_at = self._clock()
        keys, arguments = self._command
        connection.send_command(*scripts.claim.command(keys, arguments, text=text))

    def _patience(self) -> float:
        left = _LONGEST_WAIT if self._change_at is None else self._change_at - self._clock()
        return round(min(max(left, _MIN_WAIT), _LONGEST_WAIT), 3)

    def _appetite(self, room: int) -> int:
        if room <= 0:
            return 0
        self._learn_pace()
        return self._most(room)

    def _most(self, room: int) -> int:
        claimant, options = self.claimant, self.claimant.options
        if claimant.far:
            ahead = int(claimant.work.speed * options.claim_ahead) + self._meanwhile
            return min(room + ahead, options.max_batch - claimant.ahead)
        return min(room + int(self._pace * options.claim_ahead), options.max_batch)

    @property
    def _meanwhile(self) -> int:
        """Messages that are worked off in a round trip; 0 beside the server, or if none shall be ahead."""
        claimant = self.claimant
        return int(claimant.work.speed * claimant.distance.seconds) if claimant.options.claim_ahead else 0

    def _room_to_overtake(self, room: int) -> int:
        return max(self._most(max(room, 0)) - self.claimant.ahead, 0)

    def _learn_pace(self) -> None:
        # Messages worked off per second, averaged over the last claims.
        self.claimant.work.learn()
        now, done = self._clock(), self.claimant.worked_off
        elapsed = now - self._paced_at
        if elapsed > _MIN_WAIT:
            self._pace += ((done - self._paced_from) / elapsed - self._pace) / 2
            self._paced_at, self._paced_from = now, done

    def prepare(
        self, queues: Sequence[str], wanted: int, *, below: int = _ANY_LEVEL, carry: bool = True
    ) -> tuple[list[str], list[Argument]]:
        """Keys and arguments of a claim; levels from `below` on stay in line. It may carry the outbox."""
        claimant, options = self.claimant, self.claimant.options
        self._carried = claimant.take_outbox() if carry else {}
        self._asked_at = time.time()
        self._asked = [*self._in_order(queues), *(queue for queue in self._carried if queue not in queues)]
        importing = options.import_stock and self._clock() - self._imported_at > _LONGEST_WAIT / 2
        if importing:
            self._imported_at = self._clock()
        arguments: list[Argument] = [
            claimant.name,
            micros(options.lease),
            options.delivery_limit,
            wanted,
            micros(options.ageing or 0),
            options.ageing_share,
            below,
        ]
        for queue in self._asked:
            settlements = list(self._carried.get(queue, {}).values())
            stock_list = claimant.keys.stock_list(queue) if importing else ""
            arguments += [stock_list if queue in queues else "-", len(settlements), *settlements]
        aboard = claimant.keys.aboard(claimant.identity.worker)
        keys = [claimant.keys.paused, claimant.keys.revoked, aboard, *map(claimant.keys.base, self._asked)]
        return keys, arguments

    def _in_order(self, queues: Sequence[str]) -> list[str]:
        options = self.claimant.options
        if options.queue_order == "strict" or len(queues) == 1:
            return list(queues)
        shares = {queue: options.queue_weights.get(queue, 1.0) for queue in queues}
        # Sorting by u ** (1 / weight) puts each queue first as often as its weight says.
        return sorted(queues, key=lambda queue: -(random.random() ** (1 / shares[queue])))  # noqa: S311

    def read(self, connection: Any) -> bool:
        """Read the answer to what was asked; returns whether there is something to hand out.

        Raises:
            RedisError: the answer is lost; settlements are kept for the next time.
        """
        waited, self.state = self.state == "waiting", "silent"
        self.claimant.nudge_at = None
        if waited:
            popped = connection.read_response()
            if popped and not popped[0].endswith(WAKE):
                self.reply = popped[0], popped[1]
            else:
                self.may_have_more = True
            return False
        try:
            answer = connection.read_response()
        except NoScriptError:
            self._send_claim(connection, text=True)
            return False
        except BaseException:
            self.drop()
            raise
        self.claimant.distance.learn(self._clock() - self._sent_at, awaited=not self.claimant.held)
        self.accept(answer)
        return self.claimant.ahead > 0

    def refused(self) -> float:
        """The server can do nothing now, and says so: it is asked again after so many seconds."""
        self.drop()
        self.refusals += 1
        self._ask_again_at = self._clock() + _ASK_AGAIN_AFTER
        return _ASK_AGAIN_AFTER

    def take_reply(self) -> tuple[str, bytes]:
        """The list and the body of the reply that waiting brought; it is not kept."""
        if self.reply is None:
            raise ValueError("no reply has come")
        (stock_list, body), self.reply = self.reply, None
        return stock_list.decode(), body

    def accept(self, answer: list[Any]) -> None:
        """Take what a claim returned into the claimant."""
        until_change, more, server_time, *by_queue = answer
        self.claimant.compare_clocks(self._asked_at, server_time / MICROSECONDS, time.time())
        self._carried = {}
        self.refusals = 0
        self.may_have_more = more == _MORE
        self._held_back = more > _MORE
        self._hear_of_suspect(Aboard(more if self._held_back else 0), by_queue)
        self._change_at = None if until_change < 0 else self._clock() + until_change / MICROSECONDS
        if set(self.claimant.queues) <= set(self._asked):
            self.claimant.renewed()
        for queue, (taken, dead, revoked, back) in zip(self._asked, by_queue, strict=True):
            tell_worker(revoked)
            self.claimant.back.update(tag.decode() for tag in back)
            triples = zip(taken[::3], taken[1::3], taken[2::3], strict=True)
            self.claimant.claimed(Claimed(queue, tag.decode(), body, past) for tag, body, past in triples)
            if dead:
                self.claimant.on_dead(queue, [tag.decode() for tag in dead])

    def _hear_of_suspect(self, aboard: Aboard, by_queue: Sequence[Any]) -> None:
        taken = [tag.decode() for messages, *_ in by_queue for tag in messages[::3]]
        if aboard is not Aboard.ALONE:
            self.claimant.alone = ""
        elif taken:
            self.claimant.alone = taken[0]
        self.claimant.aboard = aboard

    def drop(self) -> None:
        """The connection is gone, with the answer: whatever was carried goes again."""
        self.claimant.nudge_at = None
        self.state = "silent"
        self.may_have_more = True
        self._change_at = None
        self._held_back = False
        carried, self._carried = self._carried, {}
        self.claimant.put_back(carried)
