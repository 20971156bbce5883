"""What `lalm eval` prints of a card: numbers, audio reliance, and what the numbers do not tell."""

from typing import Any


def print_card(card: dict[str, Any]) -> None:
    """The tables and notes of a finished run."""
    from lalm.evaluate.page import notes

    print(_numbers(card))
    for name, entry in card["tasks"].items():
        if entry["reliance"]:
            _print_reliance(name, entry["reliance"])
    for name, entry in card["tasks"].items():
        for note in notes(name, entry):
            print(note)
    if tokens := card.get("tokens"):
        cost = f", {tokens['dollars']:.2f} dollars" if "dollars" in tokens else ""
        print(f"tokens: {tokens['prompt']} in prompts, {tokens['answer']} in answers{cost}")


def _numbers(card: dict[str, Any]) -> str:
    from lalm.cli.tables import grouped
    from lalm.evaluate.page import shown_number, table_rows

    groups: dict[str, list[list[str]]] = {}
    for name, entry in card["tasks"].items():
        own = groups.setdefault(name, [])
        for metric, found in entry["metrics"].items():
            low, high = shown_number(found["low"], metric), shown_number(found["high"], metric)
            share = f"{100 * entry['unreadable']['mean']:.1f} %"
            value = shown_number(found["mean"], metric)
            own.append([metric, value, f"{low} to {high}", str(found["num_items"]), share])
        for row in table_rows(entry):
            own.append([row["metric"], row["value"], row["interval"], row["items"], ""])
    shown = {name: rows for name, rows in groups.items() if rows}
    return grouped(["task, metric", "value", "95 % interval", "items", "unreadable"], shown)


def _print_reliance(name: str, found: dict[str, Any]) -> None:
    from lalm.cli.tables import grouped
    from lalm.evaluate.page import shown_number
    from lalm.evaluate.reliance import lines, sentences

    titles = ["heard", found["metric"], "95 % interval", "items", "heard minus it", "p"]
    print()
    print(grouped(titles, {f"{name}: audio reliance": list(lines(found, shown_number))}))
    for sentence in sentences(found, shown_number):
        print(f"  {sentence}")
    print()
