"""Documents to go on learning from, as they stand and in a policy's own words (WRAP, arXiv 2401.16380)."""
