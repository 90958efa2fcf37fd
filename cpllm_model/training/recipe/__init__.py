"""How a model is trained: a run's YAML and manifests in, a model folder and its learning curve out."""
