"""Which mode a job should use: facts measured on some of its items, a model that predicts, and a choice.

Private; the public names are :func:`fullcourt.advise` and `Pool(mode="auto")`.
"""
