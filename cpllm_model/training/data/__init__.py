"""What a model learns from: pictures, clips and ratings in, manifests and batches of labelled inputs out."""
