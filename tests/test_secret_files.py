"""What is a secret by its name, its place or what it holds stays, in whatever way it would travel."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from sojourn.errors import SpecError
from sojourn.project import history
from sojourn.project.bundle import survey
from sojourn.project.inputs import InputTree
from sojourn.project.project import Project
from sojourn.secrets.secret_files import by_name, why_secret

NAMES = """
    .env .env.local .ENV prod.env secrets.env .envrc .netrc _netrc .git-credentials .pypirc id_rsa id_rsa.bak id_rsa.old
    ID_ED25519 a.ppk a.p12 a.PFX a.jks a.keystore a.kdbx kaggle.json service_account.json service-account-1.json
    serviceAccountKey.json client_secret_123.apps.googleusercontent.com.json credentials.json rootkey.csv accessKeys.csv
    me_accessKeys.csv credentials.csv .vault-token kubeconfig kubeconfig.yaml .dockercfg .pgpass .my.cnf .s3cfg .boto
    rclone.conf .databrickscfg .modal.toml secrets.toml secrets.yaml secrets.yml secrets.json .streamlit/secrets.toml
    terraform.tfstate terraform.tfstate.backup terraform.tfvars .terraformrc .bash_history .python_history
    .aws/config .aws/credentials .aws/sso/cache/1.json .aws/cli/cache/1.json .config/gcloud/credentials.db
    .config/gcloud/access_tokens.db .config/gcloud/legacy_credentials/me/adc.json .azure/accessTokens.json .kube/config
    home/.docker/config.json .dvc/config.local .cargo/credentials.toml .config/gh/hosts.yml .huggingface/token
    .kaggle/anything .runpod/config.toml .lambda_cloud/lambda_keys .config/pypoetry/auth.toml .htpasswd clearml.conf
    .cache/huggingface/token .age/key.txt .ssh/deploy .gnupg/private-keys-v1.d/1.key
""".split()
HARMLESS = """
    environment.py env.yaml environment.yml credentials.py secrets.py config.json keys.txt key.py token.py
    tokenizer.json tokens.txt history.csv history.json history.py settings.json configs/prod.yaml .env.example
    .env.sample .env.prod.example example.env terraform.tfvars.example secrets.example.yaml
    secrets.yaml.template id_rsa.pub .ssh/known_hosts .ssh/authorized_keys private.py data/train.json
    accounts.csv hosts.yml docker/config.json config/settings boto.py
""".split()
LETTERS = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
BEGIN, END = "-----BEGIN {} KEY-----", "-----END {} KEY-----"


def pem(kind: str = "PRIVATE") -> str:
    """A key, which this file does not hold itself."""
    return "\n".join([BEGIN.format(kind), LETTERS, END.format(kind)])


CONTENTS = {
    "wandb/settings": "[default]\napi_key = " + "0a1b2c3d4e" * 4,
    "key": pem(),
    "KEY.PEM": pem("RSA PRIVATE"),
    "server.key": pem("EC PRIVATE"),
    "bag.pem": f"Bag Attributes\n    localKeyID: 54\nKey Attributes: <No Attributes>\n{pem('ENCRYPTED PRIVATE')}",
    "combined.pem": f"{pem('CERTIFICATE')}\n{pem()}",
    "commented.pem": f"# the key of production, {'do not lose ' * 20}\n{pem()}",
    "private.asc": f"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2\n\n{LETTERS}\n",
    "old.pem": f"{BEGIN.format('RSA PRIVATE')}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A\n\n{LETTERS}\n",
    "in_code.py": f'KEY = """{pem()}"""',
    "in_one_line.py": f"KEY = '{pem()}'".replace("\n", "\\n"),
    "readme.md": f"Use this:\n\n    {pem()}\n".replace("\n", "\n    "),
    "small.txt": pem().lower().replace(LETTERS.lower(), LETTERS),
    "project-0a1b2c.json": '{"type": "service_account", "private_key": "x"}',
    "gcp-key.json": f'{{"private_key":"{pem()}"}}'.replace("\n", "\\n"),
    "oauth.json": '{"client_secret": "' + "Zx9" * 6 + '"}',
    "token.json": '{"token": "ya29", "refresh_token": "1//' + "0gXy" * 8 + '"}',
    "admin.conf": "users:\n- user:\n    client-key-data: " + LETTERS,
    ".npmrc": "//registry.npmjs.org/:_authToken=" + "a1B2c3D4" * 4,
    "key.txt": "AGE-SECRET-KEY-1" + "QZ7" * 19,
    "config.yaml": "hf: hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
    "train.py": "openai.api_key = 'sk-" + "T3BlbkFJ1a2b3c4d5e6f7g8h9i'",
    "anthropic.py": "key = 'sk-ant-api03-" + "R2D2c3p0R2D2c3p0R2D2c3p0-x'",
    "aws.ini": "id = AKIA" + "J5TQ7ZKW3MNPLV2X",
    "conf.ini": "aws_secret_access_key = " + "wJalrXUtnFEMIK7MDENGbPxRfiCYzQwErTyUiOp1",
    "ci.yml": "token: ghp_" + "aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2",
    "pat.toml": "t = 'github_pat_" + "11ABCDEFG0aBcDeFgHiJkL_mNoPqRsT'",
    "slack.json": '{"bot": "xoxb-' + '123456789012-abcDEF123456"}',
    "gitlab.sh": "export T=glpat-" + "aB1cD2eF3gH4iJ5kL6mN",
    "maps.js": "key: 'AIza" + "SyA1bC2dE3fG4hI5jK6lM7nO8pQ9rS0tU1v'",
    "notebook.ipynb": '{"source": ["login(\\"hf_' + 'aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH\\")"]}',
}
MENTIONS = {
    "names.py": 'if b"-----BEGIN PRIVATE KEY-----" in body or "private_key" in told: raise ValueError',
    "keys.md": "A file that holds `-----BEGIN RSA PRIVATE KEY-----` is a key; tokens begin with hf_, sk-, AKIA.",
    "example.py": "AWS_ACCESS_KEY_ID = 'AKIAIOSFODNN7EXAMPLE'; TOKEN = 'hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
    "template.pem": "-----BEGIN PRIVATE KEY-----\n<your key>\n-----END PRIVATE KEY-----",
    "public.pem": "-----BEGIN PUBLIC KEY-----\n" + LETTERS + "\n-----END PUBLIC KEY-----",
    "chain.pem": "-----BEGIN CERTIFICATE-----\n" + LETTERS + "\n-----END CERTIFICATE-----",
    "schema.json": '{"properties": {"private_key": {"type": "string"}, "client_secret": {"type": "string"}}}',
    "style.css": ".sk-estimator-doc-link { } .sk-toggleable__label-arrow:before { }",
    "vocab.txt": "hf_\nsk-\nakia\nghp_\nxox\n",
    ".npmrc": "//registry.npmjs.org/:_authToken=${NPM_TOKEN}\nsave-exact=true",
    "lock.txt": "numpy==1.0 --hash=sha256:" + "0a1b2c3d" * 8,
    "image.bin": "\0" + pem(),
    "i18n.json": '{"private_key": "Private key", "client_secret": "The client\'s secret"}',
    "setup.md": "export OPENAI_API_KEY=sk-" + "abcdefghijklmnopqrstuvwxyz123456",
    "wandb/settings": "[default]\nmode = offline\nentity = ada\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def write(tree: Path, name: str, text: str = "x") -> Path:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_well_known_names_are_secrets_whatever_they_hold_and_wherever_they_lie(name: str) -> None:
    for path in (name, f"deep/er/{name}", name.upper() if "/" not in name else name):
        assert by_name(path), path


@pytest.mark.parametrize("name", HARMLESS)
def test_names_that_only_sound_like_it_travel(tree: Path, name: str) -> None:
    assert why_secret(name, write(tree, name)) is None


@pytest.mark.parametrize("name", CONTENTS)
def test_what_holds_a_key_is_a_secret_under_any_name_in_bundle_and_inputs(tree: Path, name: str) -> None:
    write(tree, f"data/{name}", CONTENTS[name])
    with pytest.raises(SpecError, match="looks like a secret, (as it holds|by its name)") as caught:
        survey(Project.at(tree))
    assert f"data/{name}" in caught.value.message and "# no secret:" in str(caught.value.hint)
    with pytest.raises(SpecError, match="looks like a secret"):
        InputTree(Project.at(tree), ["data"])


@pytest.mark.parametrize("name", MENTIONS)
def test_what_only_speaks_of_keys_travels(tree: Path, name: str) -> None:
    assert why_secret(name, write(tree, name, MENTIONS[name])) is None


def test_all_of_them_are_refused_at_once_and_the_lines_work_where_they_are_shown(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("prod.env", "it's a key.pem", "sub/deep/id_rsa"):
        write(tree, name, pem())
    monkeypatch.chdir(tree / "sub" / "deep")
    for which in (0, 1):
        with pytest.raises(SpecError, match="3 files look like secrets") as caught:
            survey(Project.at(tree))
        line = re.findall(r"printf .*? >> \S+", str(caught.value.hint))[which]
        subprocess.run(["sh", "-c", line], check=True)
        assert {found.path for found in survey(Project.at(tree)).files} >= ({"prod.env"} if which else set())
        (tree / ".sojournignore").unlink()


def test_the_line_is_named(tree: Path) -> None:
    write(tree, "a.py", "\n\nkey = 'ghp_" + "aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2'\n")
    with pytest.raises(SpecError, match=r"a\.py: looks like a secret, as it holds a GitHub token in line 3, and"):
        survey(Project.at(tree))


def test_what_is_none_travels_after_a_line_that_says_so(tree: Path) -> None:
    write(tree, "tests/fixtures/server.key", pem())
    write(tree, "tests/.env")
    write(tree, ".sojournignore", "# no secret: /tests/fixtures/*.key\n# no secret: tests/.env\n*.tmp\n")
    sent = {file.path for file in survey(Project.at(tree)).files}
    assert {"tests/fixtures/server.key", "tests/.env"} <= sent
    assert {"tests/fixtures/server.key", "tests/.env"} == InputTree(Project.at(tree), ["tests"]).files.keys()
    write(tree, "server.key", pem())
    with pytest.raises(SpecError, match=r"^server\.key: looks like a secret"):
        survey(Project.at(tree))


@pytest.mark.parametrize("line", ["!/server.key", "!*", "#server.key", "# no secret", "# no secret: other.key"])
def test_no_other_line_lets_a_secret_travel(tree: Path, line: str) -> None:
    write(tree, "server.key", pem())
    write(tree, ".sojournignore", line + "\n")
    with pytest.raises(SpecError, match="looks like a secret"):
        survey(Project.at(tree))


@pytest.mark.parametrize("target", [".aws/credentials", ".ssh/id_deploy", ".netrc", "mine.pem"])
def test_a_link_out_of_the_project_to_a_secret_is_refused_as_an_input(tree: Path, tmp_path: Path, target: str) -> None:
    write(tmp_path, f"home/{target}", pem() if target.endswith("pem") else "x")
    (tree / "data").mkdir()
    for link, there in ((tree / "data/harmless.txt", target), (tree / "data/folder", os.path.dirname(target) or ".")):
        link.symlink_to(tmp_path / "home" / there)
        with pytest.raises(SpecError, match="looks like a secret"):
            InputTree(Project.at(tree), ["data"])
        link.unlink()


def test_a_link_out_of_the_project_to_data_is_followed(tree: Path, tmp_path: Path) -> None:
    write(tmp_path, "nas/train/a.txt")
    (tree / "data").symlink_to(tmp_path / "nas")
    assert InputTree(Project.at(tree), ["data"]).files.keys() == {"data/train/a.txt"}


def test_a_secret_of_the_commit_does_not_travel_in_its_history(tree: Path, tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    token = "ghp_" + "aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2"
    write(tree, ".env", "PASSWORD=committed by mistake")
    write(tree, "train.py", f"token = '{token}'")
    write(tree, "lib.py", "old content of a file that changed")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=tree, check=True)
    (tree / ".env").unlink()
    write(tree, "train.py", "token = os.environ['TOKEN']")
    write(tree, "lib.py", "new content")

    packed = history.pack(Project.at(tree))

    assert packed is not None
    (tmp_path / "there.tar").write_bytes(packed)
    subprocess.run(["tar", "-xf", tmp_path / "there.tar"], cwd=tmp_path, check=True)
    shown = ["git", "--git-dir", str(tmp_path / ".git"), "show"]
    there = {
        name: subprocess.run([*shown, f"HEAD:{name}"], capture_output=True) for name in (".env", "train.py", "lib.py")
    }
    assert there["lib.py"].stdout == b"old content of a file that changed"
    assert b"committed by mistake" not in there[".env"].stdout and token.encode() not in there["train.py"].stdout


def test_of_libraries_sources_hardly_any_is_taken_for_a_secret() -> None:
    site = Path(sysconfig.get_path("purelib"))
    found = []
    for package in ("prefect/client", "pydantic", "httpx", "dvc", "obstore", "_pytest", "rich", "cryptography"):
        files = [file for file in (site / package).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        found += [(str(file), why) for file in files if (why := why_secret(file.relative_to(site).as_posix(), file))]
    assert found == []


def test_of_this_repository_nothing_is() -> None:
    root = Path(__file__).parent.parent
    assert survey(Project.at(root)).files
