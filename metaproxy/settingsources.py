"""Where settings come from: flags, environment, a file; which wins, what is unknown, and what is told about it.

Knows: how each source is read and merged, and how mistakes are shown without showing secrets.
Must not know: any particular setting.

Flag over environment over file over default. Empty means unset, wherever it stands: a chart that renders an empty
value must not set anything (kiam#491).
"""

import argparse
import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import yaml
from pydantic import ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from metaproxy.knobs import PREFIX, Group, Knob, SettingsError, Tree, knobs

# What Kubernetes puts into a pod's environment for each Service of its namespace, and so for one called metaproxy-…
_SERVICE_LINK = re.compile(
    r"(?!.*__)[A-Z0-9_]+_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
_USERINFO = re.compile(r"(?<=://)\S*@")  # to the last @: a password may have anything in it
_SHOWN = 80


class _Environment(EnvSettingsSource):
    """The environment as texts: lists and mappings are taken apart by the settings' own types, as from flags."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ARG002
        return value


class Parser(argparse.ArgumentParser):
    """Flags made from a tree, to which a command may add its own. Says what is wrong by SettingsError.

    Help is not its business: argparse's own text differs between versions of Python.
    """

    def __init__(self, prog: str, tree: type[Tree]) -> None:
        super().__init__(prog=prog, allow_abbrev=False, add_help=False)
        self._knobs = knobs(tree)
        for one in self._knobs:
            if one.switch:
                self.add_argument(one.flag, dest=one.key, nargs="?", const="true")
            else:
                self.add_argument(one.flag, dest=one.key, action="append" if one.several else "store")

    def error(self, message: str) -> NoReturn:
        """Raise, so that there is one way in which bad usage is told."""
        raise SettingsError([message, f"see {self.prog} --help"])

    def read(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
        """The command's own options, and the settings among the flags as a nested mapping."""
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            raise SettingsError(
                _unknown(text.partition("=")[0], known) if text.startswith("-") else f"{_quoted(text)} is not expected"
                for text in unknown
                # What follows an unknown flag is its value, not another mistake.
                if text.startswith("-") or not unknown[0].startswith("-")
            )
        given = vars(options)
        nested: dict[str, Any] = {}
        for one in self._knobs:
            _put(nested, one, given[one.key])
        return options, _filled(nested)


Tree_ = TypeVar("Tree_", bound=Tree)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[Tree_]):
    """Settings, and by the key of each that is not at its default where it came from."""

    settings: Tree_
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What each source says, the winner first; no empty values, no unknown keys."""

    flags: dict[str, Any]
    environment: dict[str, Any]
    file: dict[str, Any]
    path: str

    def merged(self) -> dict[str, Any]:
        """One mapping: flag over environment over file, setting by setting."""
        result: dict[str, Any] = {}
        for layer in (self.file, self.environment, self.flags):
            for name, value in layer.items():
                # Groups are merged, values are not: a list given by flag replaces the file's list.
                result[name] = {**result.get(name, {}), **value} if isinstance(value, dict) else value
        return result

    def origin(self, one: Knob) -> str | None:
        """Where the setting comes from; None when it is at its default."""
        for layer, origin in (
            (self.flags, f"flag {one.flag}"),
            (self.environment, f"environment {one.variable}"),
            (self.file, f"file {self.path}"),
        ):
            if one.name in (layer.get(one.group, {}) if one.group else layer):
                return origin
        return None


def layers(tree: type[Tree], flags: dict[str, Any]) -> Layers:
    """Read environment and file, once.

    Raises:
        SettingsError: the file cannot be read, or a source has an unknown key.
    """
    wrong = list(_unknown_variables(tree))
    environment = _filled(_Environment(tree, env_ignore_empty=True)())
    path = str(flags.get("config") or environment.get("config") or "")
    contents: dict[str, Any] = {}
    if path:
        try:
            contents = _file(tree, path)
        except SettingsError as error:
            wrong += error.lines
    if wrong:
        raise SettingsError(wrong)
    return Layers(flags=flags, environment=environment, file=_filled(contents), path=path)


def load(tree: type[Tree_], flags: dict[str, Any]) -> Loaded[Tree_]:
    """The settings of all sources.

    Raises:
        SettingsError: something is unknown, malformed, or cannot work together.
    """
    read = layers(tree, flags)
    table = knobs(tree)
    try:
        settings = tree(**read.merged())
    except ValidationError as error:
        raise SettingsError(_told(error, table, read)) from error
    return Loaded(
        settings=settings, origins={one.key: origin for one in table if (origin := read.origin(one)) is not None}
    )


def load_some(tree: type[Tree], flags: dict[str, Any], *names: str) -> Any:
    """Some settings and groups alone, whatever the others lack: a probe is not told the agent's flags.

    Raises:
        SettingsError: something is unknown, or malformed among these.
    """
    read = layers(tree, flags)
    fields: dict[str, Any] = {name: (tree.model_fields[name].annotation, tree.model_fields[name]) for name in names}
    some = create_model("Some", __config__=Group.model_config, **fields)
    merged = read.merged()
    try:
        return some(**{name: merged[name] for name in names if name in merged})
    except ValidationError as error:
        raise SettingsError(_told(error, knobs(tree), read)) from error


def load_group(tree: type[Tree], flags: dict[str, Any], name: str) -> Any:
    """One group alone; as `load_some`."""
    return getattr(load_some(tree, flags, name), name)


def as_yaml(loaded: Loaded[Tree_]) -> str:
    """Every setting with its origin, as a file that could be given back, secrets aside."""
    values = loaded.settings.model_dump(mode="json")
    lines: list[str] = []
    group = ""
    for one in knobs(type(loaded.settings)):
        origin = loaded.origins.get(one.key, "default")
        value = values[one.group][one.name] if one.group else values[one.name]
        if one.key == "config":
            lines.append(f"# file: {value or 'none'}")
            continue
        if one.group != group:
            group = one.group
            lines.append(f"{group}:")
        shown = json.dumps(_redacted("" if value is None else value), ensure_ascii=False)  # JSON is YAML
        lines.append(f"{'  ' if group else ''}{one.name}: {shown}  # {origin}")
    return "\n".join(lines) + "\n"


def redacted(text: str) -> str:
    """The text without the passwords of URLs in it."""
    return _USERINFO.sub("***@", text)


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, list):
        return [_redacted(item) for item in value]
    if isinstance(value, dict):
        return {name: _redacted(item) for name, item in value.items()}
    return value


def _put(nested: dict[str, Any], one: Knob, value: object) -> None:
    (nested.setdefault(one.group, {}) if one.group else nested)[one.name] = value


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    """The mapping without what is empty, at any depth."""
    pruned = {name: _pruned(item) for name, item in value.items()}
    return {name: item for name, item in pruned.items() if item not in (None, "", [], {})}


def _pruned(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [item for item in map(_pruned, value) if item not in (None, "")]
    return _filled(value) if isinstance(value, dict) else value


def _unknown_variables(tree: type[Tree]) -> Iterator[str]:
    known = [one.variable for one in knobs(tree)]
    for name in sorted(os.environ):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in known and _SERVICE_LINK.fullmatch(name) is None:
            yield _unknown(name, known)


def _file(tree: type[Tree], path: str) -> dict[str, Any]:
    try:
        contents = yaml.safe_load(Path(path).read_bytes())
    except OSError as error:
        raise SettingsError([f"--config: {path}: {error.strerror}"]) from error
    except Exception as error:  # PyYAML's constructors raise whatever they meet: KeyError, IndexError, AttributeError
        raise SettingsError([f"--config: {path} is no YAML: {' '.join(str(error).split())}"]) from error
    if contents is None:
        return {}
    if not isinstance(contents, dict):
        raise SettingsError([f"--config: {path} is no mapping of settings"])
    if wrong := list(_unknown_keys(knobs(tree), contents)):
        raise SettingsError(f"{path}: {line}" for line in wrong)
    return contents


def _unknown_keys(table: Sequence[Knob], contents: Mapping[Any, Any]) -> Iterator[str]:
    groups = {one.group for one in table if one.group}
    # A file that names a file has no meaning.
    known = [one.key for one in table if one.key != "config"]
    for name, value in contents.items():
        group, _, key = str(name).partition(".")
        if name in groups:
            if isinstance(value, dict):
                yield from (_unknown(f"{name}.{key}", known) for key in value if f"{name}.{key}" not in known)
            elif value:
                yield f"{name} is a group of settings: write them below it"
        elif name not in known:
            yield _unknown(str(name), known)
        elif key:
            yield f"{name} is a key of the group {group}: write {key} below {group}"


def _unknown(name: str, known: Iterable[str]) -> str:
    closest = max(known, key=lambda other: difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio())
    return f"{_shown(name)} is unknown; the closest known one is {closest}"


def _told(error: ValidationError, table: Sequence[Knob], read: Layers) -> Iterator[str]:
    """The lines of a validation error, each with flag, value and origin."""
    by_key = {one.key: one for one in table}
    for detail in error.errors(include_url=False):
        where = list(detail["loc"])
        message = detail["msg"].removeprefix("Value error, ")
        one = by_key.get(".".join(map(str, where[:2]))) or by_key.get(str(where[0]) if where else "")
        if one is None:
            yield from message.split("\n")
            continue
        origin = read.origin(one) or "default"
        yield f"{one.flag}: {message[0].lower()}{message[1:]}; got {_quoted(detail['input'])} from {origin}"


def _shown(text: str) -> str:
    text = redacted(text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _quoted(value: object) -> str:
    return ascii(_shown(value)) if isinstance(value, str) else _shown(ascii(value))
