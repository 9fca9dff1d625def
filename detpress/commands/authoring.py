"""The plugins: what there is, `detpress plugins install`, and for who writes one, `new` and `check`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from detpress.commands.listing import plugins as show
from detpress.commands.options import Json, echo_columns, print_json


class ShownUnlessCommand(TyperGroup):
    """A word that is none of the commands is the name of what `show` shows."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


plugins = typer.Typer(
    cls=ShownUnlessCommand,
    help="""The plugins found, or one plugin's card; and for who writes one, a package to start from, and checks.

    \b
    detpress plugins
    detpress plugins --json
    detpress plugins nni.l1norm
    detpress plugins install ort.static_1_20
    """,
)
plugins.command("show")(show)


@plugins.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The plugin's name in recipes, such as mine.round.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The folder to make; by default named as the package is.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a package with a plugin that works, its test and a recipe, to change into one's own.

    \b
    detpress plugins new mine.round
    detpress plugins new mine.round packages/rounding
    """
    from detpress.starter.package import names_for, write_package

    names = names_for(name)
    made = folder or Path(names.package)
    written = write_package(names, made)
    if as_json:
        print_json({"plugin": name, "package": names.package, "folder": str(made), "files": [*map(str, written)]})
        return
    for file in written:
        print(file)
    print("\nIt rounds weights, and is to be changed into yours:\n")
    print(f"cd {made}\npip install -e '.[dev]'\npytest\ndetpress plugins check {name}\ndetpress run recipe.yaml")


@plugins.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The plugin's name in recipes.")],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="One of the plugin's options.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Hold a plugin against all that detpress expects of one: on small detectors with random weights and few images.

    An option that names a bundle is given one that fits. Exit code 1 where a check fails.

    \b
    detpress plugins check mine.round --set step=0.1
    detpress plugins check train.finetune --set epochs=1 --set batch_size=4
    """
    from detpress.run.terminal import Terminal
    from detpress.testing.application import Asked
    from detpress.testing.checks import CHECKS, outcome
    from detpress.testing.trial import Trial

    with Terminal(quiet=as_json) as terminal:
        trial = Trial(Asked(name, assignments=tuple(assignments or ())))
        outcomes = []
        for number, check in enumerate(CHECKS, 1):
            terminal.progress(check.name, number, len(CHECKS))
            outcomes.append(outcome(check, trial))
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        echo_columns([(each.name, each.status, f"{each.seconds:.1f} s", each.said) for each in outcomes])
        print(f"{len(outcomes)} checks, {failed} failed")
    if failed:
        raise typer.Exit(1)


@plugins.command()
def install(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The plugins' names in recipes.")],
    as_json: Json = False,
) -> None:
    """Install the environment that a plugin's engine has for itself, by uv where that is there, else by venv and pip.

    It lies in the cache, and is made once for all plugins that require the same.

    \b
    detpress plugins install ort.static_1_20
    """
    from detpress.contract.registry import environment_of, load_plugin
    from detpress.environments import installation
    from detpress.errors import InputError

    environments = {name: environment_of(load_plugin(name)) for name in names}
    if without := [name for name, environment in environments.items() if environment is None]:
        raise InputError(f"{', '.join(without)}: no environment to install: there are no `requirements`")
    rows = []
    for name, environment in environments.items():
        assert environment is not None
        if not environment.is_made:
            print(f"{name}: installing {', '.join(environment.requirements)}, which may take minutes", file=sys.stderr)
        new = installation.install(environment)
        rows.append(
            {"plugin": name, "environment": str(environment.folder), "new": new, "versions": environment.versions}
        )
        if not as_json:
            print(f"{name}: {environment}{'' if new else ', which was there'}")
    if as_json:
        print_json(rows)
