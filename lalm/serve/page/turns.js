// The conversation as it is shown: questions with their recordings, and answers that grow.

import { togglePlay } from "./clips.js";
import { messagesFor } from "./conversation.js";
import { markdown } from "./markdown.js";
import { chatCurl, chatPython, detectCurl, detectPython } from "./snippets.js";

const list = document.getElementById("turns"), said = document.getElementById("said");
const SHOWN_MS = 100; // between two renderings of an answer that grows
const shown = new Map(); // turn -> its elements

function element(name, kind, text = "") {
  const made = document.createElement(name);
  made.className = kind;
  made.textContent = text;
  return made;
}

function button(label, press, name = label) {
  const made = element("button", "small", label);
  made.type = "button";
  made.setAttribute("aria-label", name);
  made.onclick = press;
  return made;
}

// For those who do not see the page: what happened.
export function announce(text) {
  said.textContent = "";
  said.textContent = text;
}

function append(turn, item) {
  list.append(item);
  shown.set(turn, [...(shown.get(turn) || []), item]);
  document.body.classList.add("talking");
  item.scrollIntoView({ block: "nearest" });
}

// A question: the recordings that go with it, as buttons that play them, and its text.
// `withdraw(clip)` is what the button beside a spoken turn does.
export function showQuestion(turn, withdraw) {
  const item = element("li", "turn user"), row = element("div", "with");
  item.append(element("p", "who", "You"));
  for (const { clip } of turn.content.filter((part) => part.clip)) {
    const part = element("span", "part");
    const name = `${clip.number || "▸"} ${clip.name}`;
    part.append(button(name, () => togglePlay(clip), `Play ${name}`));
    if (!clip.card) part.append(button("×", () => withdraw(clip), `Remove ${clip.name} from the conversation`));
    part.clip = clip;
    row.append(part);
  }
  if (row.children.length) item.append(row);
  if (turn.text) item.append(element("p", "text", turn.text));
  append(turn, item);
  if (turn.understood) showUnderstood(turn);
}

// Under a spoken turn: what the model understood.
export function showUnderstood(turn) {
  const item = shown.get(turn)?.[0];
  if (!item) return;
  item.querySelector(".understood")?.remove();
  item.append(element("p", "understood", `Understood: ${turn.understood}`));
}

// In questions, a recording that was taken out of the conversation is named but cannot be played.
export function showWithdrawn(clip, emptied) {
  for (const turn of emptied) hide(turn);
  for (const part of list.querySelectorAll(".part")) {
    if (part.clip === clip) part.replaceWith(element("span", "gone", `${clip.name}, removed`));
  }
}

// Take a turn off the page.
export function hide(turn) {
  for (const item of shown.get(turn) || []) item.remove();
  shown.delete(turn);
  document.body.classList.toggle("talking", shown.size > 0);
}

// Take all turns off the page.
export function hideAll() {
  for (const turn of [...shown.keys()]) hide(turn);
}

// Room for the answers to a turn, side by side if there are two; one for each label of `all`:
// add(text), then finish(facts, turn, answer), or remove().
export function showAnswers(turn, all) {
  const row = element("li", "answers");
  append(turn, row);
  announce("Answering");
  return all.map((by) => {
    const item = element("div", "turn answer"), text = element("div", "text");
    let whole = "", waiting = 0;
    const render = () => {
      clearTimeout(waiting);
      waiting = 0;
      text.replaceChildren(markdown(whole));
    };
    item.append(element("p", all.length > 1 ? "by" : "who", all.length > 1 ? by : "Answer"), text);
    item.setAttribute("aria-busy", "true");
    row.append(item);
    return {
      add(more) {
        const nearEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
        if (!whole) { whole = more; render(); } else { whole += more; waiting ||= setTimeout(render, SHOWN_MS); }
        if (nearEnd) list.scrollTop = list.scrollHeight;
      },
      get text() { return whole; },
      finish(answer) {
        render();
        item.setAttribute("aria-busy", "false");
        if (answer.facts) item.append(element("p", "facts", answer.facts));
        item.append(copies(turn, answer));
        item.lastChild.scrollIntoView({ block: "nearest" });
        announce(`Answer: ${whole}`);
      },
      remove() {
        clearTimeout(waiting);
        item.remove();
        announce("");
      },
    };
  });
}

// A turn that was kept, as it stood on the page.
export function showKept(turn, withdraw) {
  showQuestion(turn, withdraw);
  if (!turn.answers.length) return;
  const places = showAnswers(turn, turn.answers.map((answer) => answer.by));
  places.forEach((place, n) => { place.add(turn.answers[n].text); place.finish(turn.answers[n]); });
  announce("");
}

function copies(turn, answer) {
  const row = element("div", "actions"), request = () => ({ messages: messagesFor(turn, answer.by), options: answer.options });
  const search = () => ({ clip: turn.content[0].clip, sounds: turn.sounds, model: answer.options.model });
  const made = { Copy: () => answer.text };
  if (turn.kind === "find" && turn.content.length) {
    Object.assign(made, { "as curl": () => detectCurl(search()), "as Python": () => detectPython(search()) });
  } else if (answer.options) {
    Object.assign(made, { "as curl": () => chatCurl(request()), "as Python": () => chatPython(request()) });
  }
  for (const [label, make] of Object.entries(made)) {
    const name = label === "Copy" ? "Copy the answer" : `Copy the question ${label}`;
    const press = button(label, () => copy(press, make()), name);
    row.append(press);
  }
  return row;
}

async function copy(from, text) {
  const label = from.textContent;
  try {
    await navigator.clipboard.writeText(text);
    from.textContent = "Copied";
    setTimeout(() => { from.textContent = label; }, 1500);
  } catch { // no permission, or no https: to be copied by hand
    const box = document.getElementById("by-hand");
    box.querySelector("textarea").value = text;
    box.showModal();
    box.querySelector("textarea").select();
  }
}
