"""The command line.

Exit codes: 0 all cells recorded, or all checks passed; 1 a check or a nightly run failed; 2 usage; 3 nothing could run;
and those of `progress` for runs that had to stop or left cells without a record.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

import typer

from mongebench.cli import extend, look, own, run, write
from mongebench.cli.common import USAGE
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
    "status": look.status,
    "why-rerun": run.why_rerun,
}

app = typer.Typer(
    help="The benchmark suite for Monge-map estimators: one clock, exact truths, honest records.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Entry point: what a user did wrong is one sentence and exit code 2, never a traceback."""
    try:
        with staying():  # a thread that a plugin has left behind would end a run in silence, and with exit code 0
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
