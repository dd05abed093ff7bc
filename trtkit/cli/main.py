"""The command line: `trtkit`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trtkit import __version__
from trtkit.cli import (
    bench,
    build,
    cache,
    cuts,
    doctor,
    evaluate,
    export,
    infer,
    ingest,
    profile,
    query,
    store,
    train,
    tune,
)
from trtkit.cli.output import note, put
from trtkit.cli.streams import OutputError, discard_output, open_streams
from trtkit.cpu import own_process
from trtkit.errors import TrtkitError

DEBUG = "--debug"

# Help is plain text: rich's renderer alone takes longer to import than all the rest of `--help`.
app = typer.Typer(
    name="trtkit",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(doctor.doctor)
app.command()(train.train)
app.command()(export.export)
app.command()(cuts.cuts)
app.command()(profile.profile)
app.command()(build.build)
app.command()(infer.infer)
app.command()(evaluate.evaluate)
app.command()(bench.bench)
app.command()(ingest.ingest)
app.command()(query.query)
app.command()(tune.tune)
app.add_typer(cache.app, name="cache")
app.add_typer(store.app, name="store")


def _print_version(wanted: bool) -> None:
    if wanted:
        put(f"trtkit {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show tracebacks; may stand anywhere on the line.")
    ] = False,
) -> None:
    """Image classifiers on TensorRT, split where they share layers.

    Export a model, build it into a bundle, classify photos:

    trtkit export resnet50, then trtkit build --cut 7 --fp16, then trtkit infer images/
    """
    from trtkit.atomic import remove_on_signals

    remove_on_signals()


def run() -> None:
    """Run the command of sys.argv and exit: 0 done, 1 some inputs failed, 2 cannot be carried out."""
    own_process()
    open_streams()
    options = sys.argv[1:]
    end = options.index("--") if "--" in options else len(options)
    debug = DEBUG in options[:end]
    if debug:
        options = [DEBUG, *(o for o in options[:end] if o != DEBUG), *options[end:]]
    try:
        try:
            app(args=options, prog_name="trtkit")
        finally:
            sys.stdout.flush()
    except TrtkitError as error:
        if isinstance(error, OutputError):
            discard_output()
        if debug:
            raise
        note(f"Error: {error}")
        sys.exit(2)
    except BrokenPipeError:
        # The reader of the output has gone, as `head` does; there is nobody left to tell.
        discard_output()
        sys.exit(1)
