"""A pretrained language model and its sites: the same names for every architecture."""
