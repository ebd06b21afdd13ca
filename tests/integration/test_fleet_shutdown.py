"""`seawall up` as a service of systemd: what it says, and how it ends while its workers are busy."""

import signal
import sys
from pathlib import Path

from celery import Celery

from seawall import delivery
from seawall.delivery import Queues
from support.delivery import ROOT, Marks
from support.nodes import environment
from support.notifying import notified
from support.processes import alive, started
from support.waiting import wait_until

FLEET = """
app = "support.marked"
drain_timeout = "2s"
[workers.default]
concurrency = 2
options = ["--without-mingle", "--without-gossip"]
[flower]
enabled = false
"""


def test_it_is_quiet_drains_stops_and_what_could_not_finish_is_back_at_once(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET)
    marks = Marks(tmp_path / "marks")
    variables = environment(
        redis_url,
        DELIVERY_BROKER=redis_url,
        DELIVERY_MARKS=str(marks.path),
        SEAWALL_DATABASE_URL=database_url,
        SEAWALL_STARTUP__MIGRATIONS="ignore",
        SEAWALL_FLEET=str(tmp_path / "fleet.toml"),
        SEAWALL_HOME=str(tmp_path / "home"),
        NOTIFY_SOCKET=str(tmp_path / "n"),
        WATCHDOG_USEC="900000",
    )
    argv = [sys.executable, "-m", "seawall.cli", "up", "--no-migrate"]
    with (
        notified(tmp_path / "n") as said,
        started(argv, log=tmp_path / "log", env=variables, cwd=ROOT) as fleet,
        Celery("client", broker=redis_url) as app,
    ):
        app.conf.update(broker_transport=delivery.transport_for(redis_url))
        fleet.wait_for("fleet ready", timeout=90)
        wait_until(lambda: said == {b"READY=1", b"WATCHDOG=1"}, timeout=30, what="READY=1 and WATCHDOG=1")
        for name in ("long-1", "long-2"):
            app.send_task("support.marked.work", (name, 60))
        wait_until(lambda: len(marks.counts("start")) == 2, timeout=60, what="two busy cells")
        fleet.signal(signal.SIGTERM)
        fleet.wait_for("SIGTERM: draining")
        app.send_task("support.marked.work", ("late", 0))
        processes = fleet.tree()
        assert fleet.wait(60) == 1, "the drain was not done in time"
        assert "out of time: stopping, running work is dropped" in fleet.output
        assert "killing" not in fleet.output
        assert not alive(processes)
        assert b"STOPPING=1" in said
        with app.connection_for_write() as connection, Queues.open(connection) as queues:
            counts = queues.counts("celery")
        assert (counts.ready, counts.held) == (3, 0), "given back, not left to their leases"
        assert set(marks.counts("start")) == {"long-1", "long-2"}, "nothing began while it drained"
        assert not marks.counts("end")
