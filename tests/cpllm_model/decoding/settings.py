"""Small samples of short videos: what most tests of decoding ask for."""

from cpllm_model.decoding.sampling import SamplingSettings

SETTINGS = SamplingSettings(
    look_every_s=0.1,
    most_looks=4,
    context_frames=3,
    context_size_px=48,
    burst_frames=5,
    fragment_grid=2,
    fragment_px=32,
)
