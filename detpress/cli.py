"""The command `detpress`: names, help and exit codes. What the commands do stands in `detpress.commands`."""

import sys

import click
import typer

from detpress.commands import bundles, listing, running, scoring, sensitivity
from detpress.errors import DetpressError, InputError, no_room

app = typer.Typer(
    name="detpress",
    help="Compress object detectors with any engine, measured by one exact Pascal VOC evaluator.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 the work failed, 2 the input was wrong, the disk full or the run stopped by Ctrl-C.",
)
app.command()(running.run)
app.command()(running.validate)
app.command()(scoring.evaluate)
app.command()(scoring.detect)
app.command()(sensitivity.sensitivity)
app.command()(bundles.export)
app.command("import")(bundles.import_darknet)
app.command()(listing.model)
app.command()(listing.plugins)
app.command()(listing.recipes)
app.add_typer(listing.data, name="data")
app.add_typer(listing.store, name="store")


def main() -> None:
    """Runs the command line; every expected error is one line on stderr, without a traceback."""
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(InputError.exit_code)
    except DetpressError as error:
        print(f"detpress: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        print("detpress: stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(InputError.exit_code)
    except OSError as error:
        if not no_room(error):
            raise
        place = f" at {error.filename}" if error.filename else ""
        print(
            f"detpress: no disk space left{place} ({error.strerror}); what was finished is kept: make room, "
            "or set DETPRESS_CACHE to a folder elsewhere, and give the same command again",
            file=sys.stderr,
        )
        sys.exit(InputError.exit_code)


if __name__ == "__main__":
    main()
