"""`seawall completion`: what a shell reads so that Tab completes commands and options."""

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    r"""Print what makes SHELL complete commands and options at Tab.

    \b
    bash  eval "$(seawall completion bash)"       in ~/.bashrc
    zsh   eval "$(seawall completion zsh)"        in ~/.zshrc, after compinit
    fish  seawall completion fish | source        in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    source = get_completion_class(shell)
    assert source is not None  # noqa: S101 - click has the three
    click.echo(source(root, {}, "seawall", "_SEAWALL_COMPLETE").source())
