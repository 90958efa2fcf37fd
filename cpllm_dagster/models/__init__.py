"""Promoted models: a trained model in, the decision and the folder that runs read out."""
