"""Several labels in one text: between semicolons, for labels have commas ("male speech, man speaking")."""

from collections.abc import Sequence

BETWEEN = "; "


def join_labels(labels: Sequence[str]) -> str:
    """ "male speech, man speaking; dog" """
    return BETWEEN.join(labels)


def list_choices(labels: Sequence[str]) -> str:
    """ "a, b or c" for a question; between semicolons where a label has a comma."""
    if len(labels) < 2:
        return "".join(labels)
    between = BETWEEN if any("," in label for label in labels) else ", "
    return f"{between.join(labels[:-1])}{between.rstrip() if between == BETWEEN else ''} or {labels[-1]}"
