"""Whether texts are fit to learn from: repeated, leaked from an evaluation, personal; their language and diversity."""
