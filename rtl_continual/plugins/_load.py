"""Plugins by module name and by file."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from rtl_continual.errors import PluginError
from rtl_continual.plugins._blame import describe

__all__ = ["import_source"]


def import_source(source: str) -> ModuleType:
    """Import a plugin.

    Args:
        source: a module's dotted name, or the path of a ``.py`` file.

    Raises:
        PluginError: if there is no such module or file, or importing it fails.
    """
    if source.endswith(".py"):
        return _import_file(Path(source).expanduser().resolve())
    if not all(part.isidentifier() for part in source.split(".")):
        raise PluginError(f"'{source}' names no plugin; give a module or the path of a .py file")
    try:
        return import_module(source)
    except ModuleNotFoundError as error:
        if error.name is not None and (source == error.name or source.startswith(f"{error.name}.")):
            raise PluginError(
                f"no module '{source}' to load as a plugin; install it, or give the path of a "
                ".py file"
            ) from error
        raise PluginError(f"plugin '{source}' cannot be loaded: {describe(error)}") from error
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"plugin '{source}' cannot be loaded: {describe(error)}") from error


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name of its own, the same in every process."""
    if not path.is_file():
        raise PluginError(f"{path}: no such plugin file")
    name = "rtl_plugin_" + re.sub(r"\W", "_", path.stem)
    known = sys.modules.get(name)
    if known is not None:
        if known.__file__ == str(path):
            return known
        raise PluginError(
            f"two plugin files are called {path.name}: {known.__file__} and {path}; rename one"
        )
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, PluginError) or not isinstance(error, (Exception, SystemExit)):
            raise
        raise PluginError(f"plugin {path} cannot be loaded: {describe(error)}") from error
    return module
