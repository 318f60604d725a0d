"""Sentences: the order of the steps and what is guaranteed around them."""
