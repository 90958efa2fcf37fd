"""Every variable, command and path that infra and its documents name exists in the product."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from tests.infra.commands import PROGRAMS, require_command

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy.md"
FILES = sorted(path for path in (ROOT / "infra").rglob("*") if path.is_file() and not path.is_symlink())
TEXTS = [*FILES, DEPLOY]
PAGES = [path for path in TEXTS if path.suffix == ".md"]
VARIABLE = re.compile(r"(?<![\w/.-])(?:CPLLM|DAGSTER|RAY|AWS|HF|NVIDIA|POSTGRES)_[A-Z0-9_]*[A-Z0-9]\b")
#: Filled in by compose itself, and read by nothing in a container.
OF_COMPOSE = {"CPLLM_IMAGE", "CPLLM_WORKER_CPUS"}
#: Of the images of others: PostgreSQL's, and NVIDIA's container runtime.
OF_IMAGES = {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "NVIDIA_VISIBLE_DEVICES",
             "NVIDIA_DRIVER_CAPABILITIES"}  # fmt: skip


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def variables_of_the_product() -> set[str]:
    """What definitions.py reads, what our YAML files ask Dagster to read, and what boto3, Ray and the hub know."""
    import huggingface_hub.constants
    import ray
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
    from botocore.credentials import EnvProvider

    found = {"DAGSTER_HOME"}
    found |= set(VARIABLE.findall((ROOT / "cpllm_dagster" / "definitions.py").read_text()))
    for path in (ROOT / "infra" / "dagster").glob("*.yaml"):
        found |= set(re.findall(r"^ *env: (\w+)$", path.read_text(), re.MULTILINE))
    found |= {str(given) for _, given, _, _ in BOTOCORE_DEFAUT_SESSION_VARIABLES.values()}
    found |= {EnvProvider.ACCESS_KEY, EnvProvider.SECRET_KEY, *EnvProvider.TOKENS}
    found |= set(VARIABLE.findall(Path(huggingface_hub.constants.__file__).read_text()))
    home = Path(ray.__file__).parent
    for source in ("_private/authentication_test_utils.py", "_common/usage/usage_constants.py"):
        found |= set(VARIABLE.findall((home / source).read_text()))
    return found


def test_every_variable_is_read_by_the_product() -> None:
    known = variables_of_the_product()
    assert {"CPLLM_CATALOG_URI", "CPLLM_LAKE_URI", "RAY_AUTH_TOKEN", "AWS_ACCESS_KEY_ID"} <= known
    unknown = {
        f"{name(path)}: {variable}"
        for path in TEXTS
        for variable in VARIABLE.findall(path.read_text())
        if variable not in known | OF_COMPOSE | OF_IMAGES
    }
    assert not unknown


def test_a_container_gets_no_variable_of_compose() -> None:
    services = yaml.safe_load((ROOT / "infra" / "compose" / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert not OF_COMPOSE & set(service.get("environment", {}))


def shown_commands(page: Path) -> list[list[str]]:
    """The commands in a page's shell blocks and between backticks; pipes and && part them."""
    found = []
    fence = r"```(?:sh|console)?\n(.*?)```"
    text = page.read_text()
    spoken = [span for span in re.findall(r"`([^`\n]+)`", re.sub(fence, "", text, flags=re.DOTALL)) if " " in span]
    for block in [*re.findall(fence, text, re.DOTALL), *(span for span in spoken if span.split()[0] in PROGRAMS)]:
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||[|;&]", line.split(" #")[0]):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"\w+=.*", words[0]):
                    words.pop(0)
                if words:
                    found.append(words)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_pages_are_understood(page: Path) -> None:
    for words in shown_commands(page):
        if words[0] in PROGRAMS:
            require_command(words)


def test_pages_do_show_commands() -> None:
    shown = {words[0] for page in PAGES for words in shown_commands(page)}
    assert {"cpllm", "dagster", "docker"} <= shown


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_paths_of_the_repository_are_there(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"(?<![\w/.-])(?:infra|docs|cpllm_dagster|cpllm_model|benchmarks)/[\w./*-]*\w", text)
    missing = {given for given in named if not list(ROOT.glob(given))}
    if path.suffix == ".md":
        links = (link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link)
        missing |= {link for link in links if link and not (path.parent / link).exists()}
    assert not missing


@pytest.mark.parametrize("folder", ["docker", "compose", "kuberay", "terraform", "systemd", "dagster"])
def test_each_way_says_how_it_starts_and_ends(folder: str) -> None:
    page = (ROOT / "infra" / folder / "README.md").read_text()
    wanted = ("## Start", "## Upgrade", "## Take down") if folder != "docker" else ("## Build",)
    assert all(heading in page for heading in wanted)
