"""A supervised pool of Ray actors: videos in, finished parts of scores and features out; knows nothing of Dagster."""
