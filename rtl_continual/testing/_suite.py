"""A suite: named properties, run one by one, all failures reported together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rtl_continual.errors import RTLError

__all__ = ["ConformanceError", "Outcome", "Suite", "require"]

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What one property's check has found.

    Args:
        name: the property's name.
        problem: what is wrong; empty if nothing is.
        skipped: why it was not checked; empty if it was.
    """

    name: str
    problem: str = ""
    skipped: str = ""

    @property
    def passed(self) -> bool:
        """Whether the property was checked and holds."""
        return not self.problem and not self.skipped


class ConformanceError(AssertionError):
    """Properties that do not hold, one line each.

    Args:
        subject: what was checked.
        outcomes: the failed ones.
    """

    def __init__(self, subject: str, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = tuple(outcomes)
        lines = "\n".join(f"  {o.name}: {o.problem}" for o in outcomes)
        super().__init__(f"{subject} does not conform:\n{lines}")


def require(condition: Any, problem: str) -> None:
    """Fail the property at hand unless ``condition`` holds."""
    if not condition:
        raise AssertionError(problem)


class Suite(Generic[T]):
    """The properties of one kind of thing, by name.

    Each property is a function of a factory: it builds what it checks afresh, so that no check
    depends on another. Skips are declared on the class of the thing, as
    ``conformance_skips = {"property": "why"}``.

    Args:
        kind: what is checked, for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.properties: dict[str, Callable[[Callable[[], T]], None]] = {}

    def add(self, check: Callable[[Callable[[], T]], None]) -> Callable[[Callable[[], T]], None]:
        """Add a property; a decorator. The function's name is the property's."""
        self.properties[check.__name__] = check
        return check

    def run(self, build: Callable[[], T]) -> list[Outcome]:
        """Check every property of what ``build`` makes."""
        try:
            skips: Mapping[str, str] = getattr(build(), "conformance_skips", {})
        except (Exception, SystemExit) as error:
            return [Outcome("can_be_built", _say(error))]
        unknown = sorted(set(skips) - set(self.properties))
        if unknown:
            return [Outcome("conformance_skips", f"no such property: {', '.join(unknown)}")]
        return [
            Outcome(name, skipped=skips[name])
            if name in skips
            else Outcome(name, _problem_of(check, build))
            for name, check in self.properties.items()
        ]

    def check(self, build: Callable[[], T]) -> list[Outcome]:
        """:meth:`run`, and raise if a property does not hold.

        Raises:
            ConformanceError: with every failed property.
        """
        outcomes = self.run(build)
        failed = [outcome for outcome in outcomes if outcome.problem]
        if failed:
            raise ConformanceError(self.kind, failed)
        return outcomes


def _problem_of(check: Callable[[Any], None], build: Callable[[], Any]) -> str:
    try:
        check(build)
    except AssertionError as error:
        return str(error) or "an assertion failed"
    except (Exception, SystemExit) as error:
        return _say(error)
    return ""


def _say(error: BaseException) -> str:
    return str(error) if isinstance(error, RTLError) else f"{type(error).__name__}: {error}"
