"""What a rented machine, or whoever may write into the store, tries on the host that brings its results home."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import threading
from pathlib import Path

import pytest
from security.hostile import RUN, Home

from sojourn import places
from sojourn.errors import SojournError, SpecError, UnreadableError
from sojourn.places import OUTWARD, REPOSITORY, TOO_LONG, UNSHOWN, PlaceError, TakenError
from sojourn.plan.checkpoint import check_stored
from sojourn.project.bundle import fetch_file, unpack
from sojourn.protocol import Bundle, Checkpoint, Manifest, Remainder
from sojourn.records import FileEntry, Link
from sojourn.results.collect import STRANGE, collect

OUT = [
    "../elsewhere/a", "a/../../elsewhere/a", "/tmp/a", "//tmp/a", "", ".", "..", "a/", "a//b", "./a", "a/./b", "a/..",
    "a\0b",
]  # fmt: skip
GIT = [
    ".git/hooks/pre-commit", ".GIT/config", ".Git/config", "sub/.git/config", "git~1/config", "GIT~1/hooks/x", ".git",
    "sub/.git", ".git /config", ".git./config", ".git::$INDEX_ALLOCATION/config", ".g\u200cit/config",
    ".gi\u200bt\u200b/config", "\uff0egit/config", "a\\.git\\config",
]  # fmt: skip
SHOWN = ["a\nb", "a\rb", "a\x1b]0;x\x07b", "a\tb", "a\x7fb", "a\x9bb", "a\\b", "..\\b", "C:\\b", "a\u202eb", "a\u2028b"]
LONG = ["x" * 256, "é" * 128, "a/" * 2_000 + "b"]
REFUSED = [
    *((path, OUTWARD) for path in OUT), *((path, REPOSITORY) for path in GIT), *((path, UNSHOWN) for path in SHOWN),
    *((path, TOO_LONG) for path in LONG),
]  # fmt: skip
FINE = [
    "a.txt",
    "a/b/c.txt",
    "名" * 83,
    "😀" * 62 + ".txt",
    ".gitignore",
    "git/x",
    "x.git/y",
    "a b",
    "'\"$`",
    "...",
    "é",
]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.mark.parametrize(("path", "why"), REFUSED)
def test_a_path_that_leads_elsewhere_is_refused_and_told_with_the_reason(home: Home, path: str, why: str) -> None:
    found = home.commit(home.entry(path), home.entry("fine.txt", "fine"))
    assert [entry.path for entry in found.files] == ["fine.txt"], "it costs itself alone"
    (told,) = found.account
    assert (told.reason, told.files, told.paths) == (why, 1, (path[:200],))


@pytest.mark.parametrize(("path", "_"), REFUSED)
def test_who_writes_files_refuses_it_once_more(home: Home, path: str, _: str) -> None:
    entry = home.entry("x").model_copy(update={"path": path})
    with pytest.raises(PlaceError):
        fetch_file(entry, home.mailbox, home.root)
    assert not home.new()


@pytest.mark.parametrize("path", FINE)
def test_names_that_people_give_come_home(home: Home, path: str, tmp_path: Path) -> None:
    named = (path,) if path.startswith(".") else ()
    assert home.comes_home(home.entry(path, "mine"), named=named).warnings == ()
    assert (home.root / path).read_text() == "mine"
    assert home.pulled(home.entry(path, "mine"), to=tmp_path / "there").placed == (path,)


def test_what_is_refused_comes_by_no_other_way_either(home: Home, tmp_path: Path) -> None:
    entries = [home.entry(path) for path in (*OUT, *GIT)]
    home.comes_home(*entries)
    home.pulled(*entries, to=tmp_path / "there")
    assert not home.new() and not (tmp_path / "there").exists()


def test_a_file_is_never_written_through_a_link(home: Home) -> None:
    (home.root / "out").symlink_to(home.outside)
    (home.root / "near").symlink_to(".git/hooks")
    back = home.outside / "back"
    back.symlink_to(home.root / "inner")
    (home.root / "inner").mkdir()
    (home.root / "loop").symlink_to("loop")
    (home.root / "round").symlink_to(back)
    (home.root / "up").symlink_to("inner/../../elsewhere")
    for path in ("out/a", "near/a", "loop/a", "round/a", "up/a"):
        with pytest.raises(PlaceError):
            fetch_file(home.entry(path), home.mailbox, home.root)
    assert not list(home.outside.rglob("a")) and not list(home.root.rglob("a"))


def test_a_link_of_the_user_s_to_another_folder_of_the_project_is_followed(home: Home) -> None:
    (home.root / "storage/models").mkdir(parents=True)
    (home.root / "models").symlink_to("storage/models")
    (home.root / "absolute").symlink_to(home.root / "storage")
    assert home.comes_home(home.entry("models/a.pt", "1"), home.entry("absolute/b.pt", "2")).beside == ()
    assert (home.root / "storage/models/a.pt").read_text() == "1" and (home.root / "storage/b.pt").read_text() == "2"


@pytest.mark.parametrize("name", [".r.txt.sojourn", ".r.txt.sojourn-draft", ".sojourn-r.txt"])
def test_no_file_is_written_under_a_name_that_can_be_guessed(home: Home, name: str) -> None:
    victim = home.outside / "victim"
    victim.write_text("mine")
    (home.root / "outputs").mkdir()
    (home.root / "outputs" / name).symlink_to(victim)
    home.comes_home(home.entry("outputs/r.txt", "result"))
    assert victim.read_text() == "mine" and (home.root / "outputs/r.txt").read_text() == "result"
    assert sorted(os.listdir(home.root / "outputs")) == sorted([name, "r.txt"])


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777, 0o6777, 0o666, 0o777, 0o104755, -1])
def test_no_result_is_setuid_or_open_to_everybody(home: Home, tmp_path: Path, mode: int) -> None:
    before = os.umask(0o022)
    try:
        home.comes_home(home.entry("a", mode=mode))
        home.pulled(home.entry("a", mode=mode), to=tmp_path / "there")
    finally:
        os.umask(before)
    for file in (home.root / "a", tmp_path / "there/a"):
        assert file.stat().st_mode & 0o7022 == 0
    home.comes_home(home.entry("private", mode=0o600))
    assert (home.root / "private").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("size", [3, 5, 0, -1, 10**13])
def test_an_object_of_another_size_than_its_manifest_says_is_not_taken(home: Home, size: int) -> None:
    done = home.comes_home(home.entry("a", "evil", size=size), home.entry("fine.txt", "fine"))
    assert done.placed == ("fine.txt",) and home.new() == {"project/fine.txt"}
    if size >= 0:
        assert "a cannot be brought into" in done.warnings[-1]


def test_a_manifest_that_claims_terabytes_is_refused_before_anything_is_written(home: Home) -> None:
    with pytest.raises(PlaceError, match=r"10,000\.0 GB do not fit"):
        fetch_file(home.entry("a", size=10**13), home.mailbox, home.root)
    with pytest.raises(UnreadableError, match="does not have the size that was committed"):
        next(home.mailbox.store.stream(home.entry("a").source, size=10**13))
    assert places.room(home.root, 1_000) and not places.room(home.root / "not/yet", 10**13)


def test_an_object_of_somewhere_else_is_no_result(home: Home) -> None:
    for source in ("control/p/x/plan.json", "machine/other/r/1/0/blob/x", "file:///etc/passwd", "machine/p/../../x"):
        found = home.commit(home.entry("a").model_copy(update={"source": source}), home.entry("fine.txt"))
        assert [entry.path for entry in found.files] == ["fine.txt"]
        assert [one.reason for one in found.account] == [STRANGE]


def test_a_checkpoint_that_was_brought_from_another_run_and_left_as_it_is_is_a_result(home: Home) -> None:
    source = f"{home.mailbox.orders}/restored/x"
    found = home.commit(home.entry("a").model_copy(update={"source": source}))
    assert not [one for one in found.account if one.reason == STRANGE]


@pytest.mark.parametrize("path", ["../up.pt", "/etc/x.pt", ".git/hooks/x", "a/../../x"])
def test_a_checkpoint_that_names_another_place_is_not_restored(home: Home, path: str) -> None:
    evil = home.entry(path).model_copy(update={"source": f"machine/p/{RUN}/1/0/blob/x"})
    found = Checkpoint(run=RUN, attempt=1, sequence=3, at=0.0, files=(evil,))
    with pytest.raises(SpecError, match="which is no place for a file"):
        check_stored(found, home.mailbox.store, "p")


def test_a_repository_without_a_name_of_its_own_does_not_come_home(home: Home) -> None:
    paths = ("lib/HEAD", "lib/config", "lib/objects/x", "lib/refs/heads/main", "head", "Refs/x", "notes/HEAD")
    found = home.commit(*map(home.entry, paths))
    assert {entry.path for entry in found.files} == {*paths} - {"lib/HEAD", "head"}
    assert [(one.reason, set(one.paths)) for one in found.account] == [(REPOSITORY, {"lib/HEAD", "head"})]


def test_what_appears_at_the_place_while_a_result_is_written_stays(home: Home) -> None:
    target = home.root / "a.txt"
    with pytest.raises(TakenError):
        places.put(home.root, "a.txt", lambda file: (file.write(b"evil"), target.write_text("mine"))[0] and None)
    assert target.read_text() == "mine" and home.new() == {"project/a.txt"}
    (home.root / "dangling").symlink_to(home.outside / "not-yet")
    with pytest.raises(TakenError):
        places.put(home.root, "dangling", lambda file: None)
    assert not (home.outside / "not-yet").exists()


@pytest.mark.parametrize("can_swap", [True, False])
@pytest.mark.parametrize("can_link", [True, False])
def test_an_older_result_is_replaced_and_what_the_user_made_of_it_is_not(
    home: Home, monkeypatch: pytest.MonkeyPatch, can_swap: bool, can_link: bool
) -> None:
    if not can_swap:
        monkeypatch.setattr(places, "_renameat", lambda: None)  # as on file systems that know no such call
    if not can_link:
        monkeypatch.setattr(os, "link", _refuse)
    target = home.root / "a.txt"
    for text in ("first", "second"):
        assert home.comes_home(home.entry("a.txt", text)).placed == ("a.txt",)
        assert target.read_text() == text

    def slow(descriptor: int) -> bool:
        assert not target.exists() or target.read_text() == "third"
        return os.fstat(descriptor).st_size == len("second")

    places.put(home.root, "a.txt", lambda file: file.write(b"third") and None, ours=slow)
    assert target.read_text() == "third"
    with pytest.raises(TakenError):
        places.put(home.root, "a.txt", lambda file: file.write(b"fourth") and None, ours=lambda _: False)
    assert target.read_text() == "third" and home.new() == {"project/a.txt"}


def _refuse(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_a_user_s_file_survives_whatever_goes_wrong_while_it_is_looked_at(home: Home) -> None:
    target = home.root / "a.txt"
    target.write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        places.put(home.root, "a.txt", lambda file: None, ours=_interrupted)
    assert target.read_text() == "mine" and home.new() == {"project/a.txt"}


def _interrupted(_: int) -> bool:
    raise KeyboardInterrupt


def test_of_two_runs_that_end_together_each_file_is_one_s_and_none_is_lost(home: Home) -> None:
    """Without the lock that one data directory gives: two users, or two hosts on one disk."""
    wrote: dict[str, list[str]] = {}

    def place(run: str) -> None:
        wrote[run] = []
        for at in range(60):
            text = f"{run} {at}"
            try:
                places.put(home.root, f"f{at}", lambda file, text=text: file.write(text.encode()) and None)
            except TakenError:
                continue
            wrote[run].append(text)

    runs = [threading.Thread(target=place, args=(run,)) for run in ("one", "two")]
    [run.start() for run in runs], [run.join() for run in runs]
    stand = {(home.root / f"f{at}").read_text() for at in range(60)}
    assert stand == {*wrote["one"], *wrote["two"]} and len(stand) == 60


def archive(home: Home, member: tarfile.TarInfo, content: bytes) -> Bundle:
    """A bundle of one archive with this in it, whose listing names two files."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w:gz") as tar:
        tar.addfile(member, io.BytesIO(content))
    packed, source = body.getvalue(), "control/p/blob/archive"
    home.mailbox.store.put(source, packed)
    digest = f"sha256:{hashlib.sha256(packed).hexdigest()}"
    whole = FileEntry(path="", hash=digest, size=len(packed), source=source)
    listing = (home.entry("train.py", "pass"), home.entry("../up", "up"))
    return Bundle(archives=(whole,), files=(), listing=listing, directory=".")


def member(name: str, size: int = 0, **more: object) -> tarfile.TarInfo:
    """What an archive says of one file."""
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in more.items():
        setattr(info, key, value)
    return info


def test_an_archive_holds_what_its_listing_says_and_nothing_else(home: Home, tmp_path: Path) -> None:
    cases = [
        (member("other.py", 4), b"evil"),
        (member("train.py", 9), b"evil evil"),
        (member("../up", 2), b"up"),
        (member("train.py", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
        (member("train.py", type=tarfile.FIFOTYPE), b""),
    ]
    for info, content in cases:
        with pytest.raises(SojournError):
            unpack(archive(home, info, content), home.mailbox, tmp_path / "tree")
        shutil.rmtree(tmp_path / "tree", ignore_errors=True)
    unpack(archive(home, member("train.py", 4, mode=0o6777), b"pass"), home.mailbox, tmp_path / "tree")
    assert (tmp_path / "tree/train.py").stat().st_mode & 0o7022 == 0


@pytest.mark.parametrize(
    ("path", "target"), [("a", "/etc"), ("a", "../x"), ("a/b", "../../x"), ("a", "b/../../x"), (".git/a", "x")]
)
def test_a_bundle_s_link_that_leads_out_is_not_made(home: Home, tmp_path: Path, path: str, target: str) -> None:
    sent = Bundle(files=(), listing=(), directory=".", links=(Link(path=path, target=target),))
    with pytest.raises(PlaceError):
        unpack(sent, home.mailbox, tmp_path / "tree")
    assert not os.path.lexists(tmp_path / "tree" / path)


def test_a_folder_that_becomes_a_link_while_files_are_placed_is_not_followed(home: Home) -> None:
    (home.root / "out").mkdir()

    def swap(file: object) -> None:
        (home.root / "out").rename(home.root / "was")
        (home.root / "out").symlink_to(home.outside)

    places.put(home.root, "out/a", swap)
    with pytest.raises(TakenError), places._folder(home.root, ["out"]):  # as if it had come after the look
        pass
    assert not list(home.outside.iterdir()) and (home.root / "was/a").exists()


def test_the_account_of_what_was_refused_is_short_whatever_was_written(home: Home) -> None:
    found = home.commit(*(home.entry(f"../{at}" + "x" * 5_000) for at in range(50)))
    (told,) = found.account
    assert (told.files, len(told.paths), told.unnamed) == (50, 20, 30) and max(map(len, told.paths)) == 200


def test_a_refused_checkpoint_or_kept_file_is_told_too(home: Home) -> None:
    entry: FileEntry = home.entry("../../kept")
    manifest = Manifest(sequence=1, at=0.0, files=(entry,))
    home.mailbox.store.put(f"machine/p/{RUN}/1/0/kept/00000001.json", manifest.to_bytes())
    found = collect(home.mailbox, 1, 1)
    assert found.kept == () and [one.reason for one in found.account] == [OUTWARD]


AMONG_YOURS = """
    .envrc .env .env.local .dvc/config .dvc/config.local .vscode/settings.json .github/workflows/x.yml
    .pre-commit-config.yaml .gitattributes .gitmodules .gitignore .idea/x.xml .pdbrc .mise.toml .mcp.json
    .config/autostart/x.desktop .unknown-tool .newtool/config sitecustomize.py usercustomize.py json.py numpy.py
    torch/__init__.py random.pyc math.so json/__init__.pyc yaml.cpython-311.so Makefile GNUmakefile makefile
    pyproject.toml setup.py setup.cfg tox.ini noxfile.py conftest.py pytest.ini test_x.py Dockerfile
    docker-compose.yml compose.prod.yaml package.json requirements.txt uv.lock params.yaml dvc.yaml prefect.yaml
    Jenkinsfile justfile -rf --checkpoint-action=exec=sh HEAD commondir sub/train2.py sub/.flake8 sub/Makefile
    __pycache__/train.cpython-311.pyc .venv/x environment.yml evil.pth .ssh/authorized_keys .bashrc
""".split()
ANYWHERE = """
    new/.envrc new/.env new/.vscode/tasks.json new/conftest.py new/deep/test_x.py new/x_test.py new/.github/x
    new/--checkpoint=1 new/.dvc/config new/__pycache__/x.pyc new/sitecustomize.py new/HEAD
    new/lib/python3.11/site-packages/evil.pth new/node_modules/x/index.js env/lib/evil.txt
""".split()
DATA = """
    outputs/config.yaml outputs/2024/.hydra/config.yaml .hydra/config.yaml lightning_logs/version_0/hparams.yaml
    lightning_logs/version_0/events.out.tfevents.1 outputs/.ipynb_checkpoints/a.ipynb ckpt/.metadata .metadata
    ckpt/__0_0.distcp data.zarr/.zarray wandb/run-1/files/requirements.txt outputs/code/Makefile out/config.py
    out/modeling_custom.py out/.gitignore mlruns/0/meta.yaml plots/-0.5.png plots/-1/a.png head/model.pt model.json
    run.sh config.yaml metrics.json build/model.bin notes.md .best.ckpt sub/new/a.csv model.lock
    multirun/0/.submitit/1/1.pkl dvclive/dvc.yaml dvclive/params.yaml workspace/a.txt index.html
""".split()


@pytest.mark.parametrize("path", [*AMONG_YOURS, *ANYWHERE])
def test_what_would_act_by_itself_lies_beside_and_is_told(home: Home, path: str) -> None:
    home.sent = ("train.py", "sub/helper.py", "sub/data.csv")
    (home.root / "env").mkdir()
    (home.root / "env/pyvenv.cfg").touch()
    done = home.comes_home(home.entry(path), home.entry("fine.txt", "fine"))
    assert done.placed == ("fine.txt",) and done.beside == (path,)
    assert (home.root / "runs" / RUN / path).read_text() == "evil"
    (warning,) = done.warnings
    assert path in warning and "so not at their places but in " in warning and "--output" in warning


@pytest.mark.parametrize("path", DATA)
def test_what_scripts_write_as_data_comes_to_its_place(home: Home, path: str) -> None:
    home.sent = ("train.py", "sub/helper.py", "sub/data.csv")
    for text in ("first", "second"):
        assert home.comes_home(home.entry(path, text)).placed == (path,)
        assert (home.root / path).read_text() == text


def test_what_is_named_comes_to_its_place_and_the_root_is_no_name(home: Home) -> None:
    entries = [home.entry(path) for path in ("Makefile", "gen/model_pb2.py", ".envrc", "json.py")]
    assert home.comes_home(*entries, named=("Makefile", "gen", ".")).placed == ("Makefile", "gen/model_pb2.py")
    assert home.comes_home(home.entry(".git/hooks/x"), named=(".git",)).placed == ()


def test_a_folder_that_runs_made_holds_data_and_one_of_the_user_s_does_not(home: Home) -> None:
    home.comes_home(home.entry("gen/a.txt"))
    (home.root / "mine").mkdir()
    (home.root / "mine/own.py").touch()
    done = home.comes_home(home.entry("gen/code.py"), home.entry("mine/code.py"), home.entry("gen/.hidden"))
    assert done.placed == ("gen/.hidden", "gen/code.py") and done.beside == ("mine/code.py",)


def test_numbers_and_words_without_measure_keep_no_run_from_its_report(home: Home, tmp_path: Path) -> None:
    huge, fine = 10**400, home.entry("fine.txt", "fine")
    odd = [
        home.entry("late").model_copy(update={"mtime_ns": huge}),
        home.entry("early").model_copy(update={"mtime_ns": -huge}),
        home.entry("large", size=huge),
        home.entry("mode", mode=huge),
    ]
    done = home.comes_home(*odd, fine)
    assert {"late", "early", "fine.txt", "mode"} <= set(done.placed)
    told = Remainder(reason="r\n" * 5_000, kept=True, paths=("p" * 9_000,) * 999, unnamed=huge, files=huge, bytes=-huge)
    manifest = Manifest(sequence=1, at=0.0, files=(), account=(told,))
    home.mailbox.store.put(f"{home.mailbox.machine}/1/0/kept/00000001.json", manifest.to_bytes())
    found = collect(home.mailbox, 1, 1).account
    assert {one.reason for one in found} >= {STRANGE}
    assert len(str(found)) < 10_000 and all(0 <= one.bytes <= 1 << 62 and "\n" not in one.reason for one in found)


def test_an_object_that_no_store_can_have_or_that_is_gone_keeps_no_run_open(home: Home) -> None:
    fine, metrics = home.entry("fine.txt"), home.entry("metrics.json", '{"loss": 0.5}')
    no_key = fine.model_copy(update={"path": "odd.txt", "source": f"{fine.source}#123"})
    gone = metrics.model_copy(update={"shown": f"{home.mailbox.machine}/1/0/shown/nope"})
    done = home.comes_home(no_key, gone, fine)
    assert {"fine.txt", "metrics.json"} <= set(done.placed) and "odd.txt" not in done.placed


def test_a_folder_for_results_that_is_a_link_out_of_the_project_gets_none(home: Home) -> None:
    (home.root / "runs").symlink_to(home.outside)
    (home.root / "a.txt").write_text("mine")
    done = home.comes_home(home.entry("a.txt"), home.entry("fine.txt"))
    assert done.placed == ("fine.txt",) and not list(home.outside.iterdir())
    assert "a.txt cannot be brought into" in done.warnings[-1] and "--to DIR" in done.warnings[-1]
