"""Promoted models in a folder and in a bucket behave alike; the bucket is a real S3 server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import boto3
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from cpllm_dagster.cli import app
from cpllm_dagster.models.promotion import PROMOTED, RECORD_NAME
from cpllm_dagster.models.store import BucketStore, FolderStore, ModelStore, RemoteModel, local_model, models_at
from cpllm_dagster.resources import QualityModel
from cpllm_model.errors import CheckpointError, ConfigurationError
from cpllm_model.network import checkpoint


@pytest.fixture
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place for models, in a folder or in a bucket."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if request.param == "folder":
        return str(tmp_path / "models")
    server = request.getfixturevalue("s3_server")
    bucket = f"models-{abs(hash(str(tmp_path)))}"
    boto3.client("s3", endpoint_url=server.endpoint_url).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some/models"


both = pytest.mark.parametrize("uri", ["folder", "bucket"], indirect=True)
in_bucket = pytest.mark.parametrize("uri", ["bucket"], indirect=True)


@pytest.fixture
def store(uri: str, request: pytest.FixtureRequest) -> ModelStore:
    return models_at(uri, request.getfixturevalue("s3_server").endpoint_url if uri.startswith("s3") else None)


@pytest.fixture
def candidates(tmp_path: Path) -> list[Path]:
    """Three models: the bundled one, and two with another weight."""
    folders = []
    for number in range(3):
        folder = shutil.copytree(checkpoint.resolve("tiny"), tmp_path / f"run {number}")
        weights = load_file(folder / "model.safetensors")
        name = sorted(weights)[0]
        weights[name] = weights[name] * (1 + number)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return folders


@both
def test_models_are_listed_promoted_and_gone_back_from(store: ModelStore, candidates: list[Path]) -> None:
    assert store.ids() == [] and store.promoted_id is None and store.promoted() == "tiny"
    with pytest.raises(CheckpointError, match="no model has been promoted"):
        store.promoted_source()
    with pytest.raises(ConfigurationError, match="no model was promoted"):
        store.go_back()
    a, b, c = (store.publish(folder, {"number": number}) for number, folder in enumerate(candidates))
    assert store.ids() == sorted([a, b, c]) and store.promoted_id is None
    assert store.publish(candidates[0], {"number": 7}) == a and store.record(a) == {"number": 0}
    for model_id in (a, b, c, c):
        store.promote(model_id)
        assert store.promoted_id == model_id
        assert checkpoint.model_id(store.promoted()) == model_id
        assert checkpoint.model_id(local_model(store.promoted_source())) == model_id
    assert [store.go_back(), store.go_back()] == [b, a] and store.promoted_id == a
    with pytest.raises(ConfigurationError, match=f"before {a}"):
        store.go_back()
    store.promote(c)
    assert store.go_back() == a
    for wrong in ("gone-0123456789ab", "../run 0", "", "a/b-0123456789ab"):
        with pytest.raises(CheckpointError):
            store.promote(wrong)
    assert store.promoted_id == a


@both
def test_the_commands(uri: str, store: ModelStore, candidates: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPLLM_MODELS_URI", uri)
    if isinstance(store, BucketStore):
        monkeypatch.setenv("CPLLM_S3_ENDPOINT_URL", store.endpoint_url or "")

    def models(*arguments: str) -> list[str]:
        done = CliRunner().invoke(app, ["models", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout.splitlines()

    assert models("list") == []
    ids = [checkpoint.model_id(str(folder)) for folder in candidates]
    assert models("promote", str(candidates[0])) == [f"{ids[0]} is promoted; before: none"]
    assert models("promote", str(candidates[1])) == [f"{ids[1]} is promoted; before: {ids[0]}"]
    assert models("list") == [f"  {ids[0]}", f"* {ids[1]}"]
    assert models("back") == [f"{ids[0]} is promoted"] and store.promoted_id == ids[0]
    assert models("promote", ids[1]) == [f"{ids[1]} is promoted; before: {ids[0]}"]
    assert json.loads("\n".join(models("show", ids[0]))) == {"promoted_by": "cpllm models promote"}
    failed = CliRunner().invoke(app, ["models", "promote", "no-such-model"])
    assert failed.exit_code == 2 and "no model 'no-such-model'" in " ".join(failed.stderr.split())


def test_commands_without_a_place_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CPLLM_MODELS_URI", raising=False)
    done = CliRunner().invoke(app, ["models", "list"])
    assert done.exit_code == 2 and "CPLLM_MODELS_URI is not set" in " ".join(done.stderr.split())


@in_bucket
def test_a_model_of_a_bucket_is_downloaded_once_and_checked(
    store: BucketStore, candidates: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = store.publish(candidates[1], {})
    folder = store.fetch(model_id)
    assert folder == Path.home() / ".cache" / "cpllm" / "models" / model_id
    expected = {path.name for path in candidates[1].iterdir() if path.is_file()}
    assert {path.name for path in folder.iterdir()} == expected | {RECORD_NAME}
    inode = folder.stat().st_ino
    assert store.fetch(model_id).stat().st_ino == inode

    # A copy that was changed is replaced; what the bucket holds under a wrong id is refused.
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert checkpoint.model_id(str(store.fetch(model_id))) == model_id and folder.stat().st_ino != inode
    (folder / "config.json").unlink()
    assert checkpoint.model_id(str(store.fetch(model_id))) == model_id
    client = boto3.client("s3", endpoint_url=store.endpoint_url)
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=f"{prefix}/{model_id}/config.json", Body=b"{}")
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError):
        store.fetch(model_id)
    assert not list(folder.parent.iterdir())


def test_without_a_home_that_can_be_written_models_go_below_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    work = BucketStore("s3://bucket/models").work
    assert work.parent == tmp_path and work.stat().st_mode & 0o777 == 0o700


@in_bucket
def test_an_upload_that_broke_off_is_no_model_and_is_made_whole(store: BucketStore, candidates: list[Path]) -> None:
    model_id = checkpoint.model_id(str(candidates[0]))
    client = boto3.client("s3", endpoint_url=store.endpoint_url)
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=f"{prefix}/{model_id}/model.safetensors", Body=b"half")
    assert store.ids() == []
    with pytest.raises(CheckpointError, match="there is no model"):
        store.promote(model_id)
    assert store.publish(candidates[0], {}) == model_id
    store.promote(model_id)
    assert checkpoint.model_id(store.promoted()) == model_id


@in_bucket
def test_a_damaged_pointer_is_said(store: BucketStore) -> None:
    client = boto3.client("s3", endpoint_url=store.endpoint_url)
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    for body in (b"[]", b"{}", b"{", b'["../x"]'):
        client.put_object(Bucket=bucket, Key=f"{prefix}/promoted.json", Body=body)
        with pytest.raises(CheckpointError, match=r"promoted\.json is not a list of models"):
            store.promoted()


@in_bucket
def test_scoring_finds_the_promoted_model_of_a_bucket(uri: str, store: BucketStore, candidates: list[Path]) -> None:
    model_id = store.publish(candidates[1], {})
    store.promote(model_id)
    model = QualityModel(reference=PROMOTED, models_uri=uri, s3_endpoint_url=store.endpoint_url)
    assert model.model_id == model_id and model.source == RemoteModel(uri, model_id, store.endpoint_url)
    assert local_model(model.source) == model.name


def test_a_link_that_was_set_by_hand_is_part_of_the_history(tmp_path: Path, candidates: list[Path]) -> None:
    store = FolderStore(tmp_path / "models")
    a, b = (store.publish(folder, {}) for folder in candidates[:2])
    store.promote(a)
    (tmp_path / "models" / PROMOTED).unlink()
    (tmp_path / "models" / PROMOTED).symlink_to(b)
    assert store.promoted_id == b and store.go_back() == a


def test_a_link_to_what_is_no_model_of_the_place_is_told_and_can_be_replaced(
    tmp_path: Path, candidates: list[Path]
) -> None:
    store = FolderStore(tmp_path / "models")
    model_id = store.publish(candidates[0], {})
    shutil.copytree(candidates[1], tmp_path / "models" / "my-model")
    for target in ("my-model", str(candidates[1])):
        link = tmp_path / "models" / PROMOTED
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(CheckpointError, match="there is no model"):
            store.promoted()
        store.promote(model_id)
        assert checkpoint.model_id(store.promoted()) == model_id


def test_a_reference_is_found_as_it_is_now(tmp_path: Path, candidates: list[Path]) -> None:
    store = FolderStore(tmp_path / "models")
    first = store.publish(candidates[0], {})
    store.promote(first)
    link = str(tmp_path / "models" / PROMOTED)
    place = str(tmp_path / "models")
    expected = str(tmp_path / "models" / first)
    assert QualityModel(reference=PROMOTED, models_uri=place).name == QualityModel(reference=link).name == expected
    assert QualityModel(reference="tiny", models_uri=place).name == "tiny"
    with pytest.raises(ConfigurationError, match="CPLLM_MODELS_URI"):
        _ = QualityModel(reference=PROMOTED).name


@pytest.mark.parametrize("wrong", ["gs://bucket/models", "s3://a b/models"])
def test_another_kind_of_place_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"neither s3|not a bucket name"):
        models_at(wrong)
