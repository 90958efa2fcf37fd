"""A platform on one machine: nothing in, an embedded S3 server, demo clips and a finished run out."""
