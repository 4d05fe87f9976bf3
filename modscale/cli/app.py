"""The form of the command line: how commands, arguments, options and their help are declared.

Only this module knows typer.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from modscale import __version__
from modscale.errors import InputError, UsageError

Typed = TypeVar("Typed")

SECTIONS = {
    "Budgets": ("--params", "--flops", "--latency-ms"),
    "Timing": ("--provider", "--threads", "--runs", "--paper"),
    "In every command": ("--json", "--debug", "--help"),
}
"""Options that stand under a heading of their own in the help of a command; the others are its `Options`."""
VALUES = {"<int range>": "N", "<int>": "N", "<float>": "X", "<path>": "PATH", "<str>": "TEXT"}
"""How the help shows a value, in place of typer's names for its types."""


def argument(
    metavar: str, text: str, *, parser: Callable[[str], Any], completion: Callable[..., list[str]] | None = None
) -> Any:
    """What a command takes without a name, as `Annotated[str, argument("MODEL", "A published name.", ...)]`."""
    return typer.Argument(metavar=metavar, help=text, parser=parser, autocompletion=completion)


def option(
    text: str,
    *names: str,
    metavar: str | None = None,
    low: int | None = None,
    high: int | None = None,
    parser: Callable[[str], Any] | None = None,
    completion: Callable[..., list[str]] | None = None,
) -> Any:
    """What a command takes by name, that of the parameter unless there are `names`; `text` is its help."""
    return typer.Option(*names, help=text, metavar=metavar, min=low, max=high, parser=parser, autocompletion=completion)


def naming_option(read: Callable[[str], Typed]) -> Callable[[str], Typed]:
    """A parser whose InputError names the option that was typed."""

    @functools.wraps(read)
    def parse(text: str) -> Typed:
        try:
            return read(text)
        except InputError as error:
            raise typer.BadParameter(str(error)) from error

    return parse


def answer(document: Any, as_json: bool, show: Callable[[], None]) -> None:
    """What a command ends with: one JSON document and nothing else, or what `show` prints for a person."""
    if as_json:
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        show()


def build_app(commands: Mapping[Callable[..., None], str]) -> typer.Typer:
    """The command line of these functions, each with the example that ends its help."""
    app = typer.Typer(
        name="modscale",
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_top)
    for command, example in commands.items():
        app.command(cls=_Command, epilog=f"Example: {example}")(command)
    return app


def call_app(app: typer.Typer, arguments: list[str]) -> Any:
    """Calls the command that was typed; returns what typer makes of it, an exit code or None.

    Raises:
        UsageError: no command can be made of the arguments.
        KeyboardInterrupt: Ctrl-C.
        Exception: whatever else the command raises.
    """
    try:
        return app(args=arguments, prog_name="modscale", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        rule, command = _in_plain_words(error.format_message()), context.command_path if context else "modscale"
        if rule.startswith("Missing "):
            rule += f" `{command} -h` has an example."
        raise UsageError(rule, command=command) from error
    except typer.Abort:
        raise KeyboardInterrupt from None


class _Command(TyperCommand):
    """A command whose help has its options in sections, plain text that a pipe and 80 columns hold."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {
            "Arguments": [],
            "Options": [],
            **{title: [] for title in SECTIONS},
        }
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                titles = (title for title, options in SECTIONS.items() if set(options) & set(parameter.opts))
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections[next(titles, usual)].append((_in_plain_words(record[0]), _in_plain_words(record[1])))
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _in_plain_words(text: str) -> str:
    """A line of typer's help, or of its complaints, without its names for types and ranges."""
    for name, plain in VALUES.items():
        text = text.replace(name, plain)
    text = re.sub(r"is not a valid int(eger)?( range)?\.", "is not a whole number.", text)
    text = re.sub(r"is not a valid float( range)?\.", "is not a number.", text)
    text = re.sub(r"\b(\d+)<=x<=(\d+)", r"\1 to \2", text)
    return re.sub(r"\bx>=(\d+)", r"\1 or more", text)


def _top(
    context: typer.Context, version: Annotated[bool, option("Print the version.", "--version", "-V")] = False
) -> None:
    """Architecture search and model scaling of EfficientMod vision networks."""
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
