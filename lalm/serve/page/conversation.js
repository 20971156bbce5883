// The conversation as it is shown, and as the next question continues it.

import { clips, setSent, togglePlay } from "./clips.js";
import { chatCurl, chatPython, detectCurl, detectPython } from "./snippets.js";

const list = document.getElementById("turns"), said = document.getElementById("said");
export const messages = []; // [{role, content: [{clip} | {text}]}]

function line(kind, text) {
  const made = document.createElement("p");
  made.className = kind;
  made.textContent = text;
  return made;
}

function button(label, press) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "small";
  made.textContent = label;
  made.onclick = press;
  return made;
}

// For those who do not see the page: what happened.
export function announce(text) {
  said.textContent = "";
  said.textContent = text;
}

function append(item, role, who) {
  item.className = `turn ${role}`;
  item.prepend(Object.assign(line("who", who), { className: "who" }));
  list.append(item);
  document.body.classList.add("talking");
  item.scrollIntoView({ block: "nearest" });
  return item;
}

// A question: the recordings that go with it, as buttons that play them, and its text.
export function showQuestion(some, text) {
  const item = document.createElement("li"), row = line("with", "");
  for (const clip of some) {
    const play = button(`${clip.number || "▸"} ${clip.name}`, () => togglePlay(clip));
    play.setAttribute("aria-label", `Play ${clip.name}`);
    row.append(play);
  }
  if (some.length) item.append(row);
  if (text) item.append(line("text", text));
  return append(item, "user", "You");
}

// An answer that grows: add(text), then finish(facts) with buttons to copy, or remove().
export function showAnswer() {
  const item = document.createElement("li"), text = line("text", "");
  item.append(text);
  item.setAttribute("aria-busy", "true");
  append(item, "answer", "Answer");
  announce("Answering");
  return {
    add(more) {
      const nearEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
      text.textContent += more;
      if (nearEnd) list.scrollTop = list.scrollHeight;
    },
    get text() { return text.textContent; },
    finish(facts, copies) {
      item.setAttribute("aria-busy", "false");
      if (facts) item.append(line("facts", facts));
      const row = line("actions", "");
      for (const [label, make] of Object.entries(copies)) {
        const made = button(label, () => copy(made, make()));
        made.setAttribute("aria-label", label === "Copy" ? "Copy the answer" : `Copy the question ${label}`);
        row.append(made);
      }
      item.append(row);
      item.scrollIntoView({ block: "nearest" });
      announce(`Answer: ${text.textContent}`);
    },
    remove() { item.remove(); announce(""); },
  };
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

// What can be copied of a chat answer.
export const chatCopies = (answer, request) => ({
  "Copy": () => answer.text,
  "as curl": () => chatCurl(request),
  "as Python": () => chatPython(request),
});

// What can be copied of a search in one recording.
export const detectCopies = (answer, search) => ({
  "Copy": () => answer.text,
  "as curl": () => detectCurl(search),
  "as Python": () => detectPython(search),
});

// "Heard 2.8 s": all of it, or how much of how much.
export function heardText({ heard, first_text_s: first }) {
  const total = (name) => heard.reduce((sum, clip) => sum + clip[name], 0);
  const given = total("seconds_given"), got = total("seconds_heard");
  const whole = Math.abs(given - got) < 0.05;
  const audio = heard.length ? `heard ${whole ? "" : `${got.toFixed(1)} of `}${given.toFixed(1)} s · ` : "";
  return `${audio}first words after ${first.toFixed(1)} s`;
}

// Start anew; the recordings are there for the next question.
export function forget() {
  messages.length = 0;
  list.replaceChildren();
  document.body.classList.remove("talking");
  setSent(clips, false);
  announce("New conversation");
}
