"""The files of the chart that are made: values.yaml, values.schema.json, README.md and the admission policies.

Knows: how the tree of values and the agent's own settings look in each of them.
Must not know: what any value or setting means.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from metaproxy.knobs import Knob, group_of, knobs, titles
from metaproxy.settings import Settings
from scripts.chartvalues import NOT_HERE, SET_HERE, Values

ROOT = Path(__file__).parent.parent
SECURITY = ROOT / "docs" / "security.md"

WIDTH = 110

_VALUES = """\
# Made by `make docs` from scripts/chartvalues.py and the agent's settings; change those.
"""

_CONFIG = """\
# The agent's settings, by their own names: docs/configuration.md. They are the file of `--config`; what is not named
# here has the agent's default. Wrong names and types are refused by values.schema.json, what cannot work together by
# the agent, which `metaproxy config` tells before a rollout.
config:
"""

_README = """\
# metaproxy

<!-- Made by `make docs`; change scripts/chart.py, scripts/chartvalues.py or the agent's settings. -->

A pod on each node that answers the node's pods on the EC2 metadata address with credentials of exactly the IAM role
they are entitled to. Install, verify, upgrade, uninstall: [docs/install.md](../../docs/install.md). What to do at an
alert: [docs/runbooks.md](../../docs/runbooks.md).

```sh
helm upgrade --install metaproxy charts/metaproxy --namespace metaproxy --create-namespace \\
  --set image.repository=REGISTRY/metaproxy --set redirect.image.repository=REGISTRY/metaproxy-redirect
```

The agent's own identity is the node's role, or with
`--set serviceAccount.annotations.eks\\.amazonaws\\.com/role-arn=ARN` one of its own (docs/iam.md). The namespace
must admit privileged pods (`pod-security.kubernetes.io/enforce: privileged`): the pods are on the host's network.

## Values

"""

_README_CONFIG = """\

## Settings of the agent

Below `config`, by the names that they have everywhere (docs/configuration.md).

"""


def values() -> str:
    """`values.yaml`."""
    return _VALUES + "".join(_fields(Values())) + "\n" + _CONFIG + "".join(_config())


def _fields(block: BaseModel, indent: str = "") -> Iterator[str]:
    for name, field in type(block).model_fields.items():
        value = getattr(block, name)
        if not indent:
            yield "\n"
        if isinstance(value, BaseModel):
            if about := _about(type(value), field):
                yield _comment(about, indent)
            yield f"{indent}{name}:\n"
            yield from _fields(value, f"{indent}  ")
        else:
            yield _comment(field.description or "", indent)
            yield textwrap.indent(_yaml({name: value}), indent)


def _about(kind: type[BaseModel], field: FieldInfo) -> str:
    return field.description or (kind.__doc__ or "").strip()


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10_000))


def _comment(text: str, indent: str) -> str:
    return "".join(f"{indent}# {line}\n" for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False))


def reachable() -> list[Knob]:
    """The settings that the chart's file can say."""
    return [one for one in knobs(Settings) if one.key not in NOT_HERE]


def _config() -> Iterator[str]:
    for group, title in titles(Settings).items():
        members = [one for one in reachable() if one.group == group]
        indent = "    " if group else "  "
        if group:
            yield f"  # {title}\n"
            # A group of which nothing is set is an empty mapping, so that `--set` can put something into it.
            empty = not any(one.key in SET_HERE for one in members)
            yield f"  {group}: {{}}\n" if empty else f"  {group}:\n"
        for one in members:
            default = f" Default: {one.default}{f' {one.unit}' if one.unit else ''}."
            yield _comment(f"{one.meaning}{default}", indent)
            mine = SET_HERE.get(one.key)
            yield f"{indent}{one.name}: {mine}\n" if mine else f"{indent}# {one.name}: {_example(one)}\n"


def _example(one: Knob) -> str:
    """What one would write behind the name."""
    if one.several:
        return "{}" if "=" in one.metavar else "[]"
    if one.switch:
        return one.default if one.literal else "false"
    if not one.literal or not one.default:
        return '""'
    return one.default if re.fullmatch(r"[\w.:/-]+", one.default) else json.dumps(one.default)


def schema() -> str:
    """`values.schema.json`."""
    document = _resolved(Values.model_json_schema())
    document["$schema"] = "http://json-schema.org/draft-07/schema#"
    document["title"] = "Values of the chart metaproxy"
    document["properties"]["config"] = _config_schema()
    # Helm and its parents put this beside the values of every chart.
    document["properties"]["global"] = {"type": "object"}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _resolved(document: dict[str, Any]) -> dict[str, Any]:
    """Without references, titles and defaults: values.yaml has the defaults, and one place is enough."""
    kinds = document.pop("$defs")

    def plain(node: Any, *, names: bool = False) -> Any:
        if isinstance(node, list):
            return [plain(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return plain(kinds[node["$ref"].rpartition("/")[2]])
        return {
            key: plain(value, names=key == "properties" and not names)
            for key, value in node.items()
            if names or (key not in {"title", "default"} and value != "")
        }

    flat: dict[str, Any] = plain(document)
    return flat


def _config_schema() -> dict[str, Any]:
    groups: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        group = group_of(field)
        if group is None:
            if name not in NOT_HERE:
                properties[name] = _setting(field)
            continue
        members = {inner: _setting(each) for inner, each in group.model_fields.items()}
        groups[name] = _object(members, titles(Settings)[name])
    return _object(properties | groups, "The agent's settings.")


def _object(properties: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "description": description,
        "properties": dict(properties),
    }


_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_PATTERNS = {
    "ADDR:PORT": r"^((\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5})?$",
    "ARN": r"^(arn:aws[a-z-]*:iam::.+)?$",
    "URL": "^(https?://.+)?$",
}


def _setting(field: FieldInfo) -> dict[str, Any]:
    """A setting's schema: what is certain of it. The agent itself is stricter, and empty is unset everywhere."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict)  # every setting is made by `knob`
    kind = field.annotation
    text: dict[str, Any] = {"type": "string"}
    form, _, word = str(extra["metavar"]).partition("|")
    if pattern := _PATTERNS.get(form):
        # A word that one may say instead, as none.
        text["pattern"] = f"{pattern}|^{word}$" if word else pattern
    found: dict[str, Any]
    if get_origin(kind) is Literal:
        found = {"enum": ["", *get_args(kind)]}
    elif get_origin(kind) is list:
        found = {"type": "array", "items": text}
    elif get_origin(kind) is dict:
        found = {"type": "object", "additionalProperties": {"type": "string"}}
    elif kind is bool:
        found = {"type": "boolean"}
    elif kind in {int, float}:
        found = {"type": "integer" if kind is int else "number"}
        for bound in field.metadata:
            found |= {word: getattr(bound, name) for name, word in _BOUNDS.items() if hasattr(bound, name)}
    else:
        found = text
    return found | {"description": field.description}


def readme() -> str:
    """The chart's `README.md`."""
    rows = [(f"`{key}`", _default(value), meaning) for key, value, meaning in _rows(Values())]
    settings = [
        (
            f"`config.{one.key}`",
            f"`{SET_HERE[one.key]}`" if one.key in SET_HERE else f"`{one.default}`" if one.literal else one.default,
            one.meaning,
        )
        for one in reachable()
    ]
    return f"{_README}{_table(rows)}{_README_CONFIG}{_table(settings)}"


def _rows(block: BaseModel, prefix: str = "", about: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, field in type(block).model_fields.items():
        value = getattr(block, name)
        meaning = field.description or ""
        if isinstance(value, BaseModel):
            yield from _rows(value, f"{prefix}{name}.", _about(type(value), field))
        else:
            yield f"{prefix}{name}", value, f"{about} {meaning}".strip()
            about = ""


def _default(value: Any) -> str:
    return "" if value in ("", [], {}) else f"`{json.dumps(value)}`"


def _table(rows: Iterable[Iterable[str]]) -> str:
    lines = [("value", "default", "meaning"), ("---", "---", "---"), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def policies() -> str:
    """`files/admission.yaml`: the policies that docs/security.md shows, in its order."""
    blocks = re.findall(r"```yaml\n(.+?)```", SECURITY.read_text(encoding="utf-8"), re.DOTALL)
    return "# Made by `make docs` from docs/security.md; change that.\n---\n" + "---\n".join(blocks)
