"""Which files make up a checkpoint where a library writes a directory, and which directories are half written.

A file that matches a pattern takes along what its library wrote with it: all of a directory
that holds one checkpoint, or the companions beside it. A directory counts once it holds what
its library writes last; a half one is left out of the commit, since it would be loaded as
the newest. The names are those of transformers 5, accelerate 1, torch.distributed.checkpoint,
DeepSpeed 0.17, Lightning 2, TensorFlow 2, Keras 3, orbax and NeMo 2.
"""

from __future__ import annotations

import fnmatch
import itertools
import posixpath
import re
from collections.abc import Collection, Iterator
from typing import Callable

_NUMBERED = re.compile(
    r"(?:.*[-_.])?(?:checkpoints?|ckpt|global_?step|steps?|epochs?|iter(?:ation)?s?)[-_=]?\d[\w.=-]*|.+\.ckpt",
    re.IGNORECASE,
)
_WHOLE = {".metadata", "saved_model.pb", "_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"}  # make a folder one
_COMPANIONS = (
    "config.json", "generation_config.json", "adapter_config.json", "trainer_state.json", "training_args.bin",
    "*.index.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*preprocessor_config.json", "processor_config.json", "chat_template.*", "optimizer*.bin", "scheduler*.bin",
    "sampler*.bin", "pytorch_model*.bin", "adapter_model.bin", "dl_state_dict*.bin", "scaler.pt",
    "random_states_*.pkl", "custom_checkpoint_*.pkl", "*.index", "*.data-?????-of-?????", ".metadata", "*.distcp",
    "commit_success.txt",
)  # fmt: skip
# Beside a checkpoint or its directory: what says which one is the newest.
_POINTERS = {
    "latest", "latest_universal", "latest_checkpointed_iteration.txt", "last_checkpoint", "checkpoint",
    "zero_to_fp32.py",
}  # fmt: skip
_APART = ("*tfevents*", "*.log", "*.tmp", "*.lock")  # written on and on, or on the way to another name
_DRAFT = re.compile(r"(?:^|/)(?:tmp-checkpoint-\d+|[^/]*orbax-checkpoint-tmp[^/]*|[^/]*_temp)(?:/|$)")
_TRAINER = re.compile(
    r"optimizer\.pt|scheduler\.pt|scaler\.pt|rng_state(?:_\d+)?\.pth"
)  # before its trainer_state.json
_DEEPSPEED = re.compile(r".*mp_rank_\d+_model_states\.pt")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)")
_DATA = re.compile(r"(.+)\.data-\d{5}-of-\d{5}")

Look = Callable[[str], str]  # the text of a small file of the tree, empty when it cannot be read


def members(paths: Collection[str], matches: Callable[[str], bool]) -> set[str]:
    """Those of the paths that belong to a checkpoint: what `matches`, and what was written with it."""
    matched = {path for path in paths if matches(path) and not _DRAFT.search(path)}
    by_folder: dict[str, list[str]] = {}
    for path in paths:
        by_folder.setdefault(posixpath.dirname(path), []).append(path)
    wholes = {whole for path in matched for whole in _wholes(path, by_folder)}
    inside = {
        path
        for folder, held in by_folder.items()
        if any(above in wholes for above in _and_above(folder)) and not _DRAFT.search(folder + "/")
        for path in held
        if not any(fnmatch.fnmatch(posixpath.basename(path), pattern) for pattern in _APART)
    }
    beside = {posixpath.dirname(path) for path in matched} | {posixpath.dirname(whole) for whole in wholes}
    companions = {path for folder in beside for path in by_folder.get(folder, ()) if _is_companion(path)}
    return matched | inside | companions


def core(paths: Collection[str], matches: Callable[[str], bool]) -> set[str]:
    """Those of a checkpoint's paths that it is none without: what `matches`, its companions, all of a marked folder."""
    marked = {posixpath.dirname(path) for path in paths if posixpath.basename(path) in _WHOLE | {"trainer_state.json"}}
    return {
        path
        for path in paths
        if matches(path) or _is_companion(path) or any(above in marked for above in _and_above(posixpath.dirname(path)))
    }


def half(paths: Collection[str], look: Look, lives: bool) -> set[str]:
    """Those of a checkpoint's paths that lack what their library writes last.

    `lives`: the script may go on writing; where a library can be told to leave its last file out,
    its end is as good a sign.
    """
    found: set[str] = set()
    folders: dict[str, set[str]] = {}
    for path in paths:
        folders.setdefault(posixpath.dirname(path), set()).add(posixpath.basename(path))
    for folder, names in folders.items():
        if _lacks_last(folder, names, folders, look, lives):
            whole = _outermost(folder)
            found.update(path for path in paths if path.startswith(whole + "/"))
        found.update(posixpath.join(folder, name) for name in _half_files(names))
        for name in names:
            if name.endswith("-unfinished"):  # NeMo's own word
                whole = posixpath.join(folder, name[: -len("-unfinished")])
                found.update(path for path in paths if path == whole or path.startswith(whole + "/"))
                found.add(posixpath.join(folder, name))
    return found


def folder_of(path: str) -> str | None:
    """The folder above a path that is one numbered checkpoint, the outermost of several in one another."""
    folder = posixpath.dirname(path)
    return whole if folder and _is_numbered(whole := _outermost(folder)) else None


def family(folder: str) -> tuple[str, int]:
    """What the numbered folders of one series have in common (`out/checkpoint-`), and this one's number."""
    above, name = posixpath.split(folder)
    return posixpath.join(above, re.sub(r"\d+", "#", name)), _number(name)


def _wholes(path: str, by_folder: dict[str, list[str]]) -> Iterator[str]:
    """The nearest folders above the path that are one checkpoint as a whole, by what they hold and by their name."""
    above = _and_above(posixpath.dirname(path))
    marked = (one for one in above if any(posixpath.basename(held) in _WHOLE for held in by_folder.get(one, ())))
    for found in (marked, filter(_is_numbered, above)):
        yield from itertools.islice(found, 1)


def _outermost(folder: str) -> str:
    """The folder of a whole checkpoint around one of its parts: `checkpoint-8` of `checkpoint-8/global_step8`."""
    above = _and_above(folder)
    start = next((at for at, name in enumerate(above) if _is_numbered(name)), None)
    if start is None:
        return folder
    while start + 1 < len(above) and _is_numbered(above[start + 1]):
        start += 1
    return above[start]


def _is_numbered(folder: str) -> bool:
    return _NUMBERED.fullmatch(posixpath.basename(folder)) is not None


def _is_companion(path: str) -> bool:
    return posixpath.basename(path) in _POINTERS or any(
        fnmatch.fnmatch(posixpath.basename(path), pattern) for pattern in _COMPANIONS
    )


def _lacks_last(folder: str, names: set[str], folders: dict[str, set[str]], look: Look, lives: bool) -> bool:
    if _is_numbered(folder) and "trainer_state.json" not in names and _is_trainers(names):
        return True
    if any(name.endswith(".distcp") for name in names) and ".metadata" not in names:
        return True
    if any(map(_DEEPSPEED.fullmatch, names)):
        return _deepspeed_goes_on(folder, folders.get(posixpath.dirname(folder), set()), look, lives)
    return False


def _is_trainers(names: set[str]) -> bool:
    """Whether the Trainer of transformers wrote these: its arguments, or a random state with no weights beside it.

    On every node but the first it writes its random state alone. A script of one's own
    has an `optimizer.pt` too, beside a model of its own naming.
    """
    states = {name for name in names if _TRAINER.fullmatch(name)}
    return "training_args.bin" in names or (states == names and any(name.startswith("rng_state") for name in names))


def _deepspeed_goes_on(folder: str, beside: set[str], look: Look, lives: bool) -> bool:
    """Whether `latest`, which DeepSpeed writes when all of a directory is there, tells of an earlier one."""
    if "latest" not in beside:
        return lives
    tag, name = look(posixpath.join(posixpath.dirname(folder), "latest")).strip(), posixpath.basename(folder)
    return tag != name and _number(tag) < _number(name)


def _number(name: str) -> int:
    digits = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else -1


def _half_files(names: set[str]) -> Iterator[str]:
    """Pieces of a file in several pieces that are not all there."""
    shards: dict[tuple[str, str, str], set[str]] = {}
    for name in names:
        shard, data = _SHARD.fullmatch(name), _DATA.fullmatch(name)
        if shard:
            shards.setdefault((shard[1], shard[3], shard[4]), set()).add(name)
        if data and f"{data[1]}.index" not in names:
            yield name
    for (_, count, _), pieces in shards.items():
        if len(pieces) < int(count):
            yield from pieces


def _and_above(folder: str) -> list[str]:
    """The folder and those above it, the topmost last; never the tree itself."""
    found = []
    while folder:
        found.append(folder)
        folder = posixpath.dirname(folder)
    return found
