"""What decides which packages fit a rented machine: its platform and its Python.

A machine gets the Python of its image unless the project asks for another one, which uv
then brings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from sojourn.environment.local_packages import read_toml, table
from sojourn.errors import SpecError
from sojourn.records import Record
from sojourn.renting import Offer

if TYPE_CHECKING:
    from packaging.markers import Environment as Markers
    from packaging.specifiers import SpecifierSet
    from packaging.tags import Tag

# For an image of which nobody knows what it holds, uv brings this one unless it is there.
PYTHON = "3.12"
PYTHONS = tuple(f"3.{number}" for number in range(8, 16))
ASKED = ".python-version"
REQUIRES = re.compile(r"^#\s*requires-python\s*=\s*[\"']([^\"']+)", re.MULTILINE)  # of a script's header
_MINOR = re.compile(r"(?:cpython-?)?(\d+\.\d+)")
# glibc 2.28 is what uv means by linux-gnu; all images of the last years have it.
_GLIBC = 28
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class Target(Record):
    """A kind of machine, as far as packages are concerned."""

    architecture: str = Field(description="x86_64 or aarch64")
    python: str = Field(description="Like 3.12")
    image_python: str | None = Field(description="What the image has, where that is known")

    @property
    def platform(self) -> str:
        """The platform in the words of uv."""
        return f"{self.architecture}-unknown-linux-gnu"

    @property
    def brings_python(self) -> bool:
        """Whether the image is known to have another Python, so that uv must fetch this one."""
        return self.image_python not in (None, self.python)

    def fits(self, offer: Offer) -> bool:
        """Whether a machine of this offer is of this kind."""
        return _image(offer) == (self.architecture, self.image_python)

    def tags(self) -> list[Tag]:
        """The tags of wheels that fit, the best first."""
        from packaging.tags import compatible_tags, cpython_tags

        version = tuple(int(part) for part in self.python.split("."))
        platforms = list(_platforms(self.architecture))
        interpreter = f"cp{self.python.replace('.', '')}"
        return [*cpython_tags(version, platforms=platforms), *compatible_tags(version, interpreter, platforms)]

    def markers(self) -> Markers:
        """The values of environment markers on such a machine; of its Python the first release, as uv takes it."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.architecture,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


def targets(
    offers: Iterable[Offer],
    directory: Path,
    root: Path | None = None,
    script: Path | None = None,
    python: str | None = None,
) -> tuple[Target, ...]:
    """The kinds of machines on offer, each once, for a project here, or for a script that names its own packages.

    `python` is what the command asks for. Raises SpecError when no Python suits it.
    """
    asked = _version(python, "command: --python") if python else _asked(directory, root or directory)
    wanted = _required(directory, script)
    return tuple(dict.fromkeys(_target(offer, asked, wanted) for offer in offers))


def _target(offer: Offer, asked: str | None, wanted: SpecifierSet | None) -> Target:
    architecture, image = _image(offer)
    return Target(architecture=architecture, python=asked or _python(image, wanted), image_python=image)


def _image(offer: Offer) -> tuple[str, str | None]:
    """The architecture in the words of Linux, and the image's Python as far as it is known."""
    architecture = _ARCHITECTURES.get(offer.architecture.lower(), offer.architecture)
    return architecture, _minor(offer.python) if offer.python else None


def _minor(version: str) -> str | None:
    """`3.12` from `3.12.3` or `cpython-3.12`; None for what is no such version."""
    found = _MINOR.match(version.strip())
    return found[1] if found else None


def _python(image: str | None, required: SpecifierSet | None) -> str:
    """The image's Python if the project can do with it, else the nearest one that it can do with."""
    from packaging.specifiers import SpecifierSet

    wanted = required or SpecifierSet()
    best = image or PYTHON
    # As its latest release: `>=3.12.1` means a 3.12.
    known = [version for version in (best, *PYTHONS) if wanted.contains(f"{version}.99")]
    if not known:
        raise SpecError(
            f"pyproject.toml: requires-python: no Python from {PYTHONS[0]} to {PYTHONS[-1]} is {str(wanted)!r}",
            hint=f"mend requires-python, or name a version:  echo {PYTHON} > {ASKED}",
        )
    return min(known, key=lambda version: abs(_number(version) - _number(best)))


def _number(version: str) -> int:
    return int(version.split(".")[1])


def _asked(directory: Path, root: Path) -> str | None:
    """What the nearest file upward says, as uv looks for it."""
    above = (one for one in (directory, *directory.parents) if one == directory or one.is_relative_to(root))
    file = next((one / ASKED for one in above if (one / ASKED).is_file()), None)
    text = file.read_text(encoding="utf-8", errors="replace") if file else ""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return _version(lines[0], ASKED) if lines else None


def _version(text: str, where: str) -> str:
    version = _minor(text.removeprefix("python"))
    if version is None:
        raise SpecError(
            f"{where}: {text!r} is not a Python that a rented machine can get",
            hint=f"write a version of CPython:  echo {PYTHON} > {ASKED}",
        )
    return version


def _required(directory: Path, script: Path | None) -> SpecifierSet | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if script is not None:
        found = REQUIRES.search(script.read_text(encoding="utf-8", errors="replace"))
        with suppress(InvalidSpecifier):
            return SpecifierSet(found[1]) if found else None
        return None
    said = table(read_toml(directory / "pyproject.toml"), "project").get("requires-python")
    try:
        return SpecifierSet(said) if isinstance(said, str) else None
    except InvalidSpecifier:
        return None  # uv says what is wrong with it, and where


def _platforms(architecture: str) -> Iterator[str]:
    for glibc in range(_GLIBC, _OLDEST_GLIBC[architecture] - 1, -1):
        yield f"manylinux_2_{glibc}_{architecture}"
        if glibc in _LEGACY:
            yield f"{_LEGACY[glibc]}_{architecture}"
    yield f"linux_{architecture}"
