"""For who writes a plugin: `detpress plugins new`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from detpress.commands.listing import plugins as show
from detpress.commands.options import Json, print_json


class ShownUnlessCommand(TyperGroup):
    """A word that is none of the commands is the name of what `show` shows."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["show", *args]
        return super().parse_args(ctx, args)


plugins = typer.Typer(
    cls=ShownUnlessCommand,
    help="""The plugins found, or one plugin's card; and a package to start one's own from.

    \b
    detpress plugins
    detpress plugins --json
    detpress plugins nni.l1norm
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
    print(f"\ncd {made}\npip install -e '.[dev]'\npytest\ndetpress run recipe.yaml")
