"""Registries: map names to criteria, networks, datasets, losses and steps.

Each registry has a home folder. Files in it add entries with a decorator. The folder is imported at the first lookup,
so a new method is one new file and no other edit. Third-party packages add entries in the same way: a package lists a
module in the entry-point group `slimcnn.plugins`; `import_plugin` imports a module by name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from slimcnn.errors import PluginError, UnknownName
from slimcnn.importing import import_module, one_line

T = TypeVar("T")

GROUP = "slimcnn.plugins"
"""Entry-point group in which installed packages list modules that register entries when imported."""


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered function or class, with its name and source."""

    name: str
    value: T
    source: str
    """The paper, repository or package that defines it."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further facts, such as published accuracy or image size."""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (self.value.__doc__ or "").strip().split("\n")[0]


class Registry(Generic[T]):
    """A mapping from names to functions or classes, filled from a folder and from plugins.

    >>> greetings = Registry("greeting")
    >>> @greetings.add("hello", source="everyday English")
    ... def hello():
    ...     '''Say hello.'''
    >>> greetings["hello"].summary
    'Say hello.'
    >>> greetings["helo"]
    Traceback (most recent call last):
    slimcnn.errors.UnknownName: unknown greeting 'helo': did you mean 'hello'? Known: hello
    """

    def __init__(self, kind: str, home: str | None = None) -> None:
        self.kind = kind
        self._home = home
        self._entries: dict[str, Entry[T]] = {}

    def add(self, name: str, *, source: str, **facts: Any) -> Callable[[T], T]:
        """Register the decorated function or class under a name.

        Raises:
            PluginError: the name is already taken.
        """

        def decorate(value: T) -> T:
            if name in self._entries:
                both = f"{_home_of(self._entries[name].value)} and by {_home_of(value)}"
                raise PluginError(f"{self.kind} {name!r} is registered twice, by {both}: rename one of them")
            self._entries[name] = Entry(name, value, source, facts)
            return value

        return decorate

    def __getitem__(self, name: str) -> Entry[T]:
        self._fill()
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        return self._entries[name]

    def split(self, spec: str, refusal: Callable[[str], Exception]) -> tuple[T, dict[str, int | float | str]]:
        """Parse a name with options, `fpdf:bins=4,norm=1`, into the registered value and its keyword arguments.

        Raises:
            UnknownName: the name is unknown.
            Exception: an option is unknown or malformed; `refusal` builds this exception from the message.
        """
        name, _, text = spec.partition(":")
        build = self[name].value
        signature = inspect.signature(build).parameters  # type: ignore[arg-type]
        known = {key: one for key, one in signature.items() if one.default is not one.empty}
        options: dict[str, int | float | str] = {}
        for option in filter(None, text.split(",")):
            key, equals, value = option.partition("=")
            if equals and key not in known:
                offered = f"its options are {', '.join(known)}" if known else "it has none"
                raise refusal(f"{self.kind} {spec!r}: no option {key!r}; {offered}")
            try:
                text_wanted = known[key].annotation in (str, "str")
                options[key] = value if text_wanted else float(value) if "." in value else int(value)
            except (ValueError, KeyError):
                raise refusal(f"{self.kind} {spec!r}: expected an option such as bins=4, found {option!r}") from None
        return build, options

    def __iter__(self) -> Iterator[Entry[T]]:
        self._fill()
        return iter([self._entries[name] for name in sorted(self._entries)])

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._entries

    def _fill(self) -> None:
        if self._home is not None:
            home, self._home = self._home, None  # a file in it may look up names in this registry
            try:
                for module in pkgutil.iter_modules(importlib.import_module(home).__path__):
                    importlib.import_module(f"{home}.{module.name}")
            except BaseException:
                self._home = home
                raise
        _installed.load()


def import_plugin(name: str) -> None:
    """Import an installed module, or one in the current directory, that registers entries; this runs its code.

    Raises:
        PluginError: the module does not exist, its import fails, or it registers a name that is already taken.

    >>> import_plugin("no_such_module")
    Traceback (most recent call last):
    slimcnn.errors.PluginError: no module 'no_such_module' for '--import no_such_module': it is neither installed nor in
    the current directory
    """
    import_module(name, f"--import {name}", PluginError)


class _Installed:
    """Plugins of installed packages, imported once, at the first lookup in any registry."""

    def __init__(self) -> None:
        self._loaded = False
        self._failure: PluginError | None = None

    def load(self) -> None:
        """Import all plugins; a failure is raised again at every later call, so no run continues without the plugin."""
        if not self._loaded:
            self._loaded = True  # a plugin may look up names in a registry
            try:
                for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
                    _import_installed(point)
            except PluginError as error:
                self._failure = error
        if self._failure is not None:
            raise self._failure


def _import_installed(point: Any) -> None:
    package = point.dist.name if point.dist is not None else "an unknown package"
    try:
        point.load()
    except PluginError as error:
        raise PluginError(f"the plugin {point.value!r} of the package {package!r}: {error}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"the plugin {point.value!r} of the package {package!r} cannot be imported: {one_line(error)}; fix or "
            "uninstall the package"
        ) from error


_installed = _Installed()


def _home_of(value: Any) -> str:
    return str(getattr(value, "__module__", type(value).__module__))
