"""Alerts arrive at a real web server and a real mail server, name what happened, and hold no secret."""

from __future__ import annotations

import email
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import dagster as dg
import pytest

from cpllm_dagster.alerts import Alerts, alert_sensors
from cpllm_dagster.partitions import LIBRARIES
from cpllm_model.errors import ConfigurationError, LakeError

_Server = TypeVar("_Server", bound=socketserver.BaseServer)
HOSTILE = "<!channel> & \x1b[31m\nSubject: forged"


class WebServer(ThreadingHTTPServer):
    """Keeps what is posted to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.posted: list[dict[str, Any]] = []
        self.status = 200


class _Post(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, WebServer) and self.headers["Content-Type"] == "application/json"
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mail as RFC 5321 has it, without TLS."""

    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Mail)
        self.received: list[Message] = []
        self.commands: list[str] = []


class _Mail(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, MailServer)
        self.say("220 ready")
        while line := self.rfile.readline().decode().rstrip("\r\n"):
            self.server.commands.append(line)
            verb = line.split(" ")[0].upper()
            if verb == "DATA":
                self.say("354 go on")
                lines = []
                while (data := self.rfile.readline()) != b".\r\n":
                    lines.append(data)
                self.server.received.append(email.message_from_bytes(b"".join(lines)))
            self.say("221 bye" if verb == "QUIT" else "250 localhost")
            if verb == "QUIT":
                return

    def say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def serving(server: _Server) -> Iterator[_Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def web() -> Iterator[WebServer]:
    with serving(WebServer()) as server:
        yield server


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with serving(MailServer()) as server:
        yield server


@pytest.fixture
def alerts(web: WebServer, mail: MailServer) -> Alerts:
    return Alerts(
        webhook=f"http://127.0.0.1:{web.server_address[1]}/services/SECRET",
        mail_to=("night@example.com", "team@example.com"),
        mail_from="cpllm@example.com",
        smtp=f"smtp://127.0.0.1:{mail.server_address[1]}",
        ui="http://dagster.example.com/",
    )


def test_an_alert_arrives_by_both_ways(alerts: Alerts, web: WebServer, mail: MailServer) -> None:
    alerts.send(f"Failed: {HOSTILE}", [HOSTILE, "second"], "run-1")
    (posted,) = web.posted
    assert posted["mrkdwn"] is False
    assert posted["text"].splitlines() == [
        r"Failed: &lt;!channel&gt; &amp; \x1b[31m\nSubject: forged",
        r"&lt;!channel&gt; &amp; \x1b[31m\nSubject: forged",
        "second",
        "http://dagster.example.com/runs/run-1",
    ]
    (message,) = mail.received
    assert message["To"] == "night@example.com, team@example.com" and message["From"] == "cpllm@example.com"
    assert message.get_all("Subject") == [r"Failed: <!channel> & \x1b[31m\nSubject: forged"]
    content = message.get_payload(decode=True)
    assert isinstance(content, bytes) and "http://dagster.example.com/runs/run-1" in content.decode()
    assert [line for line in mail.commands if line.upper().startswith("RCPT")] == [
        "rcpt TO:<night@example.com>", "rcpt TO:<team@example.com>",
    ]  # fmt: skip


def test_one_way_that_fails_keeps_no_other_from_its_alert(alerts: Alerts, web: WebServer, mail: MailServer) -> None:
    web.status = 500
    with pytest.raises(ConfigurationError, match=r"'x' was not delivered by webhook \(HTTPError 500\)$") as raised:
        alerts.send("x", [])
    assert "SECRET" not in str(raised.value) and len(mail.received) == 1


def test_a_password_is_not_sent_in_the_clear(mail: MailServer) -> None:
    address = f"smtp://user:hunter2@127.0.0.1:{mail.server_address[1]}"
    alerts = Alerts(mail_to=("a@b.de",), smtp=address)
    with pytest.raises(ConfigurationError, match=r"mail \(SMTPNotSupportedError\)") as raised:
        alerts.send("x", [])
    assert "hunter2" not in str(raised.value) + repr(alerts) + "".join(mail.commands) and not mail.received


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"webhook": "ftp://host/SECRET"}, "not an http"),
        ({"mail_to": ("a@b\nBcc: c@d",)}, "is not a mail address"),
        ({"smtp": "http://SECRET"}, "mail server"),
        ({"smtp": "smtp://host:notaport"}, "mail server"),
    ],
)
def test_a_wrong_address_is_told_at_once(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        Alerts(**given)
    assert "SECRET" not in str(raised.value)


def test_without_an_address_there_is_no_sensor() -> None:
    assert alert_sensors(Alerts()) == []


@dg.asset(partitions_def=LIBRARIES)
def scores() -> None:
    """Stands for a library's table."""


@dg.asset_check(asset=scores)
def failure_rate() -> dg.AssetCheckResult:
    """Fails."""
    return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="films: too many failed")


@dg.asset(partitions_def=LIBRARIES)
def broken() -> None:
    """Fails."""
    raise LakeError("s3://lake/: access is denied for these credentials")


@dg.asset
def promoted_model() -> dg.MaterializeResult:
    """Stands for the promoted model."""
    return dg.MaterializeResult(metadata={"candidate": "tiny-2", "incumbent": "tiny-1"})


def told(alerts: Alerts, asset: dg.AssetsDefinition, partition: str | None, **tags: str) -> str | None:
    """Run an asset, and let the sensor look at the run; gives why it said nothing, if it did."""
    checks = [failure_rate] if asset is scores else []
    failed, ended = alert_sensors(alerts)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("libraries", ["a%20b"])
        result = dg.materialize(
            [asset, *checks], instance=instance, partition_key=partition, tags=tags, raise_on_error=False
        )
        event = result.get_run_success_event() if result.success else result.get_run_failure_event()
        context = dg.build_run_status_sensor_context(
            sensor_name="alerts", dagster_event=event, dagster_instance=instance, dagster_run=result.dagster_run
        )
        sensor: Any = ended if result.success else failed
        skipped = sensor(context if result.success else context.for_run_failure())
        return skipped.skip_message if skipped is not None else None


def test_a_failed_check_is_an_alert(alerts: Alerts, web: WebServer, mail: MailServer) -> None:
    assert told(alerts, scores, "a%20b") is None
    subject, line, link = web.posted[0]["text"].splitlines()
    assert subject.startswith("Failed checks: ") and subject.endswith(" of a b")
    assert line == "WARN: failure_rate of scores: films: too many failed"
    assert link.startswith("http://dagster.example.com/runs/") and len(mail.received) == 1


def test_a_failed_run_is_an_alert_with_its_sentence(alerts: Alerts, web: WebServer) -> None:
    assert told(alerts, broken, "a%20b") is None
    subject, line, _ = web.posted[0]["text"].splitlines()
    assert subject.startswith("Failed: ") and subject.endswith(" of a b")
    assert line.startswith("broken: ") and line.endswith("s3://lake/: access is denied for these credentials")


def test_a_run_that_is_started_again_is_none(alerts: Alerts, web: WebServer) -> None:
    assert "is started again" in (told(alerts, broken, "a%20b", **{"dagster/will_retry": "true"}) or "")
    assert not web.posted


def test_a_promoted_model_is_an_alert(alerts: Alerts, web: WebServer) -> None:
    assert told(alerts, promoted_model, None) is None
    assert web.posted[0]["text"].splitlines()[:2] == ["A model was promoted", "tiny-2 replaces tiny-1"]
