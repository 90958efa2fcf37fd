"""Videos behind addresses, from a real web server and a real S3 server: fetched within limits, or a typed reason."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from typer.testing import CliRunner

from cpllm_model import remote
from cpllm_model.cli import app
from cpllm_model.errors import (
    AccessDeniedError,
    ConfigurationError,
    LimitExceededError,
    ObjectMissingError,
    SourceReadError,
)
from cpllm_model.predictor import Assessment, QualityPredictor
from cpllm_model.remote import fetched, is_address

BODY = bytes(range(256)) * 1000


class Pages(BaseHTTPRequestHandler):
    """Answers by path: a file, a refusal, a body that breaks off, a redirection."""

    bodies: dict[str, bytes] = {}  # noqa: RUF012 (set by each test)
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.asked.append(self.path)
        name = self.path.partition("?")[0]
        if name == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
        elif name.lstrip("/").isdecimal():
            self.send_error(int(name.lstrip("/")))
        elif name in ("/short", "/endless"):
            self.send_response(200)
            if name == "/short":
                self.send_header("Content-Length", str(2 * len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)
        elif body := self.bodies.get(name):
            # The second attempt is answered.
            if self.asked.count(self.path) == 1 and name.endswith("shaky.mp4"):
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_error(404)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def web(monkeypatch):
    """The address of a web server on this machine."""
    monkeypatch.setattr(Pages, "bodies", {})
    monkeypatch.setattr(Pages, "asked", [])
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A bucket, found as boto3 finds it, and what puts an object into it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint_url)
    client = boto3.client("s3")
    client.create_bucket(Bucket="remote-videos")
    return lambda key, body: client.put_object(Bucket="remote-videos", Key=key, Body=body)


def test_what_is_an_address():
    assert is_address("https://a/b.mp4") and is_address("S3://b/k") and is_address("http://a")
    assert not any(map(is_address, ("a.mp4", "/s3:/b", "file:///etc/passwd", "ftp://a/b", "https:/a", "rtsp://a")))


def test_a_file_arrives_whole_and_is_gone_afterwards(web, bucket):
    Pages.bodies = {"/a.mp4": BODY, "/shaky.mp4": BODY}
    bucket("films/ä #1?.mp4", BODY)
    addresses = [f"{web}/a.mp4", f"{web}/shaky.mp4", f"{web}/elsewhere?/a.mp4", "s3://remote-videos/films/ä #1?.mp4"]
    for address in addresses:
        with fetched(address) as file:
            assert file.read() == BODY
            assert file.seek(0, 2) == len(BODY)
        assert file.closed


@pytest.mark.parametrize(
    ("name", "error", "cause"),
    [
        ("404", ObjectMissingError, "the server answers 404: there is no such file"),
        ("410", ObjectMissingError, "410"),
        ("403", AccessDeniedError, "the server answers 403"),
        ("401", AccessDeniedError, "401"),
        ("500", SourceReadError, "the server answers 500"),
        ("short", SourceReadError, "broke off after 256000 of 512000 bytes"),
        ("elsewhere?file:///etc/passwd", SourceReadError, "the server answers 302"),
        ("elsewhere?ftp://127.0.0.1/a", SourceReadError, "redirects to another kind of address"),
    ],
)
def test_a_web_server_that_gives_no_file_is_a_reason(web, name, error, cause):
    with pytest.raises(error, match=cause), fetched(f"{web}/{name}"):
        pass


def test_only_what_may_pass_by_itself_is_asked_for_again(web):
    for status, times in ((404, 1), (403, 1), (503, 3)):
        with pytest.raises((ObjectMissingError, AccessDeniedError, SourceReadError)), fetched(f"{web}/{status}"):
            pass
        assert Pages.asked.count(f"/{status}") == times


def test_nobody_listens():
    with pytest.raises(SourceReadError, match="cannot be reached"), fetched("http://127.0.0.1:9/a.mp4"):
        pass


def test_a_file_over_the_limit_is_not_fetched(web, bucket, monkeypatch):
    Pages.bodies = {"/a.mp4": BODY}
    bucket("large.mp4", BODY)
    for address in (f"{web}/a.mp4", f"{web}/endless", "s3://remote-videos/large.mp4"):
        with pytest.raises(LimitExceededError, match="larger than"), fetched(address, len(BODY) - 1):
            pass
        with fetched(address, len(BODY)) as file:
            assert len(file.read()) == len(BODY)
    monkeypatch.setattr(remote, "DEADLINE_S", -1.0)
    with pytest.raises(LimitExceededError, match="did not arrive within"), fetched(f"{web}/endless"):
        pass


def test_s3_that_gives_no_object_is_a_reason(bucket, monkeypatch):
    for address, cause in (
        ("s3://remote-videos/gone.mp4", "there is no such object"),
        ("s3://no-such-bucket/gone.mp4", "there is no bucket 'no-such-bucket'"),
    ):
        with pytest.raises(ObjectMissingError, match=cause), fetched(address):
            pass
    for address, cause in (("s3://remote-videos", "s3://bucket/key"), ("s3://a b/k", "'a b' is not a bucket name")):
        with pytest.raises(ConfigurationError, match=cause), fetched(address):
            pass
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(ConfigurationError, match="there are no AWS credentials"), fetched("s3://remote-videos/a.mp4"):
        pass


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("AccessDenied", AccessDeniedError),
        ("InvalidAccessKeyId", ConfigurationError),
        ("SlowDown", SourceReadError),
        ("InvalidObjectState", remote.ArchivedError),
    ],
)
def test_each_refusal_of_s3_has_its_error(code, error):
    found = remote._refused_by_s3("s3://b/k", "b", {"Error": {"Code": code}})
    assert isinstance(found, error)


def test_boto3_is_imported_for_s3_alone_and_missed_in_a_sentence():
    program = """
        import sys
        from cpllm_model import remote
        assert "boto3" not in sys.modules
        sys.modules["boto3"] = None
        try:
            with remote.fetched("s3://b/k"):
                pass
        except remote.ConfigurationError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line[8:] for line in program.splitlines())],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "pip install 'cpllm[s3]'" in done.stdout


def test_addresses_are_scored_as_files_are(web, bucket, ladders):
    best, worst = ladders[0][0], ladders[0][3]
    Pages.bodies = {"/best.mp4": best.read_bytes()}
    bucket("worst.mp4", worst.read_bytes())
    predictor = QualityPredictor.from_pretrained("tiny", "cpu")
    names = [f"{web}/best.mp4", f"{web}/gone.mp4", "s3://remote-videos/worst.mp4"]
    first, gone, last = predictor.assess(names)
    assert isinstance(first, Assessment) and isinstance(last, Assessment) and isinstance(gone, ObjectMissingError)
    assert [first.path, gone.name, last.path] == names
    assert [first.rating, last.rating] == predictor.score([best, worst])

    done = CliRunner().invoke(app, ["compare", names[0], names[2]])
    assert done.exit_code == 0 and "best.mp4 looks better" in done.stdout.replace("\n", "")
