"""`seawall doctor -A proj`: what will change for a Celery application when it moves to Seawall.

The application is imported as a worker imports it, and read: what its authors set, which tasks they defined,
what they call, and how its workers are started. No server is asked and none is started.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, distributions
from typing import Final

from celery import Celery
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from seawall.doctor import audit_versions
from seawall.doctor.adoption.application import Application, read
from seawall.doctor.adoption.calls import audit_calls
from seawall.doctor.adoption.commands import audit_commands
from seawall.doctor.adoption.notice import Group, Notice, fits, look, refused
from seawall.doctor.adoption.settings import SETTINGS
from seawall.doctor.adoption.tasks import TASKS
from seawall.doctor.adoption.transport import TRANSPORT
from seawall.doctor.finding import Severity
from seawall.failure import message_of
from seawall.redaction import redact_text
from seawall.worker.app import Seawall

__all__ = ["Group", "Notice", "examine_application"]

_AUDITS: Final = (*SETTINGS, *TRANSPORT, *TASKS, audit_calls, audit_commands)

_SHARED: Final = frozenset({"celery", "kombu", "billiard", "redis"})
"""Packages whose versions both Seawall and what extends Celery ask for."""


def examine_application(load: Callable[[], Celery]) -> list[Notice]:
    """Everything there is to say about the application that `load` returns, by group.

    Raises:
        ConfigError: it cannot be loaded.
    """
    application = read(load)
    found = [
        *_imports(application),
        *_versions(),
        *_apps(application),
        *(notice for audit in _AUDITS for notice in _whatever_it_meets(audit, application)),
    ]
    found += _unreadable(application)
    found += _rest(application, found)
    groups, severities = list(Group), list(Severity)
    return sorted(found, key=lambda each: (groups.index(each.group), severities.index(each.severity)))


def _whatever_it_meets(
    audit: Callable[[Application], Iterator[Notice]], application: Application
) -> Iterator[Notice]:
    """What an audit finds. What it cannot read is a notice as well, and the other audits go on."""
    try:
        yield from audit(application)
    except Exception as exc:  # noqa: BLE001 - it reads what others wrote
        fault = redact_text(f"{type(exc).__name__}: {message_of(exc)}")
        yield look(
            "doctor",
            [audit.__name__.strip("_")],
            f"this part of the report ends early, by a fault of its own: {fault}",
            "look at what it is about yourself, and report the fault",
        )


def _unreadable(application: Application) -> Iterator[Notice]:
    """What was left out of the settings, so that the rest of them could be read."""
    for fault, setting in application.faults.items():
        yield refused(
            "settings.value",
            [application.place(setting)] if setting else ["settings"],
            f"{redact_text(fault)}: the report leaves it out",
            "correct it",
        )


def _imports(application: Application) -> Iterator[Notice]:
    if application.failures:
        yield refused(
            "imports",
            application.failures,
            "a module of tasks cannot be imported, so a worker would not start; this report knows nothing "
            "of what comes after it",
            "correct it, and run this again where the application's environment is set",
        )


def _versions() -> Iterator[Notice]:
    """Packages outside of what Seawall supports, and extensions that ask for another Celery."""
    for finding in audit_versions():
        yield refused(finding.check, [finding.reason.partition(" is ")[0]], finding.reason, finding.fix)
    installed = {canonicalize_name(each.name): each.version for each in distributions()}
    extensions = {
        f"{each.name} {each.version}": wanted
        for each in distributions()
        for wanted in _wanted(each)
        if (found := installed.get(canonicalize_name(wanted.name))) is not None
        and not wanted.specifier.contains(found, prereleases=True)
    }
    for extension, wanted in sorted(extensions.items()):
        yield refused(
            "versions.extension",
            [extension],
            f"it asks for {wanted.name}{wanted.specifier}, and Seawall needs "
            f"{installed[canonicalize_name(wanted.name)]}, which is installed",
            "a release of it that allows that version, or another extension",
        )


def _apps(application: Application) -> Iterator[Notice]:
    """Plain apps of a project that has several: tasks may submit through another than their workers'."""
    apps = application.apps()
    plain = [place for place, app in apps.items() if not isinstance(app, Seawall)]
    if plain and len({id(app) for app in apps.values()}) > 1:
        yield look(
            "apps",
            plain,
            "the project has more than one app: Seawall's workers take over what a plain one submits, and "
            "plain workers do not see what one with Seawall submits",
            "seawall.install(...) around each of them",
        )


def _wanted(distribution: Distribution) -> Iterator[Requirement]:
    if distribution.name == "seawall":
        return
    for line in distribution.requires or ():
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if canonicalize_name(wanted.name) in _SHARED and (
            wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        ):
            yield wanted


def _rest(application: Application, found: list[Notice]) -> Iterator[Notice]:
    """What no notice is about."""
    named = {place for notice in found if notice.group is not Group.FITS for place in notice.where}
    tasks = [task.place for task in application.tasks if task.place not in named]
    if tasks:
        yield fits("tasks", tasks, "they run as they do today")
    words = " ".join(place for notice in found for place in notice.where)
    if settings := sorted(each for each in application.settings if each not in words):
        yield fits(
            "settings", map(application.place, settings), "what the application sets itself stays in force"
        )
