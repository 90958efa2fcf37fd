"""From a file's bytes to the frames that the model sees: hostile files in, `VideoSamples` out."""
