"""What is learned: each task knows its targets, its loss, and how outputs become predictions."""
