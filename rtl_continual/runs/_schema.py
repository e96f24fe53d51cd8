"""The scenario file's JSON schema, for editors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from rtl_continual.backbones import BackboneConfig, backbone_config_class, backbone_names
from rtl_continual.registry import sound
from rtl_continual.routing import router_config_class, router_names
from rtl_continual.runs._scenario import ScenarioHead
from rtl_continual.runs.methods import METHODS, method_class
from rtl_continual.streams import stream_config_class, stream_names
from rtl_continual.training import TicketConfig

__all__ = ["scenario_schema"]


def scenario_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of a scenario file, with every known stream, router and method."""
    schema = ScenarioHead.model_json_schema()
    definitions: dict[str, Any] = schema.pop("$defs", {})

    def section(model: type[BaseModel]) -> dict[str, Any]:
        part = model.model_json_schema()
        definitions.update(part.pop("$defs", {}))
        return part

    def choice(parts: Iterable[tuple[str, type[BaseModel]]]) -> dict[str, Any]:
        options = []
        for name, model in parts:
            part = section(model)
            part["properties"]["name"] = {"const": name}
            part["required"] = sorted({*part.get("required", []), "name"})
            options.append(part)
        return options[0] if len(options) == 1 else {"oneOf": options}

    def method(name: str) -> dict[str, Any]:
        part = section(method_class(name).config_class)
        part.setdefault("properties", {})["method"] = {"const": name}
        part["type"] = ["object", "null"]
        return part

    methods = dict(sound("register_methods", sorted(METHODS), method))
    backbones = sound("register_backbones", backbone_names(), backbone_config_class)
    backbone = section(BackboneConfig)
    backbone["properties"]["name"]["enum"] = [n for n, c in backbones if c is BackboneConfig]
    own = [(name, config) for name, config in backbones if config is not BackboneConfig]
    if own:
        more = choice(own)
        backbone = {"oneOf": [backbone, *more.get("oneOf", [more])]}
    schema["properties"] |= {
        "stream": choice(sound("register_streams", stream_names(), stream_config_class)),
        "backbone": backbone,
        "tickets": section(TicketConfig),
        "router": choice(sound("register_routers", router_names(), router_config_class)),
        "methods": {
            "type": "object",
            "minProperties": 1,
            "description": "options by label; a label that is no method needs the key method",
            "properties": methods,
            "additionalProperties": {
                "anyOf": [
                    {**part, "type": "object", "required": ["method"]} for part in methods.values()
                ]
            },
        },
    }
    schema["required"] = sorted({*schema.get("required", []), "stream", "methods"})
    schema["title"] = "rtl_continual scenario"
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    if definitions:
        schema["$defs"] = definitions
    return schema
