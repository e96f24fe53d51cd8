"""What a bank has besides tickets: backbone, task and router, written down and built again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import nn

from rtl_continual.backbones import (
    Backbone,
    InputSpec,
    backbone_config_class,
    backbone_names,
    build_backbone,
)
from rtl_continual.errors import BankError, DataError, RTLError, unknown_name
from rtl_continual.routing import (
    Router,
    build_router,
    router_config_class,
    router_names,
    router_origin,
)
from rtl_continual.store._codec import decode_tensors, encode_tensors
from rtl_continual.tasks import Task, task_config_class, task_names
from rtl_continual.tasks import build_task as make_task

__all__ = [
    "backbone_config",
    "build_referenced",
    "build_task",
    "decode_backbone",
    "decode_router",
    "encode_backbone",
    "encode_router",
    "is_reference",
    "task_config",
]


def backbone_config(backbone: Backbone) -> dict[str, Any] | None:
    """How :func:`build_backbone` makes this architecture; ``None`` for a network of the user's."""
    if backbone.name not in backbone_names():
        return None
    size = backbone.input_spec.size
    values: dict[str, Any] = {
        "name": backbone.name,
        "weights": backbone.weights if is_reference(backbone.weights) else "embedded",
        "split": backbone.split,
        "taps": None if backbone.taps is None else list(backbone.taps),
        "input_size": None if size is None else size[0],
    }
    if backbone.readout != "final":
        values["readout"] = backbone.readout
    if backbone.end is not None:
        values["end"] = backbone.end
    if backbone.name == "glyphnet":
        stem = next(m for m in backbone.trunk.modules() if isinstance(m, nn.Conv2d))
        values["width"] = stem.out_channels
    return {**values, **backbone.options}


def is_reference(weights: str) -> bool:
    """Whether weights can be had again from their name alone, on any machine."""
    return weights == "built-in" or weights.startswith(("torchvision:", "random:"))


def build_referenced(config: Mapping[str, Any]) -> Backbone:
    """The backbone of a manifest's config; a file's path is never followed.

    Raises:
        BankError: if it cannot be built here.
    """
    if not is_reference(str(config.get("weights"))):
        raise BankError("the bank's backbone has neither embedded weights nor a reference to any")
    try:
        config_class = backbone_config_class(str(config.get("name")))
        return build_backbone(config_class.model_validate({**config}))
    except ValidationError as error:
        raise BankError(f"the bank's backbone has options unknown here: {error}") from error
    except RTLError as error:
        raise BankError(f"the bank's backbone cannot be built here: {error}") from error


def encode_backbone(backbone: Backbone) -> bytes:
    """All weights of a backbone, and what images it takes."""
    spec = backbone.input_spec
    facts = {
        "identity": backbone.identity,
        "weights": backbone.weights if is_reference(backbone.weights) else "given",
        "input": {
            "channels": spec.channels,
            "size": None if spec.size is None else list(spec.size),
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
    }
    return encode_tensors("backbone", backbone.state_dict(), facts)


def decode_backbone(data: bytes, config: Mapping[str, Any], source: str) -> Backbone:
    """A backbone from its embedded weights.

    Raises:
        BankError: if the weights do not fit the architecture that ``config`` names.
    """
    tensors, facts = decode_tensors("backbone", data, source)
    backbone = build_referenced({**config, "weights": "random:0"})
    try:
        backbone.load_state_dict(tensors)
        given = facts["input"]
        backbone.input_spec = InputSpec(
            channels=int(given["channels"]),
            size=None if given["size"] is None else (int(given["size"][0]), int(given["size"][1])),
            mean=tuple(map(float, given["mean"])),
            std=tuple(map(float, given["std"])),
        )
        backbone.weights = str(facts["weights"])
    except (RuntimeError, TypeError, KeyError, ValueError, IndexError) as error:
        raise BankError(f"{source} does not fit the architecture '{config['name']}'") from error
    return backbone


def task_config(task: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of a task."""
    config: dict[str, Any] = {"num_outputs": int(task.num_outputs)}
    classes = getattr(task, "classes", None)
    if classes is not None:
        config["classes"] = list(classes)
    options = getattr(task, "config", None)
    if isinstance(options, BaseModel) and options != type(options)():
        config["options"] = options.model_dump(mode="json", exclude={"name"})
    return str(task.name), config


def build_task(name: str, config: Mapping[str, Any]) -> Task:
    """The inverse of :func:`task_config`.

    Raises:
        BankError: if there is no such task, or it takes other options.
    """
    if name not in task_names():
        raise BankError(
            f"the bank's task comes from a plugin that is not here: "
            f"{unknown_name('task', name, task_names())}; install the plugin, or load its module "
            "or file with --plugin or load_plugins()"
        )
    values = {**config}
    try:
        options = task_config_class(name).model_validate(values.pop("options", {}))
        return make_task(options, values.pop("num_outputs"), values.pop("classes", None))
    except (DataError, TypeError, KeyError, ValidationError) as error:
        raise BankError(f"the bank's task '{name}' has options unknown here: {error}") from error


def encode_router(router: Router) -> bytes:
    """A router's options and state, and the plugin it came with unless it is built in."""
    config = getattr(router, "config", None)
    if not isinstance(config, BaseModel):
        raise BankError(f"router '{router.name}' cannot be stored: its config is no pydantic model")
    facts: dict[str, Any] = {"name": router.name, "config": config.model_dump(mode="json")}
    origin = router_origin(router.name)
    if origin is not None and not origin.built_in:
        facts["plugin"] = {
            "name": origin.plugin,
            "distribution": origin.distribution,
            "version": origin.version,
        }
    return encode_tensors("router", router.state_dict(), facts)


def decode_router(data: bytes, source: str) -> Router:
    """The inverse of :func:`encode_router`.

    Raises:
        BankError: if the router is unknown here or does not take this state.
    """
    tensors, facts = decode_tensors("router", data, source)
    if str(facts.get("name")) not in router_names():
        raise BankError(f"{source}: {_missing_router(facts)}")
    try:
        config_class = router_config_class(str(facts.get("name")))
        router = build_router(config_class.model_validate(facts.get("config")))
    except (RTLError, ValidationError) as error:
        raise BankError(f"{source}: the bank's router cannot be built here: {error}") from error
    try:
        router.load_state_dict(tensors)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise BankError(f"{source} does not fit router '{facts.get('name')}': {error}") from error
    return router


def _missing_router(facts: Mapping[str, Any]) -> str:
    """Say which plugin a bank's router needs, and how to do without."""
    name = str(facts.get("name"))
    text = unknown_name("router", name, router_names())
    plugin = facts.get("plugin")
    if not isinstance(plugin, Mapping):
        return f"the bank's router cannot be built here: {text}"
    distribution, version = plugin.get("distribution"), plugin.get("version")
    if distribution:
        advice = f"install it: pip install '{distribution}=={version}'"
    else:
        advice = f"load its module or file ('{plugin.get('name')}') with --plugin or load_plugins()"
    return (
        f"the bank's router '{name}' comes from a plugin that is not here; {advice}. Or open the "
        "bank with another router, which learns from the stored tickets: "
        "load_bank(path, router=FlatRouterConfig())"
    )
