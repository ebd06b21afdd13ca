"""`seawall restart`: the workers of the fleet that runs here, one after another."""

import click

from seawall.config import settings
from seawall.fleet import ask


@click.command()
@click.argument("names", nargs=-1)
def restart(names: tuple[str, ...]) -> None:
    """Replace the workers of a running `seawall up`, or those called NAMES, one after another.

    Each finishes its work first, and the next one is told only when the successor of the one before is ready.
    Exit code 1 if not all were replaced: what does not start stops the rolling there.
    """
    done = ask(settings().home, {"do": "restart", "only": list(names)}, click.echo)
    click.echo(f"restarted: {', '.join(done)}")
