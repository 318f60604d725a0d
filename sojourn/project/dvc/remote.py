"""Objects of DVC's store, and the remotes where machines find them, or from which we bring them to the machines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sojourn import programs
from sojourn.clouds import registry as clouds
from sojourn.errors import SojournError, SpecError, nearest
from sojourn.project.dvc.refusals import but_for_absence, remote_refusal
from sojourn.shorthand import counted

_OF_ITS_OWN = (  # what of a remote's configuration means that a machine's own identity does not open it
    "access_key_id", "secret_access_key", "session_token", "profile", "credentialpath", "configpath",
    "sse_customer_key", "version_aware", "worktree",
)  # fmt: skip


@dataclass(frozen=True)
class StoredObject:
    """One object of DVC's store and the absolute path it stands for."""

    path: str
    md5: str
    out: Any
    size: int | None = None
    executable: bool = False
    is_tree: bool = False

    def sized(self, size: int | None) -> StoredObject:
        """The same, with its size."""
        return StoredObject(self.path, self.md5, self.out, size, self.executable, self.is_tree)


def only_files(objects: Iterable[StoredObject]) -> list[StoredObject]:
    """Without the lists that DVC keeps of directories."""
    return [item for item in objects if not item.is_tree]


@dataclass(frozen=True, eq=False)
class Remote:
    """A DVC remote. `endpoint` is that of a service other than the cloud's own."""

    name: str
    odb: Any
    endpoint: str | None = None
    closed: bool = False

    def readable(self, this_host: bool) -> bool:
        """Whether a machine can read it by itself; `this_host` says that machines see this host's files."""
        return this_host if self._local else self.odb.fs.protocol in clouds.SCHEMES and not self.closed

    @property
    def bucket(self) -> str | None:
        """The bucket of a cloud that machines read it from, if that is so."""
        if self.endpoint or not self.readable(False):
            return None
        return f"{self.odb.fs.protocol}://{self.odb.path.split('/')[0]}"

    def url(self, md5: str) -> str:
        """Where a machine finds the object."""
        path = self.odb.oid_to_path(md5)
        if self._local:
            return Path(path).as_uri()
        protocol = self.odb.fs.protocol
        place = f"{protocol}+{self.endpoint.rstrip('/')}/" if self.endpoint else f"{protocol}://"
        return place + quote(path)

    def download(self, md5: str, to: Path) -> None:
        """Bring one object here."""
        with self._answering():
            self.odb.fs.get_file(self.odb.oid_to_path(md5), str(to))

    def sizes(self, items: list[StoredObject]) -> list[int | None]:
        """The size of each object in the remote; None where there is none."""
        paths = [self.odb.oid_to_path(item.md5) for item in items]
        if self._local:
            return [size_of(path) for path in paths]
        with self._answering():
            found = self.odb.fs.info(paths, return_exceptions=True)
            for answer in found:
                wrong = but_for_absence(answer) if isinstance(answer, Exception) else None
                if wrong is not None:
                    raise wrong
        return [None if isinstance(answer, Exception) else answer["size"] for answer in found]

    def lacking(self, items: list[StoredObject]) -> list[StoredObject]:
        """The objects, each once, that are not there or on a local disk not there in full."""
        unique = list({item.md5: item for item in items}.values())
        if self._local:
            sizes = self.sizes(unique)
            return [item for item, size in zip(unique, sizes, strict=True) if size is None or size != item.size]
        with self._answering():
            held = set(self.odb.oids_exist([item.md5 for item in unique]))
        return [item for item in unique if item.md5 not in held]

    def doubt(self, item: StoredObject) -> SojournError | None:
        """Why it cannot be said that the object is not there: where no server answers, many a library says so."""
        if not self._local:
            try:
                self.sizes([item])
            except SojournError as error:
                return error
        return None

    def push(self, cache: Any, items: list[StoredObject]) -> None:
        """Copy objects from the cache, a directory's list after its files, as DVC does."""
        for trees in (False, True):
            oids = sorted({item.md5 for item in items if item.is_tree is trees})
            failures: list[BaseException] = []
            if oids:
                with self._answering():
                    self.odb.add(
                        [cache.oid_to_path(oid) for oid in oids],
                        cache.fs,
                        oids,
                        check_exists=False,
                        on_error=lambda _, error, failures=failures: failures.append(error),
                    )
            if failures:
                refused = self._refusal(failures[0])
                taken = (
                    f"DVC remote {self.name!r} took only {len(oids) - len(failures)} of {counted(len(oids), 'file')}"
                )
                raise type(refused)(f"{taken}: {refused.message}", hint=programs.dvc(f"push --remote {self.name}"))

    @property
    def _local(self) -> bool:
        return bool(self.odb.fs.protocol == "local")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._refusal(error) from error

    def _refusal(self, error: BaseException) -> SojournError:
        return remote_refusal(error, self.name, self.odb.fs.protocol, self.odb.path)


def open_remote(repo: Any, name: str | None) -> Remote:
    """The remote of this name, or the default one. Raises SpecError when there is none."""
    name = name or repo.config["core"].get("remote")
    known = list(repo.config["remote"])
    if not name:
        hint = programs.dvc(f"remote default {known[0]}" if known else "remote add -d storage s3://BUCKET/PATH")
        raise SpecError("no DVC remote is configured" if not known else "no DVC remote is the default", hint=hint)
    if name not in known:
        raise SpecError(
            f"DVC remote {name!r} is not configured, {nearest(name, known)}", hint=programs.dvc("remote list")
        )
    try:
        odb = repo.cloud.get_remote_odb(name, "push")
    except Exception as error:
        if not isinstance(error, ImportError) and type(error).__name__ != "RemoteMissingDepsError":
            raise
        scheme = repo.config["remote"][name].get("url", "").partition(":")[0]
        raise SpecError(
            f"DVC remote {name!r}: DVC's package for {scheme} is not installed",
            hint=f"install it into Sojourn's environment: {programs.install(f'dvc-{scheme}')}",
        ) from error
    config = repo.config["remote"][name]
    return Remote(name, odb, config.get("endpointurl"), closed=any(config.get(option) for option in _OF_ITS_OWN))


def size_of(path: str) -> int | None:
    """The size of a file on this host; None where there is none."""
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
