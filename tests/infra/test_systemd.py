"""The units: understood by systemd where it is there, and by the programs that they start."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.infra.commands import BIN, options_of, require_command

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))


def unit(path: Path) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    found.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    found.read(path)
    return found


def test_there_is_a_unit_for_each_process() -> None:
    assert [path.stem for path in UNITS] == ["cpllm-code", "cpllm-daemon", "cpllm-metrics", "cpllm-webserver"]
    wanted = unit(FOLDER / "cpllm.target")["Unit"]["Wants"].split()
    assert sorted(wanted) == [path.name for path in UNITS]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_the_command_is_understood_and_runs_with_few_rights(path: Path) -> None:
    service = unit(path)["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program.startswith("/opt/cpllm/bin/")
    words = [program.removeprefix("/opt/cpllm/bin/"), *arguments]
    require_command(words)
    assert options_of(words).get("host", "127.0.0.1") == "127.0.0.1"
    assert service["User"] == "cpllm" and service["NoNewPrivileges"] == "true" and not service["CapabilityBoundingSet"]
    assert service["ProtectSystem"] == "strict" and service["PrivateTmp"] == "true"
    assert service["Restart"] == "on-failure"
    assert service["EnvironmentFile"] == "/etc/cpllm/cpllm.env"


def test_what_the_units_name_is_what_the_page_puts_there() -> None:
    page = (FOLDER / "README.md").read_text()
    assert "infra/cpllm.env.example /etc/cpllm/cpllm.env" in page
    for path in UNITS:
        options = options_of(shlex.split(unit(path)["Service"]["ExecStart"]))
        if workspace := options.get("workspace"):
            assert f"--target-directory {Path(workspace).parent} infra/dagster/{Path(workspace).name}" in page
    code = shlex.split(unit(FOLDER / "cpllm-code.service")["Service"]["ExecStart"])
    given = (FOLDER / "cpllm-daemon.service").read_text()
    assert f"DAGSTER_CODE_PORT={options_of(code)['port']}" in given


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_knows_every_line(path: Path, tmp_path: Path) -> None:
    text = path.read_text().replace("/opt/cpllm/bin/", f"{BIN}/").replace("User=cpllm\n", "")
    (tmp_path / path.name).write_text(text)
    (tmp_path / "cpllm.target").write_text((FOLDER / "cpllm.target").read_text())
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / path.name)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert path.name not in found.stderr, found.stderr
