"""The words of the house as frozen values: what is written to the store and read back.

Every record prints itself as JSON. Times are seconds since the epoch by the store's
clock, durations are seconds, sizes are bytes, money is US dollars, paths are relative
and use forward slashes.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field

T = TypeVar("T")
# Of a million wrong entries pydantic would tell each, for minutes.
Many = Annotated[tuple[T, ...], FailFast()]


class Record(BaseModel):
    """A frozen value; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    INDENT: ClassVar[int | None] = 1

    def to_bytes(self) -> bytes:
        """The record as UTF-8 JSON."""
        return self.model_dump_json(indent=self.INDENT).encode()


Network = Literal["internet", "none"]


# --- what goes to the machine -----------------------------------------------------------


class Link(Record):
    """A symbolic link in a tree; its target, relative to its folder, never leaves the root."""

    path: str
    target: str


class FileEntry(Record):
    """One file of a manifest: where it goes and the bytes that must arrive there."""

    path: str
    hash: str = Field(description="`sha256:<hex>`, or `md5:<hex>` for a file that DVC hashed")
    size: int
    mode: int = 0o644
    mtime_ns: int | None = Field(default=None, description="When it was written last; scripts take the newest by it")
    source: str = Field(description="A key in the run's store, or a whole URL (`file:///…`, `s3://…`)")
    shown: str | None = Field(default=None, description="The key of a copy without secrets, for whoever tells of it")
    offset: int | None = Field(default=None, description="Where it begins in a source that holds several small files")
    link: Link | None = Field(default=None, description="By which it was reached: the file itself or a folder above")
