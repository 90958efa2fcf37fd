"""The model's commands: cpllm score | compare | rank | init | corpus | manifest | train | evaluate | calibrate | card.

Answers go to standard output, a table for people or JSON lines for programs; progress goes to standard error.
Exit status: 0 all answered, 1 a video failed, 2 wrong use, 130 interrupted. Torch is imported only when a model is
needed.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator, Sized
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment, Segments
from rich.table import Column, Table
from rich.text import Text

from cpllm_model import __version__
from cpllm_model.decoding.samples import has_video_name
from cpllm_model.errors import ConfigurationError, CPLLMError, VideoError
from cpllm_model.record_files import record_file
from cpllm_model.remote import is_address
from cpllm_model.scale import SCORE_MAX, SCORE_MIN, level_of
from cpllm_model.when import clock, listed

if TYPE_CHECKING:
    from cpllm_model.predictor import Description, QualityPredictor, Rating, ViewedVideo, VisualTokens

app = typer.Typer(
    help="How good do videos look, why, and which are worst?",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip

Paths = Annotated[
    list[str],
    typer.Argument(
        help="Video or picture files, patterns such as 'shots/*.mp4', folders that are searched for videos, or "
        "addresses (https://, http://, s3://bucket/key); - reads names from standard input, one a line.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="Torch device, such as cpu or cuda:0; by default a GPU if there is one.")
]
Model = Annotated[str, typer.Option(help="Bundled name, folder or hub id of the model.", envvar="CPLLM_MODEL")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, one object per video.")]

#: Width of a segment's bar of five, and of the time that a segment's row begins with.
BAR_CELLS, SEGMENT_CELLS = 10, 21

_ends_with_the_command = False


def run_and_end() -> None:
    """Run the command that this process was started for; it may start without what only longer ones need."""
    global _ends_with_the_command
    _ends_with_the_command = True
    try:
        app()
    except SystemExit as ended:
        if started := sys.modules.get("cpllm_model.network.lean_start"):
            started.end(ended.code if isinstance(ended.code, int) else 0)
        raise


@dataclass(frozen=True)
class Answered:
    """One video's answers, or the reason there are none."""

    path: str
    tokens: VisualTokens | None = None
    rating: Rating | None = None
    description: Description | None = None
    error: VideoError | None = None
    is_still: bool = False
    cautions: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Give the JSON object of a video."""
        rating, description, error = self.rating, self.description, self.error
        return {
            **_path_fields(self.path),
            "status": "failed" if error else "ok",
            "is_still": self.is_still,
            "score": rating and rating.score,
            "score_std": rating and rating.score_std,
            "level": rating and rating.level,
            "description": description and description.text,
            "distortions": [asdict(one) for one in description.distortions] if description else None,
            "events": [asdict(one) for one in description.events] if description else None,
            "segment_start_s": rating and rating.segment_start_s,
            "segment_end_s": rating and rating.segment_end_s,
            "segment_score": rating and rating.segment_score,
            "score_worst": rating and rating.score_worst,
            "worst_start_s": rating and rating.worst_start_s,
            "worst_end_s": rating and rating.worst_end_s,
            "scene": rating and rating.scene,
            "cautions": list(self.cautions),
            "error_type": error and error.error_type,
            "error_message": error and error.cause,
        }


def _version(asked: bool) -> None:
    if asked:
        print(f"cpllm {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """How good do videos look, why, and which are worst?"""


@app.command(epilog="Example: cpllm score trailers/ --fail-under 3.5 -o trailers.parquet")
def score(
    paths: Paths,
    model: Model = "tiny",
    as_json: Json = False,
    segments: Annotated[bool, typer.Option("--segments", help="Also print a row for each segment.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the answers to a file: .csv, .jsonl or .parquet.")
    ] = None,
    fail_under: Annotated[
        float | None, typer.Option(help="Exit with status 1 if a score is lower.", min=SCORE_MIN, max=SCORE_MAX)
    ] = None,
    device: Device = None,
) -> None:
    """Score videos and still pictures from 1 (bad) to 5 (excellent) and say in words how they look."""
    with _told_in_a_sentence():
        files = _find(paths)
        with ExitStack() as stack:
            keep = stack.enter_context(record_file(out)) if out else None
            predictor = _predictor(model, device)
            done: list[Answered] = []
            stack.enter_context(_told_when_interrupted(done, len(files)))
            show = stack.enter_context(_score_rows(files, as_json, segments))
            for one in _answers(files, predictor, describe=True, bar=not sys.stdout.isatty()):
                show(one)
                if keep:
                    keep(one.record())
                done.append(one)
    low = [one for one in done if one.rating and fail_under is not None and one.rating.score < fail_under]
    for one in low:
        assert one.rating
        Console(stderr=True).print(_shown(f"cpllm: {one.path} scores {one.rating.score:.2f}, under {fail_under:g}"))
    if low or any(one.error for one in done):
        raise typer.Exit(1)


@app.command(epilog="Example: cpllm compare master.mov upload.mp4")
def compare(
    a: Annotated[str, typer.Argument(help="A video: a file or an address.")],
    b: Annotated[str, typer.Argument(help="Another video.")],
    model: Model = "tiny",
    as_json: Json = False,
    device: Device = None,
) -> None:
    """Say which of two videos looks better, and how surely."""
    pair = _path_fields(a, "path_a") | _path_fields(b, "path_b")
    with _told_in_a_sentence():
        predictor = _predictor(model, device)
        try:
            comparison = predictor.compare(_video(a), _video(b))
        except VideoError as error:
            if as_json:
                print(json.dumps(pair | {"status": "failed"} | _path_fields(error.name) | {
                    "error_type": error.error_type, "error_message": error.cause}))  # fmt: skip
            else:
                Console(stderr=True).print(_shown(f"cpllm: {error} ({error.error_type})"))
            raise typer.Exit(1) from None
    if as_json:
        print(json.dumps({**pair, "status": "ok", **asdict(comparison)}))
        return
    if comparison.probability_a_better == 0.5:
        Console().print("no difference")
        return
    better = a if comparison.probability_a_better > 0.5 else b
    surely = max(comparison.probability_a_better, 1 - comparison.probability_a_better)
    Console().print(
        _shown(f"{better} looks better, with probability {surely:.2f} (orders differ by {comparison.order_gap:.2f})")
    )


@app.command(epilog="Example: cpllm rank encodes/")
def rank(paths: Paths, model: Model = "tiny", as_json: Json = False, device: Device = None) -> None:
    """Rank videos from best to worst by comparing them pair by pair."""
    with _told_in_a_sentence():
        files = _find(paths)
        predictor = _predictor(model, device)
        answered = list(_answers(files, predictor, describe=False, bar=True))
        rows = _ranked(answered, predictor)
    if as_json:
        for row in rows:
            print(json.dumps(row))
    else:
        _print_ranking(rows)
    if any(one.error for one in answered):
        raise typer.Exit(1)


@app.command()
def init(
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    size: Annotated[str, typer.Option(help="base or large.")] = "base",
    context: Annotated[str | None, typer.Option(help="Hub id or folder of the context encoder.")] = None,
    pixel: Annotated[str | None, typer.Option(help="Hub id or folder of the pixel encoder.")] = None,
    text: Annotated[str | None, typer.Option(help="Hub id or folder of the language model.")] = None,
) -> None:
    """Assemble an untrained model from published encoders and a language model."""
    with _told_in_a_sentence():
        from cpllm_model.network.assembly import assemble

        config = assemble(out, size, context, pixel, text)
    Console().print(_shown(f"{out}: {config.size}, {config.tokens_per_segment} tokens a segment; train it before use"))


@app.command()
def corpus(
    out: Annotated[Path, typer.Option(help="Folder of the corpus.")],
    sources: Annotated[
        list[Path] | None, typer.Option(help="Folder of pristine photographs and clips; can be repeated.")
    ] = None,
    clips: Annotated[int, typer.Option(help="About how many clips to make.", min=1)] = 6000,
    scenes: Annotated[int, typer.Option(help="Rendered scenes beside the sources.", min=0)] = 40,
    screens: Annotated[int, typer.Option(help="Rendered screens, cartoons and games beside the sources.", min=0)] = 60,
    rated: Annotated[
        list[Path] | None, typer.Option(help="Manifest of pictures that people rated; can be repeated.")
    ] = None,
    rated_contents: Annotated[int, typer.Option(help="Most of these pictures to use.", min=0)] = 200,
    stills: Annotated[int, typer.Option(help="Rated pictures that also get four still versions each.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    processes: Annotated[
        int | None, typer.Option(help="Contents processed in parallel; by default one per core.")
    ] = None,
) -> None:
    """Degrade pristine pictures with real encoders into a labelled training corpus; a stopped run resumes."""
    with _told_in_a_sentence("train"):
        from cpllm_model.training.data.corpus import CorpusSettings, make_corpus

        console = Console(stderr=True)
        settings = CorpusSettings(clips, scenes, seed, processes, screens, rated_contents, stills)
        folders, manifests = ([_existing(path) for path in paths or []] for paths in (sources, rated))
        made = make_corpus(folders, out, settings, lambda line: console.print(_shown(line)), manifests)
    Console().print(_shown(f"{made}"))


@app.command()
def manifest(
    dataset: Annotated[
        str,
        typer.Option(
            help="konvid-1k, lsvq, lsvq-test, lsvq-1080p, live-vqc, youtube-ugc, cvd2014; for still pictures biq2021, "
            "koniq-10k, spaq, kadid-10k, tid2013, live-itw; or a name of your own."
        ),
    ],
    videos: Annotated[Path, typer.Option(help="Folder with the videos or pictures, in any layout.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Ratings, or conversations in .json or .jsonl; known sets of pictures have theirs in their folder."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Manifest to write.")] = Path("manifest.parquet"),
    held_out: Annotated[
        list[Path] | None, typer.Option(help="Label file of videos to leave out; can be repeated.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Put all videos into train, validation or test.")] = None,
    scale: Annotated[
        tuple[float, float] | None, typer.Option(help="Worst and best MOS of an unknown data set.")
    ] = None,
    most_missing: Annotated[
        float, typer.Option(min=0, max=1, help="Refuse if more than this share of the videos are missing.")
    ] = 1.0,
) -> None:
    """List a rated data set or an instruction set, as you have it on disk, for training and evaluation."""
    with _told_in_a_sentence("train"):
        from cpllm_model.training.data.picture_sets import FORMS
        from cpllm_model.training.data.rated import collect, publish

        if labels is None and dataset not in FORMS:
            raise typer.BadParameter(f"{dataset} needs --labels")
        collected = collect(
            _existing(labels or videos), _existing(videos), dataset, scale=scale, held_out=held_out or [], split=split
        )
        for line in collected.report():
            Console(stderr=True).print(_shown(line))
        publish(collected, out, most_missing)
    Console().print(_shown(f"{out}: {len(collected.videos)} videos of {dataset}"))


@app.command()
def train(config: Annotated[Path, typer.Argument(help="YAML file; configs/tiny.yaml is what trained tiny.")]) -> None:
    """Train a model; a run that was stopped resumes when it is started again."""
    with _told_in_a_sentence("train"):
        from cpllm_model.training.recipe.config import TrainConfig
        from cpllm_model.training.recipe.loop import train as train_model

        console = Console(stderr=True)
        folder = train_model(TrainConfig.from_yaml(_existing(config)), lambda line: console.print(_shown(line)))
    Console().print(_shown(f"{folder}"))


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder of the report; with several models, each gets a folder inside it.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Manifest, or the folder that holds it; can be repeated; not needed for --stress and --timed."
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Bundled name, folder or hub id; tiny by default; can be repeated."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which contents to use: train, validation or test.")] = "test",
    stress: Annotated[
        int, typer.Option(min=0, help="Clean sources per stress test, such as 12; 0 skips the stress tests.")
    ] = 0,
    stress_sources: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of clean photographs and clips for stress tests and tests in time; can be repeated."),
    ] = None,
    timed: Annotated[
        int, typer.Option(min=0, help="Clean videos for the tests in time, such as 6; 0 skips these tests.")
    ] = 0,
) -> None:
    """Measure how good a model's answers are on labelled videos and in tests of its own, and write a report.

    With several models, the page also has the paired difference of each to the first one.
    """
    with _told_in_a_sentence("train"):
        if not data and not stress and not timed:
            raise ConfigurationError("nothing to evaluate on: give --data, or --stress or --timed with a number")
        from cpllm_model.training.evaluation.evaluate import BOOTSTRAP, StressSettings, evaluate_models
        from cpllm_model.training.evaluation.evaluate import evaluate as evaluate_model
        from cpllm_model.training.evaluation.timed import TimedSettings

        console = Console(stderr=True)
        folders = tuple(_existing(path) for path in stress_sources or ())
        asked = (
            [_existing(path) for path in data or ()],
            out,
            split,
            lambda line: console.print(_shown(line)),
            BOOTSTRAP,
            StressSettings(stress, folders) if stress else None,
            TimedSettings(timed, folders) if timed else None,
        )
        _without_loading_bars()
        names = models or ["tiny"]
        results = evaluate_models(names, *asked) if len(names) > 1 else [evaluate_model(names[0], *asked)]
    Console().print(_shown(out / "index.html"))
    if any(data_set["failed"] for result in results for data_set in result["data_sets"].values()):
        raise typer.Exit(1)


@app.command(epilog="Example: cpllm calibrate ratings.csv --scale 0 100 --out our-model")
def calibrate(
    ratings: Annotated[
        Path,
        typer.Argument(help="Table with a name and a mos (mean rating) for each video; content names its source."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new model.")],
    model: Model = "tiny",
    videos: Annotated[Path | None, typer.Option(help="Folder with the videos; by default that of the table.")] = None,
    scale: Annotated[
        tuple[float, float], typer.Option(help="Ratings of the worst and of the best imaginable video.")
    ] = (SCORE_MIN, SCORE_MAX),
    device: Device = None,
) -> None:
    """Map a model's scores to the scale of your own raters, from 50 to a few hundred rated videos.

    Figures are of held-out videos; where they show no sure gain, no model is written and the exit status is 1.
    """
    with _told_in_a_sentence("train"):
        from rich.markdown import Markdown

        from cpllm_model.predictor import QualityPredictor
        from cpllm_model.training.calibrate import calibrate as calibrate_model
        from cpllm_model.training.calibrate import require_new, write_calibrated

        require_new(out)
        table = _existing(ratings)
        console = Console(stderr=True)
        _without_loading_bars()
        predictor = QualityPredictor.from_pretrained(model, device)
        calibration = calibrate_model(predictor, table, videos, scale, lambda line: console.print(_shown(line)))
        Console().print(Markdown("\n".join(calibration.lines())))
        if objection := calibration.fit.objection:
            console.print(_shown(f"cpllm: no model is written. {objection}"))
            raise typer.Exit(1)
        Console().print(_shown(f"{out}: {write_calibrated(calibration, model, out)}"))


@app.command(
    epilog="Example: cpllm card work/tiny/model/README.md --evaluation work/report --log work/tiny/train_log.jsonl"
)
def card(
    path: Annotated[Path, typer.Argument(help="The card (Markdown); created if it is missing.")],
    evaluation: Annotated[list[Path], typer.Option(help="Folder that cpllm evaluate wrote; can be repeated.")],
    log: Annotated[list[Path] | None, typer.Option(help="train_log.jsonl of a run; can be repeated.")] = None,
) -> None:
    """Write the figures of an evaluation and of a training run into a model card."""
    with _told_in_a_sentence("train"):
        from cpllm_model.training.evaluation.card import write_card

        Console().print(_shown(write_card(path, evaluation, log or [])))


@contextmanager
def _told_in_a_sentence(extra: str | None = None) -> Iterator[None]:
    """Print the project's own errors as one sentence, and exit with status 2.

    Args:
        extra: the extra of this package that the command needs; a missing module is then reported the same way.
    """
    try:
        yield
    except CPLLMError as error:
        Console(stderr=True).print(_shown(f"cpllm: {error}"))
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        if extra is None:
            raise
        sentence = f"cpllm: {error.name} is not installed, which this command needs: pip install 'cpllm[{extra}]'"
        Console(stderr=True).print(_shown(sentence), soft_wrap=True)
        raise typer.Exit(2) from None


def _shown(text: object) -> Text:
    """Give a name or message as text that can neither style nor command the terminal."""
    return Text("".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in str(text)))


def _path_fields(path: str, name: str = "path") -> dict[str, str]:
    """Give a path for JSON; if its bytes are not UTF-8, as far as it can be read, and the bytes in base64."""
    raw = os.fsencode(path)
    text = raw.decode(errors="backslashreplace")
    return {name: text} if text == path else {name: text, f"{name}_base64": base64.b64encode(raw).decode()}


def _existing(path: Path) -> Path:
    if not path.exists():
        raise typer.BadParameter(f"{path} does not exist")
    return path


def _find(paths: list[str]) -> list[str]:
    """Give the named files and addresses, there or not, and the videos in the named folders, in order.

    A folder that cannot be read is kept in the list, and becomes a failed row.
    """
    named = [name for path in paths for name in (_lines() if path == "-" else _matching(path))]
    if named and not any(is_address(name) or Path(name).exists() for name in named):
        _video(named[0])
    videos: list[str] = []
    for name in named:
        is_folder = not is_address(name) and Path(name).is_dir()
        videos += map(str, _videos_below(Path(name))) if is_folder else [name]
    if not videos:
        raise typer.BadParameter(f"no video in {', '.join(paths)}")
    return videos


def _video(name: str) -> str:
    """Give an address, or the name of a file that is there."""
    return name if is_address(name) else str(_existing(Path(name)))


def _lines() -> list[str]:
    """Give the names on standard input, one a line."""
    return [os.fsdecode(line) for raw in sys.stdin.buffer if (line := raw.rstrip(b"\r\n"))]


def _matching(name: str) -> list[str]:
    """Expand a pattern, unless a file has this very name; the shell does not expand quoted patterns."""
    if is_address(name):
        return [name]
    path = Path(name)
    if path.exists() or not any(mark in name for mark in "*?["):
        return [str(path)]
    return sorted(glob(str(path), recursive=True)) or [str(path)]  # noqa: PTH207


def _videos_below(top: Path) -> list[Path]:
    """Give the videos in a folder and in all folders below it; links to folders are reported, not followed."""
    videos: list[Path] = []
    for folder, folders, names in os.walk(top, onerror=lambda error: videos.append(Path(str(error.filename)))):
        videos.extend(Path(folder, name) for name in names if has_video_name(name))
        for name in folders:
            if Path(folder, name).is_symlink():
                Console(stderr=True).print(_shown(f"cpllm: a link to a folder is left out: {Path(folder, name)}"))
    return sorted(videos)


def _predictor(model: str, device: str | None) -> QualityPredictor:
    if model == "promoted" and not Path(model).exists():
        raise ConfigurationError(
            "the model is 'promoted', which names one to the platform's runs only: "
            "give its folder here, --model $CPLLM_MODELS_URI/promoted"
        )
    if _ends_with_the_command:
        from cpllm_model.network import lean_start

        lean_start.start()
    _without_loading_bars()
    from cpllm_model.predictor import QualityPredictor

    return QualityPredictor.from_pretrained(model, device)


def _without_loading_bars() -> None:
    """Loading weights draws progress bars of its own; two bars on one terminal help nobody."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    logging.disable_progress_bar()


def _answers(paths: list[str], predictor: QualityPredictor, *, describe: bool, bar: bool) -> Iterator[Answered]:
    """Yield each video's answers, or its error, as soon as they are known."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = bar and sys.stderr.isatty()
    # The bar must not redirect standard output: answers go there.
    with (
        closing(predictor.look(paths)) as looks,
        Progress(*columns, console=Console(stderr=True), redirect_stdout=False, disable=not shown) as progress,
    ):
        task = progress.add_task("scoring", total=len(paths))
        for path, seen in zip(paths, looks, strict=True):
            yield _answered(path, seen, predictor, describe=describe)
            progress.advance(task)


def _answered(path: str, seen: ViewedVideo | VideoError, predictor: QualityPredictor, *, describe: bool) -> Answered:
    if isinstance(seen, VideoError):
        return Answered(path, error=seen)
    try:
        if not describe:
            return Answered(path, seen.tokens, predictor.rate([seen])[0])
        one = predictor.assess_viewed(path, seen)
        return Answered(path, seen.tokens, one.rating, one.words, is_still=one.info.is_still, cautions=one.cautions)
    except VideoError as error:
        return Answered(path, error=error)


@contextmanager
def _told_when_interrupted(done: Sized, total: int) -> Iterator[None]:
    """End with a sentence and exit status 130 on Ctrl-C; what is printed stays."""
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print(Text(f"cpllm: interrupted after {len(done)} of {total} videos"))
        raise typer.Exit(130) from None


def _ranked(answered: list[Answered], predictor: QualityPredictor) -> list[dict[str, Any]]:
    from cpllm_model import ranking

    good = [one for one in answered if one.tokens and one.rating]
    ratings = [one.rating for one in good if one.rating]
    scores, stds = np.array([one.score for one in ratings]), np.array([one.score_std for one in ratings])
    tokens = [one.tokens for one in good if one.tokens]

    pairs_P2, probabilities = np.empty((0, 2), np.int64), np.empty(0)
    fitted = ranking.bradley_terry(len(good), pairs_P2, probabilities)
    for index in range(ranking.round_count(len(good))):
        chosen = ranking.next_pairs(scores, pairs_P2, fitted.strength_N if index else None, index)
        told = ranking.told_by_scores(scores, stds, chosen)
        asked = chosen[np.isnan(told)]
        answers = predictor.compare_tokens([tokens[i] for i, _ in asked], [tokens[j] for _, j in asked])
        told[np.isnan(told)] = [answer.probability_a_better for answer in answers]
        pairs_P2, probabilities = np.concatenate([pairs_P2, chosen]), np.append(probabilities, told)
        fitted = ranking.bradley_terry(len(good), pairs_P2, probabilities, fitted.strength_N)
    ranks, percentiles = ranking.rank(fitted.strength_N)
    rows = [
        {**_path_fields(one.path), "status": "ok", "rank": int(ranks[i]), "percentile": float(percentiles[i]),
         "strength": float(fitted.strength_N[i]), "strength_se": float(fitted.strength_se_N[i]),
         "comparisons": int(fitted.comparisons_N[i]), "score": float(scores[i])}
        for i, one in enumerate(good)
    ]  # fmt: skip
    failed = [
        {
            **_path_fields(one.path),
            "status": "failed",
            "error_type": one.error.error_type,
            "error_message": one.error.cause,
        }
        for one in answered
        if one.error
    ]
    return sorted(rows, key=lambda row: (row["rank"], row["path"])) + failed


@contextmanager
def _score_rows(paths: list[str], as_json: bool, segments: bool) -> Iterator[Callable[[Answered], None]]:
    """Give what prints one video at once: a JSON line, or rows of a table that is as wide as the terminal."""
    if as_json:
        yield lambda one: print(json.dumps(one.record()), flush=True)
        return
    console = Console()
    # The width left beside frame, score, deviation and level; names are folded, never cut.
    room = max(console.width - 34, 20)
    video = min(max(cell_len(_shown(path).plain) for path in paths), room * 2 // 5)
    names = {"video": max(video, len("video"), SEGMENT_CELLS if segments else 0), "score": 5, "±": 4, "level": 9}
    widths = names | {"description": max(room - names["video"], 12)}

    def lines(*rows: tuple[str | Text, ...], header: bool = False, style: str = "") -> list[list[Segment]]:
        table = Table(show_header=header, header_style="bold", show_lines=False)
        for name, width in widths.items():
            table.add_column(name, width=width, overflow="fold")
        for row in rows:
            table.add_row(*row, style=style)
        return console.render_lines(table, pad=False)

    def put(some: list[list[Segment]]) -> None:
        # In one piece, so that Ctrl-C leaves no half row; rich would print the interrupted row again.
        with console.capture() as rendered:
            console.print(Segments([part for line in some for part in (*line, Segment.line())]), end="")
        console.file.write(rendered.get())
        console.file.flush()

    def show(one: Answered) -> None:
        put(lines(_score_row(one), style="red" if one.error else "")[1:-1])
        if segments and one.rating and one.description:
            put(lines(*_segment_rows(one.rating, one.description), style="dim")[1:-1])

    *head, foot = lines(("",) * len(widths), header=True)
    put(head[:-1])
    try:
        yield show
    finally:
        put([foot])


def _score_row(one: Answered) -> tuple[str | Text, ...]:
    if one.error:
        return _shown(one.path), "—", "", "failed", _shown(f"{one.error.error_type}: {one.error.cause}")
    assert one.rating and one.description
    numbers = f"{one.rating.score:.2f}", f"{one.rating.score_std:.2f}"
    level = f"{one.rating.level} (still)" if one.is_still else one.rating.level
    return (
        _shown(one.path),
        *numbers,
        level,
        _shown(" ".join([one.description.text, *map("({})".format, one.cautions)])),
    )


def _segment_rows(rating: Rating, description: Description) -> Iterator[tuple[str | Text, ...]]:
    """Give a row for each segment: when, its score, its level, a bar, and what is named or was measured in it."""
    for start_s, end_s, score in zip(rating.segment_start_s, rating.segment_end_s, rating.segment_score, strict=True):
        named = [
            one.name
            for one in description.distortions
            if any(first < end_s and start_s < last for first, last in one.stretches)
        ]
        events = [
            f"{event.kind} {listed([(event.start_s, event.end_s)])}"
            for event in description.events
            if event.start_s < end_s and start_s < event.end_s
        ]
        when = f"  {clock(start_s)} - {clock(end_s)}"
        if score is None:
            yield when, "—", "", "", "; ".join(["no picture to rate", *events])
        else:
            bar = "█" * round(score / SCORE_MAX * BAR_CELLS)
            yield when, f"{score:.2f}", "", level_of(score), "; ".join([bar.ljust(BAR_CELLS), *named, *events])


def _print_ranking(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "rank", Column("video", overflow="fold"), "strength", "± se", "compared", "score", header_style="bold"
    )
    for row in rows:
        if row["status"] == "failed":
            table.add_row("—", _shown(row["path"]), "", "", "", _shown(f"failed: {row['error_type']}"), style="red")
        else:
            table.add_row(str(row["rank"]), _shown(row["path"]), f"{row['strength']:+.2f}", f"{row['strength_se']:.2f}",
                          str(row["comparisons"]), f"{row['score']:.2f}")  # fmt: skip
    Console().print(table)
