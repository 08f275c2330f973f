"""Names for things: one mechanism for criteria, networks, datasets and losses.

A folder is a registry's home.  Every file in it that decorates something adds a name; the folder is
imported when a name is first asked for, so a new method is one new file and no other edit.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from slimcnn.errors import UnknownName

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One named thing, and where it comes from."""

    name: str
    value: T
    source: str
    """The paper, repository or package that defines it."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else is known about it: published accuracy, image size ..."""

    @property
    def promise(self) -> str:
        """The first line of the thing's docstring."""
        return (self.value.__doc__ or "").strip().split("\n")[0]


class Registry(Generic[T]):
    """A mapping from names to things that fills itself from a folder.

    >>> greetings = Registry("greeting")
    >>> @greetings.add("hello", source="everyday English")
    ... def hello():
    ...     '''Say hello.'''
    >>> greetings["hello"].promise
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
        """Give the decorated thing a name; a name can be taken once."""

        def decorate(value: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, value, source, facts)
            return value

        return decorate

    def __getitem__(self, name: str) -> Entry[T]:
        self._fill()
        if name not in self._entries:
            raise UnknownName(self.kind, name, self._entries)
        return self._entries[name]

    def split(self, spec: str, refusal: Callable[[str], Exception]) -> tuple[T, dict[str, int | float | str]]:
        """Read a name with options, `fpdf:bins=4,norm=1`: the thing, a function, and what to call it with.

        Raises:
            UnknownName: there is no such name; what `refusal` makes of a message: there is no such option.
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
                options[key] = value if known[key].annotation == "str" else float(value) if "." in value else int(value)
            except (ValueError, KeyError):
                raise refusal(f"{self.kind} {spec!r}: {option!r} is not an option like bins=4") from None
        return build, options

    def __iter__(self) -> Iterator[Entry[T]]:
        self._fill()
        return iter([self._entries[name] for name in sorted(self._entries)])

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._entries

    def _fill(self) -> None:
        if self._home is None:
            return
        home, self._home = importlib.import_module(self._home), None
        for module in pkgutil.iter_modules(home.__path__):
            importlib.import_module(f"{home.__name__}.{module.name}")
