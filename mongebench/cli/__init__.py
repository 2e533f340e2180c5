"""The command line.

Exit codes: 0 all cells recorded, or all checks passed; 1 a check, a nightly run, a comparison that may fail or a
verification failed; 2 usage; 3 nothing could run, or be compared; and those of `progress` for runs that had to stop or
left cells without a record.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

import typer

from mongebench.cli import extend, join, look, own, run, write
from mongebench.cli.common import USAGE
from mongebench.cli.output import forgiving
from mongebench.core.errors import MongebenchError
from mongebench.core.text import printable
from mongebench.foreign import staying

COMMANDS: dict[str, Callable[..., None]] = {
    "list": look.names,
    "run": run.run,
    "show": look.show,
    "check": extend.check,
    "certify": extend.certify,
    "references": extend.references,
    "new-estimator": extend.new_estimator,
    "init-ci": extend.init_ci,
    "table": look.table,
    "rate": look.rate,
    "figures": write.figures,
    "export": write.export,
    "report": write.report,
    "asv": write.asv,
    "nightly": run.nightly,
    "tune": run.tune,
    "fit": own.fit,
    "apply": own.apply,
    "compare": look.compare,
    "submit": join.submit,
    "verify": join.verify,
    "status": look.status,
    "why-rerun": run.why_rerun,
}

PANELS = {
    "Run": ("run", "status", "why-rerun"),
    "Look at results": ("list", "show", "table", "rate", "figures", "compare", "export", "report"),
    "Your own data": ("fit", "apply"),
    "Extend": ("check", "new-estimator", "certify", "references"),
    "Join a board": ("submit", "verify"),
    "Maintain": ("nightly", "init-ci", "asv", "tune"),
}
"""Heading in the help -> its commands."""
PANEL_OF = {name: heading for heading, members in PANELS.items() for name in members}

app = typer.Typer(
    help="The benchmark suite for Monge-map estimators: one clock, exact maps, a record of every fit.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name in [*PANEL_OF, *COMMANDS.keys() - PANEL_OF.keys()]:
    app.command(_name, rich_help_panel=PANEL_OF.get(_name))(COMMANDS[_name])


def main() -> None:
    """Entry point: what a user did wrong is one sentence and exit code 2, never a traceback."""
    try:
        with (
            forgiving(),
            staying(),
        ):  # a thread that a plugin has left behind would end a run in silence, and with exit code 0
            app()
    except MongebenchError as error:
        typer.echo(f"mongebench: {printable(str(error))}", err=True)
        sys.exit(USAGE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # What is still to be written to the file that the output goes to would fail again as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        typer.echo(f"mongebench: Cannot write the output: {error.strerror}.", err=True)
        sys.exit(USAGE)
    except ImportError as error:
        from mongebench.run.status import missing

        typer.echo(f"mongebench: {printable(missing(error))}", err=True)
        sys.exit(USAGE)
