"""A study's place: a folder or a bucket, its space, and who may write there."""
