"""The assets, one partition a content library: catalogue, quality, rankings.

Assets hand nothing to one another in memory: each reads the published tables before it and publishes its own.
"""
