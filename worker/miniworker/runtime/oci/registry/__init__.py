"""A client of the Distribution API: what is needed to pull and to push."""
