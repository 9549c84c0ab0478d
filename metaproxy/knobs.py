"""What a setting is, whatever it sets: one name in four spellings, with meaning, unit, default and reason.

Knows: how a tree of pydantic models becomes a table of settings, and that table a help text.
Must not know: any particular setting, or where values come from.

    sts.session_duration    --sts.session-duration    METAPROXY_STS__SESSION_DURATION
"""

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "METAPROXY_"
DELIMITER = "__"

HELP_WIDTH = 100


class SettingsError(Exception):
    """Settings that cannot be used: one line for each thing that is wrong, in the spelling of its source."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class Group(BaseModel):
    """Settings that belong together; the docstring's first line is their title."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False)


class Tree(BaseSettings):
    """All settings. Built by `load`, which reads each source once and remembers where each value came from."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, str_strip_whitespace=True, env_prefix=PREFIX, env_nested_delimiter=DELIMITER
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing is read behind the back of whoever makes settings directly."""
        return (init_settings,)


def knob(
    default: Any,
    meaning: str,
    *,
    reason: str,
    metavar: str,
    unit: str = "",
    shown: str | None = None,
    factory: Any = None,
    **bounds: Any,
) -> Any:
    """A setting: what it means, its unit, and the reason for its default; `shown` tells the default when empty."""
    extra: dict[str, Any] = {"unit": unit, "reason": reason, "metavar": metavar, "shown": shown}
    if factory is not None:
        return Field(default_factory=factory, description=meaning, json_schema_extra=extra, **bounds)
    return Field(default, description=meaning, json_schema_extra=extra, **bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One setting as people meet it. `literal`: the default's text is what one would write, not about it."""

    group: str
    name: str
    meaning: str
    reason: str
    metavar: str
    unit: str
    default: str
    literal: bool
    several: bool
    switch: bool

    @property
    def key(self) -> str:
        """In the file: `sts.session_duration` is `session_duration` below `sts`."""
        return f"{self.group}.{self.name}" if self.group else self.name

    @property
    def flag(self) -> str:
        """On the command line."""
        return f"--{self.key.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """In the environment."""
        return PREFIX + self.key.replace(".", DELIMITER).upper()


@lru_cache
def knobs(tree: type[Tree]) -> tuple[Knob, ...]:
    """Every setting of the tree, in its order."""
    found: list[Knob] = []
    for name, field in tree.model_fields.items():
        group = group_of(field)
        if group is None:
            found.append(_knob("", name, field))
        else:
            found += [_knob(name, inner, setting) for inner, setting in group.model_fields.items()]
    return tuple(found)


@lru_cache
def titles(tree: type[Tree]) -> Mapping[str, str]:
    """The title of each group, the one of settings without a group first."""
    groups = {name: group for name, field in tree.model_fields.items() if (group := group_of(field)) is not None}
    return {"": "General"} | {name: (group.__doc__ or "").strip().splitlines()[0] for name, group in groups.items()}


def group_of(field: FieldInfo) -> type[Group] | None:
    """The group that a field of the tree is, if it is one."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Group) else None


def _knob(group: str, name: str, field: FieldInfo) -> Knob:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)  # noqa: S101  every setting is made by `knob`
    kind = field.annotation
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    shown = extra["shown"]
    return Knob(
        group=group,
        name=name,
        meaning=field.description or "",
        reason=str(extra["reason"]),
        metavar="|".join(choices) or str(extra["metavar"]),
        unit=str(extra["unit"]),
        default=_text(field.default) if shown is None else str(shown),
        literal=shown is None or ":" in str(shown),
        several=get_origin(kind) in {list, dict},
        switch=kind is bool,
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def help_text(tree: type[Tree], groups: Iterable[str] | None = None) -> str:
    """The settings as flags, group by group; all of them, or those of some groups."""
    lines: list[str] = []
    for group, title in titles(tree).items():
        if groups is not None and group not in groups:
            continue
        lines += ["", f"{group}: {title}" if group else f"{title}:"]
        for one in knobs(tree):
            if one.group == group:
                lines.append(f"  {one.flag} {one.metavar}{' (several)' if one.several else ''}")
                lines += textwrap.wrap(
                    f"{one.meaning} Default: {one.default}{f' {one.unit}' if one.unit else ''}.",
                    HELP_WIDTH,
                    initial_indent="      ",
                    subsequent_indent="      ",
                    break_on_hyphens=False,
                )
    return "\n".join(lines[1:]) + "\n"
