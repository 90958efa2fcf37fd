"""The same bits whatever the batch, the order, the number of workers, and whether a worker is cold or warm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cpllm_dagster.batch import supervisor
from cpllm_dagster.batch.supervisor import BatchSettings, PairComparer, VideoItem, score_videos
from cpllm_dagster.batch.workers import DecodeWorker, ModelWorker, VideoAnswer
from cpllm_dagster.catalog.objects import VideoStore
from cpllm_model.decoding.samples import DecodeLimits, VideoSamples
from cpllm_model.network import checkpoint
from cpllm_model.predictor import Comparison, QualityPredictor, VisualTokens
from cpllm_model.training.data.encode import write_video
from cpllm_model.training.data.scenes import render_scene

#: Largest difference of a score, and of a probability, between a GPU and a CPU, and between batches on a GPU.
GPU_SCORE_TOLERANCE = 0.02
GPU_PROBABILITY_TOLERANCE = 0.02
#: Videos whose scores differ by less may change places.
GPU_TIE = 2 * GPU_SCORE_TOLERANCE

Answers = dict[str, tuple[Any, Any, bytes]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> VideoStore:
    """Videos of several sizes, lengths, frame rates and codecs."""
    root = tmp_path_factory.mktemp("determinism")
    folder = root / "films"
    folder.mkdir()
    landscape, portrait = render_scene(100_003, 320, 240, 48), render_scene(100_004, 180, 320, 17)
    for crf in (20, 28, 36, 44):
        write_video(landscape, folder / f"landscape{crf}.mp4", crf=crf, g=12)
    write_video(portrait, folder / "portrait.mp4", fps=50, crf=30)
    write_video(portrait, folder / "worse.mp4", fps=50, crf=45)
    write_video(render_scene(100_005, 640, 360, 9), folder / "short.webm", fps=24, codec="vp9", crf=40)
    return VideoStore(str(root))


@pytest.fixture(scope="module")
def items(store: VideoStore) -> list[VideoItem]:
    found = store.objects("films")
    return [VideoItem(one.uri.rpartition("/")[2], one.uri, one.etag, one.size_bytes) for one in found]


@pytest.fixture(scope="module")
def samples(store: VideoStore, items: list[VideoItem]) -> dict[str, VideoSamples]:
    """The videos, decoded as a worker decodes them."""
    worker = DecodeWorker(store, checkpoint.sampling_settings("tiny"), DecodeLimits())
    worker.prepare()
    found = {item.video_id: worker.decode(item)[1] for item in items}
    worker._stack.close()
    return {name: one for name, one in found.items() if one is not None}


@pytest.fixture(scope="module")
def worker() -> Iterator[ModelWorker]:
    """A model worker in this process."""
    threads = torch.get_num_threads()
    worker = ModelWorker("tiny", 1, "cpu")
    worker.prepare()
    yield worker
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(worker: ModelWorker, samples: dict[str, VideoSamples]) -> Answers:
    """What a worker says of each video that comes alone."""
    return {name: bits(worker.score(one)[0]) for name, one in samples.items()}


@pytest.fixture(scope="module")
def tokens(worker: ModelWorker, samples: dict[str, VideoSamples]) -> dict[str, VisualTokens]:
    return {name: worker.score(one)[0].tokens for name, one in samples.items()}


@pytest.fixture(scope="module")
def compared(worker: ModelWorker, tokens: dict[str, VisualTokens]) -> dict[tuple[str, str], Comparison]:
    """What a worker says of each pair that comes alone."""
    return {(a, b): worker.compare([tokens[a]], [tokens[b]])[0] for a, b in all_pairs(tokens)}


def bits(answer: Any) -> tuple[Any, Any, bytes]:
    """What must not differ: every number of the rating and the description, the words, and the kept tokens."""
    return answer.rating, answer.description, answer.tokens.tokens_NLD.tobytes()


def all_pairs(names: Any) -> list[tuple[str, str]]:
    return [(a, b) for a in names for b in names if a < b]


def batched(found: list[Any], size: int) -> list[list[Any]]:
    return [found[start : start + size] for start in range(0, len(found), size)]


def test_videos_differ(alone: Answers, items: list[VideoItem]) -> None:
    """What follows would hold of a model that says the same of everything."""
    assert len(alone) == len(items) == 7
    assert len({rating.score for rating, *_ in alone.values()}) == 7
    assert len({tokens for *_, tokens in alone.values()}) == 7


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_batches_and_order_change_no_bit(
    worker: ModelWorker,
    samples: dict[str, VideoSamples],
    alone: Answers,
    tokens: dict[str, VisualTokens],
    compared: dict[tuple[str, str], Comparison],
    size: int,
    backwards: bool,
) -> None:
    names, pairs = (list(one)[:: -1 if backwards else 1] for one in (samples, compared))
    for part in batched(names, size):
        answers: list[VideoAnswer] = worker.score(*(samples[name] for name in part))
        assert {name: bits(answer) for name, answer in zip(part, answers, strict=True)} == {
            name: alone[name] for name in part
        }
    for part in batched(pairs, size):
        found = worker.compare([tokens[a] for a, _ in part], [tokens[b] for _, b in part])
        assert found == [compared[pair] for pair in part]


WORKERS = [
    BatchSettings(model_workers=2, decode_workers=2, batch_size=3, pair_batch_size=3, decode_cpus=0.1, model_cpus=0.1),
    *(
        pytest.param(
            BatchSettings(
                model_workers=workers,
                decode_workers=workers,
                batch_size=size,
                pair_batch_size=size,
                decode_cpus=0.1,
                model_cpus=0.1,
            ),
            marks=pytest.mark.slow,
        )
        for workers in (1, 2)
        for size in (1, 8)
    ),
]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("settings", WORKERS, ids=lambda one: f"{one.model_workers}-{one.batch_size}")
def test_workers_change_no_bit(
    store: VideoStore,
    items: list[VideoItem],
    alone: Answers,
    tokens: dict[str, VisualTokens],
    compared: dict[tuple[str, str], Comparison],
    settings: BatchSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other processes, just started, with other neighbours in another order."""
    for name in ("VIDEOS_A_MODEL_WORKER", "PAIRS_A_MODEL_WORKER"):
        monkeypatch.setattr(supervisor, name, 1)  # little work would start one worker
    results = score_videos(items[::-1], store=store, model="tiny", settings=settings, limits=DecodeLimits())
    assert {result.item.video_id: bits(result) for result in results} == alone
    with PairComparer("tiny", settings) as comparer:
        found = {(a, b): answer for a, b, answer in comparer.compare(list(compared)[::-1], tokens)}
    assert found == compared


@pytest.mark.gpu
def test_a_gpu_gives_the_ranking_of_a_cpu(
    samples: dict[str, VideoSamples], alone: Answers, compared: dict[tuple[str, str], Comparison]
) -> None:
    predictor = QualityPredictor.from_pretrained("tiny", device="cuda")
    names = list(samples)
    together = predictor.encode([samples[name] for name in names])
    singly = [predictor.encode([samples[name]])[0] for name in names]
    cpu_N = np.array([alone[name][0].score for name in names])
    for tokens in (together, singly):
        gpu_N = np.array([rating.score for rating in predictor.rate(tokens)])
        assert np.abs(gpu_N - cpu_N).max() <= GPU_SCORE_TOLERANCE
        gap_NN = cpu_N[:, None] - cpu_N
        clear_NN = np.abs(gap_NN) > GPU_TIE
        assert (np.sign(gpu_N[:, None] - gpu_N) == np.sign(gap_NN))[clear_NN].all()
        seen = dict(zip(names, [one.tokens for one in tokens], strict=True))
        found = predictor.compare_tokens([seen[a] for a, _ in compared], [seen[b] for _, b in compared])
        for one, other in zip(found, compared.values(), strict=True):
            assert abs(one.probability_a_better - other.probability_a_better) <= GPU_PROBABILITY_TOLERANCE
