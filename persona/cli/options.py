"""Commands that take one frozen dataclass; its fields are the command's arguments and options.

    @dataclass(frozen=True)
    class Greeting:
        '''Options of `persona greet`.

        Attributes:
            name: whom to greet.
            times: how often.
        '''

        name: str
        times: Annotated[int, typer.Option(min=1)] = 1

    @command(app, "greet", Greeting)
    def greet(options: Greeting) -> None:
        '''Greet somebody.'''

typer reads the signature of a function, so it is shown a function with one parameter for each field: an argument where
a field has no default, else an option, with the docstring's words as its help. `typer.Argument` and `typer.Option`
say what differs. The decorated function itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.models import ParameterInfo

from persona.cli.config import configured, default_toml, descriptions
from persona.cli.terminal import refuse_unread, say

Run = TypeVar("Run", bound=Callable[..., None])
Defaults = Callable[[], Mapping[str, Any]]


def command(
    app: typer.Typer, name: str, kind: type, *, store: bool = False, settings: Defaults | None = None, known: str = ""
) -> Callable[[Run], Run]:
    """Register a function of one options dataclass as a command.

    Args:
        app: gets the command.
        name: of the command.
        kind: the dataclass. A command with a field ``llm`` loads one; others refuse ``--device`` and its like.
        store: whether it opens the store; a command that does not refuses ``--store``.
        settings: default instances of the dataclasses with the rarer settings, by section. The command gets ``--set``,
            ``--config`` and ``--print-config``, and the function what `persona.cli.config.configured` makes of them and
            of its own options as a second argument.
        known: names of the settings, for a command that gets ``--set`` alone.
    """

    llm = any(each.name == "llm" for each in fields(kind))

    def register(run: Run) -> Run:
        def call(
            *, config: Path | None = None, set_: list[str] | None = None, show: bool = False, **given: Any
        ) -> None:
            refuse_unread(name, store=store, llm=llm)
            options = kind(**given)
            if settings is None:
                run(options)
            else:
                changed = {each.name: given[each.name] for each in fields(kind) if given[each.name] != each.default}
                run(options, configured(settings(), file=config, settings=set_ or (), given=changed))

        call.__doc__ = run.__doc__
        parameters = [*_parameters(kind), *(_setting_parameters(settings, known) if settings else ())]
        call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        shared = ["--json", *(["--device, --dtype, --quantize"] if llm else []), *(["--store URL"] if store else [])]
        app.command(name, epilog=f"Anywhere on the line: {', '.join(shared)} and --debug (persona --help).")(call)
        return run

    return register


def _parameters(kind: Any) -> list[Parameter]:
    hints, helps = get_type_hints(kind, include_extras=True), descriptions(kind)
    found = []
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        hint = hints[field.name]
        value, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        info = copy(next((each for each in extras if isinstance(each, ParameterInfo)), None))
        if info is None and default is MISSING:
            info = typer.Argument()
        elif info is None:
            info = typer.Option(*([f"--{field.name.replace('_', '-')}"] if value is bool else []))
        text = helps.get(field.name, "")
        info.help = info.help or text[:1].upper() + text[1:]
        found.append(_parameter(field.name, Annotated[value, info], Parameter.empty if default is MISSING else default))
    return found


def _setting_parameters(settings: Defaults, known: str) -> list[Parameter]:
    def printed(value: bool) -> None:
        if value:
            say(default_toml(settings()).rstrip("\n"))
            raise typer.Exit

    what = f"One of {known}" if known else "One setting, in place of that in --config"
    text = typer.Option("--set", metavar="NAME=VALUE", help=f"{what}. May be given several times.")
    file = typer.Option("--config", help="A TOML file of settings (see --print-config).")
    show = typer.Option(
        "--print-config", help="Print all settings and their defaults as TOML.", callback=printed, is_eager=True
    )
    found = [_parameter("set_", Annotated[list[str] | None, text], None)]
    if not known:
        found += [
            _parameter("config", Annotated[Path | None, file], None),
            _parameter("show", Annotated[bool, show], False),
        ]
    return found


def _parameter(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
