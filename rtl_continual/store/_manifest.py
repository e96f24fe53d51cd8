"""The manifest: what one version of a bank consists of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from rtl_continual import __version__
from rtl_continual.errors import BankError
from rtl_continual.store._sealed import parse_json, seal, unseal

__all__ = [
    "FORMAT_VERSION",
    "BackboneEntry",
    "Link",
    "Manifest",
    "Pointer",
    "RouterEntry",
    "TaskEntry",
    "TicketEntry",
    "check_format",
]

FORMAT_VERSION = 1
"""Version of the format on disk that this package writes, and the newest that it reads."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


PartT = TypeVar("PartT", bound=_Part)


class Link(_Part):
    """Another version, by number and by the hash of its manifest."""

    version: int = Field(ge=1)
    sha256: Hash


class BackboneEntry(_Part):
    """Which backbone the tickets mask, and where to get it.

    ``config`` says how to build it (weights by reference, or those of ``blob``); it is ``None``
    for a backbone that only its owner can build.
    """

    identity: Hash
    name: str
    config: dict[str, Any] | None
    blob: Hash | None
    bytes: Count
    maskable: int = Field(ge=1)


class TaskEntry(_Part):
    """What the heads are for."""

    name: str
    config: dict[str, Any]


class RouterEntry(_Part):
    """The router's name and the blob with its options and state."""

    name: str
    blob: Hash
    bytes: Count


class TicketEntry(_Part):
    """One ticket; its position in the list is its id."""

    name: str = Field(min_length=1)
    blob: Hash
    bytes: Count
    fingerprint: Hash
    kept: Count


class Manifest(_Part):
    """One version of a bank. Never changed once written."""

    format: Literal["rtl-continual-bank"] = "rtl-continual-bank"
    format_version: int = FORMAT_VERSION
    version: int = Field(ge=1)
    parent: Link | None
    operation: Literal["create", "commit", "rollback", "collect", "export"]
    source: Link | None = None
    created: str = Field(default_factory=_now)
    writer: str = f"rtl_continual {__version__}"
    message: str = ""
    retired: tuple[int, ...] = ()
    backbone: BackboneEntry
    task: TaskEntry
    router: RouterEntry | None
    tickets: tuple[TicketEntry, ...]
    _sha256: str | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.parent is None) != (self.version == 1):
            raise ValueError("every version but the first has a parent")
        if self.parent is not None and self.parent.version != self.version - 1:
            raise ValueError("the parent is not the version before")
        if len({ticket.name for ticket in self.tickets}) != len(self.tickets):
            raise ValueError("two tickets have the same name")
        return self

    def encoded(self) -> tuple[bytes, str]:
        """The file's bytes, and the manifest's hash."""
        return seal("manifest", self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        """Hash of the manifest as it lies on disk."""
        return self._sha256 or self.encoded()[1]

    @property
    def link(self) -> Link:
        """How other manifests refer to this one."""
        return Link(version=self.version, sha256=self.sha256)

    def following(
        self,
        operation: Literal["commit", "rollback", "collect"],
        message: str,
        **changes: Any,
    ) -> Manifest:
        """The manifest of the next version: this one's content but for ``changes``."""
        content = ("retired", "backbone", "task", "router", "tickets")
        values = {name: getattr(self, name) for name in content} | changes
        return Manifest(
            version=self.version + 1,
            parent=self.link,
            operation=operation,
            message=message,
            **values,
        )

    def blobs(self) -> dict[str, int]:
        """Hash and size of everything this version refers to."""
        found = {ticket.blob: ticket.bytes for ticket in self.tickets}
        if self.router is not None:
            found[self.router.blob] = self.router.bytes
        if self.backbone.blob is not None:
            found[self.backbone.blob] = self.backbone.bytes
        return found

    @classmethod
    def decode(cls, data: bytes, source: str) -> Manifest:
        """Read a manifest's file.

        Raises:
            BankError: if it is damaged, of a newer format, or of none at all.
        """
        body, digest = unseal("manifest", data, source)
        check_format(parse_json(body, source), "rtl-continual-bank", source)
        manifest = _validated(cls, body, source)
        manifest._sha256 = digest
        return manifest


class Pointer(_Part):
    """What a tag's file holds: the version that the tag names."""

    format: Literal["rtl-continual-tag"] = "rtl-continual-tag"
    format_version: int = FORMAT_VERSION
    name: str
    version: int = Field(ge=1)
    manifest: Hash

    def encoded(self) -> bytes:
        """The file's bytes."""
        return seal("pointer", self.model_dump(mode="json"))[0]

    @classmethod
    def decode(cls, data: bytes, source: str) -> Pointer:
        """Read a tag's file.

        Raises:
            BankError: if it is damaged, of a newer format, or of none at all.
        """
        body, _ = unseal("pointer", data, source)
        check_format(parse_json(body, source), "rtl-continual-tag", source)
        return _validated(cls, body, source)


def _validated(model: type[PartT], body: bytes, source: str) -> PartT:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise BankError(f"{source} is not valid: {place}: {first['msg']}") from error


def check_format(values: Any, name: str, source: str) -> None:
    """Refuse what is not of this format, or newer than this package.

    Raises:
        BankError: in both cases.
    """
    if not isinstance(values, dict) or values.get("format") != name:
        raise BankError(f"{source} is no {name} file")
    version = values.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BankError(f"{source} names no format version")
    if version > FORMAT_VERSION:
        raise BankError(
            f"{source} has format version {version}; this package reads up to {FORMAT_VERSION}: "
            "upgrade rtl-continual"
        )
