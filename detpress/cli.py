"""The command `detpress`: names, help and exit codes. What the commands do stands in `detpress.commands`."""

import io
import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from detpress.commands import authoring, bundles, comparing, data, listing, parts, running, scoring, sensitivity
from detpress.errors import DetpressError, InputError, StoppedError, Terminated, no_room, terminate

STOPPED = "stopped; what was finished is kept, the same command goes on from there"


class Commands(TyperGroup):
    """The commands; Ctrl-C or SIGTERM in one is answered in our words, before typer answers it in its own."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Terminated:
            raise StoppedError(STOPPED) from None
        except KeyboardInterrupt:
            raise InputError(STOPPED) from None


app = typer.Typer(
    name="detpress",
    cls=Commands,
    help="Compress object detectors with any engine, measured by one exact Pascal VOC evaluator.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 the work failed, 2 the input was wrong, the disk full or the run stopped by Ctrl-C, "
    "143 stopped by SIGTERM.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"detpress {version('detpress')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What stands before a command."""


app.command()(running.run)
app.command()(running.validate)
app.command()(comparing.compare)
app.command()(comparing.report)
app.command()(scoring.evaluate)
app.command()(scoring.detect)
app.command()(sensitivity.sensitivity)
app.command()(bundles.export)
app.command("import")(bundles.import_model)
app.command()(listing.model)
app.command()(listing.tuners)
app.command()(parts.encodings)
app.command()(parts.layers)
app.command()(parts.objectives)
app.command()(listing.recipes)
app.add_typer(authoring.plugins, name="plugins")
app.add_typer(data.data, name="data")
app.add_typer(listing.store, name="store")


def main() -> None:
    """Runs the command line; every expected error is one line on stderr, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal's encoding lacks ends no command
    signal.signal(signal.SIGTERM, terminate)
    # No Python that is started from here, by PyTorch and Ray included, looks for modules in the working directory.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        app(prog_name=app.info.name)
    except DetpressError as error:
        print(f"detpress: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if no_room(error):
            place = f" at {error.filename}" if error.filename else ""
            print(
                f"detpress: no disk space left{place} ({error.strerror}); what was finished is kept: make room, "
                "or set DETPRESS_CACHE to a folder elsewhere, and give the same command again",
                file=sys.stderr,
            )
        elif error.filename:
            print(f"detpress: {error.filename}: {error.strerror}", file=sys.stderr)
        else:
            raise
        sys.exit(InputError.exit_code)


if __name__ == "__main__":
    main()
