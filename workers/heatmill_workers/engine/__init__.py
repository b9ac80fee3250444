"""Tools that the methods share. None of them leaves anything on a model or flips a switch of the process."""
