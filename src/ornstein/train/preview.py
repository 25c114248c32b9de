"""A small grid of samples on disk now and then."""


def preview(path, training, stop):
    return True
