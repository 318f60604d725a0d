"""Names that can be derived again, read back, and told from anybody else's.

A run id is minted once; the names of leases and machines follow from it. Four
characters of each are a checksum over the rest, so that a reaper can tell ours from
a stranger's that merely looks alike.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from dataclasses import dataclass

_ADJECTIVES = (
    "amber bold brave bright brisk calm clear clever cool crisp dapper eager early fair fleet "
    "fond gentle glad golden grand green happy hardy honest humble jolly keen kind lively loyal "
    "lucky mellow merry mild neat noble open patient plain plucky polite proud pure quick quiet "
    "rapid ready rosy royal silent simple sincere sleek snug solid steady sunny swift tender "
    "tidy true vivid warm wise witty"
).split()
_ANIMALS = (
    "badger bear beaver bison bobcat bunting condor coot crane curlew deer dingo dolphin dove "
    "eagle egret elk falcon ferret finch fox gecko gibbon goose grouse gull hare hawk heron "
    "ibex ibis jackal jay kestrel kite koala lark lemur linnet lion llama lynx magpie marten "
    "mole moose newt ocelot orca osprey otter owl panda perch pika plover puffin quail raven "
    "robin seal shrike stork swan tern wren"
).split()
_RUN = re.compile(r"[a-z]+-[a-z]+-[0-9a-f]{4}")
_FOLDER = re.compile(rf"(?:[0-9a-f]{{32}}-)?(?P<run>{_RUN.pattern})")
_LEASE = re.compile(
    rf"sojourn-(?P<run>{_RUN.pattern})-(?P<attempt>\d+)-(?P<offer>\d+)-[0-9a-f]{{4}}(?:-n(?P<node>\d+))?"
)
PROJECT_LENGTH = 40


def mint_run_id(seed: str | None = None) -> str:
    """A readable run id: derived from `seed` (a flow-run id), or random without one."""
    digest = hashlib.sha256((seed or secrets.token_hex(16)).encode()).digest()
    adjective = _ADJECTIVES[digest[0] % len(_ADJECTIVES)]
    animal = _ANIMALS[digest[1] % len(_ANIMALS)]
    return f"{adjective}-{animal}-{digest[2:4].hex()}"


def mint_place() -> str:
    """What nobody can guess of where a run's machines read and write: 128 bits."""
    return secrets.token_hex(16)


def is_place(text: object) -> bool:
    """Whether this is what `mint_place` makes."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{32}", text) is not None


def run_folder(run: str, place: str) -> str:
    """The name of the folders that a run's machines know; without a place, as earlier versions had it, its id."""
    return f"{place}-{run}" if place else run


def run_of(folder: str) -> str | None:
    """The run that a folder of this name belongs to; None for any other folder."""
    match = _FOLDER.fullmatch(folder)
    return match["run"] if match else None


def is_run_id(text: str) -> bool:
    """Whether `text` has the shape of a run id."""
    return _RUN.fullmatch(text) is not None


def is_minted(text: str) -> bool:
    """Whether `text` is a run id of ours, and not a name of the same shape that another tool gave."""
    words = text.split("-")
    return is_run_id(text) and words[0] in _ADJECTIVES and words[1] in _ANIMALS


def project_name(text: str) -> str:
    """A store-safe project name for any directory name; one that lost letters gets a checksum."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:PROJECT_LENGTH].strip("-")
    return slug if slug == text else f"{slug or 'project'}-{_check(text)}"


def is_project_name(text: str) -> bool:
    """Whether `text` can be a project's name as it is."""
    return re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text) is not None and len(text) <= PROJECT_LENGTH + 5


@dataclass(frozen=True)
class LeaseName:
    """The name of one lease, which is also its idempotency token: which run, attempt and offer.

    The text is at most 63 characters, as a host name allows.
    """

    run: str
    attempt: int
    offer: int = 0

    def __str__(self) -> str:
        stem = f"sojourn-{self.run}-{self.attempt}-{self.offer}"
        return f"{stem}-{_check(stem)}"

    def machine(self, node: int) -> str:
        """The name of the lease's machine number `node`, from 0."""
        return f"{self}-n{node}"

    @staticmethod
    def node_of(machine: str) -> int:
        """The number of a machine within its lease, by its name."""
        return int(machine.rpartition("-n")[2])

    @classmethod
    def parse(cls, text: str) -> LeaseName | None:
        """Read back from the name of a lease or of one of its machines; None when we did not give it."""
        match = _LEASE.fullmatch(text)
        if match is None:
            return None
        name = cls(match["run"], int(match["attempt"]), int(match["offer"]))
        ours = str(name) if match["node"] is None else name.machine(int(match["node"]))
        return name if ours == text else None


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:4]
