"""Finding classes by name: the built-in ones, and those of other packages.

Policies, tasks and graders are found alike: another package offers a class through an entry-point
group, a script registers one with a decorator, and both then work everywhere one is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from stet.core.errors import OptionError

K = TypeVar("K")
C = TypeVar("C", bound=type[Any])


class Registry(Generic[K]):
    """The registered classes of one kind, `K`, by their `name` and `aliases`.

    Args:
        kind: what a class is called in messages, such as "policy".
        group: entry-point group of other packages.
        value: what a field of a class is called in messages.
    """

    def __init__(self, kind: str, group: str, *, value: str = "parameter") -> None:
        self.kind = kind
        self.group = group
        self._value = value
        self._classes: dict[str, Any] = {}
        self._entry_points_loaded = False

    def register(self, cls: C) -> C:
        """Class decorator: make a class available under its name.

        Raises:
            OptionError: if another class has that name.
        """
        taken = self._by_any_name()
        for name in _names(cls):
            known = taken.get(name)
            if known is not None and _place(known) != _place(cls):
                raise OptionError(
                    f"A {self.kind} named {name!r} exists already ({known.__module__}); choose "
                    "another."
                )
        self._classes[cls.name] = cls
        return cls

    def available(self) -> list[type[K]]:
        """Every registered class, sorted by name."""
        if not self._entry_points_loaded:
            self._entry_points_loaded = True
            for entry in entry_points(group=self.group):
                loaded: Any = entry.load()
                if loaded.name not in self._classes:
                    self.register(loaded)
        return sorted(self._classes.values(), key=lambda cls: cls.name)

    def find(self, name: str) -> type[K] | None:
        """The class with this name or alias, or None."""
        self.available()
        return self._by_any_name().get(name)

    def make(self, name: str, values: Mapping[str, Any] | None = None, *, hint: str = "") -> K:
        """Make an object of the class with this name.

        Args:
            name: name of the class, or `NAME.PRESET` for one of the constructors that it lists in
                `presets`.
            values: values of its fields.
            hint: added to the message that refuses an unknown name.

        Raises:
            OptionError: for an unknown name or field, listing the known ones.
        """
        plain, _, preset = name.partition(".")
        chosen: Any = self.find(plain)
        presets = getattr(chosen, "presets", ())
        if preset and chosen is not None and preset not in presets:
            listed = ", ".join(f"{plain}.{known}" for known in presets) or "none"
            raise OptionError(f"{self.kind.capitalize()} {name!r} is not there; presets: {listed}.")
        if chosen is None:
            listed = ", ".join(name for name in sorted(self._classes))
            raise OptionError(f"There is no {self.kind} {name!r}; choose from {listed}{hint}.")
        known = [f.name for f in fields(chosen) if f.compare] if is_dataclass(chosen) else []
        for field in values or {}:
            if field not in known:
                listed = ", ".join(known) or "none"
                raise OptionError(
                    f"{self.kind.capitalize()} {name!r} has no {self._value} {field!r}; it has: "
                    f"{listed}."
                )
        constructor = getattr(chosen, preset) if preset else chosen
        try:
            made: K = constructor(**(values or {}))
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"{self.kind.capitalize()} {name!r} cannot be made of {dict(values or {})!r}: "
                f"{error}."
            ) from error
        return made

    def _by_any_name(self) -> dict[str, Any]:
        return {name: cls for cls in self._classes.values() for name in _names(cls)}


def _place(cls: Any) -> tuple[str, str]:
    """Where a class is defined; one defined there again, as in a notebook, replaces the first."""
    return cls.__module__, cls.__qualname__


def _names(cls: Any) -> tuple[str, ...]:
    return (cls.name, *getattr(cls, "aliases", ()))
