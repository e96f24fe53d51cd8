"""The proof: every byte is as it was written, and no stored ticket has ever changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rtl_continual.errors import BankError
from rtl_continual.store._codec import decode_tensors, decode_ticket
from rtl_continual.store._files import BankFiles
from rtl_continual.store._manifest import Manifest, TicketEntry
from rtl_continual.store._parts import decode_backbone

__all__ = ["VerifyReport", "verify"]


@dataclass(frozen=True)
class VerifyReport:
    """What a verification found.

    Args:
        problems: one line each; empty if the bank is sound.
        head: the newest version's number.
        versions: manifests checked.
        tickets: different tickets checked, over all versions.
        blobs: blobs checked.
        bytes: of those blobs.
        unused: blobs that no version refers to: left by killed writers, harmless.
        unfinished: files that killed writers left half-written, harmless.
    """

    problems: tuple[str, ...]
    head: int
    versions: int
    tickets: int
    blobs: int
    bytes: int
    unused: int
    unfinished: int

    @property
    def ok(self) -> bool:
        """Whether the bank is sound."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ok": self.ok, **asdict(self), "problems": list(self.problems)}


def verify(files: BankFiles) -> VerifyReport:
    """See :meth:`BankStore.verify`."""
    head = files.head()
    problems: list[str] = []
    manifests: dict[int, Manifest] = {}
    for version in range(1, head + 1):
        try:
            manifests[version] = files.read(version)
        except BankError as error:
            problems.append(str(error))
    for version, manifest in manifests.items():
        problems += (
            f"version {version}: {problem}" for problem in _chain_problems(manifest, manifests)
        )
    newest = manifests.get(head)
    # Without the newest manifest nothing is known to be retired, so everything must be there.
    retired = set(newest.retired) if newest else set()
    tickets: dict[TicketEntry, str] = {}
    others: dict[str, tuple[str, Manifest]] = {}
    for version, manifest in manifests.items():
        if version in retired:
            continue
        for index, entry in enumerate(manifest.tickets):
            tickets.setdefault(entry, f"ticket {index} '{entry.name}' (first in version {version})")
        if manifest.router is not None:
            others.setdefault(manifest.router.blob, ("router", manifest))
        if manifest.backbone.blob is not None:
            others.setdefault(manifest.backbone.blob, ("backbone", manifest))
    identities = {m.backbone.identity for m in manifests.values()}
    sizes: dict[str, int] = {}
    for entry, what in tickets.items():
        sizes[entry.blob] = entry.bytes
        problems += _ticket_problems(files, entry, what, identities)
    for blob, (kind, manifest) in others.items():
        sizes[blob] = manifest.blobs()[blob]
        problems += _other_problems(files, blob, kind, manifest)
    problems += _tag_problems(files)
    known = {blob for manifest in manifests.values() for blob in manifest.blobs()}
    return VerifyReport(
        problems=tuple(problems),
        head=head,
        versions=len(manifests),
        tickets=len(tickets),
        blobs=len(sizes),
        bytes=sum(sizes.values()),
        unused=len(files.blobs().keys() - known),
        unfinished=len(files.storage.list("tmp")),
    )


def _chain_problems(manifest: Manifest, manifests: dict[int, Manifest]) -> Iterator[str]:
    first = manifest.version == 1
    if first != (manifest.operation in ("create", "export")):
        yield f"operation '{manifest.operation}' does not belong there"
    if max(manifest.retired, default=0) >= manifest.version:
        yield "it retires itself or a later version"
    before = manifests.get(manifest.version - 1)
    if before is None:
        return
    assert manifest.parent is not None, "a manifest without a parent is refused when it is read"
    if manifest.parent.sha256 != before.sha256:
        yield "its parent is not the version before: the chain is broken"
    if (manifest.backbone, manifest.task) != (before.backbone, before.task):
        yield "its backbone or task is not that of the version before"
    content, expected = (manifest.tickets, manifest.router), (before.tickets, before.router)
    if manifest.operation == "commit":
        if manifest.tickets[: len(before.tickets)] != before.tickets:
            yield "the tickets of the version before are not an exact prefix of its own"
    elif manifest.operation == "rollback":
        source = manifests.get(manifest.source.version) if manifest.source else None
        if source is None or manifest.source is None or manifest.source.sha256 != source.sha256:
            yield "the version that it goes back to is not there"
        elif content != (source.tickets, source.router):
            yield f"its content is not that of version {source.version}, which it goes back to"
    elif content != expected:
        yield "a collection changed the content"
    if not set(before.retired) <= set(manifest.retired):
        yield "it brings back a retired version"
    if manifest.operation != "collect" and manifest.retired != before.retired:
        yield "it retires versions without being a collection"


def _ticket_problems(
    files: BankFiles, entry: TicketEntry, what: str, identities: set[str]
) -> Iterator[str]:
    try:
        data = files.blob(entry.blob, entry.bytes, what)
        identity = identities.copy().pop() if len(identities) == 1 else None
        ticket = decode_ticket(data, 0, what, identity=identity)
    except BankError as error:
        yield str(error)
        return
    if len(data) != entry.bytes:
        yield f"{what}: the blob has {len(data)} bytes, the manifest says {entry.bytes}"
    found = (ticket.name, ticket.mask.kept, ticket.fingerprint)
    if found != (entry.name, entry.kept, entry.fingerprint):
        yield f"{what}: the manifest says other things of it than its blob"


def _other_problems(files: BankFiles, blob: str, kind: str, manifest: Manifest) -> Iterator[str]:
    what = f"the {kind} of version {manifest.version}"
    try:
        data = files.blob(blob, manifest.blobs()[blob], what)
        decode_tensors(kind, data, what)
        if kind == "backbone" and manifest.backbone.config is not None:
            found = decode_backbone(data, manifest.backbone.config, what).compute_identity()
            if found != manifest.backbone.identity:
                yield f"{what}: its weights are not those that the tickets were trained over"
    except BankError as error:
        yield str(error)


def _tag_problems(files: BankFiles) -> Iterator[str]:
    for tag in files.tag_names():
        try:
            files.tagged(tag)
        except BankError as error:
            yield str(error)
