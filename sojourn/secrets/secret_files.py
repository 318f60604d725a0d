"""Files that are secrets, by their names or by what they hold: they stay, and the script gets values by `secrets:`.

Names are those under which well-known programs keep logins, whatever their case. Contents are looked
at where a file is small: private keys, and tokens that their vendors made to be recognized. What
looks like one and is none (a key of a test) travels after a line `# no secret: PATTERN` in
`.sojournignore`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from sojourn.agent.results.patterns import Patterns
from sojourn.errors import SpecError
from sojourn.secrets.ignore_file import IGNORE_FILE, add, leave_out, root_of

ALLOW = "# no secret:"
SHOWN = 8  # of many
CONTENT_LIMIT = 256_000  # bytes; a larger file is data
REMEMBERED = 100_000  # files
SETTLED_NS = 2 * 10**9  # what was written a moment before it was read may be written to again in the same tick

_NAMES = """
.env .env.* .envrc *.env .netrc _netrc .git-credentials .pypirc
id_rsa* id_dsa* id_ecdsa* id_ed25519* *.ppk *.p12 *.pfx *.jks *.keystore *.kdb *.kdbx
kaggle.json application_default_credentials.json service?account*.json serviceaccount*.json client_secret*.json
credentials.json credentials.db access_tokens.db credentials.csv rootkey.csv *accesskeys.csv
.vault-token kubeconfig kubeconfig.y*ml .dockercfg .pgpass .my.cnf .mylogin.cnf .s3cfg .boto rclone.conf
.databrickscfg .modal.toml .htpasswd clearml.conf .clearml.conf .comet.config .cdsapirc .vast_api_key
secrets.toml secrets.y*ml secrets.json secrets.ini
*.tfstate *.tfstate.backup *.tfvars *.tfvars.json .terraformrc terraform.rc credentials.tfrc.json
.bash_history .zsh_history .sh_history .python_history .psql_history .mysql_history .sqlite_history .node_repl_history
""".split()
_PLACES = """
.aws/config .aws/credentials .aws/sso/* .aws/cli/*
.azure/* .kube/* .ssh/* .gnupg/* .oci/* .age/* .password-store/* .config/gcloud/* gcloud/legacy_credentials/*
.docker/config.json .dvc/config.local .cargo/credentials .cargo/credentials.toml .config/gh/hosts.yml gh/hosts.yml
.config/rclone/* .gem/credentials .composer/auth.json .config/hub .config/op/* .config/sops/*
.huggingface/token huggingface/token huggingface/stored_tokens .lightning/credentials.json
.kaggle/* .runpod/* .paperspace/* .lambda_cloud/* .fly/* .netlify/* .scw/* .mlflow/credentials pypoetry/auth.toml
.m2/settings.xml run/secrets/* etc/shadow etc/gshadow proc/*/environ
""".split()


def _any_of(patterns: list[str]) -> str:
    """One expression for all: a data set may have a million names to ask of."""
    return "|".join(re.escape(one).replace(r"\*", ".*").replace(r"\?", ".") for one in patterns)


_NAME = re.compile(_any_of(_NAMES))
_PLACE = re.compile(f"/(?:{_any_of(_PLACES)})$")
_NONE = re.compile(
    r".*[._-](?:example|sample|template|tmpl|tpl|dist|defaults?)(?:\.(?:json|ya?ml|toml|ini|csv|env))?|.*\.pub"
    r"|known_hosts|authorized_keys|(?:example|sample|template)[._-].*"
)
# Of these a mention is no key: they are about them.
_WORDS = frozenset(
    ".py .pyi .md .rst .ipynb .js .mjs .ts .tsx .jsx .go .rs .c .h .cc .cpp .hpp .java .kt .rb .php .sh .html .css "
    ".lua .pl .swift .scala .tf .adoc .tex .svg .diff .patch .po".split()
)
# Whatever it is called, this is data whose bytes say nothing; and a data set may hold a million of them.
_DATA = frozenset(
    ".png .jpg .jpeg .gif .webp .bmp .tif .tiff .npy .npz .pt .pth .bin .safetensors .ckpt .parquet .arrow .feather "
    ".h5 .hdf5 .wav .mp3 .flac .ogg .mp4 .avi .mkv .zip .gz .xz .bz2 .zst .tar .7z .pkl .onnx .tfrecord .so .dll "
    ".whl .pyc .ttf .woff .woff2 .pdf .tsv .tfevents".split()
)


class _Sign(NamedTuple):
    """What a content is looked through for: `marker` first, since it is found a hundred times faster."""

    what: str
    marker: bytes
    pattern: re.Pattern[bytes]


def _token(what: str, marker: str, rest: str) -> _Sign:
    return _Sign(what, marker.encode(), re.compile(rb"(?<![A-Za-z0-9_/+-])" + f"{marker}{rest}".encode()))


_SIGNS = (
    _token("an AWS access key", "AKIA", "[0-9A-Z]{16}(?![0-9A-Za-z])"),
    _token("an AWS access key", "ASIA", "[0-9A-Z]{16}(?![0-9A-Za-z])"),
    _token("a Hugging Face token", "hf_", "[A-Za-z0-9]{30,}"),
    _token("a key of OpenAI's, Anthropic's or their like", "sk-", "[A-Za-z0-9_-]{0,60}[A-Za-z0-9]{20,}"),
    _token("a Stripe key", "sk_live_", "[A-Za-z0-9]{16,}"),
    _token("a GitHub token", "ghp_", "[A-Za-z0-9]{30,}"),
    _token("a GitHub token", "gho_", "[A-Za-z0-9]{30,}"),
    _token("a GitHub token", "ghu_", "[A-Za-z0-9]{30,}"),
    _token("a GitHub token", "ghs_", "[A-Za-z0-9]{30,}"),
    _token("a GitHub token", "ghr_", "[A-Za-z0-9]{30,}"),
    _token("a GitHub token", "github_pat_", "[A-Za-z0-9_]{22,}"),
    _token("a GitLab token", "glpat-", "[A-Za-z0-9_-]{20,}"),
    _token("a Slack token", "xox", "[abeoprs]-[A-Za-z0-9-]{10,}"),
    _token("a Google API key", "AIza", "[A-Za-z0-9_-]{35}"),
    _token("a Google client secret", "GOCSPX-", "[A-Za-z0-9_-]{20,}"),
    _token("an npm token", "npm_", "[A-Za-z0-9]{36}"),
    _token("a PyPI token", "pypi-", "[A-Za-z0-9_-]{50,}"),
    _token("an NVIDIA key", "nvapi-", "[A-Za-z0-9_-]{40,}"),
    _token("a Replicate token", "r8_", "[A-Za-z0-9]{30,}"),
    _token("a DigitalOcean token", "dop_v1_", "[a-f0-9]{64}"),
    _token("a Databricks token", "dapi", "[a-f0-9]{32}"),
    _token("a Vault token", "hvs.", "[A-Za-z0-9_-]{24,}"),
    _token("a SendGrid key", "SG.", r"[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    _token("an age key", "AGE-SECRET-KEY-1", "[0-9A-Z]{20,}"),
    _Sign(
        "a secret key of AWS's",
        b"secret_access_key",
        re.compile(rb"secret_access_key[\"']?\s*[=:]\s*[\"']?[\w/+]{40}(?![\w/+])"),
    ),
    _Sign("a key of Weights & Biases'", b"api_key", re.compile(rb"(?m)^\s*api_key\s*[=:]\s*[0-9a-f]{40}\b")),
    _Sign("a login of npm's", b"_authToken", re.compile(rb"_authToken\s*=\s*(?!\$)\S{8,}")),
    _Sign("a key of Kubernetes'", b"client-key-data", re.compile(rb"client-key-data:\s*[A-Za-z0-9+/=]{20,}")),
)
_OF_JSON = (
    _Sign(
        "a service account's key",
        b"private_key",
        re.compile(rb'"private_key"\s*:\s*"(?:-----BEGIN|[^"\s]+")', re.IGNORECASE),
    ),
    _Sign("a client's secret", b"client_secret", re.compile(rb'"client_secret"\s*:\s*"[^"\s]{8,}"', re.IGNORECASE)),
    _Sign("a refresh token", b"refresh_token", re.compile(rb'"refresh_token"\s*:\s*"[^"\s]{8,}"', re.IGNORECASE)),
)
_PEM = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----", re.IGNORECASE)
# After headers, line ends as they are or as strings have them: what a key itself begins with.
_KEY = re.compile(
    rb"(?:[\s\"'+,]|\\[nr]|[A-Za-z-]{4,20}: [^\n]{0,80}\n)*([A-Za-z0-9+/=]{24,})",
)
_PLACEHOLDER = re.compile(rb"example|xxxx|\*\*\*\*|placeholder|your[_-]|dummy|0{6}|\.\.\.\.|<[a-z_ -]+>", re.IGNORECASE)
# What a text that explains writes in place of a key.
_EXPLAINED = re.compile(rb"abcdefgh|12345678|qwertyu", re.IGNORECASE)
_EXPLAINS = frozenset(".md .rst .adoc .tex".split())


class _Secret(NamedTuple):
    path: str
    shown: str  # with where it really lies
    why: str


class SecretError(SpecError):
    """Files that look like secrets were about to travel."""

    def __init__(self, found: Sequence[_Secret], root: Path) -> None:
        paths = [one.path for one in found]
        keep, allow = leave_out(paths, root), add((f"{ALLOW} /{path}" for path in paths), root)
        it, none = ("it", "it is none") if len(found) == 1 else ("them", "they are none")
        super().__init__(
            _told(found),
            hint=f"keep {it} here: {keep}   (the script gets values by  secrets: [NAME]); or, if {none}: {allow}",
        )
        self.found = tuple(found)
        self.root = root


def _told(found: Sequence[_Secret]) -> str:
    if len(found) == 1:
        return f"{found[0].shown}: looks like a secret, {found[0].why}, and secrets do not travel"
    told = "; ".join(f"{one.shown}, {one.why}" for one in found[:SHOWN])
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} files look like secrets, and secrets do not travel: {told}{more}"


T = TypeVar("T")


@contextmanager
def all_secrets() -> Iterator[Callable[[Callable[[], T]], T | None]]:
    """Look at many files; those that look like secrets are refused together, at the end."""
    refused: list[SecretError] = []

    def look(at: Callable[[], T]) -> T | None:
        try:
            return at()
        except SecretError as error:
            refused.append(error)
            return None

    yield look
    if refused:
        raise SecretError([one for error in refused for one in error.found], refused[0].root)


def refuse_secret(path: str, file: Path, real: str | None = None) -> None:
    """Raise SecretError for a file that is one by its name, its place or its content; `real` is where it lies."""
    why = why_secret(path, file) or (why_secret(real.lstrip("/"), Path(real)) if real else None)
    if why is not None and not _is_allowed(path, file):
        raise SecretError([_Secret(path, f"{path} ({real})" if real else path, why)], root_of(path, file))


def is_secret(path: str, file: Path, contents: bool = True) -> bool:
    """Whether a file is a secret by its name or place, or by its `contents`."""
    why = why_secret(path, file) if contents else by_name(path)
    return why is not None and not _is_allowed(path, file)


def why_secret(path: str, file: Path) -> str | None:
    """What makes it one, in words that follow "looks like a secret"; None where nothing does."""
    return by_name(path) or (None if file.is_symlink() else _by_content(file))


def by_name(path: str) -> str | None:
    """The same, by its name and place alone."""
    whole = "/" + path.lower()
    name = PurePosixPath(whole).name
    if _NONE.fullmatch(name):
        return None
    if _NAME.fullmatch(name):
        return "by its name"
    return "by its place" if _PLACE.search(whole) else None


def in_content(path: str, body: bytes) -> str | None:
    """The same, by what it holds, and in which line."""
    suffix = PurePosixPath(path.lower()).suffix
    found = _private_key(body, told_of=suffix in _WORDS)
    if found is None:
        signs = _SIGNS if suffix in _WORDS else (*_SIGNS, *_OF_JSON)
        explains = suffix in _EXPLAINS
        found = next((hit for sign in signs if (hit := _sign(sign, body, explains)) is not None), None)
    if found is None:
        return None
    what, at = found
    line = body[:at].count(b"\n") + 1
    return f"as it holds {what} in line {line}"


def holds(text: str) -> str | None:
    """What of a text is a key or a token, in words; None where nothing is."""
    body = text.encode("utf-8", "replace")
    found = _private_key(body, told_of=True) or next((hit for one in _SIGNS if (hit := _sign(one, body))), None)
    return found[0] if found else None


def _by_content(file: Path) -> str | None:
    if file.suffix.lower() in _DATA:
        return None
    try:
        state = _State.of(file.name, os.stat(file))
        if state in _clean:
            return None
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as opened:
            state = _State.of(file.name, os.fstat(opened.fileno()))
            if state.size > CONTENT_LIMIT:
                return None
            body = opened.read(CONTENT_LIMIT)
    except OSError:
        return None  # a pipe, a folder, or one that is refused for itself
    found = None if b"\0" in body[:1000] else in_content(file.name, body)
    if found is None and state.changed_ns < time.time_ns() - SETTLED_NS:
        if len(_clean) >= REMEMBERED:
            _clean.clear()
        _clean.add(state)
    return found


class _State(NamedTuple):
    """What a file was when it was read: one that is written to later, by whatever way, is another."""

    name: str  # its ending says what it is looked through for
    device: int
    inode: int
    size: int
    written_ns: int
    changed_ns: int

    @classmethod
    def of(cls, name: str, told: os.stat_result) -> _State:
        return cls(name, told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)


_clean: set[_State] = set()  # files that were looked through and held nothing: a plan, and then its bundle, look


def looked_through() -> set[_State]:
    """What this process has looked through and found to be no secret, for `trust` in another one of ours."""
    return _clean


def trust(clean: set[_State]) -> None:
    """What another process of ours has looked through need not be looked through again."""
    _clean.update(clean)


def _private_key(body: bytes, told_of: bool) -> tuple[str, int] | None:
    """A private key; where a text may be `told_of` them, only one with its letters behind the marker."""
    if b"-----" not in body or (b"PRIVATE KEY" not in body and b"private key" not in body.lower()):
        return None
    for begin in _PEM.finditer(body):
        key = _KEY.match(body, begin.end(), begin.end() + 2000)
        shown = key[1] if key is not None else body[begin.end() : begin.end() + 60]
        if (key is not None or not told_of) and not _PLACEHOLDER.search(shown):
            return "a private key", begin.start()
    return None


def _sign(sign: _Sign, body: bytes, explains: bool = False) -> tuple[str, int] | None:
    if sign.marker not in body:
        return None
    for hit in sign.pattern.finditer(body):
        if not _PLACEHOLDER.search(hit[0]) and not (explains and _EXPLAINED.search(hit[0])):
            return sign.what, hit.start()
    return None


# --- what is none ---------------------------------------------------------------------------


def _is_allowed(path: str, file: Path) -> bool:
    list_file = root_of(path, file) / IGNORE_FILE
    try:
        told = list_file.stat()
    except OSError:
        return False
    return _allowed(str(list_file), told.st_mtime_ns, told.st_size).match(path)


@lru_cache(maxsize=8)
def _allowed(file: str, _written: int, _size: int) -> Patterns:
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return Patterns(line.removeprefix(ALLOW).strip() for line in lines if line.startswith(ALLOW))
