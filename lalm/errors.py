"""The error that all errors of this package are: ``except lalm.LalmError`` catches whatever lalm refuses."""


class LalmError(Exception):
    """Something lalm cannot use or do; the text is one sentence that names the thing and the place.

    Example::

        try:
            audio = lalm.load_audio("missing.wav")
        except lalm.LalmError as error:
            print(error)
    """
