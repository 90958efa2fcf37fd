"""What a person sees of a training while it runs."""

from types import SimpleNamespace

from cpllm_model.training.recipe.engine import Progress


def test_progress_says_steps_loss_and_time_left() -> None:
    now, lines = [100.0], []
    progress = Progress(lines.append, "tune", lambda: now[0])
    state = SimpleNamespace(is_world_process_zero=True, global_step=40, max_steps=100)  # resumed at step 40
    progress.on_train_begin(None, state, None)
    for step in range(41, 101):
        state.global_step = step
        now[0] += 2.0
        progress.on_log(None, state, None, {"loss": float(step), "grad_norm": 1.0})
        progress.on_log(None, state, None, {"train_runtime": 3.0})
    assert len(lines) == 4
    assert lines[0] == "stage tune: step 55 of 100, loss 48.0000, 2.00 s a step, about 0:01:30 left"
    assert lines[-1] == "stage tune: step 100 of 100, loss 93.0000, 2.00 s a step, about 0:00:00 left"


def test_other_processes_say_nothing() -> None:
    lines: list[str] = []
    progress = Progress(lines.append, "tune", lambda: 0.0)
    state = SimpleNamespace(is_world_process_zero=False, global_step=0, max_steps=1)
    progress.on_train_begin(None, state, None)
    state.global_step = 1
    progress.on_log(None, state, None, {"loss": 1.0})
    assert not lines
