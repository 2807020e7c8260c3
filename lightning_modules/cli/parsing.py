"""Parsers whose errors fit in two lines: the option, the problem, near matches, and where to find help.

The only module that reads the text of jsonargparse's messages and its parsers' actions, neither of which is public.
jsonargparse reports one nested error per alternative of a union, as text. Tried with jsonargparse 4.53.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

_UNKNOWN = re.compile(
    r"(?:Option|Group '(?P<group>[^']+)' does not accept option|Subcommand '[^']+' does not accept option) "
    r"'(?P<name>[^']+)'(?: is not accepted)?"
)
_UNRECOGNISED = re.compile(r"unrecognized arguments: (?P<name>\S+)")
_REQUIRED = re.compile(r"(the following arguments are required:) (.+)")
_CHOICE = re.compile(r".*invalid choice: '([^']*)' \(choose from (.+)\)")
_KEY = re.compile(r'Parser key "([^"]+)"')
_EXPECTED = re.compile(r"Expected a <class '([\w.]+)'>")
_LITERAL = re.compile(r"Expected a typing\.Literal\[([^\]]+)\]")
_VALUE = re.compile(r"(?:Given value|Got value): (.*)")
_MISSING_CLASS = (
    re.compile(r"Expected a dot import path string: (\S+?)\.?(?:\s|$)"),
    re.compile(r"module '[^']+' has no attribute '([^']+)'"),
    re.compile(r"No \w+ attribute (\w+)"),  # of a package whose names are imported lazily
)
_MISSING_MODULE = re.compile(r"No module named '([^']+)'")
# Lines that repeat the annotation or the value instead of saying what is wrong.
_NOISE = re.compile(
    r"^\s*(?:-\s*)?(?:Does not validate against|Subtypes:|Errors:|Given value|Expected a path but|"
    r"Expected a <class 'NoneType'>|$)"
)


class ShortErrors(ArgumentParser):
    """A jsonargparse parser whose errors are one line about the mistake and one about where to find help.

    The parsers that jsonargparse creates for the arguments of a class are of the type of their parent, so that unknown
    arguments of a class are compared with those that it takes.
    """

    described = ""
    required_hint = ""

    def __init__(self, *args: Any, allow_abbrev: bool = False, **kwargs: Any) -> None:  # noqa: ANN401
        # A misspelt option is not taken for the start of another one.
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    def add_class_arguments(
        self,
        class_type: type,
        nested_key: str | None = None,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> list[str]:
        """Also keeps the class's name, for errors, where the parser is that of a class."""
        if nested_key is None:
            self.described = class_type.__name__
        return super().add_class_arguments(class_type, nested_key, *args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits with status 2, or raises where jsonargparse wants an exception."""
        if not self.exit_on_error:
            super().error(self._unknown_argument(message) or message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self._only_command()
        command = parser.prog.replace(" [options]", "")
        print(f"attention-blocks: error: {parser.explain(message)}", file=sys.stderr)
        print(f"Help: {command} --help", file=sys.stderr)
        sys.exit(2)

    def _only_command(self) -> ShortErrors:
        """The parser of the command, if there is only one; else this parser."""
        choices = list(self._subcommands_action.choices.values()) if self._subcommands_action else []
        return choices[0] if len(choices) == 1 else self

    def explain(self, message: str) -> str:
        """One line for one of jsonargparse's messages."""
        if own := self._unknown_argument(message):
            return own
        if required := _REQUIRED.match(message):
            names = [self._shown(name) for name in required[2].split(", ")]
            return f"{required[1]} {', '.join(names)}{self.required_hint}"
        if choice := _CHOICE.match(message):
            choices = [word.strip("' ") for word in choice[2].split(",")]
            return f"{choice[1]!r} is not one of {', '.join(choices)}{_near(choice[1], choices)}"
        keys = _KEY.findall(message)
        prefix = f"--{'.'.join(_without_repeats(keys))}: " if keys else ""
        for line in map(str.strip, message.splitlines()):
            if hint := re.search(r"\w* ?has no argument .*", line):
                return prefix + hint[0].partition(". Got value:")[0]
        for pattern in _MISSING_CLASS:
            if found := pattern.search(message):
                return f"{prefix}there is no class or function {found[1]!r}{_near(found[1], _public_names())}"
        if found := _MISSING_MODULE.search(message):
            return f"{prefix}there is no module {found[1]!r}"
        kinds = [kind.rpartition(".")[2] for kind in _EXPECTED.findall(message)] + _LITERAL.findall(message)
        if set(kinds) - {"NoneType"}:
            names = ["null" if kind == "NoneType" else kind for kind in dict.fromkeys(kinds)]
            value = _VALUE.search(message)
            return f"{prefix}expected {' or '.join(names)}" + (f", got {value[1].rstrip('. ')!r}" if value else "")
        if message.startswith("Problems parsing config"):
            return " ".join(message.split())
        lines = [line.strip(" -") for line in message.splitlines() if not _NOISE.match(line)]
        reported = [line for line in lines if not _KEY.match(line)] or lines or [message]
        return prefix + reported[-1]

    def _shown(self, dest: str) -> str:
        """An argument as the help shows it."""
        for action in self._actions:
            if action.dest == dest:
                return action.option_strings[-1] if action.option_strings else str(action.metavar or dest)
        return dest.partition(".")[2] or dest  # without the command's name

    def _unknown_argument(self, message: str) -> str | None:
        """The error message for an argument that this parser does not take."""
        found = _UNKNOWN.match(message) or _UNRECOGNISED.match(message)
        if found is None:
            return None
        name, group = found["name"], found.groupdict().get("group")
        dashes = name.startswith("-")
        bare = name.lstrip("-").partition("=")[0]
        full = f"{group}.{bare}" if group else bare
        near = _near(full, (key for action in self._actions if (key := _key(action))), prefix="--" if dashes else "")
        if dashes:
            return f"there is no option --{bare}{near}"
        return f"{self.described or 'the command'} has no argument {full!r}{near}"


def command_parser(name: str, description: str) -> ShortErrors:
    """The parser of one of our own commands; its help has no types."""
    return ShortErrors(prog=f"attention-blocks {name}", description=description, formatter_class=argparse.HelpFormatter)


def _key(action: argparse.Action) -> str:
    """The key that sets an action, empty for the help and the like."""
    name = action.option_strings[-1].lstrip("-") if action.option_strings else action.dest
    return "" if name.rpartition(".")[2] == "help" or action.dest == argparse.SUPPRESS else name


def _near(name: str, candidates: Iterable[str], prefix: str = "") -> str:
    """Near matches of a name, as the end of an error."""
    known = sorted(set(candidates))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    last = {candidate.rpartition(".")[2]: candidate for candidate in known}
    near += [last[found] for found in difflib.get_close_matches(name.rpartition(".")[2], last, n=3, cutoff=0.7)]
    if not near and "." in name:  # of a section
        near = difflib.get_close_matches(name.partition(".")[0], [key for key in known if "." not in key], cutoff=0.6)
    chosen = list(dict.fromkeys(near))[:3]
    return f"; did you mean {' or '.join(prefix + candidate for candidate in chosen)}?" if chosen else ""


def _public_names() -> set[str]:
    """Names of classes and functions that configurations name, from the modules that are imported already."""
    modules = ("attention_blocks", "lightning_modules", "datamodules", "lightning.pytorch.callbacks", "torch.optim")
    names: set[str] = set()
    for module in (sys.modules[name] for name in modules if name in sys.modules):
        names.update(getattr(module, "__all__", ()))
        names.update(name for name, thing in vars(module).items() if inspect.isclass(thing))
    return names


def _without_repeats(keys: Iterable[str]) -> list[str]:
    """Keys of nested errors, each once: every alternative of a union repeats those above it."""
    return list(dict.fromkeys(keys))
