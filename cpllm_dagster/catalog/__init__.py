"""Libraries and their objects on S3 or in a folder: a URI in, listings and readable files out."""
