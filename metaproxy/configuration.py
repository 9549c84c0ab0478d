"""Where settings come from: flags, environment, file; which of them wins; how they are written.

Knows: names in all their forms, and what somebody may have meant who misspelt one.
Must not know: what any setting does.

A setting has one name in four forms: the flag `--sts.session-duration`, the variable `METAPROXY_STS__SESSION_DURATION`,
the file's `session_duration` below `sts`, and the chart's value. Flag beats environment beats file beats default. An
empty text is no value at all (kiam 4.1 resolved one and every pod failed). Unknown names are refused: a misspelt guard
guards nothing.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from metaproxy.settings import Settings

PREFIX = "METAPROXY_"
CONFIG = "config"


class SettingsError(Exception):
    """Settings that cannot work: one line for each, naming the setting as its flag."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One setting as people write it."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def flag(self) -> str:
        """`--sts.session-duration`."""
        return "--" + ".".join(self.path).replace("_", "-")

    @property
    def variable(self) -> str:
        """`METAPROXY_STS__SESSION_DURATION`."""
        return PREFIX + "__".join(self.path).upper()

    @property
    def key(self) -> str:
        """`sts.session_duration`."""
        return ".".join(self.path)

    @property
    def several(self) -> bool:
        """Whether the flag may be given more than once."""
        default = self.field.get_default(call_default_factory=True)
        return isinstance(default, list | dict)

    @property
    def switch(self) -> bool:
        """Whether the flag needs no value."""
        return self.field.annotation is bool

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it may be; empty when it is free."""
        return tuple(str(choice) for choice in get_args(self.field.annotation)) if self._literal else ()

    @property
    def _literal(self) -> bool:
        return str(self.field.annotation).startswith("typing.Literal")

    @property
    def default(self) -> str:
        """The default as people write it."""
        return shown(self.field.get_default(call_default_factory=True))


def groups() -> Iterator[tuple[str, str, list[Knob]]]:
    """The groups of settings: name, meaning, knobs. The first has no name."""
    single = [Knob(path=(name,), field=field) for name, field in Settings.model_fields.items() if not _is_group(field)]
    yield "", "Who and where we are.", single
    for name, field in Settings.model_fields.items():
        if _is_group(field):
            model = field.annotation
            assert isinstance(model, type) and issubclass(model, BaseModel)  # noqa: S101, PT018  _is_group() says so
            knobs = [Knob(path=(name, child), field=inner) for child, inner in model.model_fields.items()]
            yield name, model.__doc__ or "", knobs


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def knobs() -> list[Knob]:
    """Every setting."""
    return [knob for _, _, members in groups() for knob in members]


def shown(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        host, port = value
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={template}" for key, template in value.items())
    if isinstance(value, list):
        return ", ".join(shown(part) for part in value)
    return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Settings and, by key, where each that is not a default came from."""

    settings: Settings
    sources: Mapping[str, str]


def load(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Loaded:
    """The settings that flags (by key, as `sts.region`), environment and the file they name add up to.

    Raises:
        SettingsError: they do not.
    """
    errors: list[str] = []
    config = flags.get(CONFIG) or environment.get(f"{PREFIX}CONFIG", "")
    given = {key: value for key, value in flags.items() if key != CONFIG}
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, values in (
        ("file", _from_file(config, errors)),
        ("environment", _from_environment(environment, errors)),
        ("flag", given),
    ):
        for key, value in values.items():
            if value not in ("", None):
                sources[key] = source
                _put(merged, key, value)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        errors += [_line(problem) for problem in error.errors()]
    if errors:
        raise SettingsError(errors)
    return Loaded(settings=settings, sources=sources)


def _put(merged: dict[str, Any], key: str, value: Any) -> None:
    *above, name = key.split(".")
    for part in above:
        merged = merged.setdefault(part, {})
    merged[name] = value


def _from_environment(environment: Mapping[str, str], errors: list[str]) -> dict[str, Any]:
    variables = {knob.variable: knob.key for knob in knobs()}
    values: dict[str, Any] = {}
    for name, value in environment.items():
        if name in variables:
            values[variables[name]] = value
        elif name.startswith(PREFIX) and name != f"{PREFIX}CONFIG":
            errors.append(f"{name}: there is no such setting{closest(name, variables)}")
    return values


def _from_file(config: str, errors: list[str]) -> dict[str, Any]:
    known = {knob.key for knob in knobs()}
    values: dict[str, Any] = {}
    for key, value in _file(Path(config), errors) if config else ():
        if key in known:
            values[key] = value
        else:
            errors.append(f"{config}: {key}: there is no such setting{closest(key, known)}")
    return values


def _file(path: Path, errors: list[str]) -> Iterator[tuple[str, Any]]:
    """The keys and values of the file, flattened."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        errors.append(f"--config: {path}: {getattr(error, 'strerror', None) or 'it is not YAML'}")
        return
    if content is not None and not isinstance(content, dict):
        errors.append(f"--config: {path}: it is not a mapping of settings")
        return
    names = {name for name, _, _ in groups() if name}
    for key, value in (content or {}).items():
        if key in names and isinstance(value, dict):
            yield from ((f"{key}.{child}", inner) for child, inner in value.items())
        else:
            yield str(key), value


def closest(name: str, known: Iterable[str]) -> str:
    """A question whether the nearest known name was meant; empty when none is near."""
    matches = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def _line(problem: Any) -> str:
    """A problem that pydantic found, in our words: which flag, what is wrong."""
    text = str(problem["msg"]).removeprefix("Value error, ")
    names = [part for part in problem["loc"] if isinstance(part, str)]
    path = names[: 2 if names and names[0] in {name for name, _, _ in groups()} else 1]
    flag = "--" + ".".join(path).replace("_", "-") if path else ""
    return f"{flag}: {text}" if flag else text


def effective(loaded: Loaded) -> str:
    """The effective settings as a YAML file with the source of each; passwords in URLs are not shown."""
    lines = []
    for name, _, members in groups():
        indent = "  " if name else ""
        if name:
            lines.append(f"{name}:")
        for knob in members:
            value: Any = loaded.settings
            for part in knob.path:
                value = getattr(value, part)
            text = json.dumps(_plain(value))
            lines.append(f"{indent}{knob.path[-1]}: {text}  # {loaded.sources.get(knob.key, 'default')}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return shown(value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, str) and "://" in value and "@" in value:
        return re.sub(r"//[^/@]*@", "//…@", value)
    return value
