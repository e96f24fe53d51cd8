"""Loading plugins, and what is said of those that do not fit."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ConfigDict

from rtl_continual import plugins
from rtl_continual.errors import PluginError, RTLError
from rtl_continual.plugins import (
    Manager,
    get_manager,
    hook_names,
    hookimpl,
    load_plugins,
    register_router,
)
from rtl_continual.routing import (
    FlatRouter,
    Router,
    build_router,
    router_config_class,
    router_names,
    router_origin,
)
from rtl_continual.runs import scenario_schema

from .conftest import MeanConfig, MeanRouter, values_of


def test_built_ins_come_through_the_manager(manager: Manager) -> None:
    assert [plugin.name for plugin in manager.plugins] == ["built-in"]
    assert "flat" in router_names()
    manager.unregister("built-in")
    assert router_names() == ()


def test_a_strangers_router_is_built_like_ours(manager: Manager) -> None:
    manager.register(values_of(register_routers={"mean": MeanRouter}), "stranger")
    assert {"flat", "mean"} <= set(router_names())
    assert isinstance(build_router(MeanConfig(sharpness=2.0)), MeanRouter)
    assert str(router_origin("mean")) == "plugin 'stranger'"
    manager.unregister("stranger")
    with pytest.raises(RTLError, match="unknown router 'mean'"):
        router_config_class("mean")


def test_what_is_given_as_text_is_imported_when_used(manager: Manager) -> None:
    manager.register(values_of(register_routers={"later": "no_such_module:Router"}), "lazy")
    assert "later" in router_names()
    with pytest.raises(PluginError, match=r"plugin 'lazy' registers router 'later' as 'no_such"):
        router_config_class("later")


def one_hook(name: str, function: Callable[..., Any]) -> Any:
    return types.SimpleNamespace(**{name: hookimpl(function)})


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            one_hook("choose_ruoter", lambda bank: None),
            "plugin 'p': unknown hook 'choose_ruoter'; did you mean 'choose_router'?",
        ),
        (
            one_hook("choose_router", lambda bank, options: None),
            "plugin 'p': hook 'choose_router' takes bank, config; got options",
        ),
        (
            one_hook("register_routers", lambda config: {}),
            "hook 'register_routers' takes no arguments; got config",
        ),
        (types.SimpleNamespace(), "plugin 'p' implements no hook; mark its functions with"),
        (
            types.SimpleNamespace(rtl_api_version=2, run_started=hookimpl(lambda folder: None)),
            "made for version 2 of the plugin API, this is 1; update rtl-continual",
        ),
        (
            types.SimpleNamespace(rtl_api_version=0, run_started=hookimpl(lambda folder: None)),
            "made for version 0 of the plugin API, this is 1; update the plugin",
        ),
    ],
)
def test_what_does_not_fit_is_one_message(manager: Manager, plugin: Any, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        manager.register(plugin, "p")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p.name for p in manager.plugins] == ["built-in"]


def test_an_optional_hook_may_be_unknown(manager: Manager) -> None:
    plugin = types.SimpleNamespace(
        of_tomorrow=hookimpl(optionalhook=True)(lambda: None),
        run_started=hookimpl(lambda folder: None),
    )
    assert manager.hooks_of(manager.register(plugin, "p")) == ("of_tomorrow", "run_started")


def test_two_plugins_of_one_name_show_both(manager: Manager) -> None:
    manager.register(values_of(register_routers={}), "twin")
    with pytest.raises(PluginError, match="two plugins are called 'twin': plugin 'twin' from"):
        manager.register(values_of(register_streams={}), "twin")


def test_two_routers_of_one_name_show_both(manager: Manager) -> None:
    manager.register(values_of(register_routers={"flat": MeanRouter}), "thief")
    with pytest.raises(PluginError) as caught:
        router_names()
    assert "router 'flat' is registered twice: by plugin 'built-in' (rtl-continual" in str(
        caught.value
    )
    assert "and by plugin 'thief' as" in str(caught.value)
    assert "MeanRouter" in str(caught.value)


class Nameless(MeanRouter):
    name = "other"


class LooseConfig(MeanConfig):
    model_config = ConfigDict(extra="allow")


class Loose(MeanRouter):
    config_class = LooseConfig


class Abstract(Router):
    name = "mean"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (FlatRouter, "FlatRouter.name must be 'mean', got 'flat'"),
        (Nameless, "Nameless.name must be 'mean', got 'other'"),
        (Loose, "LooseConfig must forbid unknown keys"),
        (
            Abstract,
            "Abstract lacks add, fit, flops, load_state_dict, num_tickets",
        ),
        (dict, "must be a subclass of rtl_continual.routing.Router"),
        ("sys:maxsize", "must be a subclass of rtl_continual.routing.Router"),
    ],
)
def test_a_router_that_cannot_be_one_is_refused(manager: Manager, value: Any, message: str) -> None:
    manager.register(values_of(register_routers={"mean": value}), "p")
    with pytest.raises(PluginError) as caught:
        router_config_class("mean")
    assert str(caught.value).startswith("plugin 'p' registers router 'mean': ")
    assert message in str(caught.value)


def test_a_registration_must_be_a_mapping(manager: Manager) -> None:
    manager.register(values_of(register_routers=[MeanRouter]), "p")
    with pytest.raises(PluginError, match=r"register_routers must return a mapping.*got list"):
        router_names()


def test_an_error_in_a_hook_names_plugin_hook_and_line(manager: Manager) -> None:
    def fail(folder: Any) -> None:
        raise ZeroDivisionError("oh no")

    manager.register(one_hook("run_started", fail), "p")
    with pytest.raises(
        PluginError,
        match=r"plugin 'p' failed in run_started: ZeroDivisionError: oh no \(test_manager.py:\d+",
    ):
        manager.hook.run_started(scenario=None, folder=None)


def test_an_error_in_a_wrapper_names_its_plugin(manager: Manager) -> None:
    def wrap(folder: Any) -> Any:
        yield
        raise ValueError("afterwards")

    manager.register(types.SimpleNamespace(run_started=hookimpl(wrapper=True)(wrap)), "p")
    with pytest.raises(PluginError, match="plugin 'p' failed in run_started: ValueError"):
        manager.hook.run_started(scenario=None, folder=None)


# Installed plugins.

GOOD = """
from rtl_continual.plugins import hookimpl

@hookimpl
def register_sparsity_schedules():
    return {"good": "somewhere:Good"}
"""


def test_installed_plugins_are_found(manager: Manager, install: Callable[..., None]) -> None:
    install("rtl-good", "1.2", GOOD)
    manager.load_entry_points()
    manager.load_entry_points()
    assert [str(p.origin) for p in manager.plugins[1:]] == ["plugin 'rtl-good' (rtl-good 1.2)"]
    assert "good" in manager.registered("register_sparsity_schedules")
    assert manager.problems == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('half installed')", "cannot be loaded: RuntimeError: half installed"),
        ("import no_such_thing", "cannot be loaded: ModuleNotFoundError"),
        ("import sys; sys.exit(0)", "cannot be loaded: SystemExit: 0"),
        (GOOD.replace("register_", "regisster_"), "unknown hook 'regisster_sparsity_schedules'"),
        (GOOD.replace("return", "return 1 /"), "failed in register_sparsity_schedules: TypeError"),
        (GOOD.replace('"good"', '"cubic"'), "'cubic' is registered twice"),
        (GOOD + "rtl_api_version = 7", "made for version 7 of the plugin API"),
    ],
)
def test_a_broken_plugin_is_reported_and_the_others_live(
    manager: Manager, install: Callable[..., None], code: str, message: str
) -> None:
    install("rtl-bad", "0.3", code)
    install("rtl-good", "1.2", GOOD)
    manager.load_entry_points()
    assert set(manager.registered("register_sparsity_schedules")) == {"cubic", "good"}
    assert len(manager.problems) == 1
    assert "plugin 'rtl-bad' (rtl-bad 0.3)" in manager.problems[0]
    assert message in manager.problems[0]
    with pytest.raises(PluginError, match=r"rtl-bad 0\.3"):
        load_plugins(strict=True)


@pytest.mark.parametrize("value", ["3", '"no_such_module:Thing"'])
@pytest.mark.parametrize("kind", ["routers", "sparsity_schedules", "methods", "backbones"])
def test_a_broken_registration_leaves_the_schema_to_the_others(
    manager: Manager, install: Callable[..., None], kind: str, value: str
) -> None:
    code = GOOD.replace("sparsity_schedules", kind)
    install("rtl-bad", "0.3", code.replace('"somewhere:Good"', value))
    manager.load_entry_points()
    assert "good" not in str(scenario_schema())
    (problem,) = manager.problems
    assert problem.startswith("plugin 'rtl-bad' (rtl-bad 0.3) registers")
    manager.problems.clear()
    load_plugins(strict=True)
    with pytest.raises(PluginError, match=r"rtl-bad 0\.3"):
        scenario_schema()


def test_an_entry_point_without_its_module_is_reported(
    manager: Manager, install: Callable[..., None]
) -> None:
    install("rtl-gone", "1.0", "", entry="rtl_nowhere")
    manager.load_entry_points()
    assert "plugin 'rtl-gone' (rtl-gone 1.0) cannot be loaded" in manager.problems[0]


# By module, by file, by decorator.


def test_by_module_name(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_plugin")
    module.run_started = hookimpl(lambda folder: None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_plugin", module)
    plugin = manager.load("my_plugin")
    assert (plugin.name, manager.load("my_plugin")) == ("my_plugin", plugin)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no_such_plugin", "no module 'no_such_plugin' to load as a plugin; install it"),
        ("not a name", "'not a name' names no plugin"),
        ("missing.py", "missing.py: no such plugin file"),
    ],
)
def test_what_cannot_be_found(manager: Manager, source: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        manager.load(source)


def test_by_file(manager: Manager, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my-own.py"
    path.write_text(GOOD, encoding="utf-8")
    plugin = manager.load(str(path))
    monkeypatch.delitem(sys.modules, "rtl_plugin_my_own")
    assert plugin.name == "rtl_plugin_my_own"
    assert "good" in manager.registered("register_sparsity_schedules")


def test_a_file_that_fails_is_not_half_loaded(manager: Manager, tmp_path: Any) -> None:
    path = tmp_path / "failing.py"
    path.write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"cannot be loaded: ZeroDivisionError.*failing.py:1"):
        manager.load(str(path))
    assert "rtl_plugin_failing" not in sys.modules


def test_by_decorator_and_once_more(manager: Manager) -> None:
    register_router(MeanRouter)
    again = type("MeanRouter", (MeanRouter,), {"__module__": MeanRouter.__module__})
    register_router(again)
    assert type(build_router(MeanConfig())) is again


@pytest.mark.parametrize("hook", [n for n in hook_names() if n.startswith("register_")])
def test_every_kind_of_class_has_a_decorator(manager: Manager, hook: str) -> None:
    kind = hook.removeprefix("register_").removesuffix("s")
    kind = kind.removesuffix("ie") + "y" * kind.endswith("ie")
    decorate = getattr(plugins, f"register_{kind}", None)
    if kind in ("backbone", "stream"):  # these are no classes, but a description and a function
        assert decorate is None
        return
    thing = type("Thing", (), {"name": "thing", "__module__": __name__})
    assert decorate(thing) is thing
    assert manager.registered(hook)["thing"][0] is thing


def test_a_decorator_takes_no_name_that_is_taken(manager: Manager) -> None:
    thief = type("Thief", (MeanRouter,), {"name": "flat"})
    with pytest.raises(PluginError, match="router 'flat' is registered twice"):
        register_router(thief)
    assert type(build_router(router_config_class("flat")())) is FlatRouter


def test_a_decorator_needs_a_name(manager: Manager) -> None:
    with pytest.raises(PluginError, match="needs a class attribute 'name'"):
        register_router(type("NoName", (), {}))


def test_the_process_has_one_manager() -> None:
    assert get_manager() is get_manager()
    assert plugins.registered("register_routers") == get_manager().registered("register_routers")
