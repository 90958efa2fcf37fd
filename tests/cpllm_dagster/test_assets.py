"""A library through every asset on a real S3 server, Ray and model: a broken run, the next one, and quiet nights."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pyarrow as pa
import pytest

from cpllm_dagster.assets import quality as quality_module
from cpllm_dagster.automation import PARTITION_SET
from cpllm_dagster.catalog.objects import partition_key
from cpllm_dagster.definitions import Settings, build_definitions
from cpllm_dagster.demo.embedded_s3 import EmbeddedS3
from cpllm_dagster.lake.tables import Lake, video_id
from cpllm_dagster.local_runs import run_library
from cpllm_dagster.resources import BatchRay
from cpllm_model.decoding import sandbox, wall
from cpllm_model.errors import ConfigurationError, LakeError
from cpllm_model.network import checkpoint

LIBRARY = "Ünder <b>50% | 'x'"
HOSTILE_KEYS = ("a b.mp4", 'it\'s "quoted"/<img src=x onerror=alert(1)>.mp4', "übung=1 ../..%2F.mp4")
BROKEN = {"zero.mp4": b"", "text.mp4": b"no video\n" * 50}
#: The assets of one pass of the model.
QUALITY = ("visual_features", "quality_descriptions", "quality_scores", "score_history", "nights")
TABLES = ("catalog", "scores", "descriptions", "features", "comparisons", "rankings", "videos")


@dataclass(frozen=True)
class Platform:
    """The definitions over one bucket and one lake, and how to run them."""

    settings: Settings
    bucket: str
    client: Any

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake_uri, self.settings.s3_endpoint_url)

    def put(self, name: str, content: bytes) -> str:
        """Put a video into the library; gives its URI."""
        key = f"libraries/{LIBRARY}/{name}"
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)
        return f"s3://{self.bucket}/{key}"

    def run(self, library: str = LIBRARY, assets: tuple[str, ...] | None = None) -> dg.ExecuteInProcessResult:
        """Run the library's job on a fresh instance, or these assets of it."""
        definitions = build_definitions(self.settings)
        with dg.DagsterInstance.ephemeral() as instance:
            if assets is None:
                return run_library(definitions, library, instance)
            key = partition_key(library)
            instance.add_dynamic_partitions(PARTITION_SET, [key])
            return definitions.resolve_job_def("score_library").execute_in_process(
                partition_key=key, instance=instance, asset_selection=[dg.AssetKey(name) for name in assets]
            )

    def table(self, name: str, library: str = LIBRARY) -> pa.Table:
        table = self.lake.read(name, library)
        assert table is not None
        return table

    def rows(self, name: str) -> dict[str, dict[str, Any]]:
        """The rows of a table by video id."""
        return {row["video_id"]: row for row in self.table(name).to_pylist()}

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Time and content of every file of the lake."""
        paths = (path for path in Path(self.settings.lake_uri).rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    def nights(self) -> list[dict[str, Any]]:
        """What the runs of the library have recorded of themselves, oldest first."""
        return self.table("nights").to_pylist()


@dataclass(frozen=True)
class History:
    """A library after a run that broke off and the run that went on from it."""

    platform: Platform
    recovered: set[str]
    result: dg.ExecuteInProcessResult


def make_platform(server: EmbeddedS3, folder: Path) -> Platform:
    client = boto3.client("s3", endpoint_url=server.endpoint_url)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    settings = Settings(f"s3://{bucket}/libraries", str(folder / "lake"), "tiny", server.endpoint_url, "local")
    return Platform(settings, bucket, client)


@pytest.fixture(scope="module")
def history(
    s3_server: EmbeddedS3, local_ray: None, clips: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> History:
    """Score three clips and two broken files in two runs, of which the first breaks off after one video."""
    platform = make_platform(s3_server, tmp_path_factory.mktemp("history"))
    for key, clip in zip(HOSTILE_KEYS, clips, strict=True):
        platform.put(key, clip.read_bytes())
    for name, content in BROKEN.items():
        platform.put(name, content)

    def breaking_off(*args: Any, **kwargs: Any) -> Iterator[Any]:
        results = score_videos(*args, **kwargs)
        yield next(results)
        results.close()
        raise OSError("the machine is on fire")

    score_videos = quality_module.score_videos
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality_module, "score_videos", breaking_off)
        with pytest.raises(OSError, match="on fire"):
            platform.run()
    model_id = build_definitions(platform.settings).resources["model"].model_id  # pyright: ignore
    parts, damaged = platform.lake.read_parts(LIBRARY, model_id)
    assert not damaged and platform.lake.read("scores", LIBRARY) is None
    return History(platform, set(parts["scores"]["video_id"].to_pylist()), platform.run())


@pytest.fixture
def platform(history: History, tmp_path: Path) -> Iterator[Platform]:
    """A copy of the scored library's tables, over the bucket, which is left as it was found."""
    shutil.copytree(history.platform.settings.lake_uri, tmp_path / "lake")
    found = replace(history.platform, settings=replace(history.platform.settings, lake_uri=str(tmp_path / "lake")))
    objects = {
        item["Key"]: found.client.get_object(Bucket=found.bucket, Key=item["Key"])["Body"].read()
        for item in found.client.list_objects_v2(Bucket=found.bucket)["Contents"]
    }
    yield found
    for item in found.client.list_objects_v2(Bucket=found.bucket)["Contents"]:
        found.client.delete_object(Bucket=found.bucket, Key=item["Key"])
    for key, content in objects.items():
        found.client.put_object(Bucket=found.bucket, Key=key, Body=content)


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Mapping[str, dg.MetadataValue]]:
    """What the UI shows of each asset."""
    events = result.get_asset_materialization_events()
    return {str(event.asset_key): event.step_materialization_data.materialization.metadata for event in events}


def data_versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The data version of each asset."""
    materializations = (
        event.step_materialization_data.materialization for event in result.get_asset_materialization_events()
    )
    return {str(found.asset_key): (found.tags or {})["dagster/data_version"] for found in materializations}


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any asset that asks for Ray fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr(BatchRay, "require", refuse)


def test_every_video_gets_its_rows(history: History) -> None:
    assert history.result.success
    platform = history.platform
    catalog, scores = platform.rows("catalog"), platform.rows("scores")
    uris = {f"s3://{platform.bucket}/libraries/{LIBRARY}/{name}" for name in (*HOSTILE_KEYS, *BROKEN)}
    assert {row["uri"] for row in catalog.values()} == uris == {row["uri"] for row in scores.values()}
    scored = {video for video, row in scores.items() if row["status"] == "ok"}
    assert len(scored) == 3
    assert {row["error_type"] for row in scores.values()} == {None, "empty_file", "not_a_video"}
    for name in ("descriptions", "features", "rankings"):
        assert set(platform.rows(name)) == scored
    for video in scored:
        assert (catalog[video]["width_px"], catalog[video]["height_px"], catalog[video]["codec"]) == (320, 240, "h264")
        assert 1 <= scores[video]["score"] <= 5 and scores[video]["sampling_plan"]
        assert scores[video]["damaged_frames"] == 0
        assert scores[video]["decode_s"] > 0 and scores[video]["inference_s"] > 0
    assert len(platform.table("comparisons")) == 2
    assert sorted(row["rank"] for row in platform.rows("rankings").values())[0] == 1


def test_the_next_run_goes_on_from_a_broken_one(history: History) -> None:
    assert len(history.recovered) == 1
    run_of = {video: row["run_id"] for video, row in history.platform.rows("scores").items()}
    (video,) = history.recovered
    assert run_of.pop(video) != history.result.run_id
    assert set(run_of.values()) == {history.result.run_id}
    # The run that broke off has published nothing: the second one records all, the recovered video too.
    changes = history.platform.table("score_history").to_pylist()
    assert {(row["change"], row["run_id"]) for row in changes} == {("new", history.result.run_id)} and len(changes) == 5
    (night,) = history.platform.nights()
    assert (night["videos"], night["videos_new"], night["failed_share"]) == (5, 5, 0.4)
    assert night["scoring_s"] >= night["inference_s_sum"] / 4 > 0
    assert not list(Path(history.platform.settings.lake_uri, ".work").rglob("*.part"))


def test_checks_pass_and_name_the_library(history: History) -> None:
    found = {evaluation.check_name: evaluation for evaluation in history.result.get_asset_check_evaluations()}
    assert set(found) == {
        "one_score_row_per_video", "scores_in_range", "failure_rate", "ranking_agrees_with_scores",
        "scores_have_not_fallen",
    }  # fmt: skip
    assert {evaluation.partition for evaluation in found.values()} == {partition_key(LIBRARY)}
    assert found["failure_rate"].metadata["failed_share"].value == 0.4
    assert found["one_score_row_per_video"].passed and found["scores_in_range"].passed
    assert not found["failure_rate"].passed  # two of five
    for evaluation in found.values():
        assert evaluation.metadata["library"].value == LIBRARY
        assert (evaluation.description or "").startswith(LIBRARY)


def test_the_ui_shows_what_was_done_and_no_markup_of_names(history: History) -> None:
    shown = metadata_of(history.result)
    assert len(shown) == 10
    assert "decoding" not in shown[str(dg.AssetKey("video_catalog"))]  # the first run has probed all
    scores = shown[str(dg.AssetKey("quality_scores"))]
    assert (scores["new"].value, scores["kept"].value, scores["failed"].value) == (4, 1, 2)
    assert (scores["videos"].value, scores["failed_share"].value) == (5, 0.4)
    assert 1 <= scores["score_p5"].value <= scores["score_mean"].value <= 5  # pyright: ignore
    assert 0 <= scores["share_below_3"].value <= 1  # pyright: ignore
    assert scores["dagster/partition_row_count"].value == 5
    assert {record.data["error_type"] for record in scores["failures_by_type"].value.records} == {  # pyright: ignore
        "empty_file",
        "not_a_video",
    }
    assert str(scores["score_histogram"].value).startswith("![3 videos, median score ")
    assert scores["videos_per_s"].value > 0  # pyright: ignore
    for table in (scores["worst_and_best"].value, shown[str(dg.AssetKey("quality_rankings"))]["first_and_last"].value):
        assert "onerror" in str(table) and "<img" not in str(table) and "| 'x'" not in str(table)


def test_the_report_shows_a_picture_of_each_scored_video(history: History) -> None:
    shown = metadata_of(history.result)[str(dg.AssetKey("library_report"))]
    page = Path(str(shown["report"].value)).read_text(encoding="utf-8")
    assert page.count('src="data:image/webp;base64,') == 3 and "<img src=x" not in page
    assert shown["videos_without_picture"].value == 0
    assert str(shown["report_url"].value).startswith("file:///")
    rows = history.platform.rows("key_frames")
    assert len(rows) == 3 and all(row["picture"].startswith(b"RIFF") for row in rows.values())


@pytest.mark.usefixtures("no_ray")
def test_a_run_without_change_touches_nothing(platform: Platform, history: History) -> None:
    before = platform.files()
    result = platform.run()
    after = platform.files()
    (night,) = set(after) - set(before)
    (report,) = (name for name in after if "/reports/" in name)  # it has a night more
    assert result.success and after == before | {name: after[name] for name in (night, report)} and "/nights/" in night
    assert quiet_versions(result) == quiet_versions(history.result)
    assert not any(shown["removed"].value for shown in metadata_of(result).values() if "removed" in shown)
    assert platform.nights()[-1]["unchanged"] == 5


def quiet_versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The data versions of what a night without change leaves as it was."""
    return {asset: version for asset, version in data_versions(result).items() if "nights" not in asset}


def test_a_quiet_night_loads_no_model_and_starts_no_process(platform: Platform, history: History) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        started, loaded, versions = process.submit(quiet_night, platform.settings).result()
    assert not [command for command in started if "cpllm" in command or "ray" in command]
    assert not loaded
    assert versions == quiet_versions(history.result)


def quiet_night(settings: Settings) -> tuple[list[str], set[str], dict[str, str]]:
    """Run the library in a process that has done nothing else; give what that started, loaded and published."""
    started: list[str] = []
    sys.addaudithook(lambda event, found: started.append(str(found)) if event == "subprocess.Popen" else None)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_library(build_definitions(settings), LIBRARY, instance)
    return started, {"torch", "ray"} & set(sys.modules), quiet_versions(result)


def test_a_resumed_run_gives_the_tables_of_a_quiet_one(history: History, tmp_path: Path) -> None:
    quiet = replace(history.platform, settings=replace(history.platform.settings, lake_uri=str(tmp_path / "lake")))
    quiet.run()
    for name in TABLES:
        assert untimed(quiet.table(name)).equals(untimed(history.platform.table(name))), name


def untimed(table: pa.Table) -> pa.Table:
    """A table without what differs from run to run, and from one putting of the same bytes to the next."""
    names = ("decode_s", "inference_s", "scored_at", "run_id", "last_modified")
    return table.drop_columns([name for name in names if name in table.column_names])


def test_a_renamed_video_is_a_new_one_with_the_same_answers(platform: Platform) -> None:
    before = {name: platform.rows(name) for name in ("scores", "descriptions")}
    key, renamed = (f"libraries/{LIBRARY}/{name}" for name in (HOSTILE_KEYS[1], "renamed.mp4"))
    source = {"Bucket": platform.bucket, "Key": key}
    platform.client.copy_object(Bucket=platform.bucket, Key=renamed, CopySource=source)
    platform.client.delete_object(Bucket=platform.bucket, Key=key)
    old, new = (video_id(f"s3://{platform.bucket}/{one}") for one in (key, renamed))

    result = platform.run()
    scores, descriptions = platform.rows("scores"), platform.rows("descriptions")
    assert set(scores) == set(before["scores"]) - {old} | {new}
    assert {video for video, row in scores.items() if row["run_id"] == result.run_id} == {new}
    was = before["scores"][old]
    assert scores[new]["etag"] == was["etag"]
    for name in ("score", "score_std", "level_probabilities", "segment_score"):
        assert scores[new][name] == was[name]
    assert descriptions[new] == before["descriptions"][old] | {"video_id": new}
    for name in ("catalog", "scores", "descriptions", "features", "videos"):
        assert old not in platform.rows(name)
    assert set(platform.rows("rankings")) == set(descriptions)
    pairs = platform.table("comparisons")
    assert {*pairs["video_id_a"].to_pylist(), *pairs["video_id_b"].to_pylist()} == set(descriptions)


def test_a_new_model_scores_all_while_the_old_rows_can_be_queried(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(checkpoint.resolve("tiny"), tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_description_tokens": 8}))
    old, new = checkpoint.model_id("tiny"), checkpoint.model_id(str(folder))
    query = "SELECT model_id, status, count(*) FROM scores WHERE library = ? GROUP BY ALL ORDER BY ALL"
    seen: list[Any] = []

    def watched(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for result in score_videos(*args, **kwargs):
            seen.append(platform.lake.connect().execute(query, [LIBRARY]).fetchall())
            yield result

    score_videos = quality_module.score_videos
    monkeypatch.setattr(quality_module, "score_videos", watched)
    replace(platform, settings=replace(platform.settings, model=str(folder))).run()
    assert seen == [[(old, "failed", 2), (old, "ok", 3)]] * 3
    for name in TABLES[1:]:
        assert set(platform.table(name)["model_id"].to_pylist()) == {new}
    first, second = platform.table("score_history")["change"].to_pylist()[:5], platform.nights()[-1]
    assert first == ["new"] * 5 and (second["videos_rescored"], second["model_id"]) == (5, new)
    assert len(platform.table("scores")) == 5 and len(platform.table("rankings")) == 3


def test_only_what_changed_is_scored(platform: Platform, clips: list[Path]) -> None:
    before = platform.rows("scores")
    removed = platform.client.list_objects_v2(Bucket=platform.bucket)["Contents"]
    gone = video_id(f"s3://{platform.bucket}/libraries/{LIBRARY}/{HOSTILE_KEYS[0]}")
    assert any(item["Key"].endswith(HOSTILE_KEYS[0]) for item in removed)
    platform.client.delete_object(Bucket=platform.bucket, Key=f"libraries/{LIBRARY}/{HOSTILE_KEYS[0]}")
    added = video_id(platform.put("added.mp4", clips[0].read_bytes()))
    mended = video_id(platform.put("text.mp4", clips[2].read_bytes()))

    result = platform.run()
    probed = metadata_of(result)[str(dg.AssetKey("video_catalog"))]
    assert probed["decoding"].value == wall.described(sandbox.measures_in_force())
    after = platform.rows("scores")
    assert set(after) == (set(before) - {gone}) | {added}
    assert {video for video, row in after.items() if row["run_id"] == result.run_id} == {added, mended}
    assert all(after[video] == before[video] for video in set(after) - {added, mended})
    assert after[mended]["status"] == "ok" and before[mended]["status"] == "failed"
    # The same bytes have the same score, whatever their name and their neighbours in the batch.
    assert after[added]["score"] == before[gone]["score"]
    changes = [row for row in platform.table("score_history").to_pylist() if row["run_id"] == result.run_id]
    assert {(row["video_id"], row["change"], row["previous_score"]) for row in changes} == {
        (added, "new", None), (mended, "changed", None), (gone, "removed", before[gone]["score"]),
    }  # fmt: skip
    night = platform.nights()[-1]
    assert (night["videos"], night["failed_videos"], night["unchanged"], night["run_id"]) == (5, 1, 3, result.run_id)
    assert night["failures_by_type"] == [{"error_type": "empty_file", "videos": 1}]
    assert len(platform.rows("rankings")) == 4
    pairs = platform.table("comparisons")
    assert gone not in {*pairs["video_id_a"].to_pylist(), *pairs["video_id_b"].to_pylist()}
    assert added in {*pairs["video_id_a"].to_pylist(), *pairs["video_id_b"].to_pylist()}


@pytest.mark.usefixtures("no_ray")
def test_answers_outlive_one_night_without_their_video(platform: Platform) -> None:
    """They come back with it, and are dropped by the next run that misses it, too; nothing is decoded for that."""
    before = {name: platform.rows(name) for name in ("scores", "descriptions", "features")}
    key = f"libraries/{LIBRARY}/{HOSTILE_KEYS[0]}"
    video = video_id(f"s3://{platform.bucket}/{key}")
    content = platform.client.get_object(Bucket=platform.bucket, Key=key)["Body"].read()

    def night() -> list[Path]:
        """Run up to the scores; gives the parts that are left."""
        platform.run(assets=("video_catalog", *QUALITY))
        return list(Path(platform.settings.lake_uri, ".work").rglob("*.part"))

    platform.client.delete_object(Bucket=platform.bucket, Key=key)
    assert len(night()) == 3  # a part a table
    for name, rows in before.items():
        assert set(platform.rows(name)) == set(rows) - {video}
    platform.client.put_object(Bucket=platform.bucket, Key=key, Body=content)
    assert night() == []
    assert {name: platform.rows(name) for name in before} == before

    platform.client.delete_object(Bucket=platform.bucket, Key=key)
    assert len(night()) == 3
    assert night() == []
    assert video not in platform.rows("features")


@pytest.mark.usefixtures("no_ray")
def test_an_empty_library_has_empty_tables(platform: Platform) -> None:
    platform.client.put_object(Bucket=platform.bucket, Key="libraries/empty/readme.txt", Body=b"")
    result = platform.run("empty")
    assert result.success
    assert all(len(platform.table(name, "empty")) == 0 for name in TABLES)
    assert all(evaluation.passed for evaluation in result.get_asset_check_evaluations())


@pytest.mark.parametrize("part", ["catalog", "lake"])
def test_a_missing_bucket_is_one_sentence(platform: Platform, part: str) -> None:
    wrong = {f"{part}_uri": "s3://no-such-bucket/here"}
    with pytest.raises((ConfigurationError, LakeError), match="no-such-bucket") as raised:
        replace(platform, settings=replace(platform.settings, **wrong)).run()
    assert "\n" not in str(raised.value)


def test_an_asset_without_the_table_before_it_says_so(platform: Platform) -> None:
    job = build_definitions(platform.settings).resolve_job_def("score_library")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(PARTITION_SET, ["x"])
        with pytest.raises(LakeError, match="library 'x' has no table 'scores' yet"):
            job.execute_in_process(
                partition_key="x", instance=instance, asset_selection=[dg.AssetKey("quality_rankings")]
            )
