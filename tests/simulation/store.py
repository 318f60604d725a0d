"""A bucket: what lies in it, and the two ways to it that the product has.

The control side comes by `sojourn.store.storage.Store`, the real one over a wire that answers
like obstore; machines by the few verbs of `sojourn.agent.stores.stores.store.Store`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO, TypeVar

import obstore.exceptions

from simulation.faults import Faults, When
from simulation.versions import written
from simulation.world import Process
from sojourn.agent.errors import Exists, StoreError
from sojourn.agent.stores.s3 import FETCH_S
from sojourn.store.storage import Store

T = TypeVar("T")
LATENCY_S = 0.05


@dataclass
class Disk:
    """Every object with the moment it was written; as strongly consistent as S3 is."""

    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)  # create-only keys, in their order

    def below(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))


class BucketStore(Store):
    """The control side's store in the hands of one process."""

    def __init__(self, url: str, disk: Disk, process: Process, faults: Faults) -> None:
        super().__init__(url, process.clock)
        self._process = process
        self.chance = process.world.chance
        self.wire = Wire(disk, process, faults)

    def provide(self) -> None:
        pass

    def put(self, key: str, body: Any) -> None:
        super().put(key, written(self._process.version, key, body))

    def create(self, key: str, body: bytes) -> None:
        super().create(key, written(self._process.version, key, body))

    def _tell_time(self) -> float:
        self.put("control/time", b"")
        written = self.modified("control/time")
        assert written is not None
        return written.timestamp()

    def forgets(self, key: str) -> float | None:
        return None

    @property
    def _store(self) -> Any:  # type: ignore[override]
        return self.wire

    _bulk = _store  # type: ignore[assignment]


class Wire:
    """What obstore's stores offer, as far as `sojourn.store.storage` asks for it."""

    def __init__(self, disk: Disk, process: Process, faults: Faults) -> None:
        self._disk = disk
        self._process = process
        self._faults = faults

    def put(self, key: str, body: bytes, *, mode: str = "overwrite", **_: Any) -> None:
        def effect() -> None:
            if mode == "create" and key in self._disk.objects:
                raise obstore.exceptions.AlreadyExistsError(key)
            if mode == "create":
                self._disk.created.append(key)
            self._disk.objects[key] = bytes(body), self._process.world.now

        self._ask("create" if mode == "create" else "put", key, effect)

    def get(self, key: str, options: Any = None) -> Found:
        assert options is None, "nothing in these histories is large"
        return self._ask("get", key, lambda: Found(*self._found(key)))

    def head(self, key: str) -> dict[str, Any]:
        def effect() -> dict[str, Any]:
            body, at = self._found(key)
            return {"last_modified": datetime.fromtimestamp(at, UTC), "size": len(body)}

        return self._ask("head", key, effect)

    def list(self, prefix: str) -> list[list[dict[str, Any]]]:
        objects = self._disk.objects
        return self._ask(
            "list", prefix, lambda: [[{"path": key, "size": len(objects[key][0])} for key in self._disk.below(prefix)]]
        )

    def list_with_delimiter(self, prefix: str | None) -> dict[str, Any]:
        def effect() -> dict[str, Any]:
            start = prefix or ""
            rests = (key[len(start) :] for key in self._disk.below(start))
            return {"common_prefixes": sorted({start + rest.split("/")[0] for rest in rests if "/" in rest})}

        return self._ask("list", prefix or "", effect)

    def delete(self, keys: Any) -> None:
        def effect() -> None:
            for key in [keys] if isinstance(keys, str) else keys:
                self._disk.objects.pop(key, None)

        self._ask("delete", str(keys), effect)

    def _found(self, key: str) -> tuple[bytes, float]:
        if key not in self._disk.objects:
            raise FileNotFoundError(key)
        return self._disk.objects[key]

    def _ask(self, verb: str, key: str, effect: Callable[[], T]) -> T:
        def refusal(_: When) -> Exception:
            return obstore.exceptions.GenericError(f"{verb} {key}: 503 Slow Down")

        return self._faults.call(self._process, f"store {verb} {kind_of(key)}", effect, LATENCY_S, refusal)


@dataclass
class Found:
    """An object as obstore gives it."""

    body: bytes
    at: float

    @property
    def meta(self) -> dict[str, Any]:
        moment = datetime.fromtimestamp(self.at, UTC)
        return {"size": len(self.body), "last_modified": moment, "e_tag": hashlib.md5(self.body).hexdigest()}

    def bytes(self) -> bytes:
        return self.body


def kind_of(key: str) -> str:
    """What a key is, without which one: `ledger`, `owner.json`, `out`."""
    parts = [part for part in key.split("/")[3:] if not part.isdecimal()]
    return parts[0] if parts else "runs"


class MachineStore:
    """A machine's store (`sojourn.agent.stores.stores.store.Store`), which it may lose contact with."""

    patience_s = 1800.0
    pace_s = 1.0
    fetchers = 1

    def __init__(self, disk: Disk, process: Process, faults: Faults, upload_s: float = 0.0) -> None:
        self._disk = disk
        self._process = process
        self._faults = faults
        self._upload_s = upload_s  # how long a file is on its way
        self._heard = process.world.now
        self._unsure: set[str] = set()
        self.away_until = 0.0

    def silent_s(self) -> float:
        return self._process.world.now - self._heard

    def get(self, key: str) -> bytes:
        return self._ask("get", key, lambda: self._found(key))

    def find(self, key: str) -> bytes | None:
        try:
            return self.get(key)
        except OSError:
            return None

    def exists(self, key: str) -> bool:
        return self.find(key) is not None

    def open(self, key: str) -> BinaryIO:
        """A fetch is the one call that is tried again in here, as on S3."""
        until = self._process.clock.monotonic() + FETCH_S
        while True:
            try:
                return io.BytesIO(self.get(key))
            except StoreError:
                if self._process.clock.monotonic() > until:
                    raise
                self._process.sleep(2.0)

    def put(self, key: str, body: bytes) -> None:
        body = written(self._process.version, key, body)
        self._ask("put", key, lambda: self._write(key, body))

    def create(self, key: str, body: bytes, durable: bool = False) -> None:
        body = written(self._process.version, key, body)

        def effect() -> None:
            if key not in self._disk.objects:
                self._write(key, body)
            elif key not in self._unsure or self._disk.objects[key][0] != body:
                raise Exists(key)

        try:
            self._ask("create", key, effect)
        except OSError:
            self._unsure.add(key)
            raise

    def delete(self, key: str) -> None:
        self._ask("delete", key, lambda: self._disk.objects.pop(key, None))

    def keep(self, prefix: str, source: BinaryIO, check: Callable[[], None]) -> tuple[str, int]:
        check()
        body = source.read()
        if self._upload_s:
            self._process.sleep(self._upload_s)
            check()
        digest = hashlib.sha256(body).hexdigest()
        self.put(f"{prefix}/{digest}", body)
        return digest, len(body)

    def close(self) -> None:
        pass

    def _write(self, key: str, body: bytes) -> None:
        self._disk.objects[key] = body, self._process.world.now

    def _found(self, key: str) -> bytes:
        if key not in self._disk.objects:
            self._heard = self._process.world.now  # to be told that there is nothing is an answer too
            raise FileNotFoundError(key)
        return self._disk.objects[key][0]

    def _ask(self, verb: str, key: str, effect: Callable[[], T]) -> T:
        if self._process.world.now < self.away_until:
            self._process.sleep(2.0)
            raise StoreError(f"{verb} {key}: no route to host")
        answer = self._faults.call(
            self._process, f"store {verb} {kind_of(key)}", effect, LATENCY_S, lambda _: StoreError(f"{verb} {key}: 503")
        )
        self._heard = self._process.world.now
        return answer
