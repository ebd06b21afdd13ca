"""Every error Seawall raises, in one tree: catching `SeawallError` catches them all.

A message names the field, the value and the fix. Errors of other libraries are mapped at the
boundary with `raise ... from exc`, so the cause is never lost.

Each can be made from its `args` again, and from none: what a failed task raised is stored as its class and
these, by us, by Celery and by pickle, and reaches the caller as what it was.
"""


class SeawallError(Exception):
    """The root of the tree."""


class ConfigError(SeawallError, ValueError):
    """A setting, a policy or an argument is wrong. Nothing was started or submitted because of it."""


class StartupError(SeawallError):
    """Something that had to run could not be started: a server, a worker, a service."""


class DatabaseUnavailable(SeawallError):  # noqa: N818 - the public names say what happened
    """PostgreSQL cannot be reached, or refused us. Nothing was executed."""


class CommitUnknown(SeawallError):  # noqa: N818
    """The connection was lost while COMMIT was on its way: the transaction may be in effect, or may not."""


class MigrationError(SeawallError):
    """Migrations cannot be applied as they are. The database stays as it was before the failing file."""


class Poisoned(SeawallError):  # noqa: N818
    """A task killed its process `delivery_limit` times and was given up instead of tried again."""


class MemoryBudgetExceeded(SeawallError):  # noqa: N818
    """A task used more memory than its budget. Deliberately no MemoryError: Celery exits on those."""


class QueueFull(SeawallError):  # noqa: N818
    """A queue has reached its `max_length`. Nothing was submitted."""


class MessageTooLarge(SeawallError, ValueError):  # noqa: N818
    """A message is larger than `max_message`. Nothing was submitted."""


class AlreadySubmitted(SeawallError):  # noqa: N818
    """A submission under the same unique key is in force. This one was not submitted.

    Attributes:
        key: the unique key.
        task_id: the id of the task that owns it, None if that one is done already.
    """

    def __init__(self, key: str = "", task_id: str | None = None) -> None:
        super().__init__(key, task_id)
        self.key = key
        self.task_id = task_id

    def __str__(self) -> str:
        owner = self.task_id or "a task that is done"
        return f"unique_key {self.key} is taken by {owner}: wait or use another key."


class Refused(SeawallError):  # noqa: N818
    """Something said no before the work began: nobody's failure, worth trying again after `retry_after`."""

    __slots__ = ("made_at", "name", "retry_after")

    name: str
    retry_after: float
    made_at: float
    """The monotonic moment at which a breaker of this process refused; unset if anybody else made it."""

    def __init__(self, message: str = "", name: str = "", retry_after: float = 0.0) -> None:
        # What super().__init__ does, in half the time: refusals have to be cheap.
        self.args = (message, name, retry_after)
        self.name = name
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def is_older(exc: BaseException, than: float) -> bool:
    """Whether it is a refusal of before that monotonic moment: it clings to what was raised from it."""
    return getattr(exc, "made_at", than) < than


class BreakerOpen(Refused):
    """A call was refused because the circuit of its dependency is open. The dependency was not asked.

    Attributes:
        name: the breaker.
        retry_after: seconds after which another call may be let through.
    """


class LimitReached(Refused):
    """As many holders as the limit allows are at work. Nothing was started.

    Attributes:
        name: the key of the limit.
        retry_after: seconds after which a share may be free.
    """
