"""Alerts: a run that failed, a check that failed, a model that was promoted, sent to a webhook and by mail.

In: where alerts go; Dagster's runs as they end. Out: a POST of Slack-shaped JSON, a mail. Addresses and passwords stay
in this process: they are in no run config and in no message. Without an address there are no sensors.
"""

from __future__ import annotations

import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit

import dagster as dg

from cpllm_dagster.assets.training import promoted_model
from cpllm_dagster.report.tables import plain, printable
from cpllm_model.errors import ConfigurationError

TIMEOUT_S = 10.0
#: Checks of one run that are named in one alert.
MOST_NAMED = 10
#: Characters of a line at most; sentences are shorter.
LONGEST_LINE = 1000
#: Dagster's mark of a failed run that is about to be started again.
_WILL_RETRY = "dagster/will_retry"


@dataclass(frozen=True)
class Alerts:
    """Where alerts go.

    Args:
        webhook: http(s) address that takes Slack-shaped JSON; it is a secret.
        mail_to: addresses of mail.
        mail_from: the sender's address.
        smtp: `smtp://host:port` or `smtps://host:port`, with `user:password@` where the server asks for it.
        ui: address of Dagster's web server, for links to runs.
    """

    webhook: str | None = field(default=None, repr=False)
    mail_to: tuple[str, ...] = ()
    mail_from: str = "cpllm@localhost"
    smtp: str = field(default="smtp://localhost:25", repr=False)
    ui: str | None = None

    def __post_init__(self) -> None:
        """Refuse addresses that cannot be used; an error names none of them."""
        if self.webhook is not None and urlsplit(self.webhook).scheme not in ("http", "https"):
            raise ConfigurationError("the webhook for alerts is not an http(s) address")
        for address in (*self.mail_to, self.mail_from):
            if address.count("@") != 1 or not address.isprintable() or set(address) & set(" ,;<>"):
                raise ConfigurationError(f"{address!r} is not a mail address")
        try:
            server = urlsplit(self.smtp)
            if server.scheme not in ("smtp", "smtps") or not server.hostname or server.port == 0:
                raise ValueError
        except ValueError:
            raise ConfigurationError("the mail server is not given as smtp://host:port or smtps://host:port") from None

    @property
    def wanted(self) -> bool:
        """Whether alerts go anywhere."""
        return bool(self.webhook or self.mail_to)

    def send(self, subject: str, lines: list[str], run_id: str | None = None) -> None:
        """Send an alert to all addresses, also if one of them cannot be reached.

        Args:
            subject: one line.
            lines: what happened; any text.
            run_id: the run that it is about.

        Raises:
            ConfigurationError: an address could not be reached; it is not named.
        """
        lines = [
            *(printable(line)[:LONGEST_LINE] for line in lines),
            *([f"{self.ui.rstrip('/')}/runs/{run_id}"] if self.ui and run_id else []),
        ]
        failed = []
        for what, deliver in (("webhook", self._post), ("mail", self._mail)):
            try:
                deliver(plain(subject), lines)
            except (OSError, smtplib.SMTPException, ValueError) as error:
                # The error's own text may hold the address.
                status = f" {error.code}" if isinstance(error, urllib.error.HTTPError) else ""
                failed.append(f"{what} ({type(error).__name__}{status})")
        if failed:
            raise ConfigurationError(f"the alert {plain(subject)!r} was not delivered by {' and '.join(failed)}")

    def _post(self, subject: str, lines: list[str]) -> None:
        if self.webhook is None:
            return
        text = "\n".join(map(_slack, [subject, *lines]))
        body = json.dumps({"text": text, "mrkdwn": False}).encode()
        request = urllib.request.Request(self.webhook, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 # http(s), which __post_init__ sees to
            pass

    def _mail(self, subject: str, lines: list[str]) -> None:
        if not self.mail_to:
            return
        message = EmailMessage()
        message["Subject"], message["From"], message["To"] = subject, self.mail_from, ", ".join(self.mail_to)
        message.set_content("\n".join(lines) + "\n")
        with self._server() as server:
            server.send_message(message)

    @contextmanager
    def _server(self) -> Iterator[smtplib.SMTP]:
        """Connect to the mail server, encrypted where it can be; a password is only sent over TLS."""
        given, context = urlsplit(self.smtp), ssl.create_default_context()
        host = given.hostname or ""
        if given.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, given.port or 465, timeout=TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(host, given.port or 25, timeout=TIMEOUT_S)
        with server:
            server.ehlo()
            encrypted = given.scheme == "smtps"
            if not encrypted and server.has_extn("starttls"):
                server.starttls(context=context)
                encrypted = True
            if given.username is not None:
                if not encrypted:
                    raise smtplib.SMTPNotSupportedError("a password is only sent over TLS")
                server.login(unquote(given.username), unquote(given.password or ""))
            yield server


def alert_sensors(alerts: Alerts) -> list[dg.SensorDefinition]:
    """Make the sensors that send alerts; without an address there are none."""
    if not alerts.wanted:
        return []

    @dg.run_failure_sensor(
        description="Sends an alert for each run that has failed and is not started again.",
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def run_failure_alerts(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        run = context.dagster_run
        if run.tags.get(_WILL_RETRY) == "true":
            return dg.SkipReason(f"run {run.run_id} is started again")
        alerts.send(
            f"Failed: {_named(run)}",
            [_cause(context), *_failed_checks(context.instance, run.run_id)],
            run.run_id,
        )
        return None

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        description="Sends an alert for failed checks of a run that ended well, and for a promoted model.",
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def run_alerts(context: dg.RunStatusSensorContext) -> dg.SkipReason | None:
        run, instance = context.dagster_run, context.instance
        failed, promoted = _failed_checks(instance, run.run_id), _promoted(instance, run.run_id)
        if promoted:
            alerts.send("A model was promoted", promoted, run.run_id)
        if failed:
            alerts.send(f"Failed checks: {_named(run)}", failed, run.run_id)
        return None if failed or promoted else dg.SkipReason("all checks passed")

    return [run_failure_alerts, run_alerts]


def _named(run: dg.DagsterRun) -> str:
    """Name a run by its job and, where it has one, its library."""
    partition = run.tags.get("dagster/partition")
    return f"{run.job_name} of {unquote(partition)}" if partition else run.job_name


def _cause(context: dg.RunFailureSensorContext) -> str:
    """Give the sentence of the first step that failed, else of the run."""
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        if error is not None:
            return f"{event.step_key}: {(error.cause or error).message.strip()}"
    return context.failure_event.message or "no reason is known"


def _failed_checks(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """Give a line for each check of a run that failed."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    found = [event.asset_check_evaluation_data for event in events]
    lines = [
        f"{one.severity.value}: {one.check_name} of {one.asset_key.to_user_string()}: {one.description or ''}"
        for one in found
        if not one.passed
    ]
    return lines[:MOST_NAMED] + ([f"and {len(lines) - MOST_NAMED} more"] if len(lines) > MOST_NAMED else [])


def _promoted(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """Say which model a run has promoted, and in whose place."""
    lines = []
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        event = entry.dagster_event
        made = event.step_materialization_data.materialization if event is not None else None
        if made is not None and made.asset_key == promoted_model.key:
            candidate, incumbent = (made.metadata[name].value for name in ("candidate", "incumbent"))
            lines.append(f"{candidate} replaces {incumbent}")
    return lines


def _slack(text: str) -> str:
    """Give a text in which Slack sees no link and no mention; markup is switched off."""
    for mark, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(mark, escaped)
    return text
