"""`seawall restart`: the workers of the fleet that runs here, one after another."""

import click

from seawall.cli.completion import offered
from seawall.cli.pages import Page, in_json, prints, said
from seawall.config import settings
from seawall.fleet import ask


@click.command(epilog="Example: seawall restart default1")
@click.argument("names", nargs=-1, shell_complete=offered("worker"))
@prints
def restart(names: tuple[str, ...]) -> Page:
    """Replace the workers of a running `seawall up`, or those called NAMES, one after another.

    Each finishes its work first, and the next one is told only when the successor of the one before is ready.
    Exit code 1 if not all were replaced: what does not start stops the rolling there.
    """
    heard: list[str] = []
    say = heard.append if in_json() else click.echo
    done = ask(settings().home, {"do": "restart", "only": list(names)}, say)
    return said(f"restarted: {', '.join(done)}", restarted=list(done), said=heard)
