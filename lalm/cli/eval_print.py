"""What `lalm eval` prints of a card: numbers, audio reliance, and what the numbers do not tell."""

from typing import Any


def print_card(card: dict[str, Any]) -> None:
    """The tables and notes of a finished run."""
    from rich.console import Console

    from lalm.evaluate.page import notes

    console = Console()
    console.print(_numbers(card))
    for name, entry in card["tasks"].items():
        if entry["reliance"]:
            _print_reliance(console, name, entry["reliance"])
    for name, entry in card["tasks"].items():
        for note in notes(name, entry):
            print(note)
    if tokens := card.get("tokens"):
        cost = f", {tokens['dollars']:.2f} dollars" if "dollars" in tokens else ""
        print(f"tokens: {tokens['prompt']} in prompts, {tokens['answer']} in answers{cost}")


def _table(titles: list[str], left: int) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(titles):
        table.add_column(title, justify="left" if place < left else "right")
    return table


def _numbers(card: dict[str, Any]) -> Any:
    from lalm.evaluate.page import shown_number

    table = _table(["task", "metric", "value", "95 % interval", "items", "unreadable"], 2)
    for name, entry in card["tasks"].items():
        for metric, found in entry["metrics"].items():
            low, high = shown_number(found["low"], metric), shown_number(found["high"], metric)
            share = f"{100 * entry['unreadable']['mean']:.1f} %"
            value = shown_number(found["mean"], metric)
            table.add_row(name, metric, value, f"{low} to {high}", str(found["num_items"]), share)
    return table


def _print_reliance(console: Any, name: str, found: dict[str, Any]) -> None:
    from lalm.evaluate.page import shown_number
    from lalm.evaluate.reliance import lines, sentences

    titles = [f"{name}: audio reliance", found["metric"], "95 % interval", "items", "heard minus it", "p"]
    table = _table(titles, 1)
    for row in lines(found, shown_number):
        table.add_row(*row)
    console.print()
    console.print(table)
    for sentence in sentences(found, shown_number):
        print(f"  {sentence}")
    console.print()
